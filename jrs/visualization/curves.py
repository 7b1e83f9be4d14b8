"""Curves over iterations as inline SVG, for pages that load nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

MAX_POINTS = 400                                # of a drawn curve, evenly spaced; more is not seen
FEW = 30                                        # points of a curve that are marked one by one
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 8, 20         # margins of a chart, for the numbers at its axes


@dataclass(frozen=True)
class Curve:
    """One line of a chart: `x` and `y` (n,), finite, in order of x; `colour` and `dash` as SVG writes them."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    dash: str = ''


def smoothed(x: np.ndarray, y: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean of `window` values (n,), each at the middle of its window: n - window + 1 points.

    A curve with fewer points than `window` becomes its mean.
    """
    window = max(1, min(window, len(y)))
    kernel = np.full(window, 1 / window)
    return np.convolve(x, kernel, mode='valid'), np.convolve(y, kernel, mode='valid')


def thinned(curve: np.ndarray, count: int = MAX_POINTS) -> np.ndarray:
    """Return at most `count` evenly spaced entries of `curve` (n,), the first and the last among them."""
    return curve[np.unique(np.linspace(0, len(curve) - 1, min(len(curve), count)).round().astype(int))]


def chart(title: str, curves: Sequence[Curve], width: int = 400, height: int = 190) -> str:
    """Return a figure with axes: curves of one unit, at least one point in all, over one range of x."""
    low_x, high_x = _span([curve.x for curve in curves])
    low_y, high_y = _span([curve.y for curve in curves])

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (LEFT + (x - low_x) / (high_x - low_x) * (width - LEFT - RIGHT),
                height - BOTTOM - (y - low_y) / (high_y - low_y) * (height - TOP - BOTTOM))
    lines = [_line(curve, *place(thinned(curve.x), thinned(curve.y))) for curve in curves]
    rows = [(value, place(np.float64(low_x), value)[1]) for value in ticks(low_y, high_y)]
    columns = [(value, place(value, np.float64(low_y))[0]) for value in ticks(low_x, high_x)]
    grid = ''.join(f'<path d="M{LEFT} {y:.1f}H{width - RIGHT}"/>' for _, y in rows)
    numbers = ''.join(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>' for value, y in rows)
    numbers += ''.join(f'<text x="{x:.1f}" y="{height - 5}" text-anchor="middle">{value:g}</text>' for value, x in columns)
    return (f'<figure><figcaption>{escape(title)}</figcaption>'
            f'<svg viewBox="0 0 {width} {height}" style="width:100%" role="img" aria-label="{escape(title, quote=True)}">'
            f'<g stroke="currentColor" stroke-opacity=".15">{grid}</g>'
            f'<g fill="currentColor" fill-opacity=".65" font-size="11">{numbers}</g>{"".join(lines)}</svg></figure>')


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` round numbers within [low, high], low < high: steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f'{number * step:.10g}') + 0.0 for number in np.arange(first, last + 1)]


def _span(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return least and greatest of all values; a little apart where they are one."""
    low, high = min(part.min() for part in values), max(part.max() for part in values)
    room = (abs(low) * 0.05 or 1.0) if low == high else 0.0
    return float(low - room), float(high + room)


def _line(curve: Curve, x: np.ndarray, y: np.ndarray) -> str:
    points = ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(x, y, strict=True))
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ''
    marks = ''.join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2" fill="{curve.colour}"/>'
                    for a, b in zip(x, y, strict=True)) if len(x) <= FEW else ''
    return (f'<g><title>{escape(curve.name)}</title><polyline points="{points}" fill="none" stroke="{curve.colour}" '
            f'stroke-width="1.5"{dash}/>{marks}</g>')
