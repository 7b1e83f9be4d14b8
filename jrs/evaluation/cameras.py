"""Errors of relative camera poses over all pairs of views (evaluation.md section 9). Free of scale and of the world."""

from __future__ import annotations

import numpy as np

SMALLEST_BASELINE_M = 1e-6                 # pairs that stand closer have no direction of translation


def relative_pose_errors(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rotation and translation errors of all pairs i < j, and which pairs have a translation to compare.

    Args:
        predicted, true: (V, 4, 4) or (V, 3, 4) `cam_from_world`; each in its own world and scale.

    Returns:
        (n,) degrees 0..180, the geodesic angle between relative rotations; (n,) degrees 0..90, the angle between the
        directions of relative translation whatever their sign (90 where the prediction does not move); (n,) bool,
        False where the true cameras stand closer than 1e-6 m. n = V * (V - 1) / 2, pairs in lexicographic order.
    """
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[1:] not in ((4, 4), (3, 4)):
        raise ValueError(f'poses must both be (V, 4, 4) or (V, 3, 4), got {predicted.shape} and {true.shape}.')
    predicted_rotation, predicted_translation = _relative(predicted)
    true_rotation, true_translation = _relative(true)
    rotation = _angle_between_rotations(predicted_rotation, true_rotation)
    translation = _angle_between_lines(predicted_translation, true_translation)
    return rotation, translation, np.linalg.norm(true_translation, axis=1) >= SMALLEST_BASELINE_M


def area_under_curve(rotation_deg: np.ndarray, translation_deg: np.ndarray, max_degrees: int) -> float:
    """Return AUC@`max_degrees` in [0, 1]: the mean over whole degrees of the share of pairs with both errors below.

    Args:
        rotation_deg, translation_deg: (n,) errors of n pairs of views; AUC is NaN where n = 0.
        max_degrees: a whole number; the curve ends there.
    """
    if len(rotation_deg) == 0:
        return float('nan')
    worse = np.maximum(rotation_deg, translation_deg)
    histogram, _ = np.histogram(worse, bins=np.arange(max_degrees + 1))           # the last bin is closed
    return float(np.cumsum(histogram / len(worse)).mean())


def camera_scores(predicted: np.ndarray, true: np.ndarray, thresholds: tuple[int, ...] = (3, 5, 15, 30)
                  ) -> dict[str, float]:
    """Return `auc<t>`, `rra<t>` and `rta<t>` of one sequence, and `pairs` / `static_pairs` that did and did not count.

    `rotation_median` is in degrees; `rotation_median_identity` is what cameras that all look one way would have.
    Pairs without a true baseline are left out; scores are NaN where none is left.

    Args:
        predicted, true: (V, 4, 4) or (V, 3, 4) `cam_from_world`; each in its own world and scale.
        thresholds: whole degrees.
    """
    rotation, translation, moving = relative_pose_errors(predicted, true)
    rotation, translation = rotation[moving], translation[moving]
    scores = {}
    for degrees in thresholds:
        scores[f'auc{degrees}'] = area_under_curve(rotation, translation, degrees)
        scores[f'rra{degrees}'] = _share_below(rotation, degrees)
        scores[f'rta{degrees}'] = _share_below(translation, degrees)
    identity, _, _ = relative_pose_errors(np.broadcast_to(np.eye(4), (len(true), 4, 4)), true)
    scores['rotation_median'], scores['rotation_median_identity'] = (
        float(np.median(errors)) if len(errors) else float('nan') for errors in (rotation, identity[moving]))
    return scores | {'pairs': float(moving.sum()), 'static_pairs': float((~moving).sum())}


def _relative(cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation (n, 3, 3) and translation (n, 3) of E_i * inverse(E_j) for all pairs i < j."""
    rotation, translation = cam_from_world[:, :3, :3], cam_from_world[:, :3, 3]
    first, second = np.triu_indices(len(cam_from_world), k=1)
    relative = rotation[first] @ rotation[second].transpose(0, 2, 1)              # (n, 3, 3)
    return relative, translation[first] - np.einsum('nij,nj->ni', relative, translation[second])


def _angle_between_rotations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees. |R - S| = 2 sqrt(2) sin(angle / 2), which stays accurate for small angles."""
    distance = np.linalg.norm(first - second, axis=(1, 2))
    return np.degrees(2 * np.arcsin(np.clip(distance / (2 * np.sqrt(2)), 0, 1)))


def _angle_between_lines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees 0..90; 90 where either has no length."""
    sine, cosine = np.linalg.norm(np.cross(first, second), axis=1), np.abs(np.einsum('ni,ni->n', first, second))
    return np.where((sine == 0) & (cosine == 0), 90.0, np.degrees(np.arctan2(sine, cosine)))


def _share_below(degrees: np.ndarray, threshold: float) -> float:
    return float(np.mean(degrees < threshold)) if len(degrees) else float('nan')
