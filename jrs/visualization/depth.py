"""Depth and other scalar maps as colours, with the range that the colours mean."""

from __future__ import annotations

import cv2
import numpy as np

from jrs.visualization.pictures import Picture, draw_texts, to_numpy

INVALID = (225, 227, 231)


def shared_range(values, valid=None, percent: float = 1.0) -> tuple[float, float]:
    """Return the range that colours should span over all views: percentiles of the finite values where `valid`.

    Args:
        values: any shape, e.g. depth (V, H, W).
        valid: same shape, bool; None = all.
        percent: so much is cut at either end.
    """
    values = to_numpy(values)
    good = np.isfinite(values) & (True if valid is None else to_numpy(valid).astype(bool))
    if not good.any():
        return 0.0, 1.0
    low, high = np.percentile(values[good], [percent, 100 - percent])
    return float(low), float(max(high, low + 1e-6))


def scalar_picture(values, low: float, high: float, valid=None, colormap: int = cv2.COLORMAP_TURBO) -> Picture:
    """Return (H, W) values as colours from `low` to `high`; not finite or not `valid` is light grey."""
    values = to_numpy(values).astype(np.float32)
    good = np.isfinite(values) & (True if valid is None else to_numpy(valid).astype(bool))
    share = np.clip((np.where(good, values, low) - low) / max(high - low, 1e-12), 0, 1)
    picture = colour_scale(share, colormap)
    picture[~good] = INVALID
    return picture


def depth_picture(depth, near: float, far: float, valid=None) -> Picture:
    """Return z-depth (H, W) as colours on a log scale, near = warm, far = cold; 0 (no reading) is light grey."""
    depth = to_numpy(depth)
    reading = depth > 0 if valid is None else (depth > 0) & to_numpy(valid).astype(bool)
    near = max(near, 1e-6)
    return scalar_picture(-np.log(np.maximum(depth, 1e-9)), -np.log(max(far, near * 1.001)), -np.log(near), reading)


def colour_scale(share: np.ndarray, colormap: int = cv2.COLORMAP_TURBO) -> np.ndarray:
    """Return shares (...) in [0, 1] as colours (..., 3) uint8 RGB."""
    flat = np.rint(np.asarray(share) * 255).astype(np.uint8).reshape(-1, 1)                # (n, 1)
    return cv2.applyColorMap(flat, colormap)[:, 0, ::-1].reshape(*np.shape(share), 3).copy()


def depth_bar(near: float, far: float, unit: str = '', width: int = 320) -> Picture:
    """Return the scale that goes with `depth_picture`: colours with five numbers below."""
    near = max(near, 1e-6)
    ramp = np.geomspace(near, far, width)[None].repeat(12, 0)
    bar = np.full((34, width + 40, 3), 255, np.uint8)
    bar[2:14, 20:-20] = depth_picture(ramp, near, far, np.ones_like(ramp))
    texts = [(20 + round(share * (width - 1)), 25, f'{near * (far / near) ** share:.2f}{unit}')
             for share in (0, 0.25, 0.5, 0.75, 1)]
    return draw_texts(bar, texts, size=12, anchor='mm')
