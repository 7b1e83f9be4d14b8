"""Points of several scenes as a batch, and the true instances among their superpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jrs_plugins.point_clouds.losses import PointTargets
from jrs_plugins.point_clouds.pooling import points_per_superpoint, superpoint_mean
from torch import Tensor

from jrs.errors import ConfigError, DataError
from jrs.structures import InstanceTable, Moves, SceneGroundTruth

SUMMED = {'superpoints': 'num_superpoints', 'point_voxel': 'num_voxels'}     # numbered through all scenes: field -> how many
MEMBERSHIPS = ('majority', 'any_voxel')
NUMBERINGS = (None, 'most', 'floored_mean')
NO_INSTANCE = -100                             # the number of points of no instance, in the release


@dataclass
class PointBatch(Moves):
    """N points of B scenes laid end to end, in X voxels and S superpoints, both numbered through.

    A scene counts as one view of 1 x S pixels, its superpoints (baseline_contract.md part 2).

    Attributes:
        scene_names: B names, for messages and result files.
        num_points, num_voxels, num_superpoints: B numbers.
        positions: (N, 3) float32 metres.
        voxels: (X, 4) int64: scene, then the cell along each axis, >= 0.
        voxel_features: (X, F) float32, the network's input.
        point_voxel: (N,) int64, the voxel of each point.
        superpoints: (N,) int64, the superpoint of each point.
        point_ids: (N,) int64, 0 no instance, else an id of `instances`; None where nothing is annotated.
        point_classes: (N,) int64 among all classes of the data set, stuff first, -1 = none; None likewise.
        instances: B tables of the instances that may appear in `point_ids`; or None.
        ground_truth: B records for scoring; only in test batches.
    """

    scene_names: list[str]
    num_points: list[int]
    num_voxels: list[int]
    num_superpoints: list[int]
    positions: Tensor
    voxels: Tensor
    voxel_features: Tensor
    point_voxel: Tensor
    superpoints: Tensor
    point_ids: Tensor | None = None
    point_classes: Tensor | None = None
    instances: list[InstanceTable] | None = None
    ground_truth: list[SceneGroundTruth] | None = None

    @property
    def view_names(self) -> list[list[str]]:
        """B lists of one name: a scene is one view."""
        return [['points']] * len(self.scene_names)

    @property
    def voxel_points(self) -> Tensor:
        """(X,) int64, the first point in each voxel."""
        points = torch.arange(len(self.point_voxel), device=self.point_voxel.device)
        first = points.new_full((sum(self.num_voxels),), len(points))
        return first.scatter_reduce(0, self.point_voxel, points, 'amin')

    @property
    def instance_ids(self) -> list[Tensor] | None:
        """B id images (1, 1, S): the instance that has more than half of the points of each superpoint, 0 where none has."""
        if self.point_ids is None:
            return None
        ids = superpoint_majority(self.point_ids, self.superpoints, sum(self.num_superpoints))
        return [of_scene[None, None] for of_scene in ids.split(self.num_superpoints)]

    def input_size(self, index: int) -> tuple[int, int]:
        """Return (1, S), the size of scene `index` as a picture."""
        return 1, self.num_superpoints[index]

    def unpacked(self) -> PointBatch:
        """Return the batch: points travel as they are computed with."""
        return self


def collate_points(samples: Sequence[PointBatch]) -> PointBatch:
    """Join batches of one scene each; a field that one of them lacks is None in the result."""
    joined = {}
    for name in (f.name for f in fields(PointBatch)):
        values = [getattr(sample, name) for sample in samples]
        if any(value is None for value in values):
            joined[name] = None
        elif isinstance(values[0], list):
            joined[name] = [item for value in values for item in value]
        else:
            joined[name] = torch.cat([value + _before(samples, SUMMED[name], number) if name in SUMMED else value
                                      for number, value in enumerate(values)])
    joined['voxels'][:, 0] = torch.arange(len(samples)).repeat_interleave(torch.tensor(joined['num_voxels']))
    return PointBatch(**joined)


def _before(samples: Sequence[PointBatch], name: str, number: int) -> int:
    return sum(sum(getattr(sample, name)) for sample in samples[:number])


def superpoint_majority(values: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the number >= 1 that more than half of the points of each of `count` superpoints have, (S,); 0 where none.

    Args:
        values: (N,) int64, at least 0.
        superpoints: (N,) int64.
    """
    size, base = points_per_superpoint(superpoints, count), int(values.max()) + 1 if len(values) else 1
    pairs, points = (superpoints * base + values).unique(return_counts=True)
    superpoint, value = pairs // base, pairs % base
    won = 2 * points > size[superpoint]
    return torch.zeros_like(size).index_copy(0, superpoint[won], value[won])


def superpoint_mode(values: Tensor, superpoints: Tensor, count: int) -> Tensor:
    """Return the number >= -1 that most of the points of each of `count` superpoints have, (S,); the least of equals.

    Args:
        values: (N,) int64, at least -1.
        superpoints: (N,) int64.
    """
    base = int(values.max()) + 2 if len(values) else 1
    pairs, points = (superpoints * base + values + 1).unique(return_counts=True)
    superpoint = pairs // base
    order = (superpoint * (points.max() + 1) + points.max() - points).argsort(stable=True) if len(points) else pairs
    first = torch.cat([superpoint.new_ones(1, dtype=torch.bool), superpoint[order].diff() > 0])[:len(order)]
    result = superpoints.new_full((count,), -1)
    return result.index_copy(0, superpoint[order[first]], pairs[order[first]] % base - 1)


