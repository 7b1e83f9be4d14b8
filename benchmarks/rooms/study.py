"""Trainings on the rooms that are compared with each other: what is open is run, scored and kept, and read again.

A study names its jobs; each is a run folder of tools/train.py of the profile `rooms`, scored on the 100 rooms of preset
`tiny_test`, class-agnostically. What is kept of a scored one goes at once to the folder of its study, as
`benchmarks/rooms/publish.py` does it. A study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.commands import ROOT, Commands, StageError, ended_by_sigterm
from benchmarks.record import spread
from benchmarks.rooms.publish import RESULTS, publish
from jrs.errors import ConfigError, did_you_mean
from jrs.report.intervals import Draws, Estimate, PairedDifference, difference, of_means, resampled_of
from jrs.report.pairs import LESS, MORE, OPEN, Scored

UNSEEN = 'rooms/tiny_test'                       # in the data root: what all are scored on
TEST, AVERAGED = 'test_unseen', 'test_averaged'         # folders in a run
ATTENTION = {'metrics.attention': {'type': 'AttentionMetric'}}      # of a test: where the queries of the true instances look
WITHOUT_COST = ATTENTION | {'model.matcher.costs.fada': None}       # of a row with FADA: its cost chooses who is looked at
HOOKS = {'hooks.pictures': None, 'hooks.averaged': {'type': 'AveragedWeights'}}
ITERATIONS, MINUTES = 400, 13                   # of the profile, and of a core for them and their test


@dataclass(frozen=True)
class Job:
    """A training and its test.

    Attributes:
        study: in whose folder it is run and kept.
        stem: of its run folder, before the seed.
        config: its file.
        seed: of its weights and batches.
        training: what it overrides in the profile: dotted path -> value.
        views: of a room in the test.
        test: further overrides of the test.
        pace: time of an iteration, in those of the profile; a forecast.
    """

    study: str
    stem: str
    config: str
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict)
    views: int = 12
    test: Mapping[str, Any] = field(default_factory=dict)
    pace: float = 1.0

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f'{self.stem}_seed{self.seed}'

    def in_(self, root: Path) -> Path:
        """Return its folder, of what is run or of what is kept."""
        return root / self.study / self.name

    @property
    def minutes(self) -> float:
        """Forecast of a core's time."""
        return MINUTES * self.pace * self.training.get('train.iterations', ITERATIONS) / ITERATIONS

    def training_words(self, folder: Path, options: Sequence[str]) -> list[str]:
        """Return the words of tools/train.py."""
        return [self.config, '--profile', 'rooms', '--work-dir', str(folder), '--cfg-options',
                *options, *_given({**self.training, 'seed': self.seed, **HOOKS})]

    def test_words(self, folder: Path, options: Sequence[str]) -> list[str]:
        """Return the words of tools/test.py."""
        changes = {'seed': self.seed, 'test_dataset.folder': UNSEEN, 'test_dataset.max_views': self.views,
                   **self.test}
        return [str(folder / 'config.py'), str(folder / 'weights.safetensors'), '--out', str(folder / TEST),
                '--cfg-options', *options, *_given(changes)]


def _given(changes: Mapping[str, Any]) -> list[str]:
    return [f'{path}={value}' for path, value in changes.items()]


