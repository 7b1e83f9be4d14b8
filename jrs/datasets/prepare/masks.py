"""Instance masks of views, rendered from the labelled mesh: one id per object in all views (data.md section 6)."""

from __future__ import annotations

import numpy as np

from jrs.datasets.transforms import sample_nearest
from jrs.errors import DataError

NEAR_M, FAR_M = 0.1, 15.0
DEPTH_TOLERANCE_M, DEPTH_TOLERANCE_SHARE = 0.05, 0.03
MASK_PIXELS, MASK_PIXELS_LEAST = 20, 4                  # of an image of 640 x 480, and of any


class MeshRenderer:
    """Casts a ray per pixel into a triangle mesh; one search tree per scene.

    Args:
        vertices: (N, 3) metres, world.
        faces: (M, 3) vertex indices; both sides of a triangle are seen.

    Raises:
        DataError: the package embreex is not installed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise DataError('Rendering instance masks needs the package embreex, which is not installed: '
                            'pip install embreex. There are builds for x86 machines only: elsewhere prepare the data '
                            'on one.') from error
        self._origin = vertices.mean(axis=0)                                # rays are float32: keep numbers small
        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, (vertices - self._origin).astype(np.float32), faces.astype(np.int32))

    def render(self, intrinsics: np.ndarray, size: tuple[int, int],
               cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what each pixel of a view of `size` (H, W) sees.

        Returns:
            depth: (H, W) float32 z-depth in metres, 0 where there is no surface between `NEAR_M` and `FAR_M`.
            face: (H, W) int32 triangle, -1 for none.
            corner: (H, W) int64, which of the triangle's three vertices is nearest in barycentric terms.
        """
        height, width = size
        v, u = np.mgrid[:height, :width].reshape(2, -1)                     # (H*W,) each
        rays = np.linalg.solve(intrinsics, np.stack([u, v, np.ones_like(u)]))          # (3, H*W), z = 1
        directions = (cam_from_world[:3, :3].T @ rays).T                    # (H*W, 3)
        centre = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3] - self._origin
        start = (centre + NEAR_M * directions).astype(np.float32)
        hit = self._scene.run(start, directions.astype(np.float32), query='INTERSECT', output=True)
        depth = hit['tfar'] + np.float32(NEAR_M)                            # directions have z = 1: distance is depth
        face = np.where(depth <= FAR_M, hit['primID'], -1)
        with np.errstate(invalid='ignore'):                                 # of rays that hit nothing
            weights = np.stack([1 - hit['u'] - hit['v'], hit['u'], hit['v']])                  # (3, H*W)
        return (np.where(face >= 0, depth, 0).reshape(size), face.reshape(size),
                weights.argmax(axis=0).reshape(size))                       # (H, W) each


def pixel_ids(face: np.ndarray, corner: np.ndarray, faces: np.ndarray, vertex_ids: np.ndarray) -> np.ndarray:
    """Return the id of each pixel, (H, W) int64: the majority of the triangle's vertices, else its nearest vertex.

    Args:
        face, corner: (H, W) from `MeshRenderer.render`.
        faces: (M, 3) vertex indices.
        vertex_ids: (N,) instance ids, 0 none.
    """
    corners = vertex_ids[faces[np.maximum(face, 0)]]                        # (H, W, 3)
    first, second, third = np.moveaxis(corners, -1, 0)
    nearest = np.take_along_axis(corners, corner[..., None], axis=-1)[..., 0]          # (H, W)
    ids = np.where((first == second) | (first == third), first, np.where(second == third, second, nearest))
    return np.where(face >= 0, ids, 0)


def reject_by_depth(ids: np.ndarray, rendered_m: np.ndarray, sensor_m: np.ndarray,
                    color_from_depth: np.ndarray) -> np.ndarray:
    """Return ids with -1 (ignore) where the mesh says "object" but the sensor saw something at another depth.

    Args:
        ids, rendered_m: (H, W), of the colour camera.
        sensor_m: (Hd, Wd) metres, 0 = no reading, which rejects nothing.
        color_from_depth: (3, 3) map of depth pixels to colour pixels.
    """
    sensor = sample_nearest(sensor_m, color_from_depth, ids.shape)
    tolerance = np.maximum(DEPTH_TOLERANCE_M, DEPTH_TOLERANCE_SHARE * sensor)
    return np.where((ids > 0) & (sensor > 0) & (np.abs(rendered_m - sensor) > tolerance), -1, ids)


def reject_slivers(ids: np.ndarray, min_pixels: int) -> np.ndarray:
    """Return ids (H, W) with -1 (ignore) for instances of fewer than `min_pixels` in this view."""
    found, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    found = np.where((found > 0) & (counts < min_pixels), -1, found)
    return found[inverse].reshape(ids.shape)                                # (H, W)


def default_min_pixels(size: tuple[int, int]) -> int:
    """Return the smallest mask worth keeping in an image of `size`: 20 pixels of 640 x 480, never under 4."""
    return max(MASK_PIXELS_LEAST, round(MASK_PIXELS * size[0] * size[1] / (640 * 480)))
