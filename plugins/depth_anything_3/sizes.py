"""The original's way from a photo to an input of the network (backbones.md section 6.1)."""

from __future__ import annotations

from collections.abc import Callable

import mmcv
import numpy as np

from jrs.io.images import resize_map

LONGEST_SIDE = 504                             # that the released models are used with


def resize_longest_side(picture: np.ndarray, width: int = LONGEST_SIDE,
                        patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize by the original's rule: the longest side becomes `width`, then each side the nearest multiple of a patch.

    Twice in 8 bits with OpenCV: by area where sides shrink, bicubic where one grows; a side between two multiples goes up.

    Args:
        picture: (h, w, 3) uint8.
        width: of the longest side, before it becomes a multiple.
        patch_size: side of a patch in pixels.

    Returns:
        The resized picture (h', w', 3) uint8, and the 3 x 3 float64 map from original to resized pixels.
    """
    height_0, width_0 = picture.shape[:2]
    scale = width / max(height_0, width_0)
    resized = _resize(picture, [max(round(side * scale), 1) for side in (height_0, width_0)])
    resized = _resize(resized, [max((side + patch_size // 2) // patch_size, 1) * patch_size for side in resized.shape[:2]])
    return resized, resize_map(resized.shape[1] / width_0, resized.shape[0] / height_0, 0, 0)


def _resize(picture: np.ndarray, size: list[int]) -> np.ndarray:
    """Return the picture (h, w, 3) uint8 at `size` (H, W)."""
    if list(picture.shape[:2]) == size:
        return picture
    grows = any(new > old for new, old in zip(size, picture.shape, strict=False))
    return mmcv.imresize(np.ascontiguousarray(picture), tuple(size[::-1]), interpolation='bicubic' if grows else 'area',
                         backend='cv2')


# Rules by name; None = by the width, as the data sets of training are resized (`test_dataset.resize`).
RULES: dict[str, Callable | None] = {'width': None, 'longest_side': resize_longest_side}
