"""What the paper's text says of its tables, each a small declared claim, and what our numbers say of it.

An entry under `claims` of `paper_tables.yaml` is of the kind whose key it has (`KINDS`); a cell is [row, column], and rows
count from 1. Where the tests of both cells of a difference, an order or a nearness keep their matches, the claim is judged
by the interval of their difference, pair by pair of a seed (`jrs.report.intervals`): it holds or not where the interval of
at least two seeds lies on one side, and is undecided else. All others are judged on the means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from jrs.errors import ConfigError
from jrs.report.intervals import SHARE, PairedDifference, difference
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
    """lhs − rhs has the sign of the paper's `difference`, beyond its spread over seeds; one seed decides nothing."""

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
        left, right = cells
        if (found := difference(left, right)) is not None:
            return _by_sign(found.sign * self.difference), f'ours {_in_words(found, left)}'
        ours, spread = left.mean - right.mean, _spread(left, right)
        text = f'ours {left.text(left.mean)} − {right.text(right.mean)} = {ours:+.{left.column.measure.digits}f}'
        if spread is None:
            return OPEN, f'{text}; spread unknown: fewer than two seeds'
        text += f' ± {left.text(spread)}'
        if abs(ours) <= spread:
            return FAILS, f'{text}; within spread'
        return _holds(ours * self.difference > 0), text


@dataclass(frozen=True, kw_only=True)
class Ratio(Claim):
    """lhs / rhs lies on the side of `bound` on which the paper's `ratio` does; a bound other than 1 is ours."""

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
        ours = left.mean / right.mean if right.mean else math.inf
        above = self.ratio > self.bound
        return (_holds(ours > self.bound if above else ours < self.bound),
                f'ours {left.text(left.mean)} / {right.text(right.mean)} = {ours:.3g}, {"more" if above else "less"} than '
                f'{self.bound:g} is asked')


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
        left, right = cells
        if (found := difference(left, right)) is not None:
            inside, outside = found.inside(self.near), found.beyond(self.near)
            return _by_sign(int(inside) - int(outside)), f'ours {_in_words(found, left)}, at most {self.near:g} is asked'
        return (_holds(abs(left.mean - right.mean) <= self.near),
                f'ours {left.text(left.mean)} and {right.text(right.mean)}, at most {self.near:g} apart is asked')


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
        word = 'at least' if sign > 0 else 'at most'
        return _holds(sign * cell.mean >= sign * bound), f'ours {cell.ours}, {word} {cell.text(bound)} is asked'


@dataclass(frozen=True, kw_only=True)
class Slope(Claim):
    """A cell that holds a slope has the sign of `slope`, beyond its spread where several seeds give one."""

    cell: Place
    slope: int

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [self.cell]

    def decide(self, *cells: Number) -> tuple[str, str]:
        """See `Claim`."""
        cell, = cells
        inside = cell.spread is not None and abs(cell.mean) <= cell.spread
        text = f'ours {cell.ours}, {"above" if self.slope > 0 else "below"} 0 is asked{"; within spread" if inside else ""}'
        return _holds(cell.mean * self.slope > 0 and not inside), text


