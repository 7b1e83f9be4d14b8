"""What finished work says: numbers over seeds with their spread, what they cost, and whether the paper's claims hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from jrs.report.plan import Cell, Plan, Variant
from jrs.report.tables import Column, Row, Table
from jrs.report.work import (
    FINISHED,
    OTHER,
    RESULTS,
    Scoring,
    Submission,
    Timing,
    Work,
    as_typed,
    command_line,
    read_json,
    shown,
)

HOLDS, FAILS, OPEN, UNKNOWN = 'holds', 'does not hold', 'undecided', 'not measured'
SUM_TOLERANCE = 0.01                           # of a sum: times are rounded when they are written


@dataclass
class Number:
    """A cell: our value of each seed, and the paper's."""

    column: Column
    paper: float | None
    values: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """The mean over seeds, None without a value."""
        return mean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds, None with fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    def text(self, value: float | None) -> str:
        """Return a value with the column's digits."""
        return '–' if value is None else f'{value:.{self.column.measure.digits}f}'

    @property
    def with_spread(self) -> str:
        """The mean with ± the sample standard deviation, with two seeds the range."""
        if len(self.values) < 2:
            return self.text(self.mean)
        low, high = min(self.values.values()), max(self.values.values())
        spread = f'[{self.text(low)}..{self.text(high)}]' if len(self.values) == 2 else f'± {self.text(self.spread)}'
        return f'{self.text(self.mean)} {spread}'

    @property
    def ours(self) -> str:
        """Mean and spread, and of how many seeds."""
        return f'{self.with_spread} (n={len(self.values)})' if self.values else '–'

    @property
    def difference(self) -> str:
        """Ours minus the paper's."""
        if self.mean is None or self.paper is None:
            return '–'
        return f'{self.mean - self.paper:+.{self.column.measure.digits}f}'


@dataclass
class Entry:
    """One row of a filled table, in one variant.

    Attributes:
        numbers: by column name.
        notes: what is not there, and why; what was used although other code made it.
        commands: what fills the row, as typed.
        commits: code that the numbers are of.
        hours, memory_gb: of a training with its scorings, mean and peak over seeds; None where unknown.
        rules: by which the numbers were scored.
    """

    table: Table
    row: Row
    variant: Variant
    numbers: dict[str, Number]
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    hours: float | None = None
    memory_gb: float | None = None
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that say what the row is, the variant behind the first."""
        first, *rest = self.row.cells
        return (f'{first} ({self.variant.name})' if self.variant.name else first, *rest)


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper, and what our numbers say of it."""

    text: str
    status: str
    numbers: str


def collect(plan: Plan, failures: Mapping[int, str], any_code: bool) -> list[Entry]:
    """Return the rows of all tables, filled with what is finished."""
    entries: dict[tuple, Entry] = {}
    for cell in plan.cells:
        key = (id(cell.table), id(cell.row), cell.variant)
        if key not in entries:
            numbers = {column.name: Number(column, cell.row.paper.get(column.name)) for column in cell.table.columns}
            entries[key] = Entry(cell.table, cell.row, cell.variant, numbers)
        _fill(entries[key], cell, failures, any_code)
    return list(entries.values())


def judge(entries: Iterable[Entry]) -> list[Verdict]:
    """Return the claims about one table, in one variant, judged on the means."""
    rows = {entry.row.number: entry for entry in entries if entry.row.number}
    claims = next(iter(rows.values())).table.claims if rows else []
    return [_verdict(claim, rows) for claim in claims]


def _fill(entry: Entry, cell: Cell, failures: Mapping[int, str], any_code: bool) -> None:
    if cell.fault:
        _note(entry, cell, f'not run: {cell.fault}')
    hours = []
    for seed, work in cell.work.items():
        fault = _why_not(work, failures, any_code)
        if fault:
            _note(entry, cell, fault)
        else:
            values = _values(work, cell)
            for column in cell.table.columns:
                if column.benchmark == cell.benchmark and values.get(column.measure.key) is not None:
                    entry.numbers[column.name].values[seed] = values[column.measure.key] * column.measure.scale
            if cell.table.id is not None and not any(value is not None for value in values.values()):
                _note(entry, cell, 'scored, but without a number: no true object of these classes')
            _note(entry, cell, *(f'made by other {part}' for part in work.state(any_code)[1]))
            _note(entry, cell, *filter(None, [getattr(getattr(work, 'training', None), 'note', '')]))
            _add_costs(entry, work)
            hours.extend([spent] if (spent := _hours(work)) else [])
        _add_commands(entry, work)
    if hours:
        entry.hours = max(entry.hours or 0.0, mean(hours))


def _note(entry: Entry, cell: Cell, *texts: str) -> None:
    where = f'{cell.benchmark}: ' if cell.benchmark else ''
    entry.notes.extend(f'{where}{text}' for text in texts if f'{where}{text}' not in entry.notes)


def _why_not(work: Work, failures: Mapping[int, str], any_code: bool) -> str:
    """Return why a work's numbers cannot be shown, '' when they can."""
    state, parts = work.state(any_code)
    if state == FINISHED:
        return ''
    before = getattr(work, 'training', None)
    for one in (before, work) if before is not None else (work,):
        if id(one) in failures:
            return f'failed: {one.title}: {failures[id(one)]}'
        if one.fault and one.state(any_code)[0] != FINISHED:
            return f'not run: {one.fault}'
    if before is not None and before.state(any_code)[0] == OTHER:
        state, parts = before.state(any_code)
    return f'{state} {", ".join(parts)}' if parts else state


