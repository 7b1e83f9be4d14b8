"""Random changes of training scenes: flips, rotation, jitter, colours, elastic distortion (baselines.md 3.1 to 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

RGB_NOISE = 127.5                              # colour noise is in units of colours in -1 .. 1


class PointAugmentation:
    """Changes positions and colours of a training scene; z is up.

    Args:
        flip_axes: axes (0 = x, 1 = y) of which each is turned round in half of the scenes.
        rotation: whether the scene is turned about z, by any angle.
        affine: deviation of noise that is added to the identity before these.
        scale: bounds of a common factor.
        shift_m: deviation of a common shift, in metres.
        color_noise: deviation of one shift of all colours, in units of colours in -1 .. 1.
        elastic: pairs (granularity, magnitude) of distortions one after another, both in voxels.
        elastic_share: share of the scenes that are distorted.
    """

    def __init__(self, flip_axes: Sequence[int] = (), rotation: bool = False, affine: float = 0.0,
                 scale: tuple[float, float] = (1.0, 1.0), shift_m: float = 0.0, color_noise: float = 0.0,
                 elastic: Sequence[tuple[float, float]] = (), elastic_share: float = 1.0) -> None:
        self.flip_axes, self.rotation, self.affine, self.scale, self.shift_m = flip_axes, rotation, affine, scale, shift_m
        self.color_noise, self.elastic, self.elastic_share = color_noise, elastic, elastic_share

    def movement(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return flips, rotation, noise and scale as a matrix (3, 3), and a shift (3,) in metres: p @ matrix + shift."""
        matrix = np.eye(3) + self.affine * rng.standard_normal((3, 3))
        for axis in self.flip_axes:
            matrix[:, axis] *= rng.choice((-1.0, 1.0))
        if self.rotation:
            matrix = matrix @ Rotation.from_euler('z', rng.uniform(0, 2 * np.pi)).as_matrix().T
        return matrix * rng.uniform(*self.scale), self.shift_m * rng.standard_normal(3)

    def colors(self, colors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return colours (N, 3) in 0 .. 255, shifted; they may leave that range."""
        return colors + self.color_noise * RGB_NOISE * rng.standard_normal(3)

    def distorted(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return places (N, 3) in voxels, elastically distorted."""
        if rng.random() >= self.elastic_share:
            return cells
        for granularity, magnitude in self.elastic:
            cells = elastic_distortion(cells, granularity, magnitude, rng)
        return cells


def elastic_distortion(places: np.ndarray, granularity: float, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Return places (N, 3) moved by smooth noise of deviation about `magnitude` / 9 that changes over `granularity`.

    Noise on a grid of that spacing is averaged twice over three cells along each axis and interpolated linearly.
    """
    low = places.min(axis=0)
    sides = tuple(((places.max(axis=0) - low) // granularity).astype(int) + 3)
    moved = np.empty_like(places)
    for axis in range(3):
        noise = rng.standard_normal(sides)
        for _ in range(2):
            noise = ndimage.uniform_filter(noise, size=3, mode='constant')
        moved[:, axis] = ndimage.map_coordinates(noise, ((places - low) / granularity + 1).T, order=1)
    return places + magnitude * moved
