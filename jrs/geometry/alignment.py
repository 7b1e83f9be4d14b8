"""The similarity that takes one set of points or cameras to another, in closed form; numpy, float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COLLINEAR = 0.02                       # width over length of a set of points below which it counts as a line
COINCIDENT = 1e-6                      # spread of a set of points over its distance from the origin: one point


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation: a float, (3, 3) and (3,)."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) moved."""
        return self.scale * (points @ self.rotation.T) + self.translation

    @property
    def matrix(self) -> np.ndarray:
        """The (4, 4) matrix that does the same."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.rotation, self.translation
        return matrix


def fit_similarity(source: np.ndarray, target: np.ndarray) -> Similarity:
    """Return the similarity of least squares from `source` (n, 3) to `target` (n, 3) (Umeyama 1991, Eqs. 40-42).

    Points on a line leave the turn about it open, points that coincide also the scale: see `spread`.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source, target = source - source_mean, target - target_mean
    rotation, strength = _rotation_and_trace(target.T @ source)
    scale = strength / np.square(source).sum()
    return Similarity(float(scale), rotation, target_mean - scale * rotation @ source_mean)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation R (3, 3) that makes trace(R^T `matrix`) largest."""
    return _rotation_and_trace(matrix)[0]


def camera_centres(cam_from_world: np.ndarray) -> np.ndarray:
    """Return where cameras (V, 4, 4) stand in their world, (V, 3) float64."""
    cam_from_world = np.asarray(cam_from_world, np.float64)
    return -np.einsum('vji,vj->vi', cam_from_world[:, :3, :3], cam_from_world[:, :3, 3])


def move_cameras(cam_from_world: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Return cameras (V, 4, 4) in the world and unit that `similarity` leads to; their depth is `scale` times as large."""
    moved = np.array(cam_from_world, np.float64)
    rotation = moved[:, :3, :3] @ similarity.rotation.T
    moved[:, :3, 3] = similarity.scale * moved[:, :3, 3] - rotation @ similarity.translation
    moved[:, :3, :3] = rotation
    return moved


def spread(points: np.ndarray) -> np.ndarray:
    """Return how far points (n, 3) reach along their three main directions, (3,): root mean squares, largest first."""
    values = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return np.pad(values, (0, 3 - len(values))) / np.sqrt(len(points))


def _rotation_and_trace(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rotation nearest to a (3, 3) matrix, and the trace of its transpose times the matrix."""
    left, values, right = np.linalg.svd(covariance)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])       # no reflection
    return (left * signs) @ right, float(values @ signs)
