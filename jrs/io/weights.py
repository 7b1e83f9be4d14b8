"""Weights for use elsewhere: one safetensors file with its origin; loading says what was used, missing and left over."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from os.path import commonprefix
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from jrs.errors import WeightsError
from jrs.finite import refuse_nonfinite
from jrs.io.lean_build import build_on_meta, build_some
from jrs.io.released_keys import our_key
from jrs.io.tensor_file import write_tensors
from jrs.io.weights_file import check_held, part_of_a_set, plain_metadata, read_header, read_tensors
from jrs.io.wrappings import HOW_TO_CHOOSE, unwrap
from jrs.layers.lora import LoRALinear
from jrs.plugins import manager

# Heads that a model may not have, known and skipped by name: VGGT-1B's, and those of our pre-training.
SKIPPED = ('track_head.', 'point_head.', 'pretext.')
LOW_RANK = ('.lora_a', '.lora_b')
BROKEN = ('They say nothing about any input. Take an earlier checkpoint of the run that made them, or download the file '
          'again and compare its size and checksum.')


@dataclass(frozen=True)
class LoadReport:
    """Keys of a load.

    Attributes:
        used: those that the model took.
        missing: those that the model has and the file lacks; they keep what they start with.
        left_over: those of the file that no parameter took.
        skipped: those of the file that belong to a known head which the model does not have.
    """

    used: list[str]
    missing: list[str]
    left_over: list[str]
    skipped: list[str]

    def __str__(self) -> str:
        heads = ', '.join(sorted({key.partition('.')[0] for key in self.skipped}))
        return (f'{len(self.used)} used, {len(self.missing)} missing, {len(self.left_over)} left over'
                + (f', {len(self.skipped)} of {heads} skipped' if heads else ''))


def save_weights(model: nn.Module | Mapping[str, Tensor], path: Path, metadata: Mapping) -> None:
    """Write the state of a model, or such a state, to `path` as safetensors, atomically, with `metadata` (origin, ...).

    A state is name -> weight of any shape, such as (C,) or (C, C), on any device.
    """
    write_tensors(path, model.state_dict() if isinstance(model, nn.Module) else model, encode_metadata(metadata))


def encode_metadata(card: Mapping) -> dict[str, str]:
    """Return `card` as a safetensors header holds it; `read_metadata` gives it back."""
    return {key: json.dumps(value) for key, value in card.items()}


def read_metadata(path: Path) -> dict:
    """Return the metadata of a weights file written by `save_weights`; empty for others."""
    card = {key: plain_metadata(value) for key, value in read_header(path).items() if key != 'format'}
    lora = card.get('lora')
    if lora is not None and not (isinstance(lora, dict) and type(lora.get('alpha')) in (int, float, NoneType)
                                 and math.isfinite(lora.get('alpha') or 0)):
        raise WeightsError(f'{path}: its metadata "lora" must be {{"rank": number, "alpha": number}}, and is '
                           f'{str(lora)[:80]!r}.')
    return card


def build_with_weights(make: Callable[[], nn.Module], path: str | Path, fresh: Sequence[str] = (),
                       copy: str | None = None) -> nn.Module:
    """Return the module that `make` builds, with the weights of a file; at no time are there two copies of them.

    Its parameters are the memory-mapped file itself: pages are read when they are used, and become the process's own when
    they are written (the file never changes). Do not overwrite the file in place while the module lives; replacing it is
    fine. Parameters that the file lacks start as `make` starts them.

    Args:
        make: builds the module, the same at each call; called twice where the file lacks something.
        path, fresh, copy: as for `load_weights`, which also says what is raised.
    """
    model, order = build_on_meta(make)
    own = model.state_dict()
    state = read_state(Path(path), own, copy).ours
    report = _compare(model, state, path, fresh)
    if any(own[name].is_meta for name in report.missing):
        model = build_some(make, order, report.missing)
    return _fill(model, state, path, report)


def load_weights(model: nn.Module, path: str | Path, fresh: Sequence[str] = (), copy: str | None = None) -> LoadReport:
    """Load a weights file into `model`: ours, the official VGGT-1B, a released SegVGGT, or a checkpoint of either.

    What the model holds is overwritten in place; to make a model from a file, `build_with_weights` needs half the memory.

    Args:
        model: the module to fill.
        path: safetensors, a file of torch.save, or the `*.index.json` of a set of either.
        fresh: shell patterns of parameters that keep their values where the file lacks them (fine-tuning); any other that
            it lacks is an error, and so is one where the file has others of the same pattern.
        copy: which copy of the model in the file; None = the model itself where it is there, else an averaged one.

    Raises:
        WeightsError: the file is missing or broken, shapes differ, keys are missing, low-rank factors would be dropped,
            nothing fits, or a value is not finite.
    """
    state = read_state(Path(path), model.state_dict(), copy).ours
    report = _compare(model, state, path, fresh)
    _fill(model, state, path, report)
    return report


def check_weights(make: Callable[[], nn.Module], path: str | Path, fresh: Sequence[str] = ()) -> LoadReport:
    """Return how a file fits the module that `make` builds, without reading its values.

    Args and errors: as for `load_weights`, but values that are not finite, which only a load sees.
    """
    model = build_on_meta(make)[0]
    return _compare(model, read_state(Path(path), model.state_dict()).ours, path, fresh)


@dataclass(frozen=True)
class WeightsState:
    """The tensors of one copy of a model in a file, memory-mapped.

    Attributes:
        released: by their names in the file, without what wraps these.
        ours: by our names.
        copy: the name in the file of the copy that they are, '' for the model itself.
    """

    released: dict[str, Tensor]
    ours: dict[str, Tensor]
    copy: str = ''


def read_state(path: Path, known: Collection[str] = (), copy: str | None = None) -> WeightsState:
    """Return the tensors of a weights file; what was taken off its names, and which copy it is, is said in one line.

    Args:
        path: as of `load_weights`.
        known: names of the model that they are for, as far as known.
        copy: as of `load_weights`.

    Tensors that a plugin's parts hold in another layout are in that layout.

    Raises:
        WeightsError: no file, a broken one, one that would need code to be read (nothing in a file is ever executed), no
            such copy, or two keys of one tensor with different values.
    """
    tensors = read_tensors(path)
    found = unwrap(list(tensors), known, our_names, str(path), copy)
    if str(found):
        print_log(f'weights {path}: {found}', 'current')
    chosen = {key: tensors[key] for key in found.keys}
    check_held(chosen, path)
    released = {found.keys[key]: tensor for key, tensor in chosen.items()}
    wrapped = next((key for key in released if re.search(r'\.attn\.(qkv|proj)\.linear\.', key)), None)
    if wrapped and not any('.lora.' in key for key in released):
        raise WeightsError(f'{path} was cut: {wrapped} is a weight under LoRA, and there are no factors (lora_A) for it.')
    names, converted = found.names, in_our_layout(released)
    if converted is not None:
        released = chosen = converted
        names = our_names(converted)
    return WeightsState(released, in_our_names(chosen, names, path, same_tensor), found.copy)


def in_our_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors (...) of a file as parts of a plugin hold them, under keys of such a file; None = as they are."""
    return manager().hook.jrs_weight_values(state=dict(state))


