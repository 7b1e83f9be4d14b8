"""How sure a number and a difference between two rows are: over draws of the rooms that were scored, and over seeds.

Tables of measured average precision are of few scenes and few seeds. AP of a set of scenes is no mean over scenes, so that
it is computed again for draws of them (with replacement), from the matches that `tools/test.py` keeps. Rows that were scored
on the same scenes have the same draws: scenes which are hard for both do not widen the interval of their difference. Seeds
are too few to be drawn: where there is nothing, two differences have one sign as often as not. Their mean is as sure as
Student's t of so many says, and where rows have no draws or no seeds in common, as Welch's t of their means says.
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
    """A score of one row: seed -> its value, and where they are kept its draws, in the same unit."""

    values: Mapping[int, float]
    draws: Mapping[int, Draws]


class Measured(Protocol):
    """A number: seed -> its value, and whether it is `fixed`, of no training here, so that one value says all."""

    values: Mapping[int, float]
    fixed: bool


@dataclass(frozen=True)
class Estimate:
    """A number with its interval of SHARE.

    Attributes:
        value: as scored.
        low, high: ends of the interval; infinite where there is one seed alone, which says nothing of others.
    """

    value: float
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether the interval is one over several seeds, or needs none."""
        return math.isfinite(self.low) and math.isfinite(self.high)

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
        by_seed: left − right of each seed.
        scenes: how many were drawn from.
    """

    by_seed: tuple[float, ...]
    scenes: int

    @property
    def decides(self) -> bool:
        """Whether there are several seeds: the interval of one is over scenes alone."""
        return len(self.by_seed) > 1


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


def difference(left: Score, right: Score) -> PairedDifference | None:
    """Return left − right over the seeds that both rows have; None where seeds, scenes or draws in common lack."""
    seeds = sorted(set(left.values) & set(right.values) & set(left.draws) & set(right.draws))
    sets = {score.draws[seed].scenes for seed in seeds for score in (left, right)}
    if len(sets) != 1:
        return None
    by_seed = tuple(left.values[seed] - right.values[seed] for seed in seeds)
    low, high = interval(by_seed, np.stack([left.draws[seed].values - right.draws[seed].values for seed in seeds]))
    return PairedDifference(mean(by_seed), low, high, by_seed, len(*sets))


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


def of_means(*terms: tuple[float, Measured], plus: float = 0.0) -> Estimate:
    """Return `plus` and the sum of factor * mean over seeds of the terms, with the interval by Welch's t.

    Its half is t(v) * sqrt(sum e), with e = (factor * s)^2 / n of a mean of n values with the sample standard deviation s,
    and v = (sum e)^2 / sum(e^2 / (n - 1)) degrees of freedom. A single value adds nothing where it is fixed; where it is of
    one seed, the interval is infinite.
    """
    value = plus + sum(factor * mean(number.values.values()) for factor, number in terms)
    if any(len(number.values) < 2 and not number.fixed for _, number in terms):
        return Estimate(value, -math.inf, math.inf)
    errors = [((factor * stdev(found)) ** 2 / len(found), len(found) - 1)
              for factor, found in ((factor, [*number.values.values()]) for factor, number in terms) if len(found) > 1]
    total = sum(error for error, _ in errors)
    if not total:
        return Estimate(value, value, value)
    degrees = total ** 2 / sum(error ** 2 / free for error, free in errors)
    half = float(stdtrit(degrees, (1 + SHARE) / 2)) * math.sqrt(total)
    return Estimate(value, value - half, value + half)
