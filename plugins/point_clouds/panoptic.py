"""One class and one instance for each point: things over stuff (baselines.md section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.structures import Instances


def panoptic_map(things: Instances, semantic_logits: Tensor, superpoints: Tensor, num_stuff: int = 2,
                 min_score: float = 0.5, min_points: int = 100) -> tuple[Tensor, Tensor]:
    """Return the semantic and the instance number of each point, (N,) int64 each.

    Stuff has the number of its class, 0 .. K_s - 1, in both. Things are drawn with the worst first, so that a point is of
    the best that covers it; one that keeps at most `min_points` points is erased. Their class is label + K_s, their
    instance K_s plus their place in ascending order of score, those that were erased included.

    Args:
        things: M instances, masks (M, 1, 1, S) over superpoints.
        semantic_logits: (S, K') of the superpoints, stuff in the first columns.
        superpoints: (N,) int64, the superpoint of each point.
        num_stuff: K_s.
        min_score: things must score more.
        min_points: things must keep more points.
    """
    stuff = semantic_logits[:, :num_stuff].argmax(dim=1)[superpoints]                       # (N,)
    drawn = things.select(things.scores > min_score)
    drawn = drawn.select(drawn.scores.argsort(stable=True))
    instance = torch.full_like(stuff, -1)
    for place, mask in enumerate(drawn.packed):
        instance[mask.flatten()[superpoints]] = place
    kept = torch.bincount(instance[instance >= 0], minlength=len(drawn)) > min_points
    shown = (instance >= 0) & torch.cat([kept, kept.new_zeros(1)])[instance]
    semantic = torch.where(shown, torch.cat([drawn.labels + num_stuff, stuff.new_zeros(1)])[instance], stuff)
    return semantic, torch.where(shown, instance + num_stuff, stuff)