def superpoint_targets(batch: PointBatch, membership: str = 'majority',
                       superpoint_ids: str | None = None, voxels: bool = False) -> list[PointTargets]:
    """Return the true instances of each scene.

    Args:
        membership: 'majority': an instance has the superpoints of which more than half of the points are its own;
            'any_voxel': those of which the first point of any voxel is, so that instances may overlap, and superpoints
            without a voxel of their own are not valid (baselines.md section 2.3).
        superpoint_ids: 'most': superpoints of which most points are of one instance, or of none, have one number;
            'floored_mean': that of the release, the mean of their points' numbers, which may be that of a third instance
            (section 2.2); None = they have none.
        voxels: whether there are targets of voxels, each by its first point.

    Raises:
        ConfigError: another word for one of these.
        DataError: the batch has no instances.
    """
    for name, given, known in (('membership', membership, MEMBERSHIPS), ('superpoint_ids', superpoint_ids, NUMBERINGS)):
        if given not in known:
            raise ConfigError(f'model.targets.{name} must be one of {", ".join(map(repr, known))}, got {given!r}.')
    if batch.point_ids is None or batch.instances is None:
        raise DataError(f'The scenes {", ".join(batch.scene_names)} have no true instances, and training needs them: '
                        'prepare the data with instances.')
    count = sum(batch.num_superpoints)
    classes = [None] * len(batch.instances) if batch.point_classes is None else superpoint_mode(
        batch.point_classes, batch.superpoints, count).split(batch.num_superpoints)
    masks = _masks_by_voxels(batch) if membership == 'any_voxel' else _masks_by_majority(batch)
    numbers = [None] * len(batch.instances) if superpoint_ids is None else _numbers(
        batch.point_ids, batch.superpoints, count, superpoint_ids).split(batch.num_superpoints)
    scenes = zip(masks, batch.instances, batch.point_ids.split(batch.num_points), batch.positions.split(batch.num_points),
                 strict=True)
    of_voxels = _voxel_targets(batch) if voxels else [{}] * len(batch.instances)
    return [replace(_scene_targets(*scene), semantic=semantic, superpoint_ids=own, **below)
            for scene, semantic, own, below in zip(scenes, classes, numbers, of_voxels, strict=True)]


def _voxel_targets(batch: PointBatch) -> list[dict[str, Tensor]]:
    """Return `voxel_labels` (X,), `voxel_offsets` (X, 3) and `voxel_inside` (X,) of each scene."""
    points, found = batch.voxel_points.split(batch.num_voxels), []
    for scene, (table, ids, positions) in enumerate(zip(batch.instances, batch.point_ids.split(batch.num_points),
                                                        batch.positions.split(batch.num_points), strict=True)):
        own, row = _rows(ids, table.ids)                                                    # (n,), (those,)
        labels, centres = torch.full_like(ids, -1), torch.zeros_like(positions)             # of each point
        labels[own] = table.labels[row]
        centres[own] = superpoint_mean(positions[own], row, len(table.ids))[row]
        first = points[scene] - sum(batch.num_points[:scene])                               # (X,)
        found.append(dict(voxel_labels=labels[first], voxel_offsets=(centres - positions)[first], voxel_inside=own[first]))
    return found


def _rows(point_ids: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of `point_ids` (n,) are among `ids` (G,), (n,) bool, and the row there of each that is."""
    own, (known, order) = torch.isin(point_ids, ids), ids.sort()
    return own, order[torch.searchsorted(known, point_ids[own])]


def _numbers(point_ids: Tensor, superpoints: Tensor, count: int, kind: str) -> Tensor:
    """Return the number (S,) int64 of each superpoint."""
    if kind == 'most':
        return superpoint_mode(point_ids, superpoints, count)
    released = torch.where(point_ids > 0, point_ids - 1, NO_INSTANCE).double()
    return superpoint_mean(released[:, None], superpoints, count)[:, 0].floor().long()


def _masks_by_majority(batch: PointBatch) -> list[tuple[Tensor, None]]:
    """Return masks (G, 1, 1, S) of the instances that may appear in each scene, and None: every superpoint is valid."""
    return [(ids == table.ids[:, None, None, None], None)
            for ids, table in zip(batch.instance_ids, batch.instances, strict=True)]


def _masks_by_voxels(batch: PointBatch) -> list[tuple[Tensor, Tensor]]:
    """Return masks (G, 1, 1, S) likewise, and which superpoints have a voxel of their own, (1, 1, S)."""
    points = batch.voxel_points.split(batch.num_voxels)
    found = []
    for scene, (table, count) in enumerate(zip(batch.instances, batch.num_superpoints, strict=True)):
        superpoints = batch.superpoints[points[scene]] - sum(batch.num_superpoints[:scene])     # (X,)
        own = batch.point_ids[points[scene]] == table.ids[:, None]                              # (G, X)
        masks = own.new_zeros(len(own), count, dtype=torch.int64).index_add_(1, superpoints, own.long()) > 0
        found.append((masks[:, None, None], (points_per_superpoint(superpoints, count) > 0)[None, None]))
    return found


def _scene_targets(masks: tuple[Tensor, Tensor | None], table: InstanceTable, point_ids: Tensor,
                   positions: Tensor) -> PointTargets:
    """Return the targets of one scene from masks (G, 1, 1, S) and validity, and ids (n,) and positions (n, 3) of points."""
    masks, valid = masks
    kept = masks.flatten(1).any(dim=1)
    numbers, labels, masks = table.ids[kept], table.labels[kept], masks[kept]
    own, row = _rows(point_ids, numbers)
    centres = superpoint_mean(positions[own], row, len(numbers)) if len(numbers) else positions[:0]
    return PointTargets(labels, masks, masks.new_ones(len(masks), 1, dtype=torch.float32), valid=valid, ids=numbers,
                        centres=centres)
