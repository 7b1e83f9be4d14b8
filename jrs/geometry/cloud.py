"""A reconstruction as one coloured point cloud that knows which instance each point belongs to."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from jrs.errors import DataError, NotMeasured
from jrs.finite import nonfinite
from jrs.geometry.camera import invert_rigid
from jrs.geometry.pixels import at_centres
from jrs.geometry.projection import unproject_depth
from jrs.structures import PackedMasks, Reconstruction

OF_VIEWS = ('depth', 'depth_conf', 'intrinsics', 'cam_from_world')                    # of a Reconstruction
FRUSTUM_EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))      # of `camera_corners`


@dataclass
class PointCloud:
    """Points of one scene, numpy.

    Attributes:
        points: (N, 3) float32, world of `cam_from_world`, in units of the depth.
        colours: (N, 3) uint8 RGB.
        normals: (N, 3) float32 unit vectors, on the side that the camera saw; zero where unknown.
        instances: (N,) int32, 0 = none, i + 1 = the i-th of the reconstruction's instances.
        labels: (N,) int32 class indices, -1 = none.
        views: (N,) int32, the view each point was seen in.
        confidence: (N,) float32 >= 1, that of the depth; None where depth comes without.
        feature_colours: (N, 3) uint8 RGB, the instance features as colours; None without any.
    """

    points: np.ndarray
    colours: np.ndarray
    normals: np.ndarray
    instances: np.ndarray
    labels: np.ndarray
    views: np.ndarray
    confidence: np.ndarray | None = None
    feature_colours: np.ndarray | None = None

    def thinned(self, count: int) -> PointCloud:
        """Return at most `count` points, a fixed random choice in the old order."""
        if len(self.points) <= count:
            return self
        return self.select(np.sort(np.random.default_rng(0).permutation(len(self.points))[:count]))

    def select(self, chosen: np.ndarray) -> PointCloud:
        """Return the points that a mask (N,) or indices (n,) choose."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return PointCloud(**{name: None if values is None else values[chosen] for name, values in parts.items()})


def instance_map(masks: Tensor | PackedMasks) -> Tensor:
    """Return which instance each pixel belongs to: masks (M, V, h, w), best first -> (V, h, w) int64, 0 = none.

    Where masks overlap, the best-scored one has the pixel: i + 1 is the index of the mask in `masks`.
    """
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64, device=masks.device)
    for index, mask in enumerate(masks):
        ids[mask & (ids == 0)] = index + 1
    return ids


def point_cloud(scene: Reconstruction, valid: Tensor | None = None, drop_percent: float = 20.0,
                max_points: int | None = None, feature_colours: np.ndarray | None = None) -> PointCloud:
    """Return the points that the depth maps of all views see.

    Args:
        scene: the reconstruction, with depth and cameras; instances may be None.
        valid: (V, H, W) bool, pixels that may become points; None = all.
        drop_percent: so many percent of the valid pixels, the least confident ones over all views, are left out; none
            where there is no confidence.
        max_points: at most so many points stay, a fixed random choice.
        feature_colours: (V, h, w, 3) uint8 of any resolution, kept with the points; None = none.

    Raises:
        NotMeasured: the model has no depth or no cameras. DataError: these are not finite.
    """
    if scene.missing_geometry:
        raise NotMeasured(f'points need depth and cameras; the model has no {" and no ".join(scene.missing_geometry)}.')
    check_finite(scene)
    keep = _kept_pixels(scene, valid, drop_percent, max_points)                              # (V, H, W)
    found = []
    for view, kept in enumerate(keep):                      # one view at a time bounds memory
        cam_from_world = scene.cam_from_world[view].float()
        cam_points, points = unproject_depth(scene.depth[view].float(), scene.intrinsics[view].float(), cam_from_world)
        normals = surface_normals(cam_points) @ cam_from_world[:3, :3]                      # (H, W, 3), world
        found.append((points[kept], normals[kept], torch.full((int(kept.sum()),), view, dtype=torch.int32)))
    points, normals, views = (torch.cat(parts) for parts in zip(*found, strict=True))
    colours = scene.images.permute(0, 2, 3, 1)[keep].mul(255).round().clamp(0, 255).to(torch.uint8)  # (N, 3)
    instances, labels = _instances_of_pixels(scene, keep)
    cloud = PointCloud(*(tensor.cpu().numpy() for tensor in (points, colours, normals, instances, labels, views)))
    if scene.depth_conf is not None:
        cloud.confidence = scene.depth_conf[keep].float().cpu().numpy()
    if feature_colours is not None:
        maps = torch.from_numpy(feature_colours).permute(3, 0, 1, 2)                        # (3, V, h, w)
        cloud.feature_colours = at_centres(maps, tuple(keep.shape[1:]))[:, keep.cpu()].T.numpy()
    return cloud


