"""One set of predictions by several rules of transfer, as a table: scores, and in brackets the oracle's by the same rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean

NUMBERS = ('AP', 'AP50', 'AP25')
KINDS = ('', 'agnostic_')
LEGEND = ('Each rule is the transfer as configured but for what it names; in brackets the oracle by the same rule: true '
          'masks in the same views, what these views and this rule leave possible.')


def rule_table(rows: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the rows of `InstanceAPMetric.by_rule`, in percent.

    Rows of several metrics say whose they are.
    """
    names = [f'{kind}{number}' for kind in KINDS for number in NUMBERS]
    shown = [name for name in names if any(name in row['numbers'] for row in rows)]
    several = len({row['metric'] for row in rows}) > 1
    cells = [[f'{row["metric"]}: {row["rule"]}' if several else row['rule'], *(_cell(row, name) for name in shown)]
             for row in rows]
    return ['rule', *(name.replace('_', ' ') for name in shown)], cells


def mean_rows(runs: Sequence[Sequence[Mapping]]) -> list[dict]:
    """Return the rows of the first of several runs by the same rules, with the means of their numbers over all of them."""
    def mean_of(key: tuple, name: str) -> float | None:
        values = [row['numbers'].get(name) for rows in runs for row in rows if (row['metric'], row['rule']) == key]
        known = [value for value in values if value is not None]
        return mean(known) if known else None
    return [{**row, 'numbers': {name: mean_of((row['metric'], row['rule']), name) for name in row['numbers']}}
            for row in runs[0]]


def own_rules(rows: Sequence[Mapping]) -> list[str]:
    """Return one line per metric that says what its transfer is as configured: that of its first row."""
    first = {row['metric']: row for row in reversed(rows)}
    return [f'{metric}, {row["rule"]}: ' + '; '.join(f'{name} {value}' for name, value in row['transfer'].items())
            for metric, row in reversed(first.items())]


def text_lines(rows: Sequence[Mapping]) -> list[str]:
    """Return the table for a terminal, with what its lines mean."""
    heads, cells = rule_table(rows)
    first, *widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [f'{name:{first}}' + ''.join(f'  {cell:>{width}}' for cell, width in zip(numbers, widths, strict=True))
             for name, *numbers in (heads, *cells)]
    missing = [f'{row["rule"]}: {row["not_measured"]}' for row in rows if 'not_measured' in row]
    return [*own_rules(rows), LEGEND, '', *lines, *missing]


def _cell(row: Mapping, name: str) -> str:
    """Return a score and the oracle's, '–' where there is none."""
    oracle = row['numbers'].get(f'oracle_{name}')
    return _percent(row['numbers'].get(name)) + ('' if oracle is None else f' ({_percent(oracle)})')


def _percent(value: float | None) -> str:
    return '–' if value is None or math.isnan(value) else f'{100 * value:.1f}'