@dataclass(frozen=True, kw_only=True)
class Better(Claim):
    """Of each pair of cells the second is better; one pair that is not refutes it, whatever else is missing.

    By intervals, where all pairs with values have one: it holds where all lie on its side, and one on the other refutes it.
    """

    def pairs(self) -> list[tuple[Place, Place]]:
        """Return pairs of a worse and a better cell."""
        raise NotImplementedError

    def shown(self, cells: Cells, wrong: list[tuple[Place, Place]]) -> str:
        """Return our numbers in words, of all cells with a value; `wrong` are the pairs that do not stand so."""
        raise NotImplementedError

    def places(self) -> list[Place]:
        """See `Claim`."""
        return [place for pair in self.pairs() for place in pair]

    def judge(self, cells: Cells) -> tuple[str, str]:
        """See `Claim`."""
        found = {pair: tuple(map(cells.get, pair)) for pair in self.pairs()}
        found = {pair: both for pair, both in found.items() if None not in both}
        wrong = [pair for pair, (worse, better) in found.items() if _sign(better) * (better.mean - worse.mean) <= 0]
        missing = cells.missing(self.places())
        steps = [(difference(better, worse), worse, better) for worse, better in found.values()]
        if steps and all(step is not None for step, _, _ in steps):
            signs = [step.sign * _sign(better) for step, _, better in steps]
            status = FAILS if min(signs) < 0 else UNKNOWN if missing else HOLDS if min(signs) > 0 else OPEN
            words = [f'step {_in_words(step, better)}' for step, _, better in steps]
            return status, '; '.join(filter(None, [*words, missing]))
        spreads = {pair: _spread(*both) for pair, both in found.items()}
        close = [pair for pair, (worse, better) in found.items()
                 if spreads[pair] is not None and abs(better.mean - worse.mean) <= spreads[pair]]
        notes = [self.shown(cells, wrong) if found else '', missing,
                 f'{len(close)} of {len(found)} steps within spread' if close else '',
                 'spread unknown: fewer than two seeds' if None in spreads.values() else '']
        return (FAILS if wrong else UNKNOWN if missing else HOLDS), '; '.join(filter(None, notes))


@dataclass(frozen=True, kw_only=True)
class Order(Better):
    """Cells stand in this order, from the worst to the best."""

    order: list[Place]

    def pairs(self) -> list[tuple[Place, Place]]:
        """See `Better`."""
        return list(pairwise(map(tuple, self.order)))

    def shown(self, cells: Cells, wrong: list[tuple[Place, Place]]) -> str:
        """See `Better`."""
        found = list(filter(None, map(cells.get, self.order)))
        return f'ours {(" > " if _sign(found[0]) < 0 else " < ").join(cell.text(cell.mean) for cell in found)} is claimed'


@dataclass(frozen=True, kw_only=True)
class First(Better):
    """Row `first` is better than the rows `among` in each of the `columns`."""

    first: int
    among: list[int]
    columns: list[str]

    def pairs(self) -> list[tuple[Place, Place]]:
        """See `Better`."""
        return [((row, column), (self.first, column)) for row in self.among for column in self.columns]

    def shown(self, cells: Cells, wrong: list[tuple[Place, Place]]) -> str:
        """See `Better`."""
        texts = [f'{cells.name(place)} {cells.get(place).text(cells.get(place).mean)} against '
                 f'{cells.get(mine).text(cells.get(mine).mean)} in {place[1].replace("_", " ")}' for place, mine in wrong]
        return f'not so: {"; ".join(texts)}' if wrong else ''


@dataclass(frozen=True, kw_only=True)
class Sums(Claim):
    """Parts add up to their sums in every row that was measured."""

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
    """Return the claims about one table, in one variant, judged on the means."""
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


def _in_words(found: PairedDifference, cell: Number) -> str:
    """Return a difference with its interval, of what, and what each seed says, with the digits of a cell."""
    digits = cell.column.measure.digits
    value, low, high = (f'{number:+.{digits}f}' for number in (found.value, found.low, found.high))
    seeds = [f'{number:+.{digits}f}' for number in found.by_seed]
    spread = f'by seed {", ".join(seeds)}' if len(seeds) > 1 else 'one seed decides nothing'
    return f'{value} [{low}..{high}] ({SHARE:.0%}, {found.scenes} rooms; {spread})'


def _sign(cell: Number) -> int:
    """Return 1 where more is better, -1 where less is."""
    return -1 if cell.column.measure.less_is_better else 1


def _spread(left: Number, right: Number) -> float | None:
    """Return the spread over seeds of a difference, None where one of the two has fewer than two seeds."""
    return None if None in (left.spread, right.spread) else math.hypot(left.spread, right.spread)