def _kept_pixels(scene: Reconstruction, valid: Tensor | None, drop_percent: float, max_points: int | None) -> Tensor:
    """Return which pixels become points, (V, H, W) bool."""
    keep = scene.depth > 0
    if valid is not None:
        keep &= valid.to(keep.device)
    if keep.any() and drop_percent > 0 and scene.depth_conf is not None:
        known = scene.depth_conf[keep].float().cpu().numpy()
        keep &= scene.depth_conf >= float(np.percentile(known, drop_percent))
    pixels = keep.flatten().nonzero()[:, 0]                                         # (N,)
    if max_points is None or len(pixels) <= max_points:
        return keep
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels))[:max_points]).to(keep.device)
    thinned = torch.zeros_like(keep).flatten()
    thinned[pixels[chosen]] = True
    return thinned.view_as(keep)


def surface_normals(cam_points: Tensor, step: int = 2) -> Tensor:
    """Return unit normals (H, W, 3) of a map of points (H, W, 3) in camera coordinates, turned to the camera.

    From differences over `2 * step` pixels; zero where these say nothing (next to depth 0, in tiny images).
    """
    rows, columns = (torch.arange(size, device=cam_points.device) for size in cam_points.shape[:2])
    down = cam_points[(rows + step).clamp(max=len(rows) - 1)] - cam_points[(rows - step).clamp(min=0)]
    right = cam_points[:, (columns + step).clamp(max=len(columns) - 1)] - cam_points[:, (columns - step).clamp(min=0)]
    normals = torch.nn.functional.normalize(torch.linalg.cross(right, down), dim=-1)
    return torch.where((normals * cam_points).sum(-1, keepdim=True) > 0, -normals, normals)


def check_finite(scene: Reconstruction, consequence: str = 'nothing is written') -> None:
    """Raise a DataError where depth, cameras or scores are not finite; names tensor, count, first view and `consequence`."""
    parts = {name: getattr(scene, name) for name in OF_VIEWS}
    parts |= {} if scene.instances is None else {'scores of instances': scene.instances.scores}
    for name, found in nonfinite(parts).items():
        views = (~parts[name].isfinite()).flatten(1).any(1).nonzero() if name in OF_VIEWS else ()
        view = f' of view {scene.view_names[int(views[0])]!r}' if len(views) else ''
        raise DataError(f'{name}{view} is not finite, {found}: {consequence}. The weights are probably broken or of another '
                        'model.')


def _instances_of_pixels(scene: Reconstruction, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return instance (0 = none) and class index (-1 = none) of the kept pixels, (N,) int32 each; nearest look-up."""
    count = int(keep.sum())
    if scene.instances is None or len(scene.instances) == 0:
        none = torch.zeros(count, dtype=torch.int32, device=keep.device)
        return none, none - 1
    ids = at_centres(instance_map(scene.instances.packed), tuple(keep.shape[1:]))[keep]              # (N,)
    labels = torch.cat([scene.instances.labels.new_full((1,), -1), scene.instances.labels])
    return ids.int(), labels[ids].int()


def frustum_size(cloud: PointCloud) -> float:
    """Return how long to draw a camera: 5 % of the diagonal of the box that holds most points."""
    if len(cloud.points) < 2:
        return 0.1
    low, high = np.percentile(cloud.points, [5, 95], axis=0)
    return max(float(np.linalg.norm(high - low)) * 0.05, 1e-4)


def camera_corners(scene: Reconstruction, size: float) -> np.ndarray:
    """Return each camera's centre and the four corners of its image at depth `size`, world, (V, 5, 3) float64."""
    height, width = scene.images.shape[-2:]
    pixels = torch.tensor([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    rays = torch.cat([pixels, torch.ones(4, 1)], 1).double()                                # (4, 3)
    corners = torch.linalg.solve(scene.intrinsics.cpu().double(), rays.mT.expand(len(scene.images), 3, 4)).mT * size
    points = torch.cat([corners.new_zeros(len(corners), 1, 3), corners], 1)                 # (V, 5, 3), camera
    world_from_cam = invert_rigid(scene.cam_from_world.cpu().double())
    return (points @ world_from_cam[:, :3, :3].mT + world_from_cam[:, None, :3, 3]).numpy()
