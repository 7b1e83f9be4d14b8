"""How much of what one view shows another view shows too, from depth and cameras; kept beside the scene."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from weakref import WeakKeyDictionary

import numpy as np
import torch

from jrs.datasets.scene import Scene
from jrs.errors import DataError
from jrs.geometry.camera import invert_rigid
from jrs.geometry.projection import project_points, transform_points
from jrs.io.atomic import atomic_write

LOG = logging.getLogger('jrs')
FILE = 'covisibility.npz'
GRID = (12, 16)                        # points of a view, rows and columns
TOLERANCE_M, RELATIVE_TOLERANCE = 0.10, 0.05          # a point is seen where its depth agrees with the reading
RULE = f'1 {GRID} {TOLERANCE_M} {RELATIVE_TOLERANCE}'
_measured: WeakKeyDictionary[Scene, np.ndarray] = WeakKeyDictionary()


def covisibility(scene: Scene) -> np.ndarray:
    """Return overlap (F, F) float32 of a scene's frames, in their order; made once, then read from `covisibility.npz`.

    A folder that cannot be written costs the work each time; a file of another `Scene.version` or rule is made again. Of a
    scene without a version it is kept in memory, as long as the scene is.

    Raises:
        DataError: the scene has no depth or no cameras.
    """
    version, path = scene.version(), scene.path / FILE
    if version is None:
        if scene not in _measured:
            _measured[scene] = measure(scene)
        return _measured[scene]
    key = hashlib.sha256(RULE.encode() + version).hexdigest()
    try:
        with np.load(path) as stored:
            if str(stored['key']) == key and stored['overlap'].shape == (len(scene.frames),) * 2:
                return stored['overlap'].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass                                                                # not there, or of another version
    overlap = measure(scene)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, overlap=overlap.astype(np.float16), key=np.array(key))
    try:
        with atomic_write(path) as file:
            file.write(buffer.getvalue())
    except OSError as error:
        LOG.warning('%s cannot be kept (%s); views that see the same are found anew each time.', path, error.strerror)
    return overlap.astype(np.float16).astype(np.float32)                    # what reading gives


def measure(scene: Scene) -> np.ndarray:
    """Return overlap (F, F): [i, j] is the share of the points of view i, a grid of pixels with depth, that j sees.

    Seen means inside the image and within 0.1 m or 5 % of the reading there. A view without readings shares nothing.
    """
    if not scene.has_geometry or any(scene.camera(frame).depth_size is None for frame in scene.frames):
        raise DataError(f'{scene.path}: views that see the same can only be found in scenes with cameras and depth; choose '
                        'views by spacing.')
    depths = [scene.depth_m(frame) for frame in scene.frames]
    cameras = [tuple(torch.from_numpy(matrix) for matrix in (scene.camera(frame).depth_intrinsics, frame.cam_from_world))
               for frame in scene.frames]
    points = [_grid_points(depth, *camera) for depth, camera in zip(depths, cameras, strict=True)]
    owner = np.repeat(np.arange(len(points)), [len(found) for found in points])
    counts = np.maximum(np.bincount(owner, minlength=len(points)), 1)
    every = torch.cat(points)                                                            # (n, 3)
    seen = [np.bincount(owner[_sees(every, depth, *camera)], minlength=len(points))
            for depth, camera in zip(depths, cameras, strict=True)]
    return (np.stack(seen, axis=1) / counts[:, None]).astype(np.float32)                 # (F, F)


def _grid_points(depth_m: np.ndarray, intrinsics: torch.Tensor, cam_from_world: torch.Tensor) -> torch.Tensor:
    """Return the world points (n, 3) float64 of a grid of pixels, those with depth."""
    v, u = (((np.arange(count) + 0.5) * size / count).astype(np.int64) for count, size in
            zip(GRID, depth_m.shape, strict=True))
    u, v = (axis.ravel() for axis in np.meshgrid(u, v))                                  # (n,) each
    z = torch.from_numpy(depth_m[v, u].astype(np.float64))
    pixels = torch.from_numpy(np.stack([u, v, np.ones(len(u))], axis=1))                 # (n, 3)
    cam_points = pixels @ torch.linalg.inv(intrinsics).mT * z[:, None]
    return transform_points(invert_rigid(cam_from_world), cam_points[z > 0], num_axes=1)


def _sees(points: torch.Tensor, depth_m: np.ndarray, intrinsics: torch.Tensor, cam_from_world: torch.Tensor) -> np.ndarray:
    """Return which world points (n, 3) a view sees, (n,) bool."""
    pixels, z = (array.numpy() for array in project_points(points, intrinsics, cam_from_world))
    u, v = np.floor(np.clip(pixels, -1, max(depth_m.shape)) + 0.5).astype(np.int64).T    # (n,) each
    inside = (z > 0) & (u >= 0) & (v >= 0) & (u < depth_m.shape[1]) & (v < depth_m.shape[0])
    reading = np.where(inside, depth_m[np.where(inside, v, 0), np.where(inside, u, 0)], 0)
    return (reading > 0) & (np.abs(reading - z) < np.maximum(TOLERANCE_M, RELATIVE_TOLERANCE * reading))
