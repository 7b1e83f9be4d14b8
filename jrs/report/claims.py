"""What the paper's text says of its tables, each a small declared claim, and what our numbers say of it.

An entry under `claims` of `paper_tables.yaml` is of the kind whose key it has (`KINDS`); a cell is [row, column], and rows
count from 1. A claim about them is judged by an interval of 95 % (`jrs.report.intervals`): it holds or does not where that
lies on one side, and is undecided else. Where the tests of two cells keep their matches, it is that of their difference,
pair by pair of a seed and over draws of the scenes; else that of means, over seeds alone. One seed of a training decides
nothing; what no training of a row made, as a time or a number of published weights, needs none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from jrs.errors import ConfigError
from jrs.report.intervals import SHARE, Estimate, PairedDifference, difference, of_means
from jrs.report.results import Entry, Number

HOLDS, FAILS, OPEN, UNKNOWN = 'holds', 'does not hold', 'undecided', 'cannot be judged'
SUM_TOLERANCE = 0.01                           # of a sum: times are rounded when they are written
Place = tuple[int, str]


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper with where it stands, and what our numbers say of it."""

    text: str
    status: str
    numbers: str


class Cells:
    """The numbers of one table in one variant, by row and column."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.rows = {entry.row.number: entry for entry in entries if entry.row.number}

    def get(self, place: Place) -> Number | None:
        """Return a cell with a value, None where nothing was measured."""
        row, column = place
        cell = self.rows[row].numbers.get(column) if row in self.rows else None
        return cell if cell is not None and cell.mean is not None else None

    def missing(self, places: Iterable[Place]) -> str:
        """Return which of `places` have no value, in words by row; '' where all have one."""
        places, rows = list(dict.fromkeys(map(tuple, places))), {}
        for row, column in places:
            if self.get((row, column)) is None:
                rows.setdefault(row, []).append(column.replace('_', ' '))
        columns = {column for _, column in places}
        texts = [f'{self.name((row, ""))} ({", ".join(found) if len(found) < max(len(columns), 2) else "all columns"})'
                 for row, found in rows.items()]
        return f'missing: {"; ".join(texts)}' if texts else ''

    def name(self, place: Place) -> str:
        """Return what its row is called."""
        row, _ = place
        return self.rows[row].row.label if row in self.rows else f'row {row}'


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement about cells of one table.

    Attributes:
        text: the statement in our words.
        source: where the paper says it.
    """

    text: str
    source: str

    def places(self) -> list[Place]:
        """Return the cells that it reads."""
        raise NotImplementedError

    def paper(self) -> str:
        """Return the paper's figure in words, '' where it gives none."""
        return ''

    def decide(self, *cells: Number) -> tuple[str, str]:
        """Return the status and our numbers; `cells` are those of `places`, all with a value."""
        raise NotImplementedError

    def judge(self, cells: Cells) -> tuple[str, str]:
        """Return the status, and the numbers behind it or what is missing."""
        missing = cells.missing(self.places())
        status, text = (UNKNOWN, missing) if missing else self.decide(*map(cells.get, self.places()))
        return status, '; '.join(filter(None, (self.paper(), text)))


@dataclass(frozen=True, kw_only=True)
class Difference(Claim):
    """lhs − rhs has the sign of the paper's `difference`."""

    lhs: Place
    rhs: Place
    difference: float

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.lhs, self.rhs]

    def paper(self) -> str:
        """See `Claim`."""
        return f'paper {self.difference:+g}'

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        found = _minus(*cells)
        return _by_sign(_side(found, self.difference)), f'ours {_minus_in_words(found, *cells)}'


@dataclass(frozen=True, kw_only=True)
class Ratio(Claim):
    """lhs / rhs lies on the side of `bound` on which the paper's `ratio` does; a bound other than 1 is ours.

    Judged by lhs − bound * rhs: no cell is below 0.
    """

    lhs: Place
    rhs: Place
    ratio: float
    bound: float = 1.0

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.lhs, self.rhs]

    def paper(self) -> str:
        """See `Claim`."""
        return f'paper {self.ratio:.3g} times'

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        left, right = cells
        ours, side = left.mean / right.mean if right.mean else math.inf, 1 if self.ratio > self.bound else -1
        found = _minus(left, right, self.bound)
        text = (f'ours {left.text(left.mean)} / {right.text(right.mean)} = {ours:.3g}, '
                f'{"more" if side > 0 else "less"} than {self.bound:g} is asked')
        behind = f'; {left.text(left.mean)} − {self.bound:g} * {right.text(right.mean)} = {_in_words(found, *cells)}'
        return _by_sign(_side(found, side)), text + ('' if found.exact else behind)


@dataclass(frozen=True, kw_only=True)
class Near(Claim):
    """lhs and rhs differ by at most `near` (ours: the paper's text gives no number)."""

    lhs: Place
    rhs: Place
    near: float

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.lhs, self.rhs]

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        found = _minus(*cells)
        return (_by_sign(int(found.inside(self.near)) - int(found.beyond(self.near))),
                f'ours {_minus_in_words(found, *cells)}, at most {self.near:g} is asked')


