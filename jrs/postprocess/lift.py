"""Masks in views -> masks on mesh vertices, through true poses and sensor depth (evaluation.md section 7).

Predicted geometry is not used. Which mask pixel shows which vertex is found once per scene and shared by all masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jrs.errors import ConfigError, DataError, did_you_mean
from jrs.geometry.projection import project_points
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances, SceneGroundTruth

NEAREST_M = 0.05                                   # vertices closer to a camera than this are not seen
VOTES = ('majority', 'any')
ROUNDINGS = ('nearest', 'floor')
SUPERPOINT_VOTES = ('all_points', 'observed', None)


@dataclass(frozen=True)
class VisiblePixels:
    """Which mask pixel shows which vertex: E pairs in order of views, then vertices.

    Attributes:
        vertex: (E,) int64 vertex.
        pixel: (E,) int64 position in the flattened (V, h, w) masks.
        num_seeing: (N,) int64, views that see each vertex.
        mask_shape: (V, h, w).
    """

    vertex: np.ndarray
    pixel: np.ndarray
    num_seeing: np.ndarray
    mask_shape: tuple[int, int, int]

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.num_seeing)


@POSTPROCESSORS.register_module()
class PosedTransfer:
    """Moves masks from views to the benchmark mesh through its true poses and depth images.

    The defaults are the released program's (segvggt_release.md section 10), used for every row of the paper's
    tables; `depth_tolerance_m=0.05, relative_tolerance=0.02` is the stricter rule that others use.

    Args:
        depth_tolerance_m: a vertex is visible where its depth is less than this from the sensor's reading.
        relative_tolerance: share of the reading that the tolerance grows to; 0 = absolute only.
        vote: 'majority' (inside in more than half of the views that see the vertex) or 'any'.
        rounding: 'nearest' takes the pixel whose centre is nearest; 'floor' cuts projected coordinates off and
            scales pixel corners, as programs do that multiply pixel numbers by the ratio of sizes.
        superpoint_vote: 'all_points' (a superpoint belongs to a mask if more than half of its points do), 'observed'
            (of its points that any view sees), or None. Without superpoints in the ground truth nothing is voted.
    """

    def __init__(self, depth_tolerance_m: float = 0.10, relative_tolerance: float = 0.0, vote: str = 'majority',
                 rounding: str = 'nearest', superpoint_vote: str | None = 'all_points') -> None:
        for name, value, allowed in (('vote', vote, VOTES), ('rounding', rounding, ROUNDINGS),
                                     ('superpoint_vote', superpoint_vote, SUPERPOINT_VOTES)):
            if value not in allowed:
                raise ConfigError(f'PosedTransfer has no {name} {value!r}.'
                                  f'{did_you_mean(str(value), map(str, allowed))}')
        self.depth_tolerance_m = depth_tolerance_m
        self.relative_tolerance = relative_tolerance
        self.vote = vote
        self.rounding = rounding
        self.superpoint_vote = superpoint_vote

    def describe(self) -> dict[str, str]:
        """Return the rule in words, for tables of results."""
        relative = f' or {self.relative_tolerance:g} of depth' if self.relative_tolerance else ''
        return {'depth_tolerance': f'{self.depth_tolerance_m:g} m{relative}', 'vote': self.vote,
                'rounding': self.rounding, 'superpoint_vote': str(self.superpoint_vote).lower()}

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int],
                       mask_size: tuple[int, int]) -> VisiblePixels:
        """Find where each vertex is seen.

        Args:
            scene: mesh, poses and depth of V views.
            input_size: (H, W) of the network input, that `scene.input_from_depth` maps to.
            mask_size: (h, w) of the masks.

        Raises:
            DataError: poses, intrinsics and depth images of different numbers of views.
        """
        _check_views(scene)
        num_views, (height, width) = len(scene.depth_m), mask_size
        vertices, pixels = [], []
        for view in range(num_views):
            vertex, u, v = self._seen_in_view(scene, view)
            row, column = self._mask_pixel(scene.input_from_depth[view], u, v, input_size, mask_size)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)      # cropped pixels show nothing
            vertices.append(vertex[inside])
            pixels.append((view * height + row[inside]) * width + column[inside])
        vertex, pixel = np.concatenate(vertices), np.concatenate(pixels)
        return VisiblePixels(vertex, pixel, np.bincount(vertex, minlength=len(scene.vertices)),
                             (num_views, height, width))

    def lift(self, instances: Instances, scene: SceneGroundTruth, visible: VisiblePixels) -> np.ndarray:
        """Return the vertices of each instance, (M, ceil(N / 8)) uint8 as `np.packbits(masks, axis=1)` makes them."""
        if instances.packed.shape[1:] != visible.mask_shape:
            raise DataError(f'{scene.scene_name}: masks are {instances.packed.shape}, but the ground truth is '
                            f'for (V, h, w) = {visible.mask_shape}.')
        device = instances.scores.device
        pixel = torch.from_numpy(visible.pixel).to(device)
        inside = (mask.flatten().index_select(0, pixel) for mask in instances.packed)    # (E,) each
        return self._transfer(inside, device, scene, visible)

    def lift_ids(self, instance_ids: Tensor, ids: Tensor, scene: SceneGroundTruth,
                 visible: VisiblePixels) -> np.ndarray:
        """Do the same for images of instance numbers: the oracle, an upper bound of what the transfer leaves possible.

        Args:
            instance_ids: (V, h, w) integers.
            ids: (G,) the numbers that are instances.

        Returns:
            (G, ceil(N / 8)) uint8.
        """
        if tuple(instance_ids.shape) != visible.mask_shape:
            raise DataError(f'{scene.scene_name}: id images are {tuple(instance_ids.shape)}, but the ground truth is '
                            f'for (V, h, w) = {visible.mask_shape}.')
        pixel = torch.from_numpy(visible.pixel).to(instance_ids.device)
        seen_id = instance_ids.flatten().index_select(0, pixel)                          # (E,)
        return self._transfer((seen_id == number for number in ids.tolist()), seen_id.device, scene, visible)

    def _seen_in_view(self, scene: SceneGroundTruth, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the vertices that `view` sees and their depth-image pixel: (n,) each of vertex, column, row."""
        depth_m = scene.depth_m[view]
        height, width = depth_m.shape
        projected, z = project_points(*(torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in
                                        (scene.vertices, scene.depth_intrinsics[view], scene.cam_from_world[view])))
        half = 0.5 if self.rounding == 'nearest' else 0.0
        u, v, z = projected[:, 0].numpy() + half, projected[:, 1].numpy() + half, z.numpy()          # (N,) each
        vertex = np.flatnonzero((z > NEAREST_M) & (u >= 0) & (u < width) & (v >= 0) & (v < height))
        u, v, z = u[vertex].astype(np.int64), v[vertex].astype(np.int64), z[vertex]                  # (n,), floored
        reading = depth_m[v, u].astype(np.float64)
        tolerance = np.maximum(self.depth_tolerance_m, self.relative_tolerance * reading)
        seen = (reading > 0) & (np.abs(z - reading) < tolerance)
        return vertex[seen], u[seen], v[seen]

    def _mask_pixel(self, input_from_depth: np.ndarray, u: np.ndarray, v: np.ndarray, input_size: tuple[int, int],
                    mask_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of the mask pixel that holds each depth pixel (its centre, or its corner for 'floor').

        Measured from the corner of the image, sizes scale plainly; centre-based coordinates are half a pixel less.
        """
        corner = 0.0 if self.rounding == 'nearest' else -0.5
        depth_pixel = np.stack([u + corner, v + corner, np.ones(len(u))])                # (3, n)
        x, y, _ = input_from_depth @ depth_pixel
        row = np.floor((y + 0.5) * mask_size[0] / input_size[0] + 1e-9).astype(np.int64)
        column = np.floor((x + 0.5) * mask_size[1] / input_size[1] + 1e-9).astype(np.int64)
        return row, column

    def _transfer(self, inside: Iterable[Tensor], device: torch.device, scene: SceneGroundTruth,
                  visible: VisiblePixels) -> np.ndarray:
        """Vote over views and superpoints. `inside` yields one (E,) bool per mask; one mask is unpacked at a time."""
        vertex = torch.from_numpy(visible.vertex).to(device)
        threshold = visible.num_seeing / 2 if self.vote == 'majority' else np.zeros(visible.num_points)
        widen = self._superpoint_majority(scene.superpoints, visible.num_seeing)
        packed = []
        for hits in inside:
            votes = torch.bincount(vertex[hits], minlength=visible.num_points).cpu().numpy()            # (N,)
            packed.append(np.packbits(widen(votes > threshold)))
        return np.stack(packed) if packed else np.zeros((0, -(-visible.num_points // 8)), dtype=np.uint8)

    def _superpoint_majority(self, superpoints: np.ndarray | None,
                             num_seeing: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return what turns a mask (N,) into one of whole superpoints: those of which more than half is inside."""
        if self.superpoint_vote is None or superpoints is None:
            return lambda mask: mask
        voters = superpoints if self.superpoint_vote == 'all_points' else superpoints[num_seeing > 0]
        half = 0.5 * np.bincount(voters, minlength=superpoints.max() + 1)
        return lambda mask: (np.bincount(superpoints[mask], minlength=len(half)) > half)[superpoints]


def _check_views(scene: SceneGroundTruth) -> None:
    lengths = {name: len(getattr(scene, name)) for name in
               ('depth_m', 'depth_intrinsics', 'cam_from_world', 'input_from_depth')}
    if len(set(lengths.values())) != 1 or lengths['depth_m'] == 0:
        raise DataError(f'{scene.scene_name}: ground truth must have one record per view everywhere, got {lengths}.')
