"""What a run folder holds, read back: config, record, curves and final scores."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jrs.config import read_config
from jrs.engine.hooks import TERMS_FILE, read_lines
from jrs.engine.record import METRICS_FILE, RECORD_FILE, read_record
from jrs.errors import DataError, did_you_mean

RESULTS = Path('test') / 'results.json'         # where tools/test.py writes beside a run's weights
LAST = 20                                       # iterations in the mean that stands for a term's final value
TRAINING = ('time', 'data_time', 'grad_norm', 'memory_gb')         # what the trainer logs beside terms and learning rates
CLASS = '/class/'                               # in the names of scores of one class


@dataclass(frozen=True)
class Series:
    """Values (n,) at iterations (n,), ascending; all finite."""

    x: np.ndarray
    y: np.ndarray


@dataclass
class Run:
    """One training run.

    Attributes:
        name: what tells it from the other runs.
        path: its folder.
        config: the resolved config.
        record: contents of `run.json`.
        terms: every training term, one value per iteration; `loss` is their weighted sum.
        training: learning rates, gradient norm, memory and time, as logged.
        metrics: scores of the validations while training.
        scores: final metrics, per class left out.
        scored: where `scores` come from, in words.
        notes: what is missing or odd.
    """

    name: str
    path: Path
    config: Mapping
    record: dict
    terms: dict[str, Series] = field(default_factory=dict)
    training: dict[str, Series] = field(default_factory=dict)
    metrics: dict[str, Series] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    scored: str = 'not scored'
    notes: list[str] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """How many iterations are logged."""
        return int(self.terms['loss'].x[-1]) if 'loss' in self.terms else 0

    def final_term(self, name: str) -> float | None:
        """Return the mean of a term over the last iterations, None where the run does not have it."""
        return float(self.terms[name].y[-LAST:].mean()) if name in self.terms else None


def find_runs(words: Sequence[str]) -> list[Path]:
    """Return the run folders that folders and patterns (`work_dirs/*_seed?`) name, each once, in that order.

    Raises:
        DataError: a word names nothing, or a folder that is no run.
    """
    found: dict[Path, Path] = {}
    for word in words:
        paths = [Path(word)] if Path(word).exists() else [Path(path) for path in sorted(glob.glob(word))]
        if not paths:
            parent = Path(word).parent
            near = [str(path) for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
            raise DataError(f'{word} names no folder.{did_you_mean(word, near) if near else ""}')
        runs = [path for path in paths if (path / 'config.py').is_file()]
        if not runs:
            raise DataError(f'{word} is no run folder: tools/train.py leaves config.py, {RECORD_FILE} and {TERMS_FILE} '
                            'there, and there is no config.py.')
        found |= {path.resolve(): path for path in runs if path.resolve() not in found}
    return list(found.values())


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders.

    Raises:
        DataError: none of them has logged an iteration, or a file of one is damaged.
    """
    runs = [read_run(path, name) for path, name in zip(paths, short_names(paths), strict=True)]
    if not any(run.terms for run in runs):
        raise DataError(f'none of these runs has logged an iteration ({TERMS_FILE}): {", ".join(map(str, paths))}.')
    return runs


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return what of each path follows the folder that all share."""
    full = [path.resolve() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in full]))
    return [str(path.relative_to(shared)) for path in full]


def read_run(path: Path, name: str) -> Run:
    """Return the run in `path`; what it lacks becomes a note."""
    try:
        run = Run(name, path, read_config(path / 'config.py')._cfg_dict, read_record(path))
        run.terms = _columns(path / TERMS_FILE, first=1)                # counted from 0 there: iterations before the step
        run.metrics = {tag: series for tag, series in _columns(path / METRICS_FILE, first=0).items() if CLASS not in tag}
        run.scores, run.scored = _scores(path, run.metrics)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        files = f'{RECORD_FILE}, {TERMS_FILE}, {METRICS_FILE} or {RESULTS}'
        raise DataError(f'{path}: {files} is damaged ({error}). Leave this run out, or restore the file.') from error
    run.training = {tag: series for tag, series in _event_scalars(path).items() if tag in TRAINING or tag.startswith('lr_')}
    run.notes = _notes(run)
    return run


def _columns(file: Path, first: int) -> dict[str, Series]:
    """Return each column of a file of rows, over its `iteration` plus `first`; columns without a value are left out."""
    rows = [json.loads(line) for line in read_lines(file)]
    names = dict.fromkeys(name for row in rows for name in row if name != 'iteration')
    columns = {name: _series([(row['iteration'] + first, row[name]) for row in rows if row.get(name) is not None])
               for name in names}
    return {name: series for name, series in columns.items() if len(series.x)}


def _event_scalars(path: Path) -> dict[str, Series]:
    """Return the scalars of all TensorBoard files of a run; where a resume did iterations again, the later ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    values: dict[str, dict[int, float]] = {}
    for file in sorted(path.glob('*/vis_data/events.out.tfevents.*')):
        log = EventAccumulator(str(file), size_guidance={'scalars': 0})
        log.Reload()
        events = {tag: log.Scalars(tag) for tag in log.Tags()['scalars']}
        first = min((event.step for series in events.values() for event in series), default=0)
        values = {tag: {step: value for step, value in known.items() if step < first} for tag, known in values.items()}
        for tag, series in events.items():
            values.setdefault(tag, {}).update((event.step, event.value) for event in series)
    columns = {tag: _series(sorted(known.items())) for tag, known in values.items()}
    return {tag: series for tag, series in columns.items() if len(series.x)}


def _series(pairs: Sequence[tuple[int, float]]) -> Series:
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)                                # (n, 2)
    table = table[np.isfinite(table[:, 1])]
    return Series(table[:, 0], table[:, 1])


def _scores(path: Path, metrics: Mapping[str, Series]) -> tuple[dict[str, float], str]:
    """Return the final metrics and their origin: the test of the run's weights, else the last validation."""
    if (path / RESULTS).is_file():
        found = json.loads((path / RESULTS).read_text(encoding='utf-8-sig'))['metrics']
        return {name: value for name, value in found.items() if value is not None and CLASS not in name}, 'test'
    if not metrics:
        return {}, 'not scored'
    last = max(series.x[-1] for series in metrics.values())
    return {name: float(series.y[-1]) for name, series in metrics.items() if series.x[-1] == last}, \
        f'validation at iteration {last:.0f}'


def _notes(run: Run) -> list[str]:
    planned = run.config['train']['iterations']
    checks = {'has no log: no iteration is finished': not run.terms,
              f'has {run.iterations} of {planned} iterations': 0 < run.iterations < planned,
              'is not marked as finished': run.record.get('finished') is False and run.iterations >= planned,
              'has no run.json: code and machine are not known': not run.record,
              'is not scored: run tools/test.py on its weights': run.terms and not run.scores,
              'has changes on top of its commit': run.record.get('dirty') is True}
    return [f'{run.name} {words}' for words, holds in checks.items() if holds]