@dataclass(frozen=True, kw_only=True)
class Value(Claim):
    """A cell is the paper's `value`, or better, up to the share `within` (ours)."""

    cell: Place
    value: float
    within: float

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.cell]

    def paper(self) -> str:
        """See `Claim`."""
        return f'paper {self.value:g}'

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        cell, = cells
        sign = _sign(cell)
        bound = self.value * (1 - sign * self.within)
        found, over = of_means((1.0, cell)), of_means((1.0, cell), plus=-bound)
        status = _holds(over.value * sign >= 0) if over.exact else _by_sign(over.sign * sign)
        return status, f'ours {_in_words(found, cell)}, {"at least" if sign > 0 else "at most"} {cell.text(bound)} is asked'


@dataclass(frozen=True, kw_only=True)
class Slope(Claim):
    """A cell that holds a slope has the sign of `slope`."""

    cell: Place
    slope: int

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.cell]

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        cell, = cells
        found = of_means((1.0, cell))
        return (_by_sign(found.sign * self.slope),
                f'ours {_in_words(found, cell)}, {"above" if self.slope > 0 else "below"} 0 is asked')


@dataclass(frozen=True, kw_only=True)
class Better(Claim):
    """Of each pair of cells the second is better; one pair that is not refutes it, whatever else is missing."""

    def pairs(self) -> list[tuple[Place, Place]]:
        """Return pairs of a worse and a better cell."""
        raise NotImplementedError

    def shown(self, cells: Cells, steps: Mapping[tuple[Place, Place], Estimate]) -> str:
        """Return our numbers in words; `steps` are better − worse of the pairs with values."""
        raise NotImplementedError

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [place for pair in self.pairs() for place in pair]

    def judge(self, cells: Cells) -> tuple[str, str]:
        """See `Claim`."""
        found = {pair: tuple(map(cells.get, pair)) for pair in self.pairs()}
        steps = {pair: _minus(better, worse) for pair, (worse, better) in found.items() if None not in (worse, better)}
        signs = [_gain(step, cells.get(better)) for (_, better), step in steps.items()]
        missing = cells.missing(self.places())
        status = FAILS if -1 in signs else UNKNOWN if missing else OPEN if 0 in signs else HOLDS
        return status, '; '.join(filter(None, [self.shown(cells, steps), missing]))


@dataclass(frozen=True, kw_only=True)
class Order(Better):
    """Cells stand in this order, from the worst to the best."""

    order: list[Place]

    def pairs(self) -> list[tuple[Place, Place]]:
        """See `Better`."""
        return list(pairwise(map(tuple, self.order)))

    def shown(self, cells: Cells, steps: Mapping[tuple[Place, Place], Estimate]) -> str:
        """See `Better`."""
        found = list(filter(None, map(cells.get, self.order)))
        if not found:
            return ''
        order = f'ours {(" > " if _sign(found[0]) < 0 else " < ").join(cell.text(cell.mean) for cell in found)} is claimed'
        return '; '.join([order, *(f'step {_in_words(step, *map(cells.get, pair))}' for pair, step in steps.items())])


@dataclass(frozen=True, kw_only=True)
class First(Better):
    """Row `first` is better than the rows `among` in each of the `columns`."""

    first: int
    among: list[int]
    columns: list[str]

    def pairs(self) -> list[tuple[Place, Place]]:
        """See `Better`."""
        return [((row, column), (self.first, column)) for row in self.among for column in self.columns]

    def shown(self, cells: Cells, steps: Mapping[tuple[Place, Place], Estimate]) -> str:
        """See `Better`; all pairs that are not so, or else the smallest step of those that are least decided."""
        if not steps:
            return ''
        gains = {pair: _gain(step, cells.get(pair[1])) for pair, step in steps.items()}
        if wrong := [pair for pair, gain in gains.items() if gain < 0]:
            return f'not so: {"; ".join(self._pair(cells, pair, steps[pair]) for pair in wrong)}'
        count, least = [*gains.values()].count(0), min(steps, key=lambda pair: (
            gains[pair], _sign(cells.get(pair[1])) * steps[pair].value))
        of = f'{count} of {len(steps)} comparisons undecided, as' if count else f'the least of {len(steps)} comparisons:'
        return f'{of} {self._pair(cells, least, steps[least])}'

    @staticmethod
    def _pair(cells: Cells, pair: tuple[Place, Place], step: Estimate) -> str:
        worse, better = map(cells.get, pair)
        of, column = cells.name(pair[0]), pair[0][1].replace('_', ' ')
        return (f'{of} {worse.text(worse.mean)} against {better.text(better.mean)} in {column}: '
                f'{_in_words(step, worse, better)}')


