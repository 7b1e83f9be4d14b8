"""How sure a number and a difference between two rows are: over draws of the rooms that were scored, and over seeds.

Tables of measured average precision are of few scenes and few seeds. AP of a set of scenes is no mean over scenes, so that
it is computed again for draws of them (with replacement), from the matches that `tools/test.py` keeps. Rows that were scored
on the same scenes have the same draws: scenes which are hard for both do not widen the interval of their difference. Seeds
are too few to be drawn: where there is nothing, two differences have one sign as often as not. Their mean is as sure as
Student's t of so many says. Where rows have no draws, or too few seeds in common, that of their means is over seeds alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Protocol

import numpy as np
from scipy.special import stdtrit

from jrs.errors import DataError
from jrs.evaluation.kept import MATCHES_FILE, read_matches

DRAWS = 1000
SHARE = 0.95                                   # of an interval
RESAMPLED_FILE = 'resampled.csv'               # of a published test: the scores of each draw in the place of the matches
SAME = 1e-9


@dataclass(frozen=True)
class Draws:
    """One score of one test over draws of its scenes.

    Attributes:
        scenes: their names, sorted.
        values: (B,), NaN where a draw has no object.
    """

    scenes: tuple[str, ...]
    values: np.ndarray


class Score(Protocol):
    """A score of one row.

    Attributes:
        values: seed -> its value.
        draws: seed -> where they are kept its draws, in the same unit.
        fixed: whether it is given, and of no seed: a time, of published weights, of a start that all rows share.
    """

    values: Mapping[int, float]
    draws: Mapping[int, Draws]
    fixed: bool


@dataclass(frozen=True)
class Estimate:
    """A number with its interval of SHARE.

    Attributes:
        value: as scored.
        low, high: ends of the interval; infinite where seeds say nothing of others.
        decides: whether the interval is over several seeds, or of what needs none.
    """

    value: float
    low: float
    high: float
    decides: bool

    @property
    def exact(self) -> bool:
        """Whether the interval is the number itself: of what is given, and over no draws of scenes."""
        return self.low == self.value == self.high

    @property
    def sign(self) -> int:
        """1 or -1 where the interval decides and lies above or below 0; 0 = undecided."""
        return int(self.low > 0) - int(self.high < 0) if self.decides else 0

    def inside(self, bound: float) -> bool:
        """Return whether the interval decides and holds only numbers of at most `bound`, of either sign."""
        return self.decides and -bound <= self.low and self.high <= bound

    def beyond(self, bound: float) -> bool:
        """Return whether the interval decides and holds only numbers of more than `bound`, all of one sign."""
        return self.decides and (self.low > bound or self.high < -bound)


@dataclass(frozen=True)
class PairedDifference(Estimate):
    """Of the means of two rows over the n seeds that both have; the interval is over scenes and seeds (`interval`).

    Attributes:
        by_seed: the difference of each seed.
        scenes: how many were drawn from.
    """

    by_seed: tuple[float, ...]
    scenes: int

    @property
    def exact(self) -> bool:
        """No: other scenes would give other numbers."""
        return False


def draws_of(scenes: Sequence[str]) -> np.ndarray:
    """Return how often each of DRAWS draws has each scene, (B, S); the same for the same names."""
    seed = int.from_bytes(hashlib.sha256('\n'.join(scenes).encode()).digest()[:8], 'little')
    count = len(scenes)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)


def resampled_of(folder: Path) -> dict[str, Draws]:
    """Return the scores over draws of the test in `folder`, by their name in `results.json`; none where nothing is kept.

    Raises:
        DataError: what is kept is of another test than `results.json`.
    """
    own = folder / RESAMPLED_FILE
    files = [own] if own.is_file() else sorted(folder.glob(f'*_{MATCHES_FILE}'))
    return _resampled(folder, tuple((file, file.stat().st_mtime_ns) for file in files)) if files else {}


@functools.cache
def _resampled(folder: Path, files: tuple[tuple[Path, int], ...]) -> dict[str, Draws]:
    results = json.loads((folder / 'results.json').read_text(encoding='utf-8-sig'))
    scenes = tuple(sorted(results['scenes']))
    if files[0][0].name == RESAMPLED_FILE:
        return {name: Draws(scenes, values) for name, values in _read_table(files[0][0]).items()}
    draws = {}
    for file, _ in files:
        kept, prefix = read_matches(file), file.name.removesuffix(f'_{MATCHES_FILE}')
        times = np.concatenate([np.ones((1, len(kept.names)), dtype=np.int64), draws_of(kept.names)])
        found = {f'{prefix}/{name}': numbers for name, numbers in kept.resampled(times).items()}
        told = {name: results['metrics'].get(name) for name in found}
        if tuple(kept.names) != scenes or not all(_same(told[name], float(found[name][0])) for name in found):
            raise DataError(f'{file} is not of the test in {folder / "results.json"}: its scenes or scores are others. '
                            'Score the weights again.')
        draws |= {name: Draws(scenes, numbers[1:]) for name, numbers in found.items()}
    return draws


def _same(told: float | None, found: float) -> bool:
    """Return whether a score of `results.json` (None = NaN) is what the matches give."""
    return bool(np.isnan(found)) if told is None else abs(told - found) < SAME


def table_of(draws: Mapping[str, Draws]) -> str:
    """Return scores over draws as CSV, a line per draw; empty where a draw has no object."""
    lines = [','.join(draws)]
    for numbers in zip(*(one.values for one in draws.values()), strict=True):
        lines.append(','.join('' if np.isnan(number) else f'{number:.6g}' for number in numbers))
    return '\n'.join([*lines, ''])


def _read_table(path: Path) -> dict[str, np.ndarray]:
    head, *lines = path.read_text(encoding='utf-8-sig').splitlines()
    rows = [[float(cell) if cell else np.nan for cell in line.split(',')] for line in lines]
    return dict(zip(head.split(','), np.array(rows, dtype=np.float64).T, strict=True))


def difference(left: Score, right: Score, factor: float = 1.0) -> PairedDifference | None:
    """Return left − factor * right over the seeds that both have; None where seeds, scenes or draws in common lack.

    What is fixed goes with every seed of the other; of two that are, the interval is over scenes, and decides.
    """
    own = [sorted(set(score.values) & set(score.draws)) for score in (left, right)]
    if not all(own):
        return None
    if left.fixed or right.fixed:
        seeds = own[0] if right.fixed else own[1]
        pairs = [(own[0][0] if left.fixed else seed, own[1][0] if right.fixed else seed) for seed in seeds]
    else:
        pairs = [(seed, seed) for seed in own[0] if seed in own[1]]
    sets = {one.scenes for first, second in pairs for one in (left.draws[first], right.draws[second])}
    if len(sets) != 1:
        return None
    by_seed = tuple(left.values[first] - factor * right.values[second] for first, second in pairs)
    low, high = interval(by_seed, np.stack([left.draws[first].values - factor * right.draws[second].values
                                            for first, second in pairs]))
    return PairedDifference(mean(by_seed), low, high, len(pairs) > 1 or (left.fixed and right.fixed), by_seed, len(*sets))


def interval(by_seed: Sequence[float], drawn: np.ndarray) -> tuple[float, float]:
    """Return the ends of the interval of SHARE around the mean of a number over n seeds.

    Its halves are the root of a sum of squares: how far SHARE of the draws of scenes reach, and Student's t of the seeds,
    t(n - 1) * s / sqrt(n) with their sample standard deviation s. Of one seed it is that of the scenes alone.

    Args:
        by_seed: the number of each seed, on all scenes.
        drawn: (n, B), on B draws of the scenes, the same for all seeds; draws without a score (NaN) are left out.
    """
    value, count = mean(by_seed), len(by_seed)
    low, high = np.nanquantile(drawn.mean(axis=0), ((1 - SHARE) / 2, (1 + SHARE) / 2))
    seeds = stdtrit(count - 1, (1 + SHARE) / 2) * stdev(by_seed) / math.sqrt(count) if count > 1 else 0.0
    return value - math.hypot(value - float(low), seeds), value + math.hypot(float(high) - value, seeds)


def of_means(*terms: tuple[float, Score], plus: float = 0.0) -> Estimate:
    """Return `plus` and the sum of factor * mean over seeds of the terms, with an interval over seeds alone.

    Its half is t(v) * sqrt(sum (factor * s)^2 / n), n and s being number and sample standard deviation of the values of a
    term and v the smallest n - 1: Student's t that is never too sure, as Welch's is of few seeds. A single value of
    what is fixed adds nothing. One seed, and seeds that do not differ at all, decide nothing.
    """
    value = plus + sum(factor * mean(score.values.values()) for factor, score in terms)
    seeds = [(factor, [*score.values.values()]) for factor, score in terms if not score.fixed or len(score.values) > 1]
    if not seeds:
        return Estimate(value, value, value, True)
    errors = sum((factor * stdev(found)) ** 2 / len(found) for factor, found in seeds if len(found) > 1)
    least = min(len(found) for _, found in seeds)
    if least < 2 or not errors:
        return Estimate(value, -math.inf, math.inf, False)
    half = float(stdtrit(least - 1, (1 + SHARE) / 2)) * math.sqrt(errors)
    return Estimate(value, value - half, value + half, True)
