"""Masks in views -> masks on mesh vertices through the model's own cameras and depth (segvggt_release.md section 13).

What it scores is mask quality times reconstruction quality, so its numbers and those of `PosedTransfer` do not share a
column. True cameras only say where the reconstruction lies as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from jrs.errors import ConfigError, DataError, JrsError, NotMeasured
from jrs.geometry.alignment import (
    COINCIDENT,
    COLLINEAR,
    Similarity,
    camera_centres,
    fit_similarity,
    move_cameras,
    nearest_rotation,
    spread,
)
from jrs.geometry.cloud import check_finite
from jrs.geometry.pixels import nearest_index
from jrs.geometry.projection import unproject_depth
from jrs.postprocess.lift import TOLERANCES_M, MaskTransfer, PosedTransfer, VisiblePixels, check_views
from jrs.registry import POSTPROCESSORS
from jrs.structures import Reconstruction, SceneGroundTruth

LOG = logging.getLogger('jrs')
PAIRINGS = ('vertex', 'pixel')
FEWEST_ICP_POINTS = 100
ICP_VERTICES = 5000                    # a fixed random choice where the mesh has more: least squares need no more


@POSTPROCESSORS.register_module()
class UnposedTransfer(MaskTransfer):
    """Moves masks from views to the benchmark mesh through predicted depth and cameras, as FAST3DIS scores.

    Pixels are unprojected with their predicted depth and cameras, then moved onto the mesh by one similarity per scene:
    that of predicted to true camera centres (`align_cameras`, which also says what stands in where centres do not fix
    it), refined by iterative closest points between the reconstruction and the mesh. With true geometry the default is
    `PosedTransfer`. Published notes give no radii, no number of points and no vote: these defaults are ours.

    Args:
        depth_tolerance_m: pixel and vertex meet where they are less than this apart: in depth with pairing 'vertex', in
            space with 'pixel'.
        pairing: 'vertex' (a vertex looks, in each view, at the pixel that it projects to in the moved camera; both must
            agree in depth) or 'pixel' (each pixel votes for the vertex nearest to its point, as published notes put it:
            vertices between coarse pixels stay unseen).
        vote: as `MaskTransfer` says; with pairing 'pixel' pixels vote, not views.
        superpoint_vote: as `MaskTransfer` says.
        drop_percent: so many percent of each scene's pixels, the least confident, show nothing.
        icp_radii_m: vertices further than this from the reconstruction are left out; one run per radius, none = no
            refinement.
        icp_points: so many points of the reconstruction take part at most, as many of each view, a fixed random choice.
    """

    alternatives = (*MaskTransfer.alternatives, *({'depth_tolerance_m': tolerance} for tolerance in TOLERANCES_M),
                    *({'pairing': pairing} for pairing in PAIRINGS))

    def __init__(self, depth_tolerance_m: float = 0.10, pairing: str = 'vertex', vote: str = 'majority',
                 superpoint_vote: str | None = 'all_points', drop_percent: float = 0.0,
                 icp_radii_m: Sequence[float] = (0.3, 0.1), icp_points: int = 200000) -> None:
        super().__init__(vote, superpoint_vote)
        self._check_choice('pairing', pairing, PAIRINGS)
        self._check_numbers(depth_tolerance_m=depth_tolerance_m, icp_points=icp_points)
        self._check_numbers(drop_percent=drop_percent, at_least=0)
        if not isinstance(icp_radii_m, (list, tuple)):
            raise ConfigError(f'UnposedTransfer: icp_radii_m must be a list of distances, () for none, got {icp_radii_m!r}.')
        self._check_numbers(**{f'icp_radii_m[{place}]': radius for place, radius in enumerate(icp_radii_m)})
        if drop_percent >= 100 or icp_points < FEWEST_ICP_POINTS:
            raise ConfigError(f'UnposedTransfer: drop_percent must be below 100 and icp_points at least '
                              f'{FEWEST_ICP_POINTS}, got drop_percent {drop_percent} and icp_points {icp_points}.')
        self.depth_tolerance_m = depth_tolerance_m
        self.pairing = pairing
        self.drop_percent = drop_percent
        self.icp_radii_m = tuple(icp_radii_m)
        self.icp_points = icp_points

    def describe(self) -> dict[str, str]:
        """Return the rule in words, for tables of results."""
        icp = f', then ICP within {", ".join(f"{radius:g}" for radius in self.icp_radii_m)} m' if self.icp_radii_m else ''
        pair = 'in depth, vertex to its pixel' if self.pairing == 'vertex' else 'in space, pixel to its nearest vertex'
        return {'transfer': f'unposed: own depth and cameras, Sim(3) from camera centres{icp}',
                'depth_tolerance': f'{self.depth_tolerance_m:g} m {pair}', 'drop_percent': f'{self.drop_percent:g}',
                **super().describe()}

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int], mask_size: tuple[int, int],
                       reconstruction: Reconstruction | None = None) -> VisiblePixels:
        """Find which mask pixel shows which vertex, in the reconstruction moved onto the mesh.

        Args are those of `MaskTransfer`; of the scene only mesh and camera centres are read (`align_cameras`: other
        things where centres do not suffice).

        Raises:
            NotMeasured: the model has no depth or no cameras.
            DataError: there is no reconstruction, or not of these views, or nothing of it is finite.
            JrsError: trimesh is not installed.
        """
        moved = self.align(scene, self._usable(scene, reconstruction))
        if self.pairing == 'vertex':
            return PosedTransfer(self.depth_tolerance_m).visible_pixels(moved, input_size, mask_size)
        tree, pixel = cKDTree(scene.vertices), _mask_pixels(moved.depth_m.shape[1:], mask_size)
        vertices, pixels = [], []
        for view, (points, place) in enumerate(_points_of_views(moved)):
            distance, vertex = tree.query(points, distance_upper_bound=self.depth_tolerance_m)
            met = np.flatnonzero(np.isfinite(distance))
            met = met[np.argsort(vertex[met], kind='stable')]
            vertices.append(vertex[met])
            pixels.append(view * mask_size[0] * mask_size[1] + pixel[place[met]])
        return VisiblePixels.of_views(vertices, pixels, len(scene.vertices), (len(moved.depth_m), *mask_size))

    def align(self, scene: SceneGroundTruth, own: SceneGroundTruth) -> SceneGroundTruth:
        """Return `own`, the mesh with predicted cameras and depth of any world and scale, in metres and the mesh's world."""
        aligned = align_cameras(own, scene)
        if self.icp_radii_m:
            share = -(-self.icp_points // len(own.depth_m))
            points = np.concatenate([_some(points, share) for points, _ in _points_of_views(own)])
            for radius in self.icp_radii_m:
                aligned = _closest_points(aligned, points, scene, radius)
        return replace(own, cam_from_world=move_cameras(own.cam_from_world, aligned), depth_m=own.depth_m * aligned.scale)

    def _usable(self, scene: SceneGroundTruth, reconstruction: Reconstruction | None) -> SceneGroundTruth:
        """Return `scene` with the cameras and depth of the reconstruction, in its own world and scale; 0 = no depth."""
        check_views(scene)
        if reconstruction is not None and reconstruction.missing_geometry:
            raise NotMeasured('UnposedTransfer goes through predicted depth and cameras, and the model has no '
                              f'{" and no ".join(reconstruction.missing_geometry)}')
        if reconstruction is None or len(reconstruction.depth) != len(scene.depth_m):
            views = 'none' if reconstruction is None else f'one of {len(reconstruction.depth)} views'
            raise DataError(f'{scene.scene_name}: UnposedTransfer needs a reconstruction of {len(scene.depth_m)} views, '
                            f'got {views}.')
        depth, intrinsics, cam_from_world = (
            tensor.detach().cpu().double().numpy() for tensor in
            (reconstruction.depth, reconstruction.intrinsics, reconstruction.cam_from_world))
        check_finite(reconstruction, f'{scene.scene_name}: its own geometry cannot carry masks')
        keep = depth > 0                                                                             # (V, H, W)
        if not keep.any():
            raise DataError(f'{scene.scene_name}: the reconstruction has no depth above 0: its own geometry cannot carry '
                            'masks. The weights are probably broken or of another model.')
        if self.drop_percent and reconstruction.depth_conf is not None:
            conf = reconstruction.depth_conf.detach().cpu().double().numpy()
            keep &= conf >= np.percentile(conf[keep], self.drop_percent)
        return replace(scene, depth_m=np.where(keep, depth, 0.0), depth_intrinsics=intrinsics,
                       cam_from_world=cam_from_world, input_from_depth=np.broadcast_to(np.eye(3), intrinsics.shape))


def _points_of_views(scene: SceneGroundTruth) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each view the world points (n, 3) of its pixels that have depth, and those pixels (n,), row by row."""
    for depth, *cameras in zip(scene.depth_m, scene.depth_intrinsics, scene.cam_from_world, strict=True):
        _, world = unproject_depth(*(torch.from_numpy(np.asarray(array)) for array in (depth, *cameras)))
        used = depth > 0
        yield world.numpy()[used], np.flatnonzero(used)


def align_cameras(own: SceneGroundTruth, scene: SceneGroundTruth) -> Similarity:
    """Return the similarity from the world of `own` to that of `scene`, from their cameras, in closed form.

    Three or more camera centres that are not on a line fix it. On a line, which two centres always are, the rotation is
    that between the directions of the cameras. Centres that coincide, and a single view, leave the scale open too: it is
    then the median of the sensor's readings over that of the predicted depth. Both cases are logged.
    """
    centres, true_centres = (camera_centres(one.cam_from_world) for one in (own, scene))
    reach, true_reach = spread(centres), spread(true_centres)
    size = max(1.0, np.abs(true_centres).max())
    if true_reach[0] <= COINCIDENT * size or reach[0] <= COINCIDENT * max(np.abs(centres).max(), 1e-9):
        LOG.warning('%s: camera centres coincide; scale is that of depth, rotation that of the cameras.', scene.scene_name)
        return align_directions(own, scene)
    if min(reach[1] / reach[0], true_reach[1] / true_reach[0]) < COLLINEAR:
        LOG.warning('%s: camera centres lie on a line; rotation is that of the cameras.', scene.scene_name)
        return align_directions(own, scene, float(true_reach[0] / reach[0]))
    return fit_similarity(centres, true_centres)


def align_directions(own: SceneGroundTruth, scene: SceneGroundTruth, scale: float | None = None) -> Similarity:
    """Return the similarity by the directions of the cameras and their mean centre; where these are all that can be trusted.

    `scale` None = the median of the sensor's readings over that of the predicted depth.
    """
    centres, true_centres = (camera_centres(one.cam_from_world) for one in (own, scene))
    rotation, true_rotation = (np.asarray(one.cam_from_world, np.float64)[:, :3, :3] for one in (own, scene))
    scale = _depth_scale(own, scene) if scale is None else scale
    turn = nearest_rotation(np.einsum('vji,vjk->ik', true_rotation, rotation))                       # (3, 3)
    return Similarity(scale, turn, true_centres.mean(axis=0) - scale * turn @ centres.mean(axis=0))


def _depth_scale(own: SceneGroundTruth, scene: SceneGroundTruth) -> float:
    """Return the median of the sensor's readings over that of the predicted depth."""
    if not (scene.depth_m > 0).any():
        raise DataError(f'{scene.scene_name}: camera centres coincide and the sensor has no reading to take the scale '
                        'from; score this scene with more views.')
    return float(np.median(scene.depth_m[scene.depth_m > 0]) / np.median(own.depth_m[own.depth_m > 0]))


def _closest_points(aligned: Similarity, points: np.ndarray, scene: SceneGroundTruth, radius: float) -> Similarity:
    """Refine `aligned` with those vertices that it leaves within `radius` of the points (n, 3).

    Vertices look for points, not the other way round: there are more points, and matches to a coarse set pull sideways.
    """
    try:
        from trimesh.registration import icp
    except ImportError as error:
        raise JrsError('The ICP of UnposedTransfer needs trimesh: pip install trimesh, or '
                       'set icp_radii_m=() to go without.') from error
    moved = aligned.apply(points)
    vertices = _some(scene.vertices, ICP_VERTICES)
    vertices = vertices[np.isfinite(cKDTree(moved).query(vertices, distance_upper_bound=radius)[0])]
    if len(vertices) < FEWEST_ICP_POINTS:
        LOG.warning('%s: only %d vertices lie within %g m of the reconstruction; no ICP.', scene.scene_name,
                    len(vertices), radius)
        return aligned
    back = np.linalg.inv(icp(vertices, moved, reflection=False)[0])                                  # (4, 4)
    scale = float(np.cbrt(np.linalg.det(back[:3, :3])))
    return Similarity(scale * aligned.scale, back[:3, :3] / scale @ aligned.rotation,
                      back[:3, :3] @ aligned.translation + back[:3, 3])


def _some(points: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the points (n, 3), a fixed random choice."""
    return points if len(points) <= count else points[np.random.default_rng(0).choice(len(points), count, replace=False)]


def _mask_pixels(input_size: tuple[int, int], mask_size: tuple[int, int]) -> np.ndarray:
    """Return the mask pixel (H * W,) that holds the centre of each input pixel, both row by row."""
    rows, columns = (nearest_index(old, new, torch.device('cpu')).numpy()
                     for old, new in zip(input_size, mask_size, strict=True))
    return (rows[:, None] * mask_size[1] + columns).ravel()                                          # (H * W,)
