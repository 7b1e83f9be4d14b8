"""Instances drawn over the photos, in colours that stay the same in every view, in the cloud and in the tables."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from jrs.visualization.pictures import Picture, draw_texts, scale_to, to_numpy, to_picture

BACKGROUND = (150, 154, 162)                    # pixels and points of no instance


def instance_colours(count: int) -> np.ndarray:
    """Return `count` well separated colours, (count, 3) uint8; the first colours do not depend on `count`.

    Hues step by the golden ratio, so that neighbours in score differ; lightness and saturation alternate.
    """
    colours = []
    for index in range(count):
        hue = (0.08 + index * 0.61803398875) % 1.0
        lightness, saturation = (0.55, 0.45, 0.66)[index % 3], (0.78, 0.9, 0.62)[index // 3 % 3]
        colours.append(colorsys.hls_to_rgb(hue, lightness, saturation))
    return np.rint(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def colour_ids(ids: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the colour of each id: ids (...) with 0 = none and i + 1 = row i of `colours` -> (..., 3) uint8."""
    return np.concatenate([np.array([BACKGROUND], np.uint8), colours])[ids]


def overlay_masks(image, ids, colours: np.ndarray, opacity: float = 0.62) -> Picture:
    """Draw instances over an image: tinted inside, outlined, the rest faded.

    Args:
        image: (3, H, W) or (H, W, 3), float in [0, 1] or uint8.
        ids: (h, w) integers, 0 = no instance, i + 1 = row i of `colours`; any resolution.
        colours: (M, 3) uint8.
        opacity: share of the colour inside a mask.
    """
    picture = to_picture(image).astype(np.float32)
    height, width = picture.shape[:2]
    ids = scale_to(to_numpy(ids).astype(np.int32), height, width, smooth=False)             # (H, W)
    grey = picture.mean(-1, keepdims=True) * 0.55 + 255 * 0.3
    inside = (1 - opacity) * picture + opacity * colour_ids(ids, colours)
    drawn = np.where(ids[..., None] > 0, inside, grey)
    drawn[_edges(ids)] = 255
    return np.rint(drawn).astype(np.uint8)


def _edges(ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of an instance whose right or lower neighbour has another id."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


def legend(names: Sequence[str], colours: np.ndarray, width: int = 640) -> Picture:
    """Return a strip (H, width, 3) that names each of `colours` (n, 3) uint8 RGB, wrapped; for places that have no HTML."""
    cell, row = 150, 22
    columns = max(width // cell, 1)
    strip = np.full((max(-(-len(names) // columns), 1) * row, width, 3), 255, np.uint8)
    texts = []
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        left, top = index % columns * cell, index // columns * row
        strip[top + 5:top + 17, left + 4:left + 16] = colour
        texts.append((left + 22, top + row // 2, name))
    return draw_texts(strip, texts)
