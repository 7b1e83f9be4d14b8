"""Weights for use elsewhere: one safetensors file with its origin; loading says what was used, missing and left over."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from os.path import commonprefix
from pathlib import Path
from pickle import UnpicklingError
from types import NoneType
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from jrs.errors import WeightsError
from jrs.io.lean_build import build_on_meta, build_some
from jrs.io.released_keys import our_key
from jrs.io.tensor_file import write_tensors
from jrs.layers.lora import LoRALinear
from jrs.plugins import manager

# What torch.load raises on broken files: its unpickler checks neither stack nor arguments.
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
              ArithmeticError, MemoryError, struct.error, UnpicklingError)
# Heads that a model may not have, known and skipped by name: VGGT-1B's, and those of our pre-training.
SKIPPED = ('track_head.', 'point_head.', 'pretext.')
LOW_RANK = ('.lora_a', '.lora_b')
# What is no checkpoint, by how the file begins.
IMPOSTORS = {b'<': 'a web page: the download gave a page (not found, log-in or licence needed) instead of the file',
             b'version https://git-lfs': 'a Git LFS pointer: fetch the file itself (git lfs pull)',
             b'{': 'JSON text', b'\x80': 'a bare pickle, or of torch before 1.6: loading it could run code, so it is not '
             'read. If you trust it, load and save it with today\'s torch.save'}


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
    if path.suffix != '.safetensors':
        return {}
    with _opened(path) as file:
        stated = file.metadata() or {}
    card = {key: _plain(value) for key, value in stated.items() if key != 'format'}
    lora = card.get('lora')
    if lora is not None and not (isinstance(lora, dict) and type(lora.get('alpha')) in (int, float, NoneType)):
        raise WeightsError(f'{path}: its metadata "lora" must be {{"rank": number, "alpha": number}}, and is '
                           f'{str(lora)[:80]!r}.')
    return card


def build_with_weights(make: Callable[[], nn.Module], path: str | Path, fresh: Sequence[str] = ()) -> nn.Module:
    """Return the module that `make` builds, with the weights of a file; at no time are there two copies of them.

    Its parameters are the memory-mapped file itself: pages are read when they are used, and become the process's own when
    they are written (the file never changes). Do not overwrite the file in place while the module lives; replacing it is
    fine. Parameters that the file lacks start as `make` starts them.

    Args:
        make: builds the module, the same at each call; called twice where the file lacks something.
        path, fresh: as for `load_weights`, which also says what is raised.
    """
    state = _our_state(Path(path))
    model, order = build_on_meta(make)
    report = _compare(model, state, path, fresh)
    own = model.state_dict()
    if any(own[name].is_meta for name in report.missing):
        model = build_some(make, order, report.missing)
    return _fill(model, state, path, report)


def load_weights(model: nn.Module, path: str | Path, fresh: Sequence[str] = ()) -> LoadReport:
    """Load a weights file into `model`: ours, the official VGGT-1B, or a released SegVGGT.

    What the model holds is overwritten in place; to make a model from a file, `build_with_weights` needs half the memory.

    Args:
        model: the module to fill.
        path: a `.safetensors` file, or a `.pt`/`.pth` file of tensors.
        fresh: shell patterns of parameters that keep their values where the file lacks them (fine-tuning); any other that
            it lacks is an error, and so is one where the file has others of the same pattern.

    Raises:
        WeightsError: the file is missing or broken, shapes differ, keys are missing, low-rank factors would be dropped, or
            nothing fits.
    """
    state = _our_state(Path(path))
    report = _compare(model, state, path, fresh)
    _fill(model, state, path, report)
    return report


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, memory-mapped; wrappings of the official files are taken off.

    Raises:
        WeightsError: no file, a broken one, or one that would need code to be read: nothing in a file is ever executed.
    """
    if not path.is_file():
        raise WeightsError(f'no weights file {path}. Training writes weights.safetensors into its run folder; where the '
                           'official files are is in the README.')
    _refuse_impostors(path)
    state = _read_safetensors(path) if path.suffix == '.safetensors' else _read_pickled(path)
    wrapped = next((key for key in state if re.search(r'\.attn\.(qkv|proj)\.linear\.', key)), None)
    if wrapped and not any('.lora.' in key for key in state):
        raise WeightsError(f'{path} was cut: {wrapped} is a weight under LoRA, and there are no factors (lora_A) for it.')
    return state


def our_names(keys: Iterable[str]) -> dict[str, str | None]:
    """Return the name in our models of every key of a weights file: ours, VGGT's, SegVGGT's, or one that a plugin knows.

    Several keys may have one name (a tensor that a file lists under all of its names); None = known, and not part of ours.
    """
    keys = list(keys)
    known = manager().hook.jrs_weight_names(keys=keys)
    return known or {key: our_key(key) if key.startswith(('aggregator.', 'semantic_head.')) else key for key in keys}


