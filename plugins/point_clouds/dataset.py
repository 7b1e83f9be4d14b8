"""Scene folders as points: the vertices of their meshes, in voxels and superpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jrs_plugins.point_clouds.augmentation import PointAugmentation
from jrs_plugins.point_clouds.batch import PointBatch, collate_points
from jrs_plugins.point_clouds.inputs import FEATURES, PointInput
from jrs_plugins.point_clouds.normals import unit_rows, vertex_normals

from jrs.datasets.sampling import SampleRequest, ViewBatchSampler
from jrs.datasets.scene import Mesh, Scene
from jrs.datasets.scenes import ScenesOfSplit
from jrs.errors import DataError
from jrs.registry import DATASETS, SAMPLERS, check_keys
from jrs.structures import InstanceTable, SceneGroundTruth

NO_VIEWS = dict(depth_m=np.zeros((0, 1, 1), np.float32), depth_intrinsics=np.zeros((0, 3, 3)),
                cam_from_world=np.zeros((0, 4, 4)), input_from_depth=np.zeros((0, 3, 3)))


@DATASETS.register_module()
class PointSceneDataset(ScenesOfSplit):
    """Scenes of a split as points: an item is a `PointBatch` of one scene.

    In mode 'train' the scene is changed at random (`default_rng([seed, draw])`) and cut to `max_points`; in mode 'test' all
    its vertices are there, with what it is scored against.

    Args:
        voxel_m, voxel_values, voxel_origin, features, color_scale, centred, turn: what the network sees; see `PointInput`.
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
        self.input = PointInput(voxel_m, voxel_values, voxel_origin, features, color_scale, centred, turn)
        check_keys(PointAugmentation, augmentation or {}, 'dataset.augmentation')
        super().__init__(**scenes)
        self.voxel_m, self.ignored_label, self.max_points = voxel_m, ignored_label, max_points
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
            batch = self._annotated(scene, mesh, np.arange(len(mesh.vertices)), self.input.tested(
                scene.name, mesh.vertices, mesh.colors.astype(np.float64), mesh.superpoints, self._normals(mesh)))
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
        places = self.augmentation.distorted(positions / self.voxel_m, rng)
        return self._annotated(scene, mesh, kept, self.input.batch(scene.name, positions, colors, places,
                                                                   mesh.superpoints[kept], normals))

    def _normals(self, mesh: Mesh) -> np.ndarray | None:
        return vertex_normals(mesh) if 'normal' in self.input.features else None

    def _annotated(self, scene: Scene, mesh: Mesh, kept: np.ndarray, batch: PointBatch) -> PointBatch:
        """Return a batch of the points `kept` (n,) of a mesh with what is true of them."""
        if mesh.instances is not None:
            index = self._labels(scene)
            batch.point_ids = torch.from_numpy(np.where(np.isin(mesh.instances, list(index)), mesh.instances, 0)[kept])
            batch.point_classes = torch.from_numpy(self._semantic(self.vertex_ids(scene, mesh)[kept]))
            batch.instances = [InstanceTable(torch.tensor(list(index), dtype=torch.int64),
                                             torch.tensor(list(index.values()), dtype=torch.int64))]
        return batch

    def _labels(self, scene: Scene) -> dict[int, int]:
        """Return instance id -> label of the instances that count."""
        index = self.class_index(scene)
        if self.ignored_label is None or self.mode == 'test':
            return index
        return index | dict.fromkeys(self.unnamed(scene), self.ignored_label)

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
