"""Points as a network sees them: in voxels, with the features that its method reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jrs_plugins.point_clouds.batch import PointBatch
from scipy.spatial.transform import Rotation

from jrs.errors import ConfigError

FEATURES = ('color', 'position', 'normal')
COLORS = {'signed': (127.5, 127.5), 'normalised': (                            # mean and deviation of colours in 0 .. 255
    255 * np.array([0.47793, 0.43032, 0.37496]), 255 * np.array([0.28340, 0.27567, 0.27020]))}
WHOLE = 2 ** 10                                # cells by which scenes are moved: coarser cells stay where they are


class PointInput:
    """How the points of a scene become what a network sees.

    Args:
        voxel_m: edge of a voxel in metres.
        voxel_values: what a voxel has: the 'mean' over its points, or that of its 'first' one.
        voxel_origin: 'scene' counts voxels from the least coordinate of the scene, 'world' from the origin.
        features: what the network sees of a voxel, out of 'color', 'position' and 'normal', in this order.
        color_scale: 'signed' is rgb / 127.5 - 1; 'normalised' by ScanNet's mean and deviation.
        centred: whether positions are relative to their mean.
        turn: angle in radians about the vertical axis by which a scene that is tested is turned for the network.

    Raises:
        ConfigError: a word that is none of these, or a voxel without size.
    """

    def __init__(self, voxel_m: float = 0.02, voxel_values: str = 'mean', voxel_origin: str = 'scene',
                 features: Sequence[str] = FEATURES[:2], color_scale: str = 'signed', centred: bool = False,
                 turn: float = 0.0) -> None:
        if not voxel_m > 0:
            raise ConfigError(f'PointSceneDataset.voxel_m must be above 0, got {voxel_m!r}.')
        _check_choice('voxel_values', [voxel_values], ('mean', 'first'))
        _check_choice('voxel_origin', [voxel_origin], ('scene', 'world'))
        _check_choice('color_scale', [color_scale], COLORS)
        _check_choice('features', features, FEATURES)
        self.voxel_m, self.voxel_values, self.voxel_origin = voxel_m, voxel_values, voxel_origin
        self.features, self.color_scale, self.centred, self.turn = tuple(features), color_scale, centred, turn

    def tested(self, scene_name: str, positions: np.ndarray, colors: np.ndarray, superpoints: np.ndarray,
               normals: np.ndarray | None = None) -> PointBatch:
        """Return points (n, 3) of a scene that is tested, turned by `turn`; arguments as of `batch`."""
        turn = Rotation.from_euler('z', self.turn).as_matrix().T
        positions, normals = positions @ turn, None if normals is None else normals @ turn
        return self.batch(scene_name, positions, colors, positions / self.voxel_m, superpoints, normals)

    def batch(self, scene_name: str, positions: np.ndarray, colors: np.ndarray, places: np.ndarray,
              superpoints: np.ndarray, normals: np.ndarray | None = None) -> PointBatch:
        """Return the n points of one scene as a batch without annotation.

        Args:
            scene_name: for messages and result files.
            positions: (n, 3) metres.
            colors: (n, 3) 0 .. 255.
            places: (n, 3) in voxels.
            superpoints: (n,) integers, with gaps or without.
            normals: (n, 3) of length 1, where they are a feature.
        """
        cells = np.floor(places - places.min(axis=0) if self.voxel_origin == 'scene' else places).astype(np.int64)
        cells -= cells.min(axis=0) // WHOLE * WHOLE if self.voxel_origin == 'world' else 0
        voxels, first, point_voxel = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        point_voxel = point_voxel.reshape(-1)
        _, superpoints = np.unique(superpoints, return_inverse=True)
        seen = positions - positions.mean(axis=0) if self.centred else positions
        middle, deviation = COLORS[self.color_scale]
        of_point = dict(color=(colors - middle) / deviation, position=seen, normal=normals)
        features = np.concatenate([of_point[name] for name in self.features], axis=1)           # (n, F)
        of_voxel = features[first] if self.voxel_values == 'first' else voxel_means(features, point_voxel, len(voxels))
        return PointBatch(
            scene_names=[scene_name], num_points=[len(positions)], num_voxels=[len(voxels)],
            num_superpoints=[int(superpoints.max()) + 1], positions=torch.from_numpy(positions.astype(np.float32)),
            voxels=torch.from_numpy(np.pad(voxels, ((0, 0), (1, 0)))),
            voxel_features=torch.from_numpy(of_voxel.astype(np.float32)), point_voxel=torch.from_numpy(point_voxel),
            superpoints=torch.from_numpy(superpoints.reshape(-1)))


def voxel_means(values: np.ndarray, voxel: np.ndarray, count: int) -> np.ndarray:
    """Return the mean (X, F) of `values` (n, F) over the points of each of the `count` voxels, by the voxel (n,) of each."""
    sums = np.stack([np.bincount(voxel, column, count) for column in values.T], axis=1)
    return sums / np.bincount(voxel, minlength=count)[:, None]


def _check_choice(name: str, given: Sequence[str], allowed: Collection[str]) -> None:
    wrong = [value for value in given if value not in allowed]
    if wrong or not given:
        raise ConfigError(f'PointSceneDataset.{name} must be of {", ".join(map(repr, allowed))}, got {wrong or given!r}.')