def in_our_names(values: Mapping[str, Any], source: str | Path, same: Callable[[Any, Any], bool]) -> dict[str, Any]:
    """Return the `values` of a file's keys under our names; what a plugin lists as no part of ours is dropped, and said.

    Args:
        values: key of the file -> tensor of any shape, such as (out, in), or what stands for it.
        source: the file, for messages.
        same: whether two values are equal.

    Raises:
        WeightsError: two keys of one tensor have different values.
    """
    ours, first, dropped = {}, {}, []
    for key, name in our_names(values).items():
        if name is None:
            dropped.append(key)
        elif name not in ours:
            ours[name], first[name] = values[key], key
        elif not same(ours[name], values[key]):
            raise WeightsError(f'{source}: {first[name]} and {key} are two names of one tensor, {name}, and differ.')
    if dropped:
        shared = commonprefix(list(values)).rpartition('.')[0]                  # what wraps all of them says nothing
        groups = sorted({key.removeprefix(f'{shared}.').partition('.')[0] for key in dropped})
        print_log(f'weights {source}: {len(dropped)} entries of {", ".join(groups)} are known and no part of this model: '
                  'dropped', 'current')
    return ours


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors (...) have the same shape and values."""
    return one.shape == other.shape and torch.equal(one, other)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise WeightsError(f'{path} holds Python objects other than tensors, which could run code: refused, nothing of it '
                           f'was executed ({_cause(error)}). Save a plain dictionary of tensors.') from error
    except UNREADABLE as error:
        raise WeightsError(f'{path} is no readable checkpoint ({type(error).__name__}: {_cause(error)}). Is the download '
                           f'complete? The file has {path.stat().st_size:,} bytes.') from error
    if not isinstance(state, dict):
        raise WeightsError(f'{path} holds a {type(state).__name__}; a checkpoint is a mapping of names to tensors.')
    for wrapping in ('model', 'state_dict'):
        state = state[wrapping] if isinstance(state.get(wrapping), dict) else state
    found = {str(key).removeprefix('module.'): tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}
    _check_held(found, path)
    return found


def _check_held(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors whose numbers are not all in the file: a few bytes can announce any size by a stride of 0."""
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized \
                or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f'{path}: {key} {tuple(tensor.shape)} is no plain tensor whose numbers are all in the file.')


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


def _our_state(path: Path) -> dict[str, Tensor]:
    return in_our_names(read_state(path), path, same_tensor)


def _compare(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, fresh: Sequence[str]) -> LoadReport:
    """Return which keys fit; raise where that is not enough."""
    own = model.state_dict()
    report, lacking = compare_keys(own, state, fresh)
    wrong = [f'{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}' for key in report.used
             if state[key].shape != own[key].shape]
    if wrong:
        raise WeightsError(f'{path} is for another size of model: {first_of(wrong, 3)}. Use the config and the '
                           '--profile that the weights were trained with; a run has both in its config.py.')
    if not report.used or lacking:
        raise WeightsError(f'{path} does not fit the model ({report}). Missing: {lacking[:5]}; '
                           f'left over: {report.left_over[:5]}. Use the config that the weights were trained with.')
    dropped = [key for key in report.left_over if key.endswith(LOW_RANK)]
    if dropped:
        raise WeightsError(f'{path} has low-rank factors (LoRA) that the model does not take, such as {dropped[0]}; without '
                           'them it would give other results. Set model.backbone.lora to the rank and alpha of the file, '
                           'or add them to the weights: tools/convert.py FILE --out MERGED.safetensors --merge-lora.')
    _check_alpha(model, Path(path), report)
    return report


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
    given = {key: state[key].to(own[key].dtype) for key in report.used if own[key].is_meta}
    model.load_state_dict(given, strict=False, assign=True)
    model.load_state_dict({key: state[key] for key in report.used if key not in given}, strict=False)
    print_log(f'weights {path}: {report}', 'current')
    for kind in ('missing', 'left_over'):
        keys = getattr(report, kind)
        if keys:
            print_log(f'  {kind.replace("_", " ")}: {first_of(keys, 5)}', 'current')
    return model


def _refuse_impostors(path: Path) -> None:
    try:
        with path.open('rb') as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f'{path} cannot be read ({error}).') from error
    if not start:
        raise WeightsError(f'{path} is empty. Is the download complete?')
    if start[8:9] == b'{':                      # safetensors: after the header's length, which may be any bytes
        return
    for mark, what in IMPOSTORS.items():
        if start.lstrip().startswith(mark):
            raise WeightsError(f'{path} is not a weights file but {what}. It begins with {start[:24]!r}.')


def _opened(path: Path):
    try:
        return safe_open(str(path), framework='pt')
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no readable safetensors file ({error}). Is it complete?') from error


def _cause(error: Exception) -> str:
    """Return what matters of torch's long messages: the line that names a forbidden object, else the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ['no reason given']
    telling = next((line for line in lines if re.search('GLOBAL|Unsupported', line)), lines[0])
    return telling.partition(' Please use')[0][:160]


def _plain(text: str):
    """Return the value of a metadata entry; other programs write text where ours is JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
