"""Where frame-level attention alignment pays: rows that differ in FADA alone, in one setting of the rooms after another.

    python tools/prepare.py rooms --preset tiny --out data/rooms/tiny --jobs 2
    python tools/prepare.py rooms --preset tiny_test --out data/rooms/tiny_test --jobs 2
    python benchmarks/rooms/where_fada_pays.py --dry-run                      # what is there, what is open, how long
    python benchmarks/rooms/where_fada_pays.py --jobs 2                       # all of it; goes on where it was stopped
    python benchmarks/rooms/where_fada_pays.py --only views24 --rows none sum --seeds 0 1
    python benchmarks/rooms/page.py                                           # writes docs/rooms.md of what is there

A setting changes one thing in the profile `rooms`; a row says what of FADA is there. Rows of a setting and seed have the
same initial weights and the same batches in the same order. Each is scored as benchmarks/rooms/study.py says, in as many
views as the setting trains on (`rooms`: 12). Which query is that of an instance says the matcher without the cost of FADA,
for all rows alike: that cost would choose queries that look at the right views.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rooms.publish import RESULTS  # noqa: E402
from benchmarks.rooms.study import (  # noqa: E402
    ATTENTION,
    AVERAGED,
    TEST,
    WITHOUT_COST,
    Job,
    Kept,
    add_options,
    check_names,
    kept_of,
    open_line,
    read_json,
    run_all,
    said,
    said_over_seeds,
    together,
    verdict,
)
from jrs.cli import run  # noqa: E402
from jrs.report.claims import Verdict, judge  # noqa: E402
from jrs.report.plan import Variant  # noqa: E402
from jrs.report.render import pipes  # noqa: E402
from jrs.report.results import Entry, Number  # noqa: E402
from jrs.report.tables import load_tables  # noqa: E402

OUT = RESULTS / 'where_fada_pays'
FIRST_ROWS = ('none', 'sum', 'mean')            # these rows, which the others explain


@dataclass(frozen=True)
class Setting:
    """One thing that differs from the profile `rooms`.

    Attributes:
        says: it in words.
        training: overrides of the config: dotted path -> value.
        views: of a scene in the test.
        seeds: how many are planned.
    """

    says: str
    training: Mapping[str, Any]
    views: int = 12
    seeds: int = 3


def _views(count: int, spacing: tuple[int, int]) -> dict[str, Any]:
    return {'batches.views': [count, count], 'train_dataset.view_spacing': list(spacing)}


SETTINGS = {
    'rooms': Setting('as the profile: 3 to 8 views', {}),
    'views24': Setting('24 views of a walk, one or two steps apart', _views(24, (1, 2)), 24, 6),
    'views16': Setting('16 views of a walk, one to three steps apart', _views(16, (1, 3)), 16),
    'near': Setting('8 neighbouring views: an object is in most of them', _views(8, (1, 1))),
    'far': Setting('8 views all around the room: an object is in few of them', _views(8, (5, 6)), seeds=6),
    'tokens': Setting('images of 168 x 126: 108 tokens per view in the place of 48',
                      {'train_dataset.width': 168, 'test_dataset.width': 168}),
    'true_cameras': Setting('true cameras teach', {'model.teacher.truth': 'cameras'}),
    'continued': Setting('24 views again, going on from the committed weights at a quarter of the rate', _views(24, (1, 2)) |
                         {'weights': 'weights/rooms_tiny_all24_fada/weights.safetensors',
                          'parameter_groups.new.lr': 5e-4, 'parameter_groups.pretrained.lr': 2.5e-4}, 24, 6),
    'long': Setting('2400 iterations', {'train.iterations': 2400}),
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


def job(setting: str, row: str, seed: int) -> Job:
    """Return a row in a setting with a seed."""
    (config, changes), chosen = ROWS[row], SETTINGS[setting]
    return Job(OUT.name, f'{setting}_{row}', f'configs/segvggt/{config}.py', seed, chosen.training | changes, chosen.views,
               ATTENTION if row == 'none' else WITHOUT_COST)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog='benchmarks/rooms/where_fada_pays.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', nargs='+', metavar='SETTING', default=[*SETTINGS], help=', '.join(
        f'{name}: {one.says}' for name, one in SETTINGS.items()))
    options.add_argument('--rows', nargs='+', metavar='ROW', default=[*FIRST_ROWS],
                         help=f'{", ".join(f"{name}: {says}" for name, says in SAYS.items())}; default: '
                         f'{" ".join(FIRST_ROWS)}')
    add_options(options)
    return options


def main(argv: list[str] | None = None) -> int:
    """Train and score what is open, seeds of a setting before the next setting; returns 1 where something failed."""
    args = parser().parse_args(argv)
    check_names(args.only, SETTINGS)
    check_names(args.rows, ROWS)
    return run_all([job(setting, row, seed) for setting in args.only
                    for seed in args.seeds or range(SETTINGS[setting].seeds) for row in args.rows], args)


def table_lines(out: Path = OUT) -> Iterator[str]:
    """Yield the table of what is kept as Markdown: each row of a setting, and how it differs from the one without FADA."""
    heads = ('setting', 'row', 'seeds', 'CPU-min', 'AP25', 'AP50', 'AP25 − no FADA', 'AP50 − no FADA', 'FADA',
             'mass on the right views: last layer', 'slope', 'entropy: last layer', 'slope')
    rows = []
    for setting in SETTINGS:
        without = kept_of(out, f'{setting}_none')
        for row in ROWS:
            own = kept_of(out, f'{setting}_{row}')
            if not own.metrics:
                continue
            gains = dict.fromkeys(own.scored) if row == 'none' else own.gains(without)
            rows.append([
                SETTINGS[setting].says, SAYS[row], *own.cells(), *map(said, gains.values()),
                '–' if row == 'none' else verdict(gains['AP25']),
                f'{own.mean("attention/view_mass/last"):.2f} (even: {own.mean("attention/uniform_view_mass"):.2f})',
                f'{own.mean("attention/view_mass/slope"):+.3f}',
                f'{own.mean("attention/entropy/last"):.2f}', f'{own.mean("attention/entropy/slope"):+.3f}'])
    rows += pooled_rows(out, len(heads))
    yield from pipes(heads, rows) if rows else ()
    yield from open_line(((name, row, job(name, row, seed)) for name, setting in SETTINGS.items()
                          for seed in range(setting.seeds) for row in FIRST_ROWS), out.parent)


def pooled_rows(out: Path, columns: int) -> Iterator[list[str]]:
    """Yield what a row is worth over all pairs of the settings that are of the profile's length and start."""
    settings = [name for name, one in SETTINGS.items() if not {'weights', 'train.iterations'} & set(one.training)]
    without = together({name: kept_of(out, f'{name}_none') for name in settings})
    for row in [*ROWS][1:]:
        gains = together({name: kept_of(out, f'{name}_{row}') for name in settings}).gains(without)
        if found := gains['AP25']:
            yield ['all of these together that have 400 iterations from the geometry', SAYS[row],
                   f'{len(found.by_seed)} pairs', *['–'] * 3, *map(said, gains.values()), verdict(found),
                   *['–'] * (columns - 9)]


