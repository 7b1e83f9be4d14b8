"""The voxels below the superpoints of a scene, for methods that read them too (baselines.md sections 3.6, 3.7)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jrs_plugins.point_clouds.pooling import superpoint_mean
from jrs_plugins.point_clouds.voxels import VoxelLevel
from torch import Tensor

from jrs.structures import Moves, SceneContext


@dataclass
class SceneVoxels(Moves):
    """The X voxels of one scene of N points; the first point in each voxel stands for it.

    Attributes:
        features: (X, C) of the network.
        positions: (X, 3) metres, of those points.
        cells: (X, 3) int64.
        superpoints: (X,) int64 in 0 .. S - 1, of those points.
        point_voxel, point_superpoint: (N,) int64.
        levels: (X_l, C_l) features of the network at falling strides, the last of the voxels (X, C); empty where
            nobody reads them.
        parents: (X_l,) int64, the row of each voxel at the level before, for all but the first level.
        class_logits, offsets: (X, K + 1) and (X, 3), what a decoder with such heads says of voxels; else None.
    """

    features: Tensor
    positions: Tensor
    cells: Tensor
    superpoints: Tensor
    point_voxel: Tensor
    point_superpoint: Tensor
    levels: list[Tensor] = field(default_factory=list)
    parents: list[Tensor] = field(default_factory=list)
    class_logits: Tensor | None = None
    offsets: Tensor | None = None

    def at_level(self, values: Tensor, number: int) -> Tensor:
        """Return `values` (X, C) at level `number`, (X_l, C): a coarser voxel has the mean of its occupied children."""
        for step in range(len(self.parents), number, -1):
            values = superpoint_mean(values, self.parents[step - 1], len(self.levels[step - 1]))
        return values


@dataclass
class PointContext(SceneContext):
    """What was predicted for one scene of points, as postprocessors see it.

    Attributes:
        voxels: of the scene; None where the method reads superpoints only.
    """

    voxels: SceneVoxels | None = None


def of_scenes(pyramid: list[tuple[VoxelLevel, Tensor]], scenes: int) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return the features and the parents, as of `SceneVoxels`, of each of `scenes` scenes of a network's levels.

    `pyramid` has the level and its features (X_l, C_l) of all scenes, coarsest first; the rows of the last are sorted.
    """
    counts = [torch.bincount(level.coordinates[:, 0], minlength=scenes).tolist() for level, _ in pyramid]
    features = [values.split(count) for (_, values), count in zip(pyramid, counts, strict=True)]
    parents = [level.parents.split(count) for (level, _), count in zip(pyramid[1:], counts[1:], strict=True)]
    firsts = [torch.tensor(count).cumsum(0) - torch.tensor(count) for count in counts[:-1]]     # of each scene's rows
    return [([level[scene] for level in features],
             [level[scene] - int(first[scene]) for level, first in zip(parents, firsts, strict=True)])
            for scene in range(scenes)]
