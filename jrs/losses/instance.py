"""Class and mask terms on the matched pairs of one scene (baselines.md section 2.2).

Each takes (pred, target, match) without the scene axis and returns a scalar, or None when the scene has nothing to say.
Pairs count by `Match.weights`.
Masks are read through ``pred.masks(match.queries)``, see `jrs.masks.MaskLogits`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.errors import ConfigError
from jrs.functional import matched_bce, matched_dice
from jrs.losses.over_scenes import InstanceTerm, SceneOfQueries
from jrs.masks import MaskLogits
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions

NO_WORD = -100                                 # a target that cross-entropy leaves out
TINY = 1e-12                                   # keeps a mean in which nothing counts at 0


@LOSSES.register_module()
class ClassLoss(InstanceTerm):
    """Cross-entropy of all queries over K + 1 classes; unmatched queries should say "no object", the last class.

    Queries of instances without a name say nothing to it.

    Args:
        no_object_weight: class weight of "no object"; the others have 1. The mean is weighted likewise, and a matched query
            counts by its pair's weight besides.
        ignored_label: label of instances whose class nobody knows, beside `UNNAMED`: their queries do not count.
        options: of `InstanceTerm`; 'pooled' takes the weighted mean over the queries of all scenes.
    """

    def __init__(self, no_object_weight: float = 0.1, ignored_label: int | None = None, **options) -> None:
        super().__init__(**options)
        self.no_object_weight, self.ignored_label = no_object_weight, ignored_label

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar; reads ``pred.class_logits`` (Q, K + 1) and ``target.labels`` (G,).

        Raises:
            ConfigError: the class head has no "no object".
        """
        return self.pooled([(pred, target, match)])

    def pooled(self, scenes: Sequence[SceneOfQueries]) -> Tensor:
        """Return a scalar: the weighted mean over the queries of all scenes; errors as of a call."""
        if (classes := scenes[0][0].classes) != 'softmax':
            raise ConfigError(f'ClassLoss is cross-entropy over K classes and "no object", and the class head gives classes '
                              f'{classes!r}: take a loss for these, or a head with softmax.')
        with torch.autocast(scenes[0][0].class_logits.device.type, enabled=False):
            logits = torch.cat([pred.class_logits for pred, _, _ in scenes]).float()                # (n, K + 1)
            wanted = torch.cat([_wanted(*scene, self.ignored_label) for scene in scenes])           # (n,)
            weight = torch.ones(logits.shape[1], device=logits.device)
            weight[-1] = self.no_object_weight
            some_count = any(len(match.queries) < len(pred.class_logits) for pred, _, match in scenes)
            if some_count and all(match.weights is None for _, _, match in scenes):
                return F.cross_entropy(logits, wanted, weight, ignore_index=NO_WORD)
            counts = torch.cat([_counts(pred, match) for pred, _, match in scenes]) * (wanted != NO_WORD)       # (n,)
            losses = F.cross_entropy(logits, wanted, weight, reduction='none', ignore_index=NO_WORD)            # (n,)
            return (counts * losses).sum() / (counts * weight[wanted.clamp_min(0)]).sum().clamp_min(TINY)


@LOSSES.register_module()
class MaskBCELoss(InstanceTerm):
    """Binary cross-entropy of matched masks, mean over pairs and valid pixels (Eq. 5).

    Args: see `InstanceTerm`.
    """

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None without pairs; reads ``pred.masks()`` (Q, V*h*w) and ``target.masks``."""
        if len(match.queries) == 0:
            return None
        return match.mean(matched_bce(*_matched(pred, target, match), valid=target.flat_valid))


@LOSSES.register_module()
class MaskDiceLoss(InstanceTerm):
    """Dice loss of matched masks, mean over pairs (Eq. 5).

    Args:
        smooth: Laplace smoothing, in pixels.
        options: of `InstanceTerm`.
    """

    def __init__(self, smooth: float = 1.0, **options) -> None:
        super().__init__(**options)
        self.smooth = smooth

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None without pairs; reads ``pred.masks()`` (Q, V*h*w) and ``target.masks``."""
        if len(match.queries) == 0:
            return None
        return match.mean(matched_dice(*_matched(pred, target, match), smooth=self.smooth, valid=target.flat_valid))


def _wanted(pred: QueryPredictions, target: InstanceTargets, match: Match, ignored_label: int | None = None) -> Tensor:
    """Return the class index that each query should say, (Q,) int64; `NO_WORD` where nobody knows it."""
    logits = pred.class_logits
    wanted = torch.full((logits.shape[0],), logits.shape[1] - 1, dtype=torch.int64, device=logits.device)
    wanted[match.queries] = target.labels.masked_fill(target.unknown(ignored_label), NO_WORD)[match.instances]
    return wanted


def _counts(pred: QueryPredictions, match: Match) -> Tensor:
    """Return how much each query counts, (Q,) float32."""
    counts = torch.ones_like(pred.class_logits[:, 0], dtype=torch.float32)
    if match.weights is not None:
        counts[match.queries] = match.weights.float()
    return counts


def _matched(pred: QueryPredictions, target: InstanceTargets, match: Match) -> tuple[MaskLogits, Tensor]:
    """(n, V*h*w) logits and bool targets of the matched rows only."""
    return pred.masks(match.queries), target.flat_masks[match.instances]
