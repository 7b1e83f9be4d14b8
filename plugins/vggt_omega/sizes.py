"""VGGT-Omega's two ways to bring a photo to the size of the network input (backbones.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from jrs.io.images import resize_map

FLATTEST, TALLEST = 0.5, 2.0                   # height over width; beyond, the middle is cut out


def balanced(picture: np.ndarray, width: int = 512, patch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Resize to about as many patches as a square of side `width` has, keeping the shape; both sides at least a patch.

    A picture (h, w, 3) uint8 becomes (h', w', 3) uint8; behind it the (3, 3) float64 map from original to resized pixels.
    """
    def patches(ratio: float) -> tuple[int, int]:
        across = math.sqrt((width / patch_size) ** 2 / ratio)
        return max(1, round((width / patch_size) ** 2 / across)), max(1, round(across))
    return _resize(picture, patch_size, patches)


def max_size(picture: np.ndarray, width: int = 512, patch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Resize so that the longer side is `width` and the other keeps the shape, at least a patch.

    A picture (h, w, 3) uint8 becomes (h', w', 3) uint8; behind it the (3, 3) float64 map from original to resized pixels.
    """
    def patches(ratio: float) -> tuple[int, int]:
        longer, shorter = width // patch_size, max(1, round(width * min(ratio, 1 / ratio) / patch_size))
        return (longer, shorter) if ratio > 1 else (shorter, longer)
    return _resize(picture, patch_size, patches)


RULES = {'balanced': balanced, 'max_size': max_size}


def _resize(picture: np.ndarray, patch_size: int, patches: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Cut the middle out of a very long picture, then resize to `patches(height / width)`, rows and columns of them."""
    height_0, width_0 = picture.shape[:2]
    height, width = min(height_0, round(TALLEST * width_0)), min(width_0, round(height_0 / FLATTEST))
    top, left = (height_0 - height) // 2, (width_0 - width) // 2
    rows, columns = patches(height / width)
    size = (columns * patch_size, rows * patch_size)
    cut = Image.fromarray(picture[top:top + height, left:left + width])
    scale_u, scale_v = size[0] / width, size[1] / height
    resized = np.asarray(cut.resize(size, Image.Resampling.BICUBIC))
    return resized, resize_map(scale_u, scale_v, -left * scale_u, -top * scale_v)
