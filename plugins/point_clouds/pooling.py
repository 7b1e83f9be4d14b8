"""Points -> superpoints (baselines.md section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.registry import MODELS


@MODELS.register_module()
class MeanPooling(nn.Module):
    """The mean over the points of a superpoint: a voxel counts once per point in it."""

    def forward(self, points: Tensor, superpoints: Tensor, count: int) -> Tensor:
        """Return (S, C) for features (N, C) of points that are of the superpoints (N,); S is `count`.

        A superpoint without points gets 0.
        """
        return superpoint_mean(points, superpoints, count)


def superpoint_mean(points: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the mean (S, C) of `points` (N, C) over each of the `count` superpoints (N,); 0 where there is no point."""
    total = points.new_zeros(count, points.shape[1]).index_add(0, superpoints, points)
    return total / points_per_superpoint(superpoints, count).clamp_min(1)[:, None]


def points_per_superpoint(superpoints: Tensor, count: int) -> Tensor:
    """Return the number of points of each of the `count` superpoints, (S,) int64, for the superpoint (N,) of each point."""
    return torch.bincount(superpoints, minlength=count)
