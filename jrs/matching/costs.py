"""Pairwise costs of class and mask; the one of view attention lives in `jrs/alignment/cost.py`.

A cost is any callable (pred, target) -> (Q, G) for one scene, already multiplied by its weight. Masks are read through
``pred.masks()``, see `jrs.masks.MaskLogits`.
"""

from __future__ import annotations

from torch import Tensor

from jrs.functional import pairwise_bce, pairwise_dice
from jrs.registry import COSTS
from jrs.structures import InstanceTargets, QueryPredictions


@COSTS.register_module()
class ClassCost:
    """Minus the probability that a query gives to the instance's class (baselines.md section 2.1).

    Args:
        weight: multiplier in the matching cost.
        ignored_label: label of instances whose class nobody knows, beside `UNNAMED`: any query is as good as certain.
    """

    def __init__(self, weight: float, ignored_label: int | None = None) -> None:
        self.weight, self.ignored_label = weight, ignored_label

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G) in [-weight, 0]; reads ``pred.class_probabilities()`` (Q, K) and ``target.labels`` (G,)."""
        unknown = target.unknown(self.ignored_label)                            # (G,)
        probabilities = pred.class_probabilities()[0][:, target.labels.masked_fill(unknown, 0)]             # (Q, G)
        return -self.weight * probabilities.masked_fill(unknown, 1.0)


@COSTS.register_module()
class MaskBCECost:
    """Binary cross-entropy of a query's mask against an instance's, over the valid pixels of all views (Eq. 5).

    Args:
        weight: multiplier in the matching cost.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G); reads ``pred.masks()`` (Q, V*h*w) and ``target.masks`` (G, V, h, w)."""
        return self.weight * pairwise_bce(pred.masks(), target.flat_masks, target.flat_valid)


@COSTS.register_module()
class MaskDiceCost:
    """Dice loss of a query's mask against an instance's, over the valid pixels of all views (Eq. 5).

    Args:
        weight: multiplier in the matching cost.
        smooth: Laplace smoothing, in pixels.
    """

    def __init__(self, weight: float, smooth: float = 1.0) -> None:
        self.weight = weight
        self.smooth = smooth

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G); reads ``pred.masks()`` (Q, V*h*w) and ``target.masks`` (G, V, h, w)."""
        return self.weight * pairwise_dice(pred.masks(), target.flat_masks, self.smooth, target.flat_valid)
