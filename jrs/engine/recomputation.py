"""What the backward pass computes again: as little as the memory of the card allows, by the model of memory.

Numbers do not depend on it, so that it is no part of a run's identity; `run.json` says what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import nn

from jrs.engine.memory import GB, HEADS, free_memory
from jrs.engine.needs import largest_slot, slot_memory, teacher_bytes
from jrs.engine.processes import agree
from jrs.schema import device_settings

SHARE = 0.9                                    # of the free memory that is planned with: the allocator leaves gaps


@dataclass(frozen=True)
class Level:
    """What is computed again: of a backbone (`StepBackbone.activation_checkpointing`), of queries and of dense heads."""

    backbone: bool | str
    queries: bool
    heads: bool

    def __str__(self) -> str:
        names = {True: 'all', False: 'nothing', 'attention': 'all but attention'}
        return f'backbone {names[self.backbone]}, queries {names[self.queries]}, heads {names[self.heads]}'


# From the fastest to the leanest. Heads are the first to run again: they hold much, and are quick.
LEVELS = (Level(False, False, False), Level(False, False, True), Level('attention', False, False),
          Level('attention', False, True), Level('attention', True, True), Level(True, True, True))


def fit_recomputation(model: nn.Module, cfg: Config, device: torch.device, processes: int) -> str:
    """Choose what `model` computes again in training; return that in words.

    The first of `LEVELS` whose estimate for the largest slot fits in the free memory of the card is taken, the same in all
    processes; the leanest where none fits. Parts stay as they are configured on a CPU, with
    `device.recomputation='as_configured'`, and where there is no estimate.

    Args:
        model: as it was built, before its optimizer.
        cfg: of the run.
        device: that it will train on.
        processes: that train together.
    """
    slot = largest_slot(cfg, getattr(getattr(model, 'backbone', None), 'patch_size', None))
    free = free_memory(device) if device.type == 'cuda' else None
    asked = device_settings(cfg)['recomputation'] == 'fitting' and free is not None
    estimate = slot_memory(model, 0.0, cfg, slot, device, processes) if asked else None
    if estimate is None:
        return f'as configured: {current_level(model)}'
    teacher, chosen = teacher_bytes(model), len(LEVELS) - 1
    for number, level in enumerate(LEVELS):
        use_level(model, level)
        estimate = slot_memory(model, teacher, cfg, slot, device, processes)
        if estimate.total <= SHARE * free:
            chosen = number
            break
    chosen = agree(chosen)[0]
    use_level(model, LEVELS[chosen])
    estimate = slot_memory(model, teacher, cfg, slot, device, processes)
    fits = 'fits' if estimate.total <= SHARE * free else 'does not fit: the leanest there is'
    return f'{current_level(model)} ({estimate.total / GB:.1f} of {free / GB:.1f} GB: {fits})'


def use_level(model: nn.Module, level: Level) -> None:
    """Let the parts of `model` that can compute again do so by `level`; what may run only once stays so."""
    parts = [(model.backbone, _backbone_level(model, level.backbone)), (model.queries, level.queries),
             *((getattr(model, name), level.heads) for name in HEADS)]
    for part, again in parts:
        if hasattr(part, 'activation_checkpointing'):
            part.activation_checkpointing = again


def _backbone_level(model: nn.Module, wanted: bool | str) -> bool | str:
    attention = getattr(model.backbone, 'global_attention', None)
    if getattr(model, 'pretext', None) is not None or not getattr(attention, 'recomputable', True):
        return False                           # what goes through its steps is noted, or kept, once
    return wanted if hasattr(model.backbone, 'stretches') else bool(wanted)


def current_level(model: nn.Module) -> str:
    """Return what a model computes again, in words."""
    if not hasattr(model, 'backbone'):
        return 'nothing'
    heads = [getattr(getattr(model, name, None), 'activation_checkpointing', False) for name in HEADS]
    return str(Level(getattr(model.backbone, 'activation_checkpointing', False),
                     bool(getattr(model.queries, 'activation_checkpointing', False)), any(heads)))
