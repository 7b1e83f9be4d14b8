"""Building a part for a trial, and choosing the trial by its contract."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from jrs.contracts.contract import Contract, candidates, faults
from jrs.registry import ALIGNMENTS, SLOTS, Slot, build
from jrs.signatures import accepted_keys, required_keys
from jrs.trials import data, inputs, instances, model, scoring

TRIALS: dict[str, Callable] = {**model.TRIALS, **instances.TRIALS, **data.TRIALS, **scoring.TRIALS}
WEIGHTS = {'classification': 1.0, 'mask_dice': 1.0}
LARGEST = 50                                   # million parameters of a backbone that is tried


def faults_of(part: type, slot: Slot, example: Mapping | None = None) -> list[str]:
    """Build a registered part and run a small batch through it; return what is wrong, nothing where it keeps its contract.

    Its constructor gets what the slot offers, small sizes (`argument_values`), and what `example` or its own attribute
    `example` names: a mapping of arguments, or a function of an empty folder that may put files there and returns one.
    A part of a slot with several kinds must be right as one of them.
    """
    if not is_tried(slot, part):
        return []
    with tempfile.TemporaryDirectory() as folder:
        try:
            arguments = _arguments(part, slot, Path(folder), example)
        except _CannotTryError as error:
            return [str(error)]
        with _repeatable():
            return _faults(part, slot.name.upper(), arguments)


def _faults(part: type, slot: str, arguments: Mapping) -> list[str]:
    """Return what is wrong with `part` as the kind of the slot that it comes nearest to."""
    try:
        made = part(**arguments)
    except Exception as error:                     # whatever a part raises is what the report is about
        return [_crash(error)]
    kinds = [one for one in candidates(made, slot, '') if one.public]
    lacking = {one.name: list(faults(made, one)) for one in kinds}
    fitting = [one for one in kinds if not lacking[one.name]]
    if not fitting:
        return min(lacking.values(), key=len, default=[])
    found = {one.name: list(dict.fromkeys(_faults_as(one, part, arguments))) for one in fitting}
    if len(found) == 1 or not all(found.values()):
        return min(found.values(), key=len)
    return [f'as {kind}: {"; ".join(wrong)}' for kind, wrong in found.items()]


def is_tried(slot: Slot, part: type | None = None) -> bool:
    """Return whether there is a trial of parts of this slot, and of `part`: not where its class says ``sees = 'points'``.

    The small scenes of the trials are images.
    """
    return getattr(part, 'sees', 'images') == 'images' and slot.name.upper() in {kind.partition('.')[0] for kind in TRIALS}


def argument_values(folder: Path) -> dict[str, object]:
    """Return what a constructor's arguments get by name in a trial, beside what the part's `example` says."""
    alignment = build(ALIGNMENTS, dict(type='JensenShannon'), 'model.alignment')
    return dict(
        dim=inputs.DIM, dim_in=inputs.DIM_IN, tap_dims=(inputs.DIM_IN,) * 4,
        num_layers=inputs.LAYERS, patch_size=inputs.PATCH, num_special=2,
        num_classes=inputs.CLASSES,
        num_queries=inputs.QUERIES, embedding_dim=inputs.EMBEDDING, num_heads=2, weight=1.0, weights=WEIGHTS,
        alignment=alignment, costs=dict(classification=dict(type='ClassCost'), mask_dice=dict(type='MaskDiceCost')),
        data_root=str(folder), seed=0, num_scenes=3, slots=1, rank=0, world_size=1)


class _CannotTryError(Exception):
    """A part cannot be built for a trial."""


def _arguments(part: type, slot: Slot, folder: Path, example: Mapping | None) -> dict[str, object]:
    own = getattr(part, 'example', {}) if example is None else example
    own = own(folder) if callable(own) else own
    allowed = accepted_keys(part)
    if slot is SLOTS['backbones']:                 # its sizes are its own: a width of others would not fit its other numbers
        _check_size(part, own)
        return dict(own)
    offered = argument_values(folder)
    if slot is SLOTS['heads']:                     # those of the paper are 30 million weights
        offered |= dict(features=32, out_channels=(16, 16, 32, 32))
    if slot is not SLOTS['costs']:                 # a run offers it to no other part
        del offered['weight']
    values = {name: value for name, value in offered.items() if allowed is None or name in allowed}
    values.update(own)
    missing = [name for name in required_keys(part) if name not in values]
    if missing:
        raise _CannotTryError(f'arguments to try it with: its constructor needs {", ".join(map(repr, missing))}. Give the '
                              f'class `example = dict({missing[0]}=…)`, or a default')
    return values


def _check_size(part: type, arguments: Mapping) -> None:
    """Refuse a backbone of full size, without making its weights."""
    try:
        with torch.device('meta'):
            millions = sum(value.numel() for value in part(**arguments).parameters()) // 10 ** 6
    except Exception:                              # what is wrong with it shows when it is tried
        return
    if millions > LARGEST:
        raise _CannotTryError(f'small sizes to try it with: it would have {millions} million parameters, more than '
                              f'{LARGEST}. Give the class `example = dict(…)`, the arguments of a tiny one')


def _faults_as(one: Contract, part: type, arguments: Mapping) -> Iterator[str]:
    """Yield what is wrong with `part` as a part of the kind `one`; a crash is told with the line where it happened."""
    torch.manual_seed(0)
    try:
        yield from TRIALS[one.name](part(**arguments))
        if one.name == 'COSTS':
            yield from instances.try_weight(part, arguments)
    except Exception as error:                     # whatever a part raises is what the report is about
        yield _crash(error)


def _crash(error: Exception) -> str:
    return f'{type(error).__name__}: {error} ({_place(error)})'


def _place(error: Exception) -> str:
    """Return file and line where an error was raised, preferring code that is not a library's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if 'site-packages' not in frame.filename]
    return f'{Path(frames[-1].filename).name}, line {frames[-1].lineno}' if frames else 'in a library'


@contextmanager
def _repeatable() -> Iterator[None]:
    """Leave torch's random numbers and threads of gradient as they were."""
    state = torch.random.get_rng_state()
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.random.set_rng_state(state)
