"""What every picture needs: arrays to 8-bit RGB, text, tiles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = np.ndarray                            # (height, width, 3) uint8 RGB


def to_numpy(array) -> np.ndarray:
    """Return a torch tensor (any device) or array as numpy; bfloat16 becomes float32."""
    if hasattr(array, 'detach'):
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()
    return np.asarray(array)


def to_picture(image) -> Picture:
    """Return (3, H, W) or (H, W, 3), float in [0, 1] or uint8, as (H, W, 3) uint8; non-finite values become black."""
    image = to_numpy(image)
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[-1]):
        raise ValueError(f'an image is (3, H, W) or (H, W, 3), got {image.shape}')
    if image.shape[-1] != 3:
        image = image.transpose(1, 2, 0)                                            # (H, W, 3)
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return np.rint(np.clip(np.nan_to_num(image, posinf=0.0, neginf=0.0), 0, 1) * 255).astype(np.uint8)


def scale_to(picture: np.ndarray, height: int, width: int, smooth: bool = True) -> np.ndarray:
    """Resize a picture (h, w, 3) or a map (h, w), of ids with `smooth=False`, to `height` and `width`."""
    if picture.shape[:2] == (height, width):
        return picture
    method = cv2.INTER_NEAREST_EXACT
    if smooth:
        method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method)


def tile(pictures: Sequence[Picture], columns: int, gap: int = 4, background: int = 255) -> Picture:
    """Lay pictures of one size on a grid, row by row."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top:top + height, left:left + width] = picture
    return sheet


def draw_texts(picture: Picture, texts: Sequence[tuple[int, int, str]], size: int = 13,
               colour: tuple[int, int, int] = (40, 44, 52), anchor: str = 'lm') -> Picture:
    """Return the picture with texts (x, y, words); `anchor` as PIL means it (`lm`: x is left, y the middle)."""
    drawn = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size)
    for x, y, words in texts:
        draw.text((x, y), words, fill=colour, font=font, anchor=anchor)
    return np.asarray(drawn)
