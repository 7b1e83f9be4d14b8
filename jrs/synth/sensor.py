"""What a real scanner does to exact depth and poses: noise, steps and holes; slow drift. Off by default."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from scipy.spatial.transform import Rotation

Random = np.random.Generator
NEAREST, FARTHEST = 0.4, 5.0                                # metres between which the sensor measures
NOISE, NOISE_GROWTH = 0.0012, 0.0019                        # metres, and metres per square metre beyond NEAREST: one sigma
STEP = 0.00285                                              # of inverse depth, 1 / metres: 3 mm at 1 m, 7 cm at 5 m
GRAZING = 0.22                                              # cosine under which a surface sends hardly anything back
DARK = 0.07                                                 # linear brightness under which it swallows the light
EDGE = 1.05                                                 # ratio of depths of neighbours
LOST = {'grazing': 0.75, 'dark': 0.6, 'edge': 0.45}         # share of such pixels that have no reading
BLOB = 1.2                                                  # pixels, size of a hole
DRIFT_METRES, DRIFT_DEGREES = 0.045, 1.4                    # one sigma at the end of a walk


def sensor_depth(depth: np.ndarray, cosine: np.ndarray, brightness: np.ndarray, random: Random) -> np.ndarray:
    """Return depth (H, W) in metres as a structured-light sensor gives it; 0 where it has no reading.

    Args:
        depth: (H, W) true z-depth in metres.
        cosine: (H, W) of the angle between the surface's normal and the ray back to the camera.
        brightness: (H, W) linear albedo, 0 to 1.
        random: one stream per scan.
    """
    noisy = depth + random.normal(size=depth.shape) * (NOISE + NOISE_GROWTH * (depth - NEAREST) ** 2)
    stepped = 1.0 / (np.maximum(np.rint(1.0 / np.maximum(noisy, NEAREST / 2) / STEP), 1.0) * STEP)
    edge = maximum_filter(depth, 3) > EDGE * minimum_filter(depth, 3)
    chance = np.zeros(depth.shape)
    for name, there in (('grazing', cosine < GRAZING), ('dark', brightness < DARK), ('edge', edge)):
        chance = np.where(there, np.maximum(chance, LOST[name]), chance)
    lost = _blobs(depth.shape, random) < chance
    return np.where(lost | (depth < NEAREST) | (depth > FARTHEST), 0.0, stepped)


def _blobs(shape: tuple[int, int], random: Random) -> np.ndarray:
    """Return a field (H, W) of values in [0, 1), evenly spread over that range and smooth, so that holes hang together."""
    field = gaussian_filter(random.normal(size=shape), BLOB)
    return np.argsort(np.argsort(field, axis=None)).reshape(shape) / field.size         # (H, W)


def drifted(world_from_cam: np.ndarray, random: Random) -> np.ndarray:
    """Return poses (V, 4, 4) that are right at the start and slowly lose their way: a random walk of six numbers."""
    views = len(world_from_cam)
    walk = np.cumsum(random.normal(size=(views, 6)), axis=0) / np.sqrt(views)           # (V, 6)
    walk -= walk[0]
    poses = world_from_cam.copy()
    poses[:, :3, :3] = Rotation.from_rotvec(DRIFT_DEGREES * walk[:, :3], degrees=True).as_matrix() @ poses[:, :3, :3]
    poses[:, :3, 3] += DRIFT_METRES * walk[:, 3:]
    return poses
