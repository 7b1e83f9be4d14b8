"""Where queries look: the attention mass that each instance's query puts on each view, beside where it can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from jrs.visualization.depth import colour_scale
from jrs.visualization.pictures import Picture, draw_texts, scale_to, to_numpy, to_picture

COLORMAP = cv2.COLORMAP_VIRIDIS


def query_attention(view_attention, queries) -> np.ndarray:
    """Return each instance's view attention, mean over layers: (L, Q, V) and queries (M,) -> (M, V), rows sum to 1."""
    mean = to_numpy(view_attention).astype(np.float64).mean(0)                              # (Q, V)
    rows = mean[to_numpy(queries)]
    return rows / np.maximum(rows.sum(-1, keepdims=True), 1e-12)


def mask_visibility(masks) -> np.ndarray:
    """Return the share of each instance's pixels that lies in each view: masks (M, V, h, w) -> (M, V)."""
    pixels = to_numpy(masks).astype(bool).sum((-1, -2)).astype(np.float64)                  # (M, V)
    return pixels / np.maximum(pixels.sum(-1, keepdims=True), 1)


def heat_colours(rows: np.ndarray) -> np.ndarray:
    """Return the colours of a table of shares (n, V): dark = none, bright = the row's largest; (n, V, 3) uint8."""
    rows = np.nan_to_num(np.asarray(rows, np.float64))
    return colour_scale(rows / np.maximum(rows.max(-1, keepdims=True), 1e-12), COLORMAP)


def attention_picture(attention: np.ndarray, visibility: np.ndarray, names: Sequence[str], images=None,
                      cell: int = 44, truth: str = 'visible') -> Picture:
    """Draw one heat row per instance, attention over views on the left, visibility on the right.

    Args:
        attention: (n, V), rows sum to 1.
        visibility: (n, V), rows sum to 1.
        names: n labels.
        images: (V, 3, H, W), drawn as thumbnails above the columns; or None.
        cell: width of a column in pixels.
        truth: heading of the right block.
    """
    count, views = attention.shape
    margin, top, row = 130, 24 + (cell * 3 // 4 + 6 if images is not None else 0), 22
    gap = margin + views * cell + 24
    sheet = np.full((top + max(count, 1) * row + 6, gap + views * cell + 8, 3), 255, np.uint8)
    for left, rows in ((margin, attention), (gap, visibility)):
        for view in range(views if images is not None else 0):
            thumb = scale_to(to_picture(images[view]), cell * 3 // 4, cell - 2)
            sheet[24:24 + thumb.shape[0], left + view * cell:left + view * cell + cell - 2] = thumb
        for index, colours in enumerate(heat_colours(rows)):
            for view in range(views):
                y, x = top + index * row, left + view * cell
                sheet[y:y + row - 2, x:x + cell - 2] = colours[view]
    texts = [(6, top + index * row + row // 2 - 1, name) for index, name in enumerate(names)]
    return draw_texts(sheet, [*texts, (margin, 11, 'view attention'), (gap, 11, truth)])
