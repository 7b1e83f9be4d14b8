"""Scene folders as points: the vertices of their meshes, in voxels and superpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from jrs_plugins.point_clouds.augmentation import PointAugmentation
from jrs_plugins.point_clouds.batch import PointBatch, collate_points
from jrs_plugins.point_clouds.normals import unit_rows, vertex_normals
from scipy.spatial.transform import Rotation

from jrs.datasets.sampling import SampleRequest, ViewBatchSampler
from jrs.datasets.scene import Mesh, Scene
from jrs.datasets.scenes import ScenesOfSplit
from jrs.errors import ConfigError, DataError
from jrs.registry import DATASETS, SAMPLERS, check_keys
from jrs.structures import InstanceTable, SceneGroundTruth

FEATURES = ('color', 'position', 'normal')
COLORS = {'signed': (127.5, 127.5), 'normalised': (                            # mean and deviation of colours in 0 .. 255
    255 * np.array([0.47793, 0.43032, 0.37496]), 255 * np.array([0.28340, 0.27567, 0.27020]))}
WHOLE = 2 ** 10                                # cells by which scenes are moved: coarser cells stay where they are
NO_VIEWS = dict(depth_m=np.zeros((0, 1, 1), np.float32), depth_intrinsics=np.zeros((0, 3, 3)),
                cam_from_world=np.zeros((0, 4, 4)), input_from_depth=np.zeros((0, 3, 3)))


@DATASETS.register_module()
class PointSceneDataset(ScenesOfSplit):
    """Scenes of a split as points: an item is a `PointBatch` of one scene.

    In mode 'train' the scene is changed at random (`default_rng([seed, draw])`) and cut to `max_points`; in mode 'test' all
    its vertices are there, with what it is scored against.

    Args:
        voxel_m: edge of a voxel in metres.
        voxel_values: what a voxel has: the 'mean' over its points, or that of its 'first' one.
        voxel_origin: 'scene' counts voxels from the least coordinate of the scene, 'world' from the origin.
        features: what the network sees of a voxel, out of 'color', 'position' and 'normal', in this order.
        color_scale: 'signed' is rgb / 127.5 - 1; 'normalised' by ScanNet's mean and deviation.
        centred: whether positions are relative to their mean.
        turn: angle in radians about the vertical axis by which scenes of mode 'test' are turned for the network.
        augmentation: arguments of `PointAugmentation`; None = no random change.
        max_points: points of a training scene at most.
        ignored_label: in mode 'train', label of instances of a class that the benchmark does not have, for costs and losses
            that are told of it (`ClassLoss.ignored_label`); None = they are no instances.
        scenes: further arguments of `ScenesOfSplit`.

    Raises:
        DataError: the data set or one of its scenes is not there; says how to get it.
    """

    def __init__(self, voxel_m: float = 0.02, voxel_values: str = 'mean', voxel_origin: str = 'scene',
                 features: Sequence[str] = FEATURES[:2], color_scale: str = 'signed', centred: bool = False,
                 turn: float = 0.0, augmentation: Mapping | None = None, max_points: int = 250000,
                 ignored_label: int | None = None, **scenes) -> None:
        _check_choice('voxel_values', [voxel_values], ('mean', 'first'))
        _check_choice('voxel_origin', [voxel_origin], ('scene', 'world'))
        _check_choice('color_scale', [color_scale], COLORS)
        _check_choice('features', features, FEATURES)
        check_keys(PointAugmentation, augmentation or {}, 'dataset.augmentation')
        super().__init__(**scenes)
        self.voxel_m, self.voxel_values, self.voxel_origin = voxel_m, voxel_values, voxel_origin
        self.features, self.turn, self.ignored_label = tuple(features), turn, ignored_label
        self.color_scale, self.centred, self.max_points = color_scale, centred, max_points
        self.augmentation = PointAugmentation(**(augmentation or {}))
        if self.mode == 'train':
            self.check_labels()

    sees = 'points'
    collate = staticmethod(collate_points)

    def __getitem__(self, request: SampleRequest | int) -> PointBatch:
        """Return a batch of one scene: in mode 'train' as a `SampleRequest` asks, in mode 'test' of that number."""
        scene = self.scenes[request if isinstance(request, int) else request.index]
        mesh = mesh_of(scene)
        if self.mode == 'test':
            turn = Rotation.from_euler('z', self.turn).as_matrix().T
            positions, normals = mesh.vertices @ turn, self._normals(mesh)
            batch = self._batch(scene, mesh, np.arange(len(positions)), positions, mesh.colors.astype(np.float64),
                                positions / self.voxel_m, None if normals is None else normals @ turn)
            batch.ground_truth = [SceneGroundTruth(
                scene_name=scene.name, vertices=mesh.vertices, vertex_ids=self.vertex_ids(scene, mesh),
                superpoints=batch.superpoints.numpy(), **NO_VIEWS,
                excluded=None if mesh.excluded is None else np.flatnonzero(mesh.excluded))]
            return batch
        rng = np.random.default_rng([self.seed, request.draw])
        kept = nearest_points(mesh.vertices, self.max_points, rng)
        matrix, shift = self.augmentation.movement(rng)
        positions = mesh.vertices[kept] @ matrix + shift
        normals = self._normals(mesh)
        if normals is not None:
            normals = unit_rows(normals[kept] @ np.linalg.inv(matrix).T)
        colors = self.augmentation.colors(mesh.colors[kept].astype(np.float64), rng)
        return self._batch(scene, mesh, kept, positions, colors, self.augmentation.distorted(positions / self.voxel_m, rng),
                           normals)

    def _normals(self, mesh: Mesh) -> np.ndarray | None:
        return vertex_normals(mesh) if 'normal' in self.features else None

    def _batch(self, scene: Scene, mesh: Mesh, kept: np.ndarray, positions: np.ndarray, colors: np.ndarray,
               places: np.ndarray, normals: np.ndarray | None = None) -> PointBatch:
        """Return the points `kept` (n,) of a mesh with their positions, colours, places in voxels, normals: (n, 3) each."""
        cells = np.floor(places - places.min(axis=0) if self.voxel_origin == 'scene' else places).astype(np.int64)
        cells -= cells.min(axis=0) // WHOLE * WHOLE if self.voxel_origin == 'world' else 0
        voxels, first, point_voxel = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        point_voxel = point_voxel.reshape(-1)
        _, superpoints = np.unique(mesh.superpoints[kept], return_inverse=True)
        seen = positions - positions.mean(axis=0) if self.centred else positions
        middle, deviation = COLORS[self.color_scale]
        of_point = dict(color=(colors - middle) / deviation, position=seen, normal=normals)
        features = np.concatenate([of_point[name] for name in self.features], axis=1)           # (n, F)
        of_voxel = features[first] if self.voxel_values == 'first' else voxel_means(features, point_voxel, len(voxels))
        ids = classes = table = None
        if mesh.instances is not None:
            index = self._labels(scene)
            ids = torch.from_numpy(np.where(np.isin(mesh.instances, list(index)), mesh.instances, 0)[kept])
            classes = torch.from_numpy(self._semantic(self.vertex_ids(scene, mesh)[kept]))
            table = [InstanceTable(torch.tensor(list(index), dtype=torch.int64),
                                   torch.tensor(list(index.values()), dtype=torch.int64))]
        return PointBatch(
            scene_names=[scene.name], num_points=[len(kept)], num_voxels=[len(voxels)],
            num_superpoints=[int(superpoints.max()) + 1], positions=torch.from_numpy(positions.astype(np.float32)),
            voxels=torch.from_numpy(np.pad(voxels, ((0, 0), (1, 0)))),
            voxel_features=torch.from_numpy(of_voxel.astype(np.float32)),
            point_voxel=torch.from_numpy(point_voxel), superpoints=torch.from_numpy(superpoints.reshape(-1)), point_ids=ids,
            point_classes=classes, instances=table)

    def _labels(self, scene: Scene) -> dict[int, int]:
        """Return instance id -> label of the instances that count."""
        index = self.class_index(scene)
        if self.ignored_label is None or self.mode == 'test':
            return index
        known = self.class_ids(scene)                                          # those that the benchmark leaves out, too
        return index | {item.id: self.ignored_label for item in scene.instances or () if item.id not in known}

    def _semantic(self, vertex_ids: np.ndarray) -> np.ndarray:
        """Return the place of each point's class among those without instances, then the others, (n,); -1 = none."""
        place = np.full(max(self.benchmark.all_ids) + 1, -1)
        order = (*self.benchmark.ignored_ids, *self.benchmark.class_ids)
        place[list(order)] = np.arange(len(order))
        return np.where(vertex_ids > 0, place[vertex_ids // 1000], -1)


def mesh_of(scene: Scene) -> Mesh:
    """Return the mesh of a scene.

    Raises:
        DataError: there is none, or it has no superpoints.
    """
    mesh = scene.mesh() if scene.has_geometry else None
    if mesh is None or mesh.superpoints is None:
        lacking, how = ('mesh', 'Prepare it from raw scans that have one: tools/prepare.py scannet') if mesh is None else (
            'superpoints of its mesh', f'Compute them: tools/prepare.py superpoints {scene.path.parent}')
        raise DataError(f'{scene.path}: methods on points need the {lacking}, which this scene does not have. {how}.')
    return mesh


def voxel_means(values: np.ndarray, voxel: np.ndarray, count: int) -> np.ndarray:
    """Return the mean (X, F) of `values` (n, F) over the points of each of the `count` voxels, by the voxel (n,) of each."""
    sums = np.stack([np.bincount(voxel, column, count) for column in values.T], axis=1)
    return sums / np.bincount(voxel, minlength=count)[:, None]


def nearest_points(vertices: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the numbers (n,), rising, of the `most` vertices (N, 3) that are nearest, seen from above, to a random one."""
    if len(vertices) <= most:
        return np.arange(len(vertices))
    away = ((vertices[:, :2] - vertices[rng.integers(len(vertices)), :2]) ** 2).sum(axis=1)
    return np.sort(np.argpartition(away, most)[:most])


@SAMPLERS.register_module()
class PointBatchSampler(ViewBatchSampler):
    """Endless batches of whole scenes, one batch per slot; update k depends on the seed and k only.

    Args:
        scenes: per slot.
        num_scenes, seed, slots, rank, world_size: see `ViewBatchSampler`.
    """

    def __init__(self, num_scenes: int, seed: int, scenes: int = 4, slots: int = 1, rank: int = 0,
                 world_size: int = 1) -> None:
        super().__init__(num_scenes, seed, scenes, (1, 1), (1.0, 1.0), None, slots, rank, world_size)


def _check_choice(name: str, given: Sequence[str], allowed: Collection[str]) -> None:
    wrong = [value for value in given if value not in allowed]
    if wrong or not given:
        raise ConfigError(f'PointSceneDataset.{name} must be of {", ".join(map(repr, allowed))}, got {wrong or given!r}.')
