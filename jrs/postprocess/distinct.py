"""From scored instances, in which several may claim one object, to a set that can be shown: each pixel has one owner."""

from __future__ import annotations

import torch

from jrs.structures import Instances


def distinct_instances(instances: Instances, min_score: float = 0.0, min_share: float = 0.5) -> Instances:
    """Return the instances that keep most of their mask when better-scored ones come first. Ours; no part of scoring.

    Going from the best score down, an instance stays when at least `min_share` of its pixels are not yet taken; it then
    takes them. Masks of those that stay are returned whole, so that they may still overlap.

    Args:
        instances: best first.
        min_score: instances below it are left out.
        min_share: share of a mask, in (0, 1], that must be free.
    """
    taken = torch.zeros(instances.packed.shape[1:], dtype=torch.bool, device=instances.scores.device)
    kept = []
    for index, (mask, score) in enumerate(zip(instances.packed, instances.scores.tolist(), strict=True)):
        size = int(mask.sum())
        if score < min_score or size == 0 or int((mask & ~taken).sum()) < min_share * size:
            continue
        taken |= mask
        kept.append(index)
    return instances.select(kept)