def add_options(options: argparse.ArgumentParser) -> None:
    """Add how the jobs of a study are run."""
    options.add_argument('--seeds', type=int, nargs='+', help='default: those that are planned')
    options.add_argument('--jobs', type=int, default=1, help='runs side by side, one thread each')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of every run, such as '
                         'data_root=/data')
    options.add_argument('--work-dirs', type=Path, default=Path('work_dirs'), help='root of the studies, whose folders '
                         'hold the run folders; default %(default)s')
    options.add_argument('--out', type=Path, default=RESULTS, help='root of the studies with what is kept of runs; default '
                         '%(default)s')
    options.add_argument('--dry-run', action='store_true', help='say what is there and what is open; run nothing')


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ConfigError where a name is not one of those known."""
    for name in given:
        if name not in known:
            raise ConfigError(f'no {name!r}.{did_you_mean(name, known)} There are {", ".join(known)}.')


def run_all(jobs: Sequence[Job], args: argparse.Namespace) -> int:
    """Say what is done, and train and score the rest in its order; returns 1 where something failed."""
    if args.jobs < 1 or min(args.seeds or [0]) < 0:
        raise ConfigError(f'--jobs is at least 1, --seeds at least 0, got {args.jobs}, {args.seeds}.')
    missing = [job for job in jobs if not is_kept(job, args.out)]
    for job in jobs:
        print(f'{job.name}: {"open" if job in missing else "done"}')
    print(f'to train and score: {len(missing)} of {len(jobs)}, about {sum(job.minutes for job in missing):.0f} CPU-minutes, '
          f'{args.jobs} at a time', flush=True)
    if args.dry_run:
        return 0
    if missing:
        check_rooms(missing[0], args.cfg_options)
    return _finish(missing, args, Commands())


def _finish(jobs: Sequence[Job], args: argparse.Namespace, commands: Commands) -> int:
    def one(job: Job) -> bool:
        folder = job.in_(args.work_dirs)
        try:
            commands.train(job.training_words(folder, args.cfg_options), folder)
            words = job.test_words(folder, args.cfg_options)
            commands.score(ROOT / 'tools' / 'test.py', words, folder / TEST / 'results.json')
            check_views(job, folder / TEST / 'results.json')
        except StageError as error:
            print(f'{job.name}: {error}', file=sys.stderr, flush=True)
            return False
        publish(folder, job.in_(args.out))
        print(f'{job.name}: done', flush=True)
        return True

    with ended_by_sigterm(), ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(one, job) for job in jobs]
        try:
            return int(not all([job.result() for job in as_completed(running)]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            commands.stop()
            raise


def check_rooms(job: Job, options: Sequence[str]) -> None:
    """Raise a DataError where the rooms that score are not there or not finished: tests come hours after a study began."""
    from jrs.cli.train import config_from, parser  # with torch, which a dry run does without
    from jrs.engine.build import check_ready
    words = [job.config, '--profile', 'rooms', '--cfg-options', *options, f'test_dataset.folder={UNSEEN}']
    check_ready(config_from(parser().parse_args(words)), 'test_dataset')


def check_views(job: Job, results: Path) -> None:
    """Raise a StageError where rooms of a test have fewer views than the job asks for: `max_views` takes any."""
    seen = read_json(results)['facts']['views_per_scene']
    if not seen.startswith(f'{job.views}-{job.views},'):
        raise StageError(f'{results} is of {seen} views of a room, and the setting asks for {job.views}. Prepare the rooms '
                         'of preset tiny_test again, which have 48, and remove this test.')


def is_kept(job: Job, out: Path) -> bool:
    """Return whether a job has been scored and kept."""
    return (job.in_(out) / TEST / 'results.json').is_file()


@dataclass
class Kept:
    """What is kept of jobs that differ in the seed: the numbers of a test, CPU-minutes, and AP with their draws, by seed."""

    metrics: dict[Hashable, dict[str, float]] = field(default_factory=dict)
    minutes: dict[Hashable, float] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=lambda: {ap: Scored() for ap in ('AP25', 'AP50')})

    def mean(self, name: str) -> float:
        """Return the mean of a number over the seeds."""
        return mean(one[name] for one in self.metrics.values())

    def cells(self) -> list[str]:
        """Return seeds, CPU-minutes, AP25 and AP50 in words."""
        return [str(len(self.metrics)), f'{mean(self.minutes.values()):.1f}',
                *(spread([*scored.values.values()]) for scored in self.scored.values())]

    def gains(self, without: Kept) -> dict[str, PairedDifference | None]:
        """Return by how much AP25 and AP50 differ from those of others, pair by pair; None where no seed is in both."""
        return {ap: difference(scored, without.scored[ap]) for ap, scored in self.scored.items()}

    def moved(self, without: Kept, name: str) -> Estimate:
        """Return by how much a number differs from that of others, pair by pair, with its interval over seeds."""
        both = self.metrics.keys() & without.metrics.keys()
        return of_means((1.0, Scored({seed: self.metrics[seed][name] - without.metrics[seed][name] for seed in both})))


def kept_of(folder: Path, stem: str, test: str = TEST) -> Kept:
    """Return what the folder of a study keeps of the jobs with a stem that have a test."""
    kept = Kept()
    for run in sorted(path for path in folder.glob(f'{stem}_seed[0-9]*') if (path / test).is_dir()):
        seed, drawn = int(run.name.rpartition('_seed')[2]), resampled_of(run / test)
        kept.metrics[seed] = read_json(run / test / 'results.json')['metrics']
        kept.minutes[seed] = 60 * read_json(run / 'run.json')['cpu_hours']
        for ap, scored in kept.scored.items():
            draws = drawn[f'instance/agnostic_{ap}']
            scored.values[seed] = 100 * kept.metrics[seed][f'instance/agnostic_{ap}']
            scored.draws[seed] = Draws(draws.scenes, 100 * draws.values)
    return kept


def together(settings: Mapping[str, Kept]) -> Kept:
    """Return what is kept in several settings, on the same rooms, as one: each seed of each is a seed of it.

    A seed has the same initial weights in all of them, and other batches.
    """
    merged = Kept()
    for name, kept in settings.items():
        for seed in kept.metrics:
            key = name, seed
            merged.metrics[key], merged.minutes[key] = kept.metrics[seed], kept.minutes[seed]
            for ap, scored in kept.scored.items():
                merged.scored[ap].values[key], merged.scored[ap].draws[key] = scored.values[seed], scored.draws[seed]
    return merged


def said(found: PairedDifference | None) -> str:
    """Return a difference and its interval in words."""
    return '–' if found is None else f'{found.value:+.1f} [{found.low:+.1f}..{found.high:+.1f}]'


def said_over_seeds(found: Estimate) -> str:
    """Return an estimate in words, and whether it is more or less than 0."""
    words = f'{found.value:+.3f}'
    if not found.decides:
        return f'{words}, {OPEN}: one seed'
    return f'{words} [{found.low:+.3f}..{found.high:+.3f}], { {1: MORE, -1: LESS, 0: OPEN}[found.sign]}'


def verdict(found: PairedDifference | None) -> str:
    """Return whether a change pays, by the interval of the difference that it makes."""
    if found is None or not found.decides:
        return 'undecided: no seed in common' if found is None else 'undecided: one seed'
    return {1: 'pays', -1: 'costs', 0: 'undecided'}[found.sign]


def open_line(jobs: Iterable[tuple[str, str, Job]], out: Path) -> Iterator[str]:
    """Yield which of (group, name in it, job) are open, as a line of Markdown."""
    missing: dict[str, list[str]] = {}
    for group, name, job in jobs:
        if not is_kept(job, out):
            missing.setdefault(group, []).append(f'{name} {job.seed}')
    names = '; '.join(f'`{group}`: {", ".join(ones)}' for group, ones in missing.items())
    yield from ('', f'Open, row and seed: {names}.' if missing else 'None is open.')


def read_json(path: Path) -> dict:
    """Return what a file says."""
    return json.loads(path.read_text(encoding='utf-8'))