@dataclass(frozen=True, kw_only=True)
class Sums(Claim):
    """Parts add up to their sums in every row that was measured; no interval is asked."""

    check: str
    PARTS: ClassVar = (('aggregator_s', 'heads_s', 'inference_s'), ('inference_s', 'postprocess_s', 'total_s'))

    def places(self) -> list[Place]:
        """See `Claim`; cells are compared within their rows only."""
        return []

    def judge(self, cells: Cells) -> tuple[str, str]:
        """See `Claim`."""
        measured = {number: {name: cell.mean for name, cell in entry.numbers.items()} for number, entry in cells.rows.items()
                    if all(cell.mean is not None for cell in entry.numbers.values())}
        if not measured:
            return UNKNOWN, 'missing: every row'
        wrong = [number for number, row in measured.items() for first, second, total in self.PARTS
                 if first in row and abs(row[first] + row[second] - row[total]) > SUM_TOLERANCE * row[total]]
        text = f'{len(measured)} of {len(cells.rows)} rows measured'
        return _holds(not wrong), f'{text}; not in row {wrong[0]}' if wrong else text


# The key that makes an entry a claim of a kind.
KINDS = dict(difference=Difference, ratio=Ratio, near=Near, value=Value, slope=Slope, order=Order, first=First, check=Sums)


def claim_from(entry: Mapping[str, Any]) -> Claim:
    """Return the claim that an entry of `paper_tables.yaml` declares.

    Raises:
        ConfigError: it is of no kind or of two, or a key is missing or unknown.
    """
    kinds = [key for key in KINDS if key in entry]
    if len(kinds) != 1:
        raise ConfigError(f'the claim {entry.get("text")!r} must have one of the keys {", ".join(KINDS)}; it has {kinds}.')
    try:
        return KINDS[kinds[0]](**{key: value for key, value in entry.items() if key != 'table'})
    except TypeError as error:
        raise ConfigError(f'the claim {entry.get("text")!r} is of kind {kinds[0]!r}: {error}.') from error


def judge(entries: Iterable[Entry]) -> list[Verdict]:
    """Return the claims about one table, in one variant, with where they stand."""
    cells = Cells(entries)
    entries = next(iter(cells.rows.values())).table.claims if cells.rows else []
    return [Verdict(f'{claim.text} ({claim.source})', *_on_one_machine(claim, cells, *claim.judge(cells)))
            for claim in map(claim_from, entries)]


def _on_one_machine(claim: Claim, cells: Cells, status: str, text: str) -> tuple[str, str]:
    """Return status and numbers; times of different machines decide nothing."""
    devices = dict.fromkeys(cells.rows[row].rules['device'] for row, column in claim.places()
                            if cells.get((row, column)) is not None and 'device' in cells.rows[row].rules)
    if len(devices) < 2:
        return status, text
    return (UNKNOWN if status == UNKNOWN else OPEN), f'{text}; measured on different machines: {", ".join(devices)}'


def _holds(so: bool) -> str:
    return HOLDS if so else FAILS


def _by_sign(sign: float) -> str:
    return HOLDS if sign > 0 else FAILS if sign < 0 else OPEN


def _minus(left: Number, right: Number, factor: float = 1.0) -> Estimate:
    """Return left − factor * right: pair by pair where both have draws of several seeds in common, else of their means."""
    paired, apart = difference(left, right, factor), of_means((1.0, left), (-factor, right))
    return paired if paired is not None and (paired.decides or not apart.decides) else apart


def _minus_in_words(found: Estimate, left: Number, right: Number) -> str:
    of = '' if isinstance(found, PairedDifference) else f'{left.text(left.mean)} − {right.text(right.mean)} = '
    return of + _in_words(found, left, right)


def _in_words(found: Estimate, *cells: Number) -> str:
    """Return an estimate with its interval and what it is of, with the digits of the first of its cells."""
    sign, digits = '+' if len(cells) > 1 else '', cells[0].column.measure.digits
    value, low, high = (f'{number:{sign}.{digits}f}' for number in (found.value, found.low, found.high))
    one = 'one seed decides nothing'
    if isinstance(found, PairedDifference):
        seeds = f'by seed {", ".join(f"{number:+.{digits}f}" for number in found.by_seed)}' if found.decides else one
        return f'{value} [{low}..{high}] ({SHARE:.0%}, {found.scenes} rooms; {"given" if _given(*cells) else seeds})'
    if found.exact:
        return value
    seeds = f'n = {" and ".join("given" if _given(cell) else str(len(cell.values)) for cell in cells)}'
    if found.decides:
        return f'{value} [{low}..{high}] ({SHARE:.0%} over seeds alone, {seeds})'
    least = min(len(cell.values) for cell in cells if not _given(cell))
    return f'{value} ({seeds}: {one if least < 2 else "seeds that do not differ decide nothing"})'


def _given(*cells: Number) -> bool:
    return all(cell.fixed and len(cell.values) == 1 for cell in cells)


def _side(found: Estimate, side: float) -> int:
    """Return 1 where a number lies on the side of 0 with this sign, -1 where not (as an exact 0), 0 = undecided."""
    return -1 if found.exact and found.value == 0 else found.sign * (1 if side > 0 else -1)


def _gain(step: Estimate, better: Number) -> int:
    """Return 1 where a step to a cell is one to the better, -1 where it is not, 0 where that is undecided."""
    return _side(step, _sign(better))


def _sign(cell: Number) -> int:
    """Return 1 where more is better, -1 where less is."""
    return -1 if cell.column.measure.less_is_better else 1
