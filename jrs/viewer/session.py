"""What is looked at: which results, from which side what is selected and measured; knows nothing of a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jrs.errors import DataError, find_named
from jrs.viewer.export import file_name, selection_file
from jrs.viewer.place import Place, own_place, place_beside, shifts
from jrs.viewer.read import Source
from jrs.viewer.result import Result
from jrs.viewer.shown import (
    Look,
    described,
    distance_in_words,
    instance_at,
    overlap,
    picked,
    seen_in,
    shown_colours,
    shown_points,
)

LEFT, RIGHT = 'left', 'right'
NOTHING, TRUTH = 'nothing', 'true instances'    # what can stand at the right, besides other results


@dataclass(frozen=True)
class Stand:
    """A result and how it stands before the viewer."""

    result: Result
    place: Place


@dataclass(frozen=True)
class Hit:
    """A point that was clicked: its side, its number in the result there, and that of its instance, 0 = none."""

    side: str
    point: int
    instance: int


class Session:
    """The state of one viewer.

    Args:
        sources: what can be chosen, at least one.
        max_points: a larger cloud is thinned, and a note says so.

    Attributes:
        stands: side -> what stands there; the right one may be empty.
        look: what is asked for.
        side: where the selected instance is.
        hits: the last two points that were clicked.
        chosen, beside: names of what stands at the left and at the right.
    """

    def __init__(self, sources: Sequence[Source], max_points: int) -> None:
        self.sources = {source.name: source for source in sources}
        self.max_points = max_points
        self.stands: dict[str, Stand] = {}
        self.look, self.side = Look(), LEFT
        self.hits: list[Hit] = []
        self.chosen, self.beside = '', NOTHING

    def beside_choices(self) -> list[str]:
        """Return what can stand beside the left result."""
        truth = [TRUTH] if self.chosen and self.sources[self.chosen].truth is not None else []
        return [NOTHING, *truth, *(name for name in self.sources if name != self.chosen)]

    def choose(self, name: str) -> None:
        """Let the source `name` stand at the left, nothing beside it; selection and measure are dropped.

        Raises:
            ConfigError: there is none. DataError: its files are broken.
        """
        source = find_named(self.sources, name, 'result')
        result = source.read().thinned(self.max_points)
        self.stands = {LEFT: Stand(result, own_place(result))}
        self.chosen, self.beside = name, NOTHING
        self._unselect()

    def choose_beside(self, name: str) -> None:
        """Let a source, the true instances of the left one, or nothing stand at the right.

        Raises:
            ConfigError: no such choice. DataError: its files are broken.
        """
        read = {NOTHING: None, TRUTH: self.sources[self.chosen].truth}
        read |= {other: source.read for other, source in self.sources.items()}
        chosen = find_named({choice: read[choice] for choice in self.beside_choices()}, name, 'choice to stand beside')
        left = self.stands[LEFT]
        stands = {LEFT: left}
        if chosen is not None:
            result = chosen().thinned(self.max_points)
            stands[RIGHT] = Stand(result, place_beside(result, left.result, left.place))
        self.stands, self.beside = stands, name
        self._unselect()

    def _unselect(self) -> None:
        self.look, self.side, self.hits = replace(self.look, selected=0), LEFT, []

    def look_of(self, side: str) -> Look:
        """Return what is asked for at one side: the selection is at one of them."""
        return self.look if side == self.side else replace(self.look, selected=0)

    def cloud(self, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which points are shown, (N,) bool, and of these positions (n, 3) float32 and colours (n, 3) uint8."""
        result, shown = self.stands[side].result, self.shown(side)
        colours = shown_colours(result, self.look_of(side))
        return shown, self.stands[side].place.shown(result.points[shown]), colours[shown]

    def shown(self, side: str) -> np.ndarray:
        """Return which points of a side are shown, (N,) bool."""
        stand = self.stands[side]
        return shown_points(stand.result, self.look_of(side), stand.place.axes[1])

    def click(self, origin: np.ndarray, direction: np.ndarray, right: np.ndarray | None = None) -> Hit | None:
        """Select the instance that a click means; a click beside everything selects none.

        Args:
            origin, direction: (3,) of its ray.
            right: (3,) to where the viewer's right is, as of `shifts`.
        """
        best: tuple[float, Hit] | None = None
        for side, shift in zip((LEFT, RIGHT), shifts(right, RIGHT in self.stands), strict=True):
            if side not in self.stands:
                continue
            shown, points, _ = self.cloud(side)
            place = picked(points, origin - shift, direction)
            if place is not None:
                away = float(np.linalg.norm(points[place] + shift - origin))
                point = int(np.flatnonzero(shown)[place])
                hit = Hit(side, point, instance_at(self.stands[side].result, point, self.look))
                best = min((best, (away, hit)), key=lambda one: one[0]) if best else (away, hit)
        hit = best[1] if best else None
        if hit is not None:
            self.hits = [*self.hits, hit][-2:]
        self.select(hit.side if hit else LEFT, hit.instance if hit else 0)
        return hit

    def select(self, side: str, number: int) -> None:
        """Select instance `number` of a side, 0 = none."""
        self.side, self.look = side, replace(self.look, selected=number)

    @property
    def selected(self) -> Result | None:
        """The result that the selected instance is of; None where none is selected."""
        return self.stands[self.side].result if self.look.selected and self.side in self.stands else None

    def choices(self, side: str = LEFT) -> list[tuple[int, str]]:
        """Return number and words of the instances of a side that count."""
        if side not in self.stands:
            return []
        result = self.stands[side].result
        return [(number, f'{number} {one.name}' + ('' if one.score is None else f' {one.score:.2f}'))
                for number, one in enumerate(result.found, start=1) if one.score is None or one.score >= self.look.min_score]

    def words(self, most: int) -> tuple[str, list[tuple[str, int, np.ndarray]]]:
        """Return what is known of the selected instance as Markdown, and at most `most` views (h, w, 3) that see it."""
        result, number = self.selected, self.look.selected
        if result is None:
            return 'Click a point, or choose an instance.', []
        text = described(result, number)
        truth = self._truth()
        if truth is not None and not result.true:
            fit = overlap(result, number, truth)
            text += f'\n\nbest true instance: {fit[0]}, IoU {fit[1]:.2f}' if fit else '\n\nno true instance shares a point'
        views = seen_in(result, number, most)
        every = [name for name, _, _ in views]
        return f'{text}\n\n' + (f'seen in: {", ".join(every)}' if every else 'no view shows it with a mask'), views

    def _truth(self) -> Result | None:
        results = [stand.result for side, stand in self.stands.items() if side != self.side]
        return next((result for result in results if result.true), None)

    def measure(self) -> str:
        """Return the distance of the last two clicks in words."""
        if len(self.hits) < 2:
            return 'Click two points of one result.'
        first, second = self.hits
        if first.side != second.side:
            return 'The last two clicks are on different results.'
        return distance_in_words(self.stands[first.side].result, first.point, second.point)

    def status(self) -> str:
        """Return what stands where, how much of it is drawn, and what it lacks, as Markdown."""
        lines = []
        for side, stand in self.stands.items():
            result = stand.result
            shown = int(self.shown(side).sum())
            kind = 'true instances' if result.true else 'instances'
            lines.append(f'{side}: {len(result.found)} {kind}, {shown:,} of {len(result.points):,} points, '
                         f'{len(result.views)} views, unit: {result.scale.partition(":")[0]}')
            lines += result.notes
        return '\n\n'.join(lines)

    def exported(self, kind: str) -> tuple[str, bytes]:
        """Return name and content of a file with the points of the selected instance, or else all that the left shows.

        Raises:
            DataError: there is no point.
        """
        side = self.side if self.selected else LEFT
        if side not in self.stands:
            raise DataError('nothing is shown')
        result, look = self.stands[side].result, replace(self.look_of(side), alone=bool(self.selected))
        shown = shown_points(result, look, self.stands[side].place.axes[1])
        content = selection_file(result, shown, shown_colours(result, look), kind)
        return file_name(result, self.look.selected if self.selected else 0, kind), content
