"""Points far from each other (baselines.md section 3.6)."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_ORIGIN = 1e-3                             # squared norm of points that are never chosen, as in the kernel of others
MOST_THREADS = 512


@torch.no_grad()
def farthest_points(points: Tensor, count: int) -> Tensor:
    """Return the numbers (count,) int64 of points that are each the farthest from those before it; the first is number 0.

    Of equally far ones the published kernel takes the one of the least (number mod T), then the least number, with T the
    largest power of two that is at most n and at most 512. A point at the origin is not chosen after the first one.

    Args:
        points: (n, 3), n >= 1.
        count: at least 1, at most n.
    """
    numbers = torch.arange(len(points), device=points.device)
    threads = min(MOST_THREADS, 2 ** (len(points).bit_length() - 1))
    order = ((numbers % threads) * len(points) + numbers).argsort()             # the first of equals is the kernel's choice
    rows = points[order].float()
    away = torch.full((len(points),), float('inf'), device=points.device)
    away[(rows ** 2).sum(dim=1) <= NEAR_ORIGIN] = -1.0
    chosen = [0]
    for _ in range(count - 1):
        away = torch.minimum(away, ((rows - points[chosen[-1]].float()) ** 2).sum(dim=1))
        chosen.append(int(order[(away == away.max()).nonzero()[0, 0]]))
    return torch.tensor(chosen, device=points.device)