def _values(work: Work, cell: Cell) -> dict[str, float | None]:
    """Return the numbers of a finished work by the key of their measure."""
    if isinstance(work, Scoring):
        metrics = read_json(work.folder / RESULTS)['metrics']
        return {column.measure.key: metrics.get(column.measure.key) for column in cell.table.columns}
    if isinstance(work, Submission):
        result = read_json(work.folder / 'instance_ap.json')
        return {column.measure.key: result[column.measure.key.rpartition('/')[2].removeprefix('agnostic_')]
                for column in cell.table.columns}
    frames = int(cell.row.cells[0]) if cell.table.id == 5 else 100
    return next(row['ours'] for row in work.record()['rows'] if row['input_frames'] == frames)


def _add_costs(entry: Entry, work: Work) -> None:
    """Add commit, peak memory and rules of a finished work."""
    records = [read_json(work.folder / RESULTS)] if isinstance(work, Scoring) else []
    if isinstance(work, Scoring) and work.training is not None:
        records.insert(0, read_json(work.training.folder / 'run.json'))
    for record in records:
        commit = f'{record.get("commit", "unknown")}{"+changes" if record.get("dirty") else ""}'
        entry.commits.extend([commit] if commit not in entry.commits else [])
        peak = record.get('peak_memory_gb')
        entry.memory_gb = max(entry.memory_gb or 0.0, peak) if peak else entry.memory_gb
        entry.rules.update({name: str(value) for name, value in record.get('facts', {}).items()
                            if name not in ('config', 'profile', 'checkpoint', 'seed')})
        if entry.table.subset and record.get('scenes'):
            entry.rules['scenes'] = ', '.join(record['scenes'])
    if isinstance(work, Timing):
        record = work.record()
        entry.rules.update({'device': record['device'], 'torch': record['torch'], 'record': shown(record['path'])})


def _hours(work: Work) -> float:
    """Return the hours of a training and its scoring, 0 where unknown."""
    if not isinstance(work, Scoring):
        return 0.0
    training = read_json(work.training.folder / 'run.json').get('hours', 0.0) if work.training is not None else 0.0
    return training + read_json(work.folder / RESULTS).get('hours', 0.0)


def _add_commands(entry: Entry, work: Work) -> None:
    for one in (getattr(work, 'training', None), work):
        if one is not None:
            text = as_typed(command_line([word for word in one.words() if word != '--resume']))
            entry.commands.extend([text] if text not in entry.commands else [])


def _verdict(claim: Mapping[str, Any], rows: Mapping[int, Entry]) -> Verdict:
    judged = _sums if claim.get('check') == 'row_sums' else _difference if 'difference' in claim else _order
    return Verdict(claim['text'], *judged(claim, rows))


def _difference(claim: Mapping[str, Any], rows: Mapping[int, Entry]) -> tuple[str, str]:
    """A difference holds with the paper's sign, where it exceeds its spread over seeds; one seed decides nothing."""
    left, right = _cell(rows, claim['lhs']), _cell(rows, claim['rhs'])
    paper = f'paper {claim["difference"]:+g}'
    if left is None or right is None or left.mean is None or right.mean is None:
        return UNKNOWN, paper
    ours = left.mean - right.mean
    text = f'{paper}, ours {left.text(left.mean)} − {right.text(right.mean)} = {ours:+.{left.column.measure.digits}f}'
    if left.spread is None or right.spread is None:
        return OPEN, f'{text}; spread unknown: fewer than two seeds'
    spread = math.hypot(left.spread, right.spread)
    text += f' ± {left.text(spread)}'
    if abs(ours) <= spread:
        return FAILS, f'{text}; within spread'
    return (HOLDS if ours * claim['difference'] > 0 else FAILS), text


def _order(claim: Mapping[str, Any], rows: Mapping[int, Entry]) -> tuple[str, str]:
    """An order, from worst to best, holds when it holds between the means."""
    cells = [_cell(rows, place) for place in claim['order']]
    if any(cell is None or cell.mean is None for cell in cells):
        return UNKNOWN, ''
    sign = -1 if cells[0].column.measure.less_is_better else 1
    steps = [sign * (after.mean - before.mean) for before, after in zip(cells, cells[1:], strict=False)]
    text = f'ours {(" > " if sign < 0 else " < ").join(cell.text(cell.mean) for cell in cells)} is claimed'
    close = [step for step, before, after in zip(steps, cells, cells[1:], strict=False)
             if None not in (before.spread, after.spread) and abs(step) <= math.hypot(before.spread, after.spread)]
    unknown = any(cell.spread is None for cell in cells)
    text += f'; {len(close)} of {len(steps)} steps within spread' if close else ''
    text += '; spread unknown: fewer than two seeds' if unknown else ''
    return (HOLDS if all(step > 0 for step in steps) else FAILS), text


def _sums(claim: Mapping[str, Any], rows: Mapping[int, Entry]) -> tuple[str, str]:
    """Parts add up to their sums in every row that was measured."""
    measured = {number: {name: cell.mean for name, cell in entry.numbers.items()} for number, entry in rows.items()
                if all(cell.mean is not None for cell in entry.numbers.values())}
    if not measured:
        return UNKNOWN, ''
    sums = (('aggregator_s', 'heads_s', 'inference_s'), ('inference_s', 'postprocess_s', 'total_s'))
    wrong = [number for number, row in measured.items() for first, second, total in sums
             if first in row and abs(row[first] + row[second] - row[total]) > SUM_TOLERANCE * row[total]]
    text = f'{len(measured)} of {len(rows)} rows measured'
    return (FAILS, f'{text}; not in row {wrong[0]}') if wrong else (HOLDS, text)


def _cell(rows: Mapping[int, Entry], place: tuple[int, str]) -> Number | None:
    number, column = place
    return rows[number].numbers[column] if number in rows else None
