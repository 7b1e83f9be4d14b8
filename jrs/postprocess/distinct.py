"""From queries or instances, of which several may claim one object, to those that do not."""

from __future__ import annotations

import torch
from torch import Tensor

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


def unlike_masks(masks: Tensor, scores: Tensor, most_overlap: float) -> Tensor:
    """Return the rows (m,) int64 of masks that are left, best first: going down, one drops all later ones too like it.

    Empty masks are like no other and come last (baselines.md section 2.3, mask NMS of Relation3D).

    Args:
        masks: (n, E) bool.
        scores: (n,), at least 0.
        most_overlap: IoU, over elements, above which a mask is too like a better one.
    """
    flat = masks.float()
    both, sizes = flat @ flat.T, flat.sum(dim=1)
    alike = both / (sizes[:, None] + sizes - both + 1e-6) > most_overlap                    # (n, n)
    scores = scores.masked_fill(sizes == 0, 0.0)
    order = scores.flip(0).argsort(descending=True, stable=True)                            # of equals the later one
    kept, alike = [], alike.cpu()
    dropped = torch.zeros(len(masks), dtype=torch.bool)
    for row in (len(masks) - 1 - order).tolist():
        if not dropped[row]:
            kept.append(row)
            dropped |= alike[row]
    return torch.tensor(kept, dtype=torch.int64, device=masks.device)
