"""The shape of a room: one rectangle, or two that a wide opening joins, as kitchens join living rooms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Random = np.random.Generator
TWO_PARTS = 0.65                                            # chance of a room to have two parts; bathrooms have one
CORNERED = 0.45                                             # chance of a second part to be narrower: an L
SMALL, USUAL = ((2.4, 2.4), (3.4, 3.4)), ((3.6, 3.2), (6.2, 5.2))              # (length, width) of a room of one part
FIRST, SECOND = ((2.9, 3.0), (4.2, 4.6)), (2.5, 3.7)        # (length, width) of the first part, length of the second
THICKNESS = (0.10, 0.16)
OPENING = (1.05, 1.7)
LINTEL = 2.12                                               # metres, lower edge


@dataclass
class FloorPlan:
    """Floor, height and inner walls, metres; the frame is that of the room.

    Attributes:
        size: (3,) of the box around all parts.
        parts: (n, 2, 2) lowest and highest x, y of each part.
        inner: boxes (low (3,), high (3,)) of walls and filled corners inside `size`, from floor to ceiling.
        lintels: the same for what spans an opening above LINTEL.
        opening: lowest and highest x, y of the opening, (2, 2); None for one part.
    """

    size: np.ndarray
    parts: np.ndarray
    inner: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    lintels: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    opening: np.ndarray | None = None

    def part_size(self, part: int) -> np.ndarray:
        """Return (3,): length, width and height of a part."""
        return np.array([*(self.parts[part, 1] - self.parts[part, 0]), self.size[2]])

    def origin(self, part: int) -> np.ndarray:
        """Return (3,): the lowest corner of a part."""
        return np.array([*self.parts[part, 0], 0.0])


def make_plan(kind: str, random: Random, scale: float, height: tuple[float, float]) -> FloorPlan:
    """Return a random floor plan for a kind of room, with `scale` times the usual sides and a height within bounds."""
    height = random.uniform(*height)
    if kind == 'bath' or random.random() >= TWO_PARTS:
        low, high = SMALL if kind == 'bath' else USUAL
        size = np.array([*scale * random.uniform(low, high), height])
        return FloorPlan(size, np.array([[[0.0, 0.0], size[:2]]]))
    (length, width), second = scale * random.uniform(*FIRST), scale * random.uniform(*SECOND)
    thick, narrow = random.uniform(*THICKNESS), random.random() < CORNERED
    share = random.uniform(0.6, 0.85) if narrow else 1.0
    start = (1.0 - share) * width * float(random.integers(2))
    end = start + share * width
    size = np.array([length + thick + second, width, height])
    opening = np.array([[length, 0.0], [length + thick, 0.0]])
    opening[:, 1] = _opening(start, end, narrow and random.random() < 0.4, random)
    parts = np.array([[[0.0, 0.0], [length, width]], [[length + thick, start], [size[0], end]]])
    plan = FloorPlan(size, parts, opening=opening)
    _add_walls(plan, has_lintel=random.random() < 0.6)
    return plan


def _opening(start: float, end: float, whole: bool, random: Random) -> tuple[float, float]:
    """Return lowest and highest y of the opening between two parts that share y = `start` to `end`."""
    if whole:
        return start, end
    wide = min(random.uniform(*OPENING), end - start - 0.3)
    low = random.uniform(start + 0.1, end - wide - 0.1)
    return low, low + wide


def _add_walls(plan: FloorPlan, has_lintel: bool) -> None:
    """Add the wall between the parts, the lintel, and the corner beside a narrower second part."""
    (x0, low), (x1, high) = plan.opening
    length, width, height = plan.size
    (_, start), (_, end) = plan.parts[1]
    boxes = [((x0, 0.0), (x1, low)), ((x0, high), (x1, width)), ((x1, 0.0), (length, start)), ((x1, end), (length, width))]
    plan.inner += [(np.array([*lowest, 0.0]), np.array([*highest, height])) for lowest, highest in boxes
                   if highest[0] - lowest[0] > 1e-6 and highest[1] - lowest[1] > 1e-6]
    if has_lintel:
        plan.lintels.append((np.array([x0, low, LINTEL]), np.array([x1, high, height])))
