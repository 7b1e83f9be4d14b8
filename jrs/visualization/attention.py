"""Where queries look: their mass on each view, beside where an instance can be seen; maps over the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from jrs.visualization.depth import colour_scale
from jrs.visualization.pictures import Picture, draw_texts, scale_to, tile, to_numpy, to_picture

COLORMAP = cv2.COLORMAP_VIRIDIS
MAP_COLORMAP = cv2.COLORMAP_INFERNO             # dark = none, as a dimmed photo is
OUTLINE = (90, 240, 255)
MAP_OPACITY = 0.7
BRIGHTEST_PERCENT = 99.5                        # of the patches of a column; few brighter ones look the same
CELL_WIDTH, MARGIN, HEAD, GAP = 224, 96, 40, 4


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


def attention_maps_picture(images, mask, view_names: Sequence[str], maps: Mapping[str, object],
                           view_attention: Mapping[str, object], visibility) -> Picture:
    """Draw where one query looks: a row per view, the photo and then a column per map; the true mask is outlined.

    The colours of a column mean the same in all its rows: black = none, brightest = its largest values.

    Args:
        images: (V, 3, H, W), float in [0, 1].
        mask: (V, h, w) bool, the true one.
        view_names: V names.
        maps: heading -> (V, h_p, w_p) attention per patch.
        view_attention: heading -> (V,) share of each view, written into the cells.
        visibility: (V,) share of the instance's pixels in each view, written below the names.
    """
    zoom = max(round(CELL_WIDTH / images.shape[-1]), 1)
    height, width = images.shape[-2] * zoom, images.shape[-1] * zoom
    photos = [scale_to(to_picture(image), height, width) for image in images]
    mask, visibility = to_numpy(mask), to_numpy(visibility)
    columns, texts, shares = [photos], [(MARGIN, 12, 'true mask')], []
    tops = [HEAD + row * (height + GAP) for row in range(len(photos))]
    for index, (heading, values) in enumerate(maps.items(), start=1):
        column, brightest = _heat_column(photos, to_numpy(values).astype(np.float32))
        left = MARGIN + index * (width + GAP)
        columns.append(column)
        texts += [(left, 12, heading), (left, 28, f'brightest: {brightest:.3g} x the mean')]
        shares += [(left + 5, top + height - 10, f'{share:.1%}')
                   for top, share in zip(tops, to_numpy(view_attention[heading]), strict=True)]
    sheet = np.full((tops[-1] + height + GAP, MARGIN + len(columns) * (width + GAP), 3), 255, np.uint8)
    for row, (top, name) in enumerate(zip(tops, view_names, strict=True)):
        for place, column in enumerate(columns):
            left = MARGIN + place * (width + GAP)
            sheet[top:top + height, left:left + width] = outlined(column[row], mask[row])
        texts += [(6, top + 12, str(name)), (6, top + 30, f'shows {visibility[row]:.0%}' if visibility[row] else 'not seen')]
    sheet = draw_texts(draw_texts(sheet, texts, 12), [(x + 1, y + 1, words) for x, y, words in shares], 12, (0, 0, 0))
    return draw_texts(sheet, shares, 12, (255, 255, 255))


def attention_layer_picture(images, mask, view_names: Sequence[str], maps, view_attention, visibility,
                            columns: int = 8) -> Picture:
    """Draw where one query looks at one layer: a cell per view, the photo above its map; the true mask is outlined.

    Colours mean the same in all cells; a view that shows the instance says the share of its pixels.

    Args:
        images: (V, 3, H, W), float in [0, 1].
        mask: (V, h, w) bool, the true one.
        view_names: V names.
        maps: (V, h_p, w_p) attention per patch.
        view_attention: (V,) share of each view.
        visibility: (V,) share of the instance's pixels in each view.
        columns: cells in a row.
    """
    zoom = max(round(CELL_WIDTH / images.shape[-1]), 1)
    height, width = images.shape[-2] * zoom, images.shape[-1] * zoom
    photos = [scale_to(to_picture(image), height, width) for image in images]
    heat, _ = _heat_column(photos, to_numpy(maps).astype(np.float32))
    mask, shares, visibility = to_numpy(mask), to_numpy(view_attention), to_numpy(visibility)
    cells = []
    for view, (photo, map_, name) in enumerate(zip(photos, heat, view_names, strict=True)):
        head = np.full((18, width, 3), 255, np.uint8)
        seen = f', shows {visibility[view]:.0%}' if visibility[view] else ''
        cell = np.concatenate([head, outlined(photo, mask[view]), outlined(map_, mask[view])])
        cells.append(draw_texts(cell, [(2, 9, f'{name}: {shares[view]:.1%} of it{seen}')], 12))
    return tile(cells, min(columns, len(cells)))


def _heat_column(photos: Sequence[Picture], values: np.ndarray) -> tuple[list[Picture], float]:
    """Return one overlay per view of `values` (V, h_p, w_p), and how much brighter than the mean the brightest colour is."""
    brightest = brightest_of(values)
    overlays = [heat_overlay(photo, view / brightest) for photo, view in zip(photos, values, strict=True)]
    return overlays, brightest / max(float(values.mean()), 1e-12)


def brightest_of(values: np.ndarray) -> float:
    """Return from where on attention per patch (V, h_p, w_p) has the brightest colour, the same in all views; > 0."""
    return max(float(np.percentile(values, BRIGHTEST_PERCENT)), 1e-12)


def heat_overlay(photo: Picture, shares: np.ndarray) -> Picture:
    """Return a photo (H, W, 3) in grey below colours of `shares` (h_p, w_p), of which 1 and above is the brightest."""
    heat = colour_scale(np.clip(scale_to(shares.astype(np.float32), *photo.shape[:2]), 0, 1), MAP_COLORMAP)
    grey = photo.mean(-1, keepdims=True)
    return np.rint((1 - MAP_OPACITY) * grey + MAP_OPACITY * heat).astype(np.uint8)


def outlined(picture: Picture, mask: np.ndarray) -> Picture:
    """Return the picture (H, W, 3) with the outline of a mask (h, w) bool; unchanged where the mask is empty."""
    mask = scale_to(mask.astype(np.uint8), *picture.shape[:2], smooth=False)
    edge = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > mask
    picture = picture.copy()
    picture[edge] = OUTLINE
    return picture
