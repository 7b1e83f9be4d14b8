"""Images -> points: a reconstruction in metres, thinned, and the pixels that each point stands for (baselines.md 4.3)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jrs_plugins.point_clouds.batch import PointBatch
from jrs_plugins.point_clouds.dataset import PointSceneDataset
from jrs_plugins.point_clouds.inputs import PointInput, voxel_means
from torch import Tensor

from jrs.errors import ConfigError, DataError, JrsError, find_named
from jrs.geometry.alignment import Similarity, camera_centres, move_cameras
from jrs.geometry.camera import decode_cameras
from jrs.geometry.oversegmentation import (
    MIN_SIZE,
    NORMAL_NEIGHBOURS,
    THRESHOLD,
    cloud_normals,
    cloud_superpoints,
    nearest_neighbours,
)
from jrs.postprocess.unposed import align_cameras, align_directions
from jrs.registry import MODELS, TEACHERS, build, check_keys
from jrs.structures import Instances, PackedMasks, Reconstruction, SceneBatch, SceneGroundTruth, pack_bits, unpack_bits

SCALE = 'metric, by the true cameras'
ALIGNMENTS = {'centres': align_cameras, 'directions': align_directions}


@dataclass
class PixelsOfPoints:
    """Which point each pixel of V views stands for.

    Attributes:
        superpoint: (V * H * W,) int64, the superpoint of the pixel's point, S = the pixel is of none.
        count: S.
        shape: (V, H, W).
    """

    superpoint: Tensor
    count: int
    shape: tuple[int, int, int]

    def lifted(self, instances: Instances) -> Instances:
        """Return instances whose masks (M, 1, 1, S) are over superpoints with masks (M, V, H, W) over pixels."""
        views, *size = self.shape
        bits = []
        for mask in instances.packed.bits:                                                  # (1, bytes) each
            inside = torch.cat([unpack_bits(mask, self.count)[0], mask.new_zeros(1, dtype=torch.bool)])     # (S + 1,)
            bits.append(pack_bits(inside[self.superpoint].view(views, -1)))                 # (V, bytes)
        packed = torch.stack(bits) if bits else instances.packed.bits.new_zeros(0, views, -(-size[0] * size[1] // 8))
        masks = PackedMasks(packed, instances.packed.rows, tuple(size))
        return Instances(masks, instances.labels, instances.scores, instances.queries, ranking=instances.ranking)


@MODELS.register_module()
class ReconstructedPoints:
    """Views of a scene -> points for a method that sees points, as in the paper's two-stage row.

    Geometry of the views, of which the least certain pixels are left out; true cameras bring it to metres with z up; one
    point of each voxel stays; superpoints by over-segmentation. Pixels go where their voxel's point goes. The paper scales
    to the size of the true cloud; what this takes of the ground truth `alignment` says.

    Args:
        geometry: images -> cameras, depth and its confidence (`TEACHERS`): a frozen model, or the data set's own.
        points: what the network sees of points: the settings of a `PointSceneDataset` whose method this is. Points are
            thinned to its `voxel_m`.
        drop_percent: so many percent of all pixels of a scene, the least confident, are no points.
        alignment: 'centres' takes the similarity between predicted and true camera centres (`align_cameras`, which also says
            what stands in where they do not fix one); 'directions' the directions of the cameras, their mean centre and the
            median of the true depth (`align_directions`), for geometry whose centres mean nothing.
        threshold, min_size, normal_neighbours: of the over-segmentation.

    Raises:
        ConfigError: a percentage or an alignment that is none, too few neighbours for a normal, or a setting in `points`
            that the data set does not have.
    """

    def __init__(self, geometry: dict, points: Mapping, drop_percent: float = 30.0, alignment: str = 'centres',
                 threshold: float = THRESHOLD, min_size: int = MIN_SIZE, normal_neighbours: int = NORMAL_NEIGHBOURS) -> None:
        if not 0 <= drop_percent < 100:
            raise ConfigError(f'ReconstructedPoints: drop_percent must be at least 0 and below 100, got {drop_percent}.')
        if normal_neighbours < 3:
            raise ConfigError('ReconstructedPoints: a normal takes normal_neighbours of at least 3, got '
                              f'{normal_neighbours}.')
        self.geometry = build(TEACHERS, geometry, 'model.reconstruction.geometry')
        check_keys(PointSceneDataset, [key for key in points if key != 'type'], 'model.reconstruction.points')
        taken = inspect.signature(PointInput).parameters
        self.input = PointInput(**{key: value for key, value in points.items() if key in taken})
        self.drop_percent, self.align = drop_percent, find_named(ALIGNMENTS, alignment, 'alignment of ReconstructedPoints')
        self.segmentation = dict(threshold=threshold, min_size=min_size, normal_neighbours=normal_neighbours)

    def __call__(self, batch: SceneBatch) -> tuple[Reconstruction, PointBatch, PixelsOfPoints]:
        """Return the reconstruction of one scene without instances, its points, and the pixels they stand for.

        Args:
            batch: of one scene, with true cameras; unpacked.

        Raises:
            DataError: the batch has no true cameras, or no pixel has depth.
        """
        if batch.cam_from_world is None:
            raise DataError(f'{batch.scene_names[0]}: ReconstructedPoints takes scale and z-up from true cameras, and this '
                            'scene has none.')
        found = self.geometry(batch)
        cam_from_world, intrinsics = (values[0] for values in decode_cameras(found.pose_encoding, batch.images.shape[-2:]))
        kept = self._kept(found.valid[0], None if found.weight is None else found.weight[0])          # (V, H, W)
        if not kept.any():
            raise DataError(f'{batch.scene_names[0]}: no pixel has a depth: there are no points.')
        moved = self._in_metres(batch, cam_from_world, found.depth[0])
        points, pixel, voxel = thinned(moved.apply(found.points[0][kept].cpu().double().numpy()),
                                       kept.flatten().nonzero()[:, 0].cpu().numpy(), self.input.voxel_m)
        cameras = move_cameras(cam_from_world.cpu().double().numpy(), moved)
        seen_from = camera_centres(cameras)[pixel // kept[0].numel()]                                       # (N, 3)
        superpoints = cloud_superpoints(points, seen_from, **self.segmentation)
        device, count = batch.images.device, int(superpoints.max()) + 1
        colors = batch.images[0].permute(0, 2, 3, 1).reshape(-1, 3)[torch.from_numpy(pixel).to(device)] * 255
        of_points = self.input.tested(batch.scene_names[0], points, colors.cpu().double().numpy(), superpoints,
                                      self._normals(points, seen_from))
        of_pixel = np.full(kept.numel(), count)
        of_pixel[kept.flatten().cpu().numpy()] = superpoints[voxel]
        lifting = PixelsOfPoints(torch.from_numpy(of_pixel).to(device), count, tuple(kept.shape))
        scene = Reconstruction(
            images=batch.images[0], depth=found.depth[0] * moved.scale, intrinsics=intrinsics,
            cam_from_world=torch.from_numpy(cameras).to(intrinsics), view_names=batch.view_names[0], scale=SCALE,
            extras=dict(points=torch.from_numpy(points), superpoints=torch.from_numpy(superpoints),
                        pixels=torch.from_numpy(pixel)))
        return scene, of_points.to(device), lifting

    def _normals(self, points: np.ndarray, seen_from: np.ndarray) -> np.ndarray | None:
        """Return normals (N, 3) on the side of the cameras, where the network sees them."""
        if 'normal' not in self.input.features:
            return None
        return cloud_normals(points, nearest_neighbours(points, self.segmentation['normal_neighbours']), seen_from)

    def _kept(self, valid: Tensor, weight: Tensor | None) -> Tensor:
        """Return which pixels (V, H, W) become points: valid ones, without the least confident of all pixels."""
        if weight is None or self.drop_percent == 0:
            return valid
        return valid & (weight >= float(np.percentile(weight.float().cpu().numpy(), self.drop_percent)))

    def _in_metres(self, batch: SceneBatch, cam_from_world: Tensor, depth: Tensor) -> Similarity:
        """Return the similarity that takes the world of predicted cameras (V, 4, 4) to that of the true ones."""
        own, true = (_of_cameras(batch.scene_names[0], *values) for values in (
            (cam_from_world, depth), (batch.cam_from_world[0], None if batch.depth_m is None else batch.depth_m[0])))
        found = self.align(own, true)
        if not np.isfinite(found.matrix).all() or found.scale <= 0:
            raise JrsError(f'{batch.scene_names[0]}: predicted and true camera centres give no similarity: the geometry is '
                           'not finite, or its cameras stand in one place.')
        return found


def each_scene(batch: SceneBatch) -> Iterator[SceneBatch]:
    """Yield the scenes of a batch as batches of one scene each."""
    for index in range(len(batch.scene_names)):
        yield SceneBatch(**{field.name: None if (values := getattr(batch, field.name)) is None else values[index:index + 1]
                            for field in fields(batch)})


def thinned(points: np.ndarray, pixels: np.ndarray, voxel_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one point per voxel: that nearest to the mean of the voxel's points, of equals that of the lowest pixel.

    Args:
        points: (n, 3) metres.
        pixels: (n,) rising.
        voxel_m: edge of the voxels, which are counted from the origin.

    Returns:
        (N, 3) points in the order of their voxels, (N,) the pixel of each, and (n,) the voxel 0 .. N - 1 of each one given.

    Raises:
        DataError: a point is not finite, or they are so far apart that their voxels cannot be numbered.
    """
    span = np.ptp(points, axis=0)
    if not np.prod(span / voxel_m + 2) < 2 ** 62:                                           # nor where it is not finite
        raise DataError(f'The points span {span} m, which voxels of {voxel_m} m cannot number: the geometry is broken, or '
                        'its scale.')
    cells = np.floor(points / voxel_m).astype(np.int64)
    cells -= cells.min(axis=0)
    sides = cells.max(axis=0) + 1
    keys, voxel = np.unique((cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2], return_inverse=True)
    voxel = voxel.reshape(-1)
    away = ((points - voxel_means(points, voxel, len(keys))[voxel]) ** 2).sum(axis=1)
    order = np.lexsort((away, voxel))                                                       # stable: pixels rise
    first = order[np.searchsorted(voxel[order], np.arange(len(keys)))]
    return points[first], pixels[first], voxel


def _of_cameras(name: str, cam_from_world: Tensor, depth: Tensor | None) -> SceneGroundTruth:
    """Return cameras (V, 4, 4) and depth (V, H, W) in the form in which they are aligned."""
    cameras = cam_from_world.detach().cpu().double().numpy()
    depth = np.zeros((len(cameras), 1, 1)) if depth is None else depth.detach().cpu().double().numpy()
    nothing = np.zeros((0, 3))
    return SceneGroundTruth(name, nothing, nothing[:, 0], None, depth, np.zeros((len(cameras), 3, 3)), cameras,
                            np.zeros((len(cameras), 3, 3)))
