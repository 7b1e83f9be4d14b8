"""Rows of runs, each of several seeds: their scores, and how each differs from the first, seed by seed, with an interval."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jrs.config import read_config
from jrs.errors import DataError
from jrs.report.differences import difference_lines
from jrs.report.intervals import SHARE, Draws, PairedDifference, difference, resampled_of

MEASURES = ('agnostic_AP25', 'agnostic_AP50', 'AP25', 'AP50', 'AP')
SEED = re.compile(r'_seed\d+')
MORE, LESS, OPEN = 'more', 'less', 'undecided'


@dataclass
class Scored:
    """One score of a row in percent: seed -> value, and its draws."""

    values: dict[int, float] = field(default_factory=dict)
    draws: dict[int, Draws] = field(default_factory=dict)
    fixed: bool = False                        # see `jrs.report.intervals.Score`


def rows_of(runs: Sequence[Path], test: str) -> dict[str, dict[str, Scored]]:
    """Return name of a row -> name of a measure -> its scores. Runs whose names differ in `_seed<n>` alone are of one row.

    Args:
        runs: run folders.
        test: name of the folder of the test in each of them.

    Raises:
        DataError: a run has no such test or no matches in it, two are of one row and seed, or runs of a row differ in more
            settings than the seed.
    """
    rows: dict[str, dict[str, Scored]] = {}
    first: dict[str, Path] = {}
    for run in runs:
        name, draws = SEED.sub('', run.resolve().name), resampled_of(run / test)
        if not draws:
            raise DataError(f'{run / test} has no matches of scenes, of which intervals are made: score the weights with '
                            'tools/test.py, or name the test with --test.')
        config = read_config(run / 'config.py')._cfg_dict
        like = read_config(first.setdefault(name, run) / 'config.py')._cfg_dict
        if lines := list(difference_lines(like, config | {'seed': like['seed']})):
            raise DataError(f'{run} and {first[name]} are of one row by their names, but differ in {lines[0]}: rename one.')
        metrics = json.loads((run / test / 'results.json').read_text(encoding='utf-8-sig'))['metrics']
        row = rows.setdefault(name, {measure: Scored() for measure in MEASURES if f'instance/{measure}' in draws})
        for measure, scored in row.items():
            if config['seed'] in scored.values:
                raise DataError(f'{run} is the second run of {name} with seed {config["seed"]}: name one of them.')
            own = draws[f'instance/{measure}']
            scored.values[config['seed']] = 100 * metrics[f'instance/{measure}']
            scored.draws[config['seed']] = Draws(own.scenes, 100 * own.values)
    return rows


def pair_rows(rows: dict[str, dict[str, Scored]]) -> list[list[str]]:
    """Return a table: a line per measure and row, the first row alone, the others with their difference to it."""
    (first, own), *others = rows.items()
    lines = [['measure', 'row', 'by seed', f'− {first}', f'{SHARE:.0%} interval', 'difference by seed', '']]
    for measure, base in own.items():
        lines.append([measure, first, _by_seed(base), '', '', '', ''])
        for name, row in others:
            if measure in row:
                lines.append([measure, name, _by_seed(row[measure]), *_against(difference(row[measure], base))])
    return lines


def _by_seed(scored: Scored) -> str:
    return ', '.join(f'{scored.values[seed]:.1f}' for seed in sorted(scored.values))


def _against(found: PairedDifference | None) -> list[str]:
    """Return a difference, its interval, that of each seed, and what is decided."""
    if found is None:
        return ['–', '–', 'no seed or other scenes in common', OPEN]
    status = {1: MORE, -1: LESS, 0: OPEN if found.decides else f'{OPEN}: one seed'}[found.sign]
    return [f'{found.value:+.1f}', f'[{found.low:+.1f}..{found.high:+.1f}]',
            ', '.join(f'{number:+.1f}' for number in found.by_seed), status]
