"""Points -> superpoints (baselines.md section 3.1)."""

from __future__ import annotations

import torch
from jrs_plugins.point_clouds.convolution import RowNorm
from torch import Tensor, nn

from jrs.registry import MODELS

EPS = 1e-4                                     # of the batch norms


@MODELS.register_module()
class MeanPooling(nn.Module):
    """The mean over the points of a superpoint: a voxel counts once per point in it."""

    def forward(self, points: Tensor, superpoints: Tensor, count: int) -> Tensor:
        """Return (S, C) for features (N, C) of points that are of the superpoints (N,); S is `count`.

        A superpoint without points gets 0.
        """
        return superpoint_mean(points, superpoints, count)


@MODELS.register_module()
class AdaptivePooling(nn.Module):
    """Points of a superpoint by two learned weights, of their distance from its mean and from its maximum (Relation3D).

    Names of parts are those of the published weights.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pooling_linear, self.pooling_linear1 = _weigher(dim), _weigher(dim)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, points: Tensor, superpoints: Tensor, count: int) -> Tensor:
        """Return (S, C) for features (N, C) of points that are of the superpoints (N,); S is `count`."""
        pooled = []
        for centre, weigh in ((superpoint_mean(points, superpoints, count), self.pooling_linear),
                              (superpoint_max(points, superpoints, count), self.pooling_linear1)):
            weight = superpoint_softmax(weigh(centre[superpoints] - points)[:, 0], superpoints, count)      # (N,)
            pooled.append(points.new_zeros(count, points.shape[1]).index_add(0, superpoints, weight[:, None] * points))
        return self.mlp(torch.cat(pooled, dim=1))


def superpoint_max(points: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the largest of `points` (N, C) in each of the `count` superpoints (N,), (S, C); 0 where there is no point."""
    index = superpoints[:, None].expand_as(points)
    return points.new_zeros(count, points.shape[1]).scatter_reduce(0, index, points, 'amax', include_self=False)


def superpoint_softmax(logits: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the softmax (N,) of `logits` (N,) over the points of each of the `count` superpoints (N,)."""
    largest = superpoint_max(logits.detach()[:, None], superpoints, count)[:, 0]
    shares = (logits - largest[superpoints]).exp()
    return shares / shares.new_zeros(count).index_add(0, superpoints, shares)[superpoints]


def _weigher(dim: int) -> nn.Sequential:
    hidden = [layer for _ in range(2) for layer in (nn.Linear(dim, dim), RowNorm(dim, eps=EPS), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(dim, 1))


def superpoint_mean(points: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the mean (S, C) of `points` (N, C) over each of the `count` superpoints (N,); 0 where there is no point."""
    total = points.new_zeros(count, points.shape[1]).index_add(0, superpoints, points)
    return total / points_per_superpoint(superpoints, count).clamp_min(1)[:, None]


def points_per_superpoint(superpoints: Tensor, count: int) -> Tensor:
    """Return the number of points of each of the `count` superpoints, (S,) int64, for the superpoint (N,) of each point."""
    return torch.bincount(superpoints, minlength=count)
