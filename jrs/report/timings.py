"""Run times that were measured elsewhere, with a method's own code: rows of Tables 5 and 6 from a YAML file.

    timings:
      - table: 6                              # 5 or 6
        method: IGGT                          # as the row is called; in Table 5 `input_frames: 100`
        source: code of its authors at commit 1a2b3c4, measured by A. Person, 2026-11-30
        hardware: NVIDIA A100-SXM4-80GB       # as tools/benchmark.py names the device, where it is the same
        inference_s: 7.52                     # seconds; in Table 6 of 100 frames
        postprocess_s: 1113.64
        total_s: 1121.16
        memory_gb: 35.21                      # peak; columns that are not known are left out
      - table: 6
        method: My method
        new_row: true                         # a row that the table does not have
        source: ...

Keys are `table`, the column that names the row, `source`, `hardware`, and one or more of the table's columns of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jrs.errors import DataError, did_you_mean
from jrs.io.text import read_text
from jrs.report.tables import TIMING_TABLES, Row, Table, load_tables

WORDS = ('source', 'hardware')


@dataclass(frozen=True)
class GivenTiming:
    """One row of a file.

    Attributes:
        table: 5 or 6.
        row: what its first column says.
        new: whether the table has no such row.
        source: who measured it, with what.
        hardware: on what.
        numbers: column -> seconds, or GB.
        file: where it stands.
    """

    table: int
    row: str
    new: bool
    source: str
    hardware: str
    numbers: dict[str, float]
    file: Path

    @property
    def origin(self) -> str:
        """What tables say beside its numbers."""
        return f'measured elsewhere: {self.source}; on {self.hardware}'


def read_timings(files: Iterable[Path]) -> dict[tuple[int, str], GivenTiming]:
    """Return what the files say, by table and row.

    Raises:
        DataError: a file is not there or not as described above; names the entry, and what is near what it says.
    """
    tables = {table.id: table for table in load_tables(TIMING_TABLES)}
    found: dict[tuple[int, str], GivenTiming] = {}
    for file in files:
        for number, entry in enumerate(_entries(file), start=1):
            one = _timing(entry, tables, file, f'{file}, entry {number}')
            if (one.table, one.row) in found:
                raise DataError(f'{file}, entry {number}: Table {one.table}, {one.row!r} stands twice, here and in '
                                f'{found[one.table, one.row].file}. Leave one.')
            found[one.table, one.row] = one
    return found


def with_new_rows(table: Table, given: Iterable[GivenTiming]) -> list[Row]:
    """Return the rows of a table and those that only the files have."""
    return [*table.rows, *(Row(0, one.row, (one.row, *['' for _ in table.heads[1:]]), {}, {'': ''}, 'extra', one.row)
                           for one in given if one.new and one.table == table.id)]


def _entries(file: Path) -> list[Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f'{file}: not YAML: {" ".join(str(error).split())[:300]}') from None
    if not isinstance(content, Mapping) or list(content) != ['timings'] or not isinstance(content['timings'], list):
        raise DataError(f'{file}: must be `timings:` and a list of entries below it, got '
                        f'{", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__}.')
    return content['timings']


def _timing(entry: Any, tables: Mapping[int, Table], file: Path, where: str) -> GivenTiming:
    if not isinstance(entry, Mapping):
        raise DataError(f'{where}: must be `key: value` lines, got {entry!r}.')
    table = tables.get(entry['table']) if isinstance(entry.get('table'), int) else None
    if table is None:
        raise DataError(f'{where}: table must be {" or ".join(map(str, tables))}, got {entry.get("table")!r}.')
    head, columns = table.heads[0], [column.name for column in table.columns]
    allowed = ('table', head, *WORDS, 'new_row', *columns)
    for key in entry:
        if key not in allowed:
            raise DataError(f'{where}: unknown key {key!r}.{did_you_mean(str(key), allowed)}')
    for key in (head, *WORDS):
        if not isinstance(entry.get(key), int if head == key == 'input_frames' else str) or not str(entry[key]).strip():
            raise DataError(f'{where}: needs {key}, {"a whole number" if key == "input_frames" else "in words"}, got '
                            f'{entry.get(key)!r}: {_why(key)}')
    numbers = {key: _number(entry[key], f'{where}: {key}') for key in columns if key in entry}
    if not numbers:
        raise DataError(f'{where}: has no number; it needs one or more of {", ".join(columns)}.')
    return GivenTiming(table.id, str(entry[head]), _is_new(entry, table, head, where), entry['source'].strip(),
                       entry['hardware'].strip(), numbers, file)


def _why(key: str) -> str:
    return dict(source='say who measured it, and with which code.', hardware='a time without its machine says nothing.').get(
        key, 'it names the row.')


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise DataError(f'{where} must be a number above 0, of seconds or GB, got {value!r}.')
    return float(value)


def _is_new(entry: Mapping, table: Table, head: str, where: str) -> bool:
    """Return whether the entry is a row of its own; a row that the table has not must say so, lest it is a slip."""
    names, name, new = [row.cells[0] for row in table.rows], str(entry[head]), entry.get('new_row', False)
    if not isinstance(new, bool):
        raise DataError(f'{where}: new_row must be true or false, got {new!r}.')
    if not new and name not in names:
        raise DataError(f'{where}: Table {table.id} has no row {name!r}.{did_you_mean(name, names)} For one that the table '
                        'does not have write `new_row: true`.')
    if new and name in names:
        raise DataError(f'{where}: Table {table.id} has a row {name!r}: leave out new_row.')
    return new