def our_names(keys: Iterable[str]) -> dict[str, str | None]:
    """Return the name in our models of every key of a weights file: ours, VGGT's, SegVGGT's, or one that a plugin knows.

    Several keys may have one name (a tensor that a file lists under all of its names); None = known, and not part of ours.
    """
    keys = list(keys)
    known = manager().hook.jrs_weight_names(keys=keys)
    return known or {key: our_key(key) if key.startswith(('aggregator.', 'semantic_head.')) else key for key in keys}


def in_our_names(values: Mapping[str, Any], names: Mapping[str, str | None], source: str | Path,
                 same: Callable[[Any, Any], bool]) -> dict[str, Any]:
    """Return the `values` of a file's keys under our names; what a plugin lists as no part of ours is dropped, and said.

    Args:
        values: key of the file -> tensor of any shape, such as (out, in), or what stands for it.
        names: key -> our name, from `our_names`.
        source: the file, for messages.
        same: whether two values are equal.

    Raises:
        WeightsError: two keys of one tensor have different values.
    """
    ours, first, dropped = {}, {}, []
    for key, value in values.items():
        name = names[key]
        if name is None:
            dropped.append(key)
        elif name not in ours:
            ours[name], first[name] = value, key
        elif not same(ours[name], value):
            raise WeightsError(f'{source}: {first[name]} and {key} are two names of one tensor, {name}, and differ. Are '
                               f'they of two copies of the model? {HOW_TO_CHOOSE}.')
    if dropped:
        shared = commonprefix(list(values)).rpartition('.')[0]                  # what wraps all of them says nothing
        groups = sorted({key.removeprefix(f'{shared}.').partition('.')[0] for key in dropped})
        print_log(f'weights {source}: {len(dropped)} entries of {", ".join(groups)} are known and no part of this model: '
                  'dropped', 'current')
    return ours


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors (...) have the same shape and values."""
    return one.shape == other.shape and torch.equal(one, other)


def compare_keys(own: Iterable[str], found: Iterable[str], fresh: Sequence[str]) -> tuple[LoadReport, list[str]]:
    """Return how the names of a model and of a file relate, and those missing ones that are no fine-tuning addition.

    Args:
        own: names of the model.
        found: names of the file, as `our_names` gives them.
        fresh: shell patterns; what fits one may be missing, unless the file has other names that fit it.
    """
    own, found = dict.fromkeys(own), dict.fromkeys(found)
    others = [key for key in found if key not in own]
    report = LoadReport([key for key in own if key in found], [key for key in own if key not in found],
                        [key for key in others if not key.startswith(SKIPPED)],
                        [key for key in others if key.startswith(SKIPPED)])
    whole = [pattern for pattern in fresh if not any(fnmatch(key, pattern) for key in report.used)]
    return report, [key for key in report.missing if not any(fnmatch(key, pattern) for pattern in whole)]


def first_of(items: Sequence[str], count: int) -> str:
    """Return the first `count` items as text, and how many more there are."""
    return '; '.join(items[:count]) + (f'; and {len(items) - count} more' if len(items) > count else '')


def _compare(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, fresh: Sequence[str]) -> LoadReport:
    """Return which keys fit; raise where that is not enough."""
    own = model.state_dict()
    report, lacking = compare_keys(own, state, fresh)
    wrong = [f'{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}' for key in report.used
             if state[key].shape != own[key].shape]
    if wrong:
        raise WeightsError(f'{path} is for another size of model: {first_of(wrong, 3)}.{_other_classes(wrong)} Use the '
                           'config and the --profile that the weights were trained with; a run has both in its config.py.')
    if not report.used or lacking:
        raise WeightsError(_misfit(own, state, report, lacking, Path(path)))
    dropped = [key for key in report.left_over if key.endswith(LOW_RANK)]
    if dropped:
        raise WeightsError(f'{path} has low-rank factors (LoRA) that the model does not take, such as {dropped[0]}; without '
                           'them it would give other results. Set model.backbone.lora to the rank and alpha of the file, '
                           'or add them to the weights: tools/convert.py FILE --out MERGED.safetensors --merge-lora.')
    kinds = [f'{key} is {state[key].dtype}' for key in report.used
             if state[key].is_floating_point() != own[key].is_floating_point() or state[key].is_complex()]
    if kinds:
        raise WeightsError(f'{path} holds numbers of another kind than the model, such as those of quantised weights: '
                           f'{first_of(kinds, 3)}. Weights are float32, float16 or bfloat16: take a file of these.')
    _check_alpha(model, Path(path), report)
    return report


def _other_classes(wrong: Sequence[str]) -> str:
    """Return a hint where only the class head differs."""
    if not all(line.startswith('class_head.') for line in wrong):
        return ''
    return (' Only the class head differs: the file has the classes of another benchmark (model.num_classes, '
            '*_dataset.benchmark).')


def _misfit(own: Collection[str], state: Collection[str], report: LoadReport, lacking: Sequence[str], path: Path) -> str:
    """Return what to say of a file that lacks what the model needs: all names foreign, no queries, or some missing."""
    if not report.used:
        return (f'{path} is of another model ({report}): no name in it is one of this model. Missing: {lacking[:2]}. Its '
                f'names begin with {_beginnings(state)}, such as {", ".join([*state][:2])}; those of the model with '
                f'{_beginnings(own)}.{_close(lacking, report)} Name the config that the weights belong to; a backbone of a '
                f'plugin has its own (docs/backbones.md).{part_of_a_set(path)}')
    no_queries = any(key.startswith('queries.') for key in lacking) and not any(
        key.startswith('queries.') for key in [*report.used, *report.left_over])
    geometry = (' The file has no queries, as VGGT-1B: training starts there (--cfg-options weights=FILE), and it finds no '
                'instances by itself.') if no_queries else ''
    return (f'{path} does not fit the model ({report}). Missing: {lacking[:5]}; left over: {report.left_over[:5]}.'
            f'{_close(lacking, report)}{geometry} Use the config that the weights were trained with.{part_of_a_set(path)}')


def _beginnings(keys: Iterable[str]) -> str:
    """Return the words that names begin with, and how many each."""
    counts = Counter(key.partition('.')[0] for key in keys).most_common(6)
    return ', '.join(f'{word}. ({count})' for word, count in counts) or 'nothing'


def _close(lacking: Sequence[str], report: LoadReport) -> str:
    """Return names of the file that are near to the first few that are missing."""
    near = {name: difflib.get_close_matches(name, report.left_over, n=1, cutoff=0.75) for name in lacking[:3]}
    words = [f'{name} (missing) and {found[0]} (left over)' for name, found in near.items() if found]
    return f' Names that are close: {"; ".join(words)}.' if words else ''


def _check_alpha(model: nn.Module, path: Path, report: LoadReport) -> None:
    """Raise where a file says the alpha of its LoRA and the model multiplies by another one."""
    stated = (read_metadata(path).get('lora') or {}).get('alpha')
    given = set(report.used)
    alphas = {layer.lora_scale * layer.lora_a.shape[0] for name, layer in model.named_modules()
              if isinstance(layer, LoRALinear) and f'{name}.lora_a' in given}
    if stated is not None and any(abs(alpha - stated) > 1e-6 * abs(stated) for alpha in alphas):
        raise WeightsError(f'{path} was trained with a LoRA alpha of {stated:g}, and the model has {max(alphas):g}: set '
                           'model.backbone.lora.alpha.')


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, report: LoadReport) -> nn.Module:
    """Give the model what the report lists: mapped tensors to parameters without values, copies to the others."""
    own = model.state_dict()
    values = {key: state[key].to(own[key].dtype) if own[key].is_meta or state[key].dtype == torch.float64 else state[key]
              for key in report.used}
    refuse_nonfinite(values, f'{path} holds broken weights', BROKEN, WeightsError)
    model.load_state_dict({key: value for key, value in values.items() if own[key].is_meta}, strict=False, assign=True)
    model.load_state_dict({key: value for key, value in values.items() if not own[key].is_meta}, strict=False)
    print_log(f'weights {path}: {report}{_stored(state, own, report.used)}', 'current')
    for kind in ('missing', 'left_over'):
        keys = getattr(report, kind)
        if keys:
            print_log(f'  {kind.replace("_", " ")}: {first_of(keys, 5)}', 'current')
    return model


def _stored(state: Mapping[str, Tensor], own: Mapping[str, Tensor], used: Sequence[str]) -> str:
    """Return which types the file has where the model has others, '' where it has none."""
    other = Counter(str(state[key].dtype).removeprefix('torch.') for key in used if state[key].dtype != own[key].dtype)
    held = sorted({str(own[key].dtype).removeprefix('torch.') for key in used if state[key].dtype != own[key].dtype})
    return f'; stored as {", ".join(f"{name} ({count})" for name, count in other.items())}, held as {", ".join(held)}' \
        if other else ''
