"""How the values that a term of matched queries has in the scenes of a batch become one (baselines.md section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jrs.errors import ConfigError, did_you_mean
from jrs.structures import InstanceTargets, Match, QueryPredictions

REDUCTIONS = ('mean_present', 'mean_all', 'sum', 'pooled')
SceneOfQueries = tuple[QueryPredictions, InstanceTargets, Match]


class InstanceTerm:
    """Base of the terms on matched queries: what is common to them is how scenes and levels count.

    A term that knows 'pooled' has a method ``pooled(scenes) -> scalar``.

    Args:
        scene_reduction: 'mean_present' is the mean over the scenes that have something to say; 'mean_all' divides their sum
            by the number of all scenes; 'sum' adds them; 'pooled' is one mean over what all scenes have, laid end to end.
        last_scale: multiplier of the final prediction's value.
        aux_scale: multiplier of the values of auxiliary levels.

    Raises:
        ConfigError: no such reduction of this term.
    """

    reads = 'instances'

    def __init__(self, scene_reduction: str = 'mean_present', last_scale: float = 1.0, aux_scale: float = 1.0) -> None:
        known = [name for name in REDUCTIONS if name != 'pooled' or hasattr(self, 'pooled')]
        if scene_reduction not in known:
            raise ConfigError(f'{type(self).__name__}.scene_reduction must be one of {", ".join(map(repr, known))}, got '
                              f'{scene_reduction!r}.{did_you_mean(str(scene_reduction), known)}')
        self.scene_reduction, self.last_scale, self.aux_scale = scene_reduction, last_scale, aux_scale


def reduced(values: Sequence[Tensor | None], reduction: str) -> Tensor | None:
    """Return the values of B scenes, each a scalar or None, as one scalar; None where no scene has something to say."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    total = torch.stack(present)                                                # (n,)
    if reduction == 'mean_present':
        return total.mean()
    return total.sum() / (len(values) if reduction == 'mean_all' else 1)
