"""What the viewer shows of one result, whatever it was read from; numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np


@dataclass(frozen=True)
class Found:
    """One instance: its class in words, its score (None for a true one) and its colour (3,) uint8 RGB."""

    name: str
    score: float | None
    colour: np.ndarray


@dataclass(frozen=True)
class ShownView:
    """One picture of a scene, and where its camera stood.

    Attributes:
        name: of the view.
        cam_from_world: (4, 4) float64; None where nobody knows.
        intrinsics: (3, 3) float64, pixels of a picture of `size`; None with the camera.
        size: (height, width).
        picture: returns it, (h, w, 3) uint8 RGB of the aspect of `size`; None without one.
        instances: returns ids (h, w), 0 = none, i + 1 = the i-th instance, of any resolution of that aspect; None without.
    """

    name: str
    cam_from_world: np.ndarray | None
    intrinsics: np.ndarray | None
    size: tuple[int, int]
    picture: Callable[[], np.ndarray] | None = None
    instances: Callable[[], np.ndarray | None] | None = None


@dataclass
class Result:
    """A cloud of N points whose instances are known, with the views that it was made from.

    Attributes:
        name: for people.
        points: (N, 3) float32, in the unit that `scale` says.
        colours: (N, 3) uint8 RGB, as photographed.
        instances: (N,) int32, 0 = none, i + 1 = the i-th of `found`.
        found: the instances, best first.
        views: the pictures.
        confidence: (N,) float32, larger = surer; None where nothing says.
        feature_colours: (N, 3) uint8; None without features.
        scale: the unit in words.
        metric: whether a distance may be told in metres.
        true: whether the instances are annotations.
        masks: (M, ceil(N / 8)) uint8, `np.packbits` of whole masks, where instances overlap; None = `instances` says all.
        notes: what is not there, or was left out, for people.
    """

    name: str
    points: np.ndarray
    colours: np.ndarray
    instances: np.ndarray
    found: Sequence[Found]
    views: Sequence[ShownView]
    confidence: np.ndarray | None = None
    feature_colours: np.ndarray | None = None
    scale: str = ''
    metric: bool = False
    true: bool = False
    masks: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def mask(self, number: int) -> np.ndarray:
        """Return which points are of instance `number` >= 1, (N,) bool; points may be of several."""
        if self.masks is None:
            return self.instances == number
        return np.unpackbits(self.masks[number - 1], count=len(self.points)).view(bool)

    def thinned(self, most: int) -> Result:
        """Return the result with at most `most` points, a fixed random choice in the old order; a note says so."""
        count = len(self.points)
        if count <= most:
            return self
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:most])
        parts = {one.name: values[chosen] for one in fields(self)
                 if isinstance(values := getattr(self, one.name), np.ndarray) and one.name != 'masks'}
        masks = self.masks
        if masks is not None:
            masks = np.stack([np.packbits(np.unpackbits(row, count=count)[chosen]) for row in masks]) if len(masks) else \
                np.zeros((0, -(-most // 8)), np.uint8)
        note = f'{most:,} of {count:,} points are drawn (--max-points); what is exported and counted are those drawn.'
        return replace(self, **parts, masks=masks, notes=[*self.notes, note])


def shared_out(masks: np.ndarray, num_points: int) -> np.ndarray:
    """Return which instance each point is of, (N,) int32, 0 = none; a point of several masks stays with the best one.

    Args:
        masks: (M, ceil(N / 8)) uint8, `np.packbits` of whole masks, best first.
        num_points: N.
    """
    instances = np.zeros(num_points, np.int32)
    for index in range(len(masks) - 1, -1, -1):
        instances[np.unpackbits(masks[index], count=num_points).view(bool)] = index + 1
    return instances