def attention_lines(out: Path = OUT) -> Iterator[str]:
    """Yield what FADA does to where queries look, and what the paper says of attention and depth (0.A.3), by setting."""
    names = {'view_mass/last': 'mass on the right views, last layer', 'view_mass/slope': 'slope of the mass over layers',
             'entropy/last': 'entropy, last layer', 'entropy/slope': 'slope of the entropy over layers'}
    moved, claims = [], {}
    for setting, one in SETTINGS.items():
        without = kept_of(out, f'{setting}_none')
        for row in [*ROWS][1:]:
            own = kept_of(out, f'{setting}_{row}')
            if both := own.metrics.keys() & without.metrics.keys():
                moved.append([one.says, SAYS[row], str(len(both)), *(
                    said_over_seeds(own.moved(without, f'attention/{name}')) for name in names)])
                verdicts = depth_claims(slopes_of(without), slopes_of(own))
                claims |= {(one.says, SAYS[name], verdict.text, verdict.status, verdict.numbers): None
                           for name, verdict in zip(('none', row), verdicts, strict=True)}
    if moved:
        yield from pipes(('setting', 'row', 'pairs', *(f'{says} − no FADA' for says in names.values())), moved)
        yield from ('', *pipes(('setting', 'row', 'claim of the paper', 'here', 'numbers'), claims))


def slopes_of(kept: Kept) -> dict[Hashable, dict[str, float]]:
    """Return how attention changes with depth: seed -> name of the quantity -> slope."""
    return {seed: {name: one[f'attention/{name}/slope'] for name in ('entropy', 'view_mass', 'js')}
            for seed, one in kept.metrics.items()}


def depth_claims(*rows: Mapping[Hashable, Mapping[str, float]]) -> list[Verdict]:
    """Return the claims of 0.A.3, of slopes (`slopes_of`) without FADA and with it."""
    table = load_tables(['A3'])[0]
    return judge(Entry(table, row, Variant('rooms', (), ''), {
        column.name: Number(column, None, {seed: one[column.name.removesuffix('_slope')] for seed, one in slopes.items()})
        for column in table.columns}) for row, slopes in zip(table.rows, rows, strict=True))


def averaged_lines(out: Path = OUT) -> Iterator[str]:
    """Yield the scores of averaged weights (`AveragedWeights`) beside those of the trained ones, seed by seed."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for setting, row in ((setting, row) for setting in SETTINGS for row in ROWS):
        for folder in sorted(out.glob(f'{setting}_{row}_seed[0-9]*')):
            if (folder / AVERAGED / 'results.json').is_file():
                both = (read_json(folder / test / 'results.json')['metrics'] for test in (TEST, AVERAGED))
                found.setdefault((setting, row), []).append(tuple(100 * one['instance/agnostic_AP25'] for one in both))
    if found:
        yield from pipes(('setting', 'row', 'AP25 by seed: trained weights', 'apart', 'averaged weights', 'apart'), [
            [SETTINGS[setting].says, SAYS[row], *(cell for values in zip(*pairs, strict=True) for cell in (
                ', '.join(f'{value:.1f}' for value in values), f'{max(values) - min(values):.1f}'))]
            for (setting, row), pairs in found.items()])


if __name__ == '__main__':
    sys.exit(run(main))
