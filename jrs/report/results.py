"""What finished work says: numbers over seeds with their spread, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev

from jrs.report.gaps import in_words
from jrs.report.intervals import Draws, resampled_of
from jrs.report.plan import Cell, Plan, Variant
from jrs.report.tables import Column, Row, Table
from jrs.report.work import (
    FINISHED,
    OTHER,
    RESULTS,
    Given,
    Scoring,
    Submission,
    Timing,
    Work,
    as_typed,
    command_line,
    computed,
    read_json,
    shown,
)


@dataclass
class Number:
    """A cell: our value of each seed, the paper's, and of each seed the draws where a test keeps them (`intervals`).

    `fixed` is one that no training of this row made: a time, or of published weights or predictions, or of the start that
    trained rows share.
    """

    column: Column
    paper: float | None
    values: dict[int, float] = field(default_factory=dict)
    draws: dict[int, Draws] = field(default_factory=dict)
    fixed: bool = False

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
        origin: who measured the numbers elsewhere, on what; '' for numbers of ours.
        weights: whether they are of what is trained here or of which published weights, where both stand; else ''.
        released: whether they are of published weights.
        by_rule: benchmark -> of each seed the `transfer_rules` of its results, where it was scored by several.
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
    origin: str = ''
    weights: str = ''
    released: bool = False
    by_rule: dict[str, list[list[dict]]] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that say what the row is, behind the first the variant, or where else it was measured."""
        first, *rest = self.row.cells
        behind = self.origin or self.told_apart
        return (f'{first} ({behind})' if behind else first, *rest)

    @property
    def told_apart(self) -> str:
        """What tells it from other rows of its name, '' where there is none."""
        return ', '.join(filter(None, (self.variant.name, self.weights)))


def collect(plan: Plan, failures: Mapping[int, str], any_code: bool) -> list[Entry]:
    """Return the rows of all tables, filled with what is finished."""
    entries: dict[tuple, Entry] = {}
    for cell in plan.cells:
        key = (id(cell.table), id(cell.row), cell.variant, cell.place)
        if key not in entries:
            numbers = {column.name: Number(column, cell.row.paper.get(column.name)) for column in cell.table.columns}
            entries[key] = Entry(cell.table, cell.row, cell.variant, numbers, released=cell.released is not None)
        _say_weights(entries[key], cell)
        _fill(entries[key], cell, failures, any_code)
    return list(entries.values())


def _say_weights(entry: Entry, cell: Cell) -> None:
    """Put behind the row whether its numbers are of what is trained here or of published weights, where both stand."""
    if cell.released is not None:
        _note(entry, cell, cell.released.note)
    if not entry.weights:
        entry.weights = cell.origin
    elif cell.released is not None and cell.released.label not in entry.weights:       # of another benchmark
        entry.weights += f'; {cell.released.label}'


def _fill(entry: Entry, cell: Cell, failures: Mapping[int, str], any_code: bool) -> None:
    if cell.gaps:
        _note(entry, cell, f'not run: {in_words(cell.gaps)}')
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
                    entry.numbers[column.name].fixed = getattr(work, 'training', None) is None
            if isinstance(work, Scoring) and cell.table.claims:
                take_draws(entry, cell.benchmark, seed, resampled_of(work.folder))
            if cell.table.id is not None and not any(value is not None for value in values.values()):
                _note(entry, cell, 'scored, but without a number: no true object of these classes')
            _note(entry, cell, *(f'made by other {part}' for part in work.state(any_code)[1]))
            _note(entry, cell, *filter(None, [getattr(getattr(work, 'training', None), 'note', '')]))
            _add_costs(entry, work)
            if isinstance(work, Timing):
                _say_timing(entry, work, frames_of(cell))
            if isinstance(work, Scoring) and (rows := read_json(work.folder / RESULTS).get('transfer_rules')):
                entry.by_rule.setdefault(cell.benchmark, []).append(rows)
            hours.extend([spent] if (spent := _hours(work)) else [])
        _add_commands(entry, work)
    if hours:
        entry.hours = max(entry.hours or 0.0, mean(hours))


def frames_of(cell: Cell) -> int:
    """Return how many frames the times of a row are of."""
    return int(cell.row.cells[0]) if cell.table.id == 5 else 100


def take_draws(entry: Entry, benchmark: str, seed: int, draws: Mapping[str, Draws]) -> None:
    """Give the cells of a benchmark the draws of their scores, in the unit of their columns."""
    for column in entry.table.columns:
        own = draws.get(column.measure.key)
        if own is not None and column.benchmark == benchmark:
            entry.numbers[column.name].draws[seed] = Draws(own.scenes, own.values * column.measure.scale)


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
    if isinstance(work, Given):
        return work.timing.numbers
    return work.row(frames_of(cell))[1]['ours']


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
    if isinstance(work, Given):
        entry.origin = work.timing.origin
        entry.notes.append(entry.origin)
        entry.rules['device'] = work.timing.hardware


def _say_timing(entry: Entry, work: Timing, frames: int) -> None:
    """Add on what machine, how and of which content the times of a row were measured."""
    record, row = work.row(frames)
    kernels = ', '.join(f'{name} x {count}' for name, count in row['kernels'].items())
    entry.rules.update({'device': record['device'], 'torch': record['torch'], 'computed': computed(record),
                        'attention by': kernels or 'no kernel', 'record': shown(record['path'])})
    commit = f'{record["commit"]}{"+changes" if record["dirty"] else ""}'
    entry.commits.extend([commit] if commit not in entry.commits else [])
    entry.notes.append(f'measured on {row["measured_on"]}' + (
        ': how long clustering or a selection of masks takes depends on content' if row['on_noise'] else ''))


def _hours(work: Work) -> float:
    """Return the hours of a training and its scoring, 0 where unknown."""
    if not isinstance(work, Scoring):
        return 0.0
    training = read_json(work.training.folder / 'run.json').get('hours', 0.0) if work.training is not None else 0.0
    return training + read_json(work.folder / RESULTS).get('hours', 0.0)


def _add_commands(entry: Entry, work: Work) -> None:
    for one in (getattr(work, 'training', None), work):
        if one is not None and not isinstance(one, Given):
            text = as_typed(command_line([word for word in one.words() if word != '--resume']))
            entry.commands.extend([text] if text not in entry.commands else [])
