"""Instance features as colours: the first three principal components, the same axes in every view (Figure 5)."""

from __future__ import annotations

import numpy as np

from jrs.visualization.pictures import to_numpy

SAMPLES = 20000                                 # vectors that the axes are computed from


def feature_pictures(features, valid=None) -> np.ndarray:
    """Return features (V, D, h, w) as colours (V, h, w, 3) uint8.

    The axes come from all views together, so that one object has one colour; each is stretched from its 2nd to its
    98th percentile. The sign of an axis is fixed by its largest entry, so that equal features give equal pictures.

    Args:
        features: (V, D, h, w), any D >= 1.
        valid: (V, h, w) bool, pixels that count for the axes; None = all.
    """
    features = np.nan_to_num(to_numpy(features).astype(np.float32), posinf=0.0, neginf=0.0)
    views, channels, height, width = features.shape
    vectors = features.transpose(0, 2, 3, 1).reshape(-1, channels)                          # (V*h*w, D)
    counted = vectors if valid is None else vectors[to_numpy(valid).astype(bool).reshape(-1)]
    counted = vectors if len(counted) == 0 else counted
    counted = counted[::max(len(counted) // SAMPLES, 1)]
    centre, axes = principal_axes(counted)
    low, high = np.percentile((counted - centre) @ axes, [2, 98], axis=0)
    share = ((vectors - centre) @ axes - low) / np.maximum(high - low, 1e-8)                # (V*h*w, 3)
    share[:, high - low < 1e-8] = 0.5
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8).reshape(views, height, width, 3)


def principal_axes(vectors: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of vectors (n, D) and their `count` main axes (D, count), columns of zeros beyond D."""
    centre = vectors.mean(0)
    covariance = np.cov((vectors - centre).T.astype(np.float64), bias=True).reshape(vectors.shape[1], -1)
    _, axes = np.linalg.eigh(covariance)                                                    # ascending
    axes = axes[:, ::-1][:, :count]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    padded = np.zeros((vectors.shape[1], count), np.float32)
    padded[:, :axes.shape[1]] = axes * np.where(signs == 0, 1, signs)
    return centre, padded
