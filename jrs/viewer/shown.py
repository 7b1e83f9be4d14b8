"""State -> what is shown: which points, in which colours; which one a click means; how far apart two are. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jrs.viewer.result import Result, ShownView
from jrs.visualization.overlays import BACKGROUND, overlay_masks
from jrs.visualization.pictures import scale_to

COLOURS = ('photo', 'instance', 'feature')
REACH = 0.012                                   # of a click: the tangent of the angle between its ray and a point
FAR_REACH = 0.05                                # the same where nothing lies within `REACH`
DIM = 0.25                                      # how much of its colour a point keeps beside a selected instance
TINT = 0.65                                     # how much of the instance's colour a selected point has
PICTURE_WIDTH = 320


@dataclass(frozen=True)
class Look:
    """What is asked for.

    Attributes:
        colours: one of `COLOURS`.
        min_score: instances below it count as none; true ones have no score and stay.
        least_sure: so many percent of the points, those of the lowest confidence, are left out.
        selected: number of an instance, 0 = none.
        alone: whether the points of the selected instance are all that is shown.
        cut: so many percent of the height are cut off from above, so that one looks into a room.
    """

    colours: str = 'photo'
    min_score: float = 0.0
    least_sure: float = 0.0
    selected: int = 0
    alone: bool = False
    cut: float = 0.0


def kept_instances(result: Result, look: Look) -> np.ndarray:
    """Return which instances count, (M + 1,) bool; the first, which is none, does not."""
    kept = [one.score is None or one.score >= look.min_score for one in result.found]
    return np.array([False, *kept])


def shown_points(result: Result, look: Look, up: np.ndarray | None = None) -> np.ndarray:
    """Return which points are shown, (N,) bool; `up` (3,) is where `look.cut` counts from above, None = nowhere."""
    shown = np.ones(len(result.points), bool)
    if up is not None and look.cut > 0 and len(shown):
        height = result.points @ up
        low, high = np.percentile(height, [1, 99])                              # a stray point does not make a room tall
        shown &= height <= high - look.cut / 100 * (high - low)
    if result.confidence is not None and look.least_sure > 0 and len(shown):
        shown &= result.confidence >= np.percentile(result.confidence, look.least_sure)
    if look.selected and look.alone:
        shown &= result.mask(look.selected)
    return shown


def shown_colours(result: Result, look: Look) -> np.ndarray:
    """Return the colours of all points, (N, 3) uint8."""
    if look.colours == 'feature' and result.feature_colours is not None:
        colours = result.feature_colours
    elif look.colours == 'instance':
        palette = np.array([BACKGROUND, *(one.colour for one in result.found)], np.uint8)    # (M + 1, 3)
        palette[~kept_instances(result, look)] = BACKGROUND
        colours = palette[result.instances]
    else:
        colours = result.colours
    if not look.selected or look.alone:
        return colours
    mask, own = result.mask(look.selected), result.found[look.selected - 1].colour
    colours = colours.astype(np.float32)
    colours[mask] = (1 - TINT) * colours[mask] + TINT * np.asarray(own, np.float32)
    colours[~mask] = DIM * colours[~mask] + (1 - DIM) * np.asarray(BACKGROUND, np.float32)
    return np.rint(colours).astype(np.uint8)


def picked(points: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> int | None:
    """Return which of `points` (N, 3) a click means: of those that its ray passes close to the one in front; None = none.

    Args:
        points: (N, 3), those that are shown.
        origin, direction: (3,) of the ray, in the frame of the points.
    """
    direction = direction / np.linalg.norm(direction)
    offsets = points.astype(np.float64) - origin
    along = offsets @ direction                                                             # (N,)
    aside = np.linalg.norm(offsets - along[:, None] * direction, axis=1)
    for reach in (REACH, FAR_REACH):
        close = np.flatnonzero((along > 0) & (aside <= reach * along))
        if len(close):
            return int(close[(along[close] * (1 + aside[close] / along[close])).argmin()])
    return None


def instance_at(result: Result, point: int, look: Look) -> int:
    """Return the number of the instance that point number `point` belongs to, 0 = none that counts."""
    number = int(result.instances[point])
    return number if kept_instances(result, look)[number] else 0


def box_of(points: np.ndarray) -> np.ndarray:
    """Return the sides (3,) of the box along the axes that holds points (n, 3); zeros without any."""
    return np.ptp(points, axis=0) if len(points) else np.zeros(3)


def distance_in_words(result: Result, first: int, second: int) -> str:
    """Return how far two points are apart, in metres where the unit is known, else why that is not said."""
    if not result.metric:
        return f'no distance: the unit is not metres ({result.scale or "unknown"})'
    away = f'{np.linalg.norm(result.points[first].astype(np.float64) - result.points[second]):.3f} m'
    return f'about {away}: the unit is predicted' if 'approximate' in result.scale else away


def described(result: Result, number: int) -> str:
    """Return what is known of instance `number`, as Markdown."""
    one, mask = result.found[number - 1], result.mask(number)
    sides = ' × '.join(f'{side:.2f}' for side in box_of(result.points[mask]))
    unit = ' m' if result.metric else ' (arbitrary unit)'
    score = 'annotated' if one.score is None else f'score {one.score:.3f}'
    return (f'**{_plain(one.name)}** — number {number}, {score}\n\n{int(mask.sum()):,} points, '
            f'box along the axes {sides}{unit}')


def _plain(text: str) -> str:
    """Return a text that a file gave so that Markdown shows it as it is."""
    return ''.join(f'\\{character}' if character in '\\`*_{}[]()<>#+-.!|&~$' else character for character in text)


def seen_in(result: Result, number: int, most: int) -> list[tuple[str, int, np.ndarray]]:
    """Return the views whose mask has instance `number`: name, pixels, picture (h, w, 3) with the mask; largest first.

    Views without a picture or a mask are left out; at most `most` come back.
    """
    found = []
    for view in result.views:
        ids = None if view.instances is None else view.instances()
        if ids is not None and (pixels := int((ids == number).sum())):
            found.append((pixels, view, ids == number))
    found.sort(key=lambda entry: -entry[0])
    return [(view.name, pixels, with_mask(view, mask, result.found[number - 1].colour))
            for pixels, view, mask in found if view.picture is not None][:most]


def with_mask(view: ShownView, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the picture of a view with one mask (h, w) bool in its colour (3,), `PICTURE_WIDTH` wide."""
    picture = view.picture()
    height = max(round(PICTURE_WIDTH * picture.shape[0] / picture.shape[1]), 1)
    return overlay_masks(scale_to(picture, height, PICTURE_WIDTH), mask.astype(np.int32), np.asarray(colour)[None])


def overlap(result: Result, number: int, truth: Result) -> tuple[str, float] | None:
    """Return the true instance that instance `number` fits best and their IoU, where both are on the same points.

    None where they are not, or where no true instance shares a point.
    """
    if len(truth.points) != len(result.points) or not np.array_equal(truth.points, result.points):
        return None
    iou = ious(result.mask(number), truth)
    best = int(iou.argmax()) if len(iou) else 0
    return (truth.found[best].name, float(iou[best])) if iou.any() else None


def ious(mask: np.ndarray, truth: Result) -> np.ndarray:
    """Return the IoU of a mask (N,) bool of the points of `truth` with each of its G instances, (G,)."""
    shared, sizes = (np.bincount(numbers, minlength=len(truth.found) + 1)[1:] for numbers in
                     (truth.instances[mask], truth.instances))                              # (G,) each
    return shared / np.maximum(sizes + mask.sum() - shared, 1)
