"""Rows of a paper's table filled by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jrs.report.plan import Variant
from jrs.report.results import Entry, Number
from jrs.report.tables import TIMING_TABLES, load_tables


def entries(number: int | str, *values: Mapping[str, Sequence[float]], fixed: bool = False) -> list[Entry]:
    """Return a table's rows; `values` per row: column -> our values by seed. Rows behind them have none.

    Times are fixed, and where `fixed` says so all numbers are.
    """
    table = load_tables([number])[0]
    filled = []
    for row, own in zip(table.rows, [*values, *[{}] * len(table.rows)], strict=False):
        numbers = {column.name: Number(column, row.paper[column.name], dict(enumerate(own.get(column.name, ()))),
                                       fixed=fixed or number in TIMING_TABLES) for column in table.columns}
        filled.append(Entry(table, row, Variant('paper', (), ''), numbers))
    return filled


def published(number: int | str) -> list[Entry]:
    """Return a table's rows with the paper's own numbers as ours, and as given."""
    return entries(number, *({name: (value,) for name, value in row.paper.items() if value is not None}
                             for row in load_tables([number])[0].rows), fixed=True)
