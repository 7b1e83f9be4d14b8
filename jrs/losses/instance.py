"""Class and mask terms on the matched pairs of one scene (baselines.md section 2.2).

Each takes (pred, target, match) without the scene axis and returns a scalar, or None when the scene has nothing to say.
Pairs count by `Match.weights`.
Masks are read through ``pred.masks(match.queries)``, see `jrs.masks.MaskLogits`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.functional import matched_bce, matched_dice
from jrs.masks import MaskLogits
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions

TINY = 1e-12                                   # keeps a mean in which nothing counts at 0


@LOSSES.register_module()
class ClassLoss:
    """Cross-entropy of all queries over K + 1 classes; unmatched queries should say "no object", the last class.

    Args:
        no_object_weight: class weight of "no object"; the others have 1. The mean is weighted likewise, and a matched query
            counts by its pair's weight besides.
    """

    reads = 'instances'

    def __init__(self, no_object_weight: float = 0.1) -> None:
        self.no_object_weight = no_object_weight

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar; reads ``pred.class_logits`` (Q, K + 1) and ``target.labels`` (G,)."""
        logits = pred.class_logits
        with torch.autocast(logits.device.type, enabled=False):
            no_object = logits.shape[1] - 1
            wanted = torch.full((logits.shape[0],), no_object, dtype=torch.int64, device=logits.device)
            wanted[match.queries] = target.labels[match.instances]
            weight = torch.ones(logits.shape[1], device=logits.device)
            weight[no_object] = self.no_object_weight
            if match.weights is None:
                return F.cross_entropy(logits.float(), wanted, weight)
            counts = torch.ones_like(logits[:, 0], dtype=torch.float32)                             # (Q,)
            counts[match.queries] = match.weights.float()
            losses = F.cross_entropy(logits.float(), wanted, weight, reduction='none')              # (Q,)
            return (counts * losses).sum() / (counts * weight[wanted]).sum().clamp_min(TINY)


@LOSSES.register_module()
class MaskBCELoss:
    """Binary cross-entropy of matched masks, mean over pairs and valid pixels (Eq. 5)."""

    reads = 'instances'

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None without pairs; reads ``pred.masks()`` (Q, V*h*w) and ``target.masks``."""
        if len(match.queries) == 0:
            return None
        return match.mean(matched_bce(*_matched(pred, target, match), valid=target.flat_valid))


@LOSSES.register_module()
class MaskDiceLoss:
    """Dice loss of matched masks, mean over pairs (Eq. 5).

    Args:
        smooth: Laplace smoothing, in pixels.
    """

    reads = 'instances'

    def __init__(self, smooth: float = 1.0) -> None:
        self.smooth = smooth

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None without pairs; reads ``pred.masks()`` (Q, V*h*w) and ``target.masks``."""
        if len(match.queries) == 0:
            return None
        return match.mean(matched_dice(*_matched(pred, target, match), smooth=self.smooth, valid=target.flat_valid))


def _matched(pred: QueryPredictions, target: InstanceTargets, match: Match) -> tuple[MaskLogits, Tensor]:
    """(n, V*h*w) logits and bool targets of the matched rows only."""
    return pred.masks(match.queries), target.flat_masks[match.instances]
