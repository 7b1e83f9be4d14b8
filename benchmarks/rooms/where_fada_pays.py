"""Where frame-level attention alignment pays: rows that differ in FADA alone, in one setting of the rooms after another.

    python tools/prepare.py rooms --preset tiny --out data/rooms/tiny --jobs 2
    python tools/prepare.py rooms --preset tiny_test --out data/rooms/tiny_test --jobs 2
    python benchmarks/rooms/where_fada_pays.py --dry-run                      # what is there, what is open, how long
    python benchmarks/rooms/where_fada_pays.py --jobs 2                       # all of it; goes on where it was stopped
    python benchmarks/rooms/where_fada_pays.py --only views24 --rows none sum --seeds 0 1
    python benchmarks/rooms/page.py                                           # writes docs/rooms.md of what is there

A setting changes one thing in the profile `rooms`; a row says what of FADA is there. Rows of a setting and seed have the
same initial weights and the same batches in the same order. Each is scored on the 100 rooms of preset `tiny_test`, in as
many views as the setting trains on (`rooms`: 12), with where the queries of the true instances look. Which query that is
says the matcher without the cost of FADA, for all rows alike: that cost would choose queries that look at the right views.

Each training is a run folder of tools/train.py below --work-dirs, and what is kept of a scored one goes at once to --out, as
`benchmarks/rooms/publish.py` does it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.commands import ROOT, Commands, StageError, ended_by_sigterm  # noqa: E402
from benchmarks.record import spread  # noqa: E402
from benchmarks.rooms.publish import RESULTS, publish  # noqa: E402
from jrs.cli import run  # noqa: E402
from jrs.errors import ConfigError, did_you_mean  # noqa: E402
from jrs.report.intervals import Draws, PairedDifference, difference, resampled_of  # noqa: E402
from jrs.report.pairs import Scored  # noqa: E402
from jrs.report.render import pipes  # noqa: E402

OUT = RESULTS / 'where_fada_pays'
TEST, AVERAGED = 'test_unseen', 'test_averaged'         # folders in a run
HOOKS = {'hooks.pictures': None, 'hooks.averaged': {'type': 'AveragedWeights'}}
SEEDS = (0, 1, 2)                               # that were planned, of
FIRST_ROWS = ('none', 'sum', 'mean')            # these rows, which the others explain
MINUTES = 13                                    # of a core: 400 iterations and their test, for the forecast


@dataclass(frozen=True)
class Setting:
    """One thing that differs from the profile `rooms`.

    Attributes:
        says: it in words.
        training: overrides of the config: dotted path -> value.
        views: of a scene in the test.
    """

    says: str
    training: Mapping[str, Any]
    views: int = 12


def _views(count: int, spacing: tuple[int, int]) -> dict[str, Any]:
    return {'batches.views': [count, count], 'train_dataset.view_spacing': list(spacing)}


SETTINGS = {
    'rooms': Setting('as the profile: 3 to 8 views', {}),
    'views24': Setting('24 views of a walk, one or two steps apart', _views(24, (1, 2)), 24),
    'views16': Setting('16 views of a walk, one to three steps apart', _views(16, (1, 3)), 16),
    'near': Setting('8 neighbouring views: an object is in most of them', _views(8, (1, 1))),
    'far': Setting('8 views all around the room: an object is in few of them', _views(8, (5, 6))),
    'tokens': Setting('images of 168 x 126: 108 tokens per view in the place of 48',
                      {'train_dataset.width': 168, 'test_dataset.width': 168}),
    'true_cameras': Setting('true cameras teach', {'model.teacher.truth': 'cameras'}),
    'long': Setting('2400 iterations, as the committed weights', {'train.iterations': 2400}),
}
ROWS = {                                        # name -> (config, overrides)
    'none': ('all24_no_fada', {}),
    'mean': ('all24_fada', {}),
    'sum': ('all24_fada_sum_undivided', {}),
    'sum_cost': ('all24_fada_sum_undivided', {'model.losses.fada': None}),
    'sum_loss': ('all24_fada_sum_undivided', {'model.matcher.costs.fada': None}),
    'kl': ('all24_fada_kl_forward', {'model.matcher.costs.fada.per_view': False, 'model.losses.fada.reduction': 'sum',
                                     'model.losses.fada.per_view': False}),
}
SAYS = {'none': 'no FADA', 'mean': 'as built: mean over pairs, divided by the views',
        'sum': 'sum over pairs, not divided; cost and loss', 'sum_cost': 'that cost alone', 'sum_loss': 'that loss alone',
        'kl': 'sum over pairs, not divided, forward KL'}


@dataclass(frozen=True)
class Job:
    """A row in a setting with a seed."""

    setting: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f'{self.setting}_{self.row}_seed{self.seed}'

    @property
    def config(self) -> str:
        """Path of its config below the root."""
        return f'configs/segvggt/{ROWS[self.row][0]}.py'

    def training_words(self, folder: Path, options: list[str]) -> list[str]:
        """Return the words of tools/train.py."""
        changes = SETTINGS[self.setting].training | ROWS[self.row][1] | {'seed': self.seed, **HOOKS}
        return [self.config, '--profile', 'rooms', '--work-dir', str(folder), '--cfg-options', *options, *_given(changes)]

    def test_words(self, folder: Path, options: list[str]) -> list[str]:
        """Return the words of tools/test.py."""
        cost = {} if self.row == 'none' else {'model.matcher.costs.fada': None}
        changes = {'seed': self.seed, 'test_dataset.folder': 'rooms/tiny_test',
                   'test_dataset.max_views': SETTINGS[self.setting].views,
                   'metrics.attention': {'type': 'AttentionMetric'}, **cost}
        return [str(folder / 'config.py'), str(folder / 'weights.safetensors'), '--out', str(folder / TEST),
                '--cfg-options', *options, *_given(changes)]


JOBS = [Job(setting, row, seed) for setting in SETTINGS for seed in SEEDS for row in FIRST_ROWS]


def _given(changes: Mapping[str, Any]) -> list[str]:
    return [f'{path}={value}' for path, value in changes.items()]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog='benchmarks/rooms/where_fada_pays.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', nargs='+', metavar='SETTING', default=[*SETTINGS], help=', '.join(
        f'{name}: {one.says}' for name, one in SETTINGS.items()))
    options.add_argument('--rows', nargs='+', metavar='ROW', default=[*FIRST_ROWS],
                         help=f'{", ".join(f"{name}: {says}" for name, says in SAYS.items())}; default: '
                         f'{" ".join(FIRST_ROWS)}')
    options.add_argument('--seeds', type=int, nargs='+', default=[*SEEDS])
    options.add_argument('--jobs', type=int, default=1, help='runs side by side, one thread each')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of every run, such as '
                         'data_root=/data')
    options.add_argument('--work-dirs', type=Path, default=Path('work_dirs/where_fada_pays'), help='root of the run folders')
    options.add_argument('--out', type=Path, default=OUT, help='where what is kept goes; default %(default)s')
    options.add_argument('--dry-run', action='store_true', help='say what is there and what is open; run nothing')
    return options


def main(argv: list[str] | None = None) -> int:
    """Train and score what is open, seeds of a setting before the next setting; returns 1 where something failed."""
    args = parser().parse_args(argv)
    for given, known in ((args.only, SETTINGS), (args.rows, ROWS)):
        for name in given:
            if name not in known:
                raise ConfigError(f'no {name!r}.{did_you_mean(name, known)} There are {", ".join(known)}.')
    if args.jobs < 1 or min(args.seeds) < 0:
        raise ConfigError(f'--jobs is at least 1, --seeds at least 0, got {args.jobs}, {args.seeds}.')
    jobs = [Job(setting, row, seed) for setting in args.only for seed in args.seeds for row in args.rows]
    missing = [job for job in jobs if not (args.out / job.name / TEST / 'results.json').is_file()]
    print('\n'.join(plan_lines(jobs, missing, args.jobs)), flush=True)
    return 0 if args.dry_run else finish(missing, args, Commands())


def plan_lines(jobs: list[Job], missing: list[Job], side_by_side: int) -> Iterator[str]:
    """Yield what is done and what is open."""
    yield from (f'{job.name}: {"open" if job in missing else "done"}' for job in jobs)
    longer = sum(SETTINGS[job.setting].training.get('train.iterations', 400) / 400 for job in missing)
    minutes = f'about {MINUTES * longer:.0f} CPU-minutes'
    yield f'to train and score: {len(missing)} of {len(jobs)}, {minutes}, {side_by_side} at a time'


def finish(jobs: list[Job], args: argparse.Namespace, commands: Commands) -> int:
    """Bring runs to their end, in their order; returns 1 where one failed."""
    def one(job: Job) -> bool:
        folder = args.work_dirs / job.name
        try:
            commands.train(job.training_words(folder, args.cfg_options), folder)
            words = job.test_words(folder, args.cfg_options)
            commands.score(ROOT / 'tools' / 'test.py', words, folder / TEST / 'results.json')
            check_views(job, folder / TEST / 'results.json')
        except StageError as error:
            print(f'{job.name}: {error}', file=sys.stderr, flush=True)
            return False
        publish(folder, args.out / job.name)
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


def check_views(job: Job, results: Path) -> None:
    """Raise a StageError where rooms of a test have fewer views than their setting asks for: `max_views` takes any."""
    seen, wanted = _json(results)['facts']['views_per_scene'], SETTINGS[job.setting].views
    if not seen.startswith(f'{wanted}-{wanted},'):
        raise StageError(f'{results} is of {seen} views of a room, and the setting asks for {wanted}. Prepare the rooms of '
                         'preset tiny_test again, which have 48, and remove this test.')


@dataclass
class Kept:
    """What is kept of a row in a setting, by seed: the numbers of its test, its CPU-minutes, and its AP with their draws."""

    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=lambda: {ap: Scored() for ap in ('AP25', 'AP50')})

    def mean(self, name: str) -> float:
        """Return the mean of a number over the seeds."""
        return mean(one[name] for one in self.metrics.values())


def kept_of(out: Path, setting: str, row: str) -> Kept:
    """Return what is kept of a row in a setting."""
    kept = Kept()
    for folder in sorted(out.glob(f'{setting}_{row}_seed[0-9]*')):
        seed, drawn = int(folder.name.rpartition('_seed')[2]), resampled_of(folder / TEST)
        kept.metrics[seed] = _json(folder / TEST / 'results.json')['metrics']
        kept.minutes[seed] = 60 * _json(folder / 'run.json')['cpu_hours']
        for ap, scored in kept.scored.items():
            draws = drawn[f'instance/agnostic_{ap}']
            scored.values[seed] = 100 * kept.metrics[seed][f'instance/agnostic_{ap}']
            scored.draws[seed] = Draws(draws.scenes, 100 * draws.values)
    return kept


def table_lines(out: Path = OUT) -> Iterator[str]:
    """Yield the table of what is kept as Markdown: each row of a setting, and how it differs from the one without FADA."""
    heads = ('setting', 'row', 'seeds', 'CPU-min', 'AP25', 'AP50', 'AP25 − no FADA', 'AP50 − no FADA', 'FADA',
             'mass on the right views: last layer', 'slope', 'entropy: last layer', 'slope')
    rows = []
    for setting in SETTINGS:
        without = kept_of(out, setting, 'none')
        for row in ROWS:
            own = kept_of(out, setting, row)
            if not own.metrics:
                continue
            gains = {ap: None if row == 'none' else difference(scored, without.scored[ap])
                     for ap, scored in own.scored.items()}
            rows.append([
                SETTINGS[setting].says, SAYS[row], str(len(own.metrics)), f'{mean(own.minutes.values()):.1f}',
                *(spread([*scored.values.values()]) for scored in own.scored.values()), *map(_said, gains.values()),
                '–' if row == 'none' else _verdict(gains['AP25']),
                f'{own.mean("attention/view_mass/last"):.2f} (even: {own.mean("attention/uniform_view_mass"):.2f})',
                f'{own.mean("attention/view_mass/slope"):+.3f}',
                f'{own.mean("attention/entropy/last"):.2f}', f'{own.mean("attention/entropy/slope"):+.3f}'])
    yield from pipes(heads, rows) if rows else ()
    missing: dict[str, list[str]] = {}
    for job in JOBS:
        if not (out / job.name / TEST / 'results.json').is_file():
            missing.setdefault(job.setting, []).append(f'{job.row} {job.seed}')
    names = '; '.join(f'`{setting}`: {", ".join(ones)}' for setting, ones in missing.items())
    yield from ('', f'Open, row and seed: {names}.' if missing else 'None is open.')


def averaged_lines(out: Path = OUT) -> Iterator[str]:
    """Yield the scores of averaged weights (`AveragedWeights`) beside those of the trained ones, seed by seed."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for setting, row in ((setting, row) for setting in SETTINGS for row in ROWS):
        for folder in sorted(out.glob(f'{setting}_{row}_seed[0-9]*')):
            if (folder / AVERAGED / 'results.json').is_file():
                both = (_json(folder / test / 'results.json')['metrics'] for test in (TEST, AVERAGED))
                found.setdefault((setting, row), []).append(tuple(100 * one['instance/agnostic_AP25'] for one in both))
    if found:
        yield from pipes(('setting', 'row', 'AP25 by seed: trained weights', 'apart', 'averaged weights', 'apart'), [
            [SETTINGS[setting].says, SAYS[row], *(cell for values in zip(*pairs, strict=True) for cell in (
                ', '.join(f'{value:.1f}' for value in values), f'{max(values) - min(values):.1f}'))]
            for (setting, row), pairs in found.items()])


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def _said(found: PairedDifference | None) -> str:
    return '–' if found is None else f'{found.value:+.1f} [{found.low:+.1f}..{found.high:+.1f}]'


def _verdict(found: PairedDifference | None) -> str:
    """Return whether FADA pays, by the interval of the difference in AP25."""
    if found is None or len(found.by_seed) < 2:
        return 'undecided: one seed'
    return {1: 'pays', -1: 'costs', 0: 'undecided'}[found.sign]


if __name__ == '__main__':
    sys.exit(run(main))
