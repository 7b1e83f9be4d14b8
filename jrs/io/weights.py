"""Weights for use elsewhere: one safetensors file with its origin; loading says what was used, missing and left over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.errors import WeightsError
from jrs.io.released_keys import our_key

UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError)   # what torch.load raises on bad files
SKIPPED = ('track_head.', 'point_head.')       # VGGT-1B's heads that this model does not have: known, skipped by name


@dataclass(frozen=True)
class LoadReport:
    """Keys of a load: those used, those that the model has and the file lacks, and those that no parameter took."""

    used: list[str]
    missing: list[str]
    left_over: list[str]

    def __str__(self) -> str:
        return f'{len(self.used)} used, {len(self.missing)} missing, {len(self.left_over)} left over'


def save_weights(model: nn.Module, path: Path, metadata: dict) -> None:
    """Write the model's state to `path` as safetensors, atomically, with `metadata` (origin, licence, ...)."""
    temporary = path.with_name(f'.{path.name}.part')
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, str(temporary), metadata={key: json.dumps(value) for key, value in metadata.items()})
    temporary.replace(path)


def read_metadata(path: Path) -> dict:
    """Return the metadata of a weights file written by `save_weights`; empty for others."""
    if path.suffix != '.safetensors':
        return {}
    with _opened(path) as file:
        return {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != 'format'}


def load_weights(model: nn.Module, path: str | Path, fresh: Sequence[str] = ()) -> LoadReport:
    """Load a weights file into `model`: ours, the official VGGT-1B, or a released SegVGGT.

    Args:
        model: the module to fill.
        path: a `.safetensors` file, or a `.pt`/`.pth` file of tensors.
        fresh: shell patterns of parameters that keep their values where the file lacks them (fine-tuning); any other that
            it lacks is an error.

    Raises:
        WeightsError: the file is missing or broken, shapes differ, keys are missing, or nothing fits.
    """
    state = {_rename(key): tensor for key, tensor in read_state(Path(path)).items()}
    own = model.state_dict()
    used = [key for key in own if key in state]
    report = LoadReport(used, [key for key in own if key not in state],
                        [key for key in state if key not in own and not key.startswith(SKIPPED)])
    wrong = [f'{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}' for key in used
             if state[key].shape != own[key].shape]
    if wrong:
        raise WeightsError(f'{path} is for another size of model: ' + '; '.join(wrong[:3]) +
                           (f'; and {len(wrong) - 3} more' if len(wrong) > 3 else '') + '.')
    lacking = [key for key in report.missing if not any(fnmatch(key, pattern) for pattern in fresh)]
    if not used or lacking:
        raise WeightsError(f'{path} does not fit the model ({report}). Missing: {lacking[:5]}; '
                           f'left over: {report.left_over[:5]}. Use the config that the weights were trained with.')
    model.load_state_dict({key: state[key] for key in used}, strict=False)
    print_log(f'weights {path}: {report}', 'current')
    return report


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, memory-mapped; wrappings of the official files are taken off."""
    if not path.is_file():
        raise WeightsError(f'no weights file {path}. Training writes weights.safetensors into its run folder; where the '
                           'official files are is in the README.')
    if path.suffix == '.safetensors':
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    try:
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise WeightsError(f'{path} is no readable checkpoint ({type(error).__name__}). Is it complete?') from error
    if not isinstance(state, dict):
        raise WeightsError(f'{path} holds a {type(state).__name__}; a checkpoint is a mapping of names to tensors.')
    for wrapping in ('model', 'state_dict'):
        state = state[wrapping] if isinstance(state.get(wrapping), dict) else state
    return {str(key).removeprefix('module.'): tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}


def _opened(path: Path):
    try:
        return safe_open(str(path), framework='pt')
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no readable safetensors file ({error}). Is it complete?') from error


def _rename(key: str) -> str:
    return our_key(key) if key.startswith(('aggregator.', 'semantic_head.')) else key
