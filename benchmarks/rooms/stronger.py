"""What makes the small model of the rooms stronger for the same minutes: one change of the profile `rooms` at a time.

    python benchmarks/rooms/stronger.py --dry-run                             # what is there, what is open, how long
    python benchmarks/rooms/stronger.py --jobs 2                              # all of it; goes on where it was stopped
    python benchmarks/rooms/stronger.py --only deep masked --seeds 0 1
    python benchmarks/rooms/page.py                                           # writes docs/rooms.md of what is there

Each change is compared, seed by seed, with the row that `where_fada_pays.py` keeps without FADA under the profile as it is,
of 400 iterations or, for what is trained long, of 2400; `best` is trained with FADA.
Prepare the rooms as that says, for `more_rooms` the preset `tiny_more`, too. Scores are those of benchmarks/rooms/study.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rooms import where_fada_pays  # noqa: E402
from benchmarks.rooms.publish import RESULTS  # noqa: E402
from benchmarks.rooms.study import (  # noqa: E402
    ATTENTION,
    WITHOUT_COST,
    Job,
    add_options,
    check_names,
    kept_of,
    open_line,
    run_all,
    said,
    together,
    verdict,
)
from jrs.cli import run  # noqa: E402
from jrs.report.render import pipes  # noqa: E402

OUT = RESULTS / 'stronger'
BASE, LONG_BASE = 'rooms_none', 'long_none'     # in the folder of where_fada_pays.py: 400 iterations, and 2400
SEEDS = (0, 1)                                  # that are planned, of each change
LOWER = 'test_threshold'                        # of some runs: a test with masks from a probability of 0.2 on


@dataclass(frozen=True)
class Change:
    """One thing that differs from the profile `rooms`.

    Attributes:
        says: it in words.
        training: overrides of the config: dotted path -> value.
        pace: time of an iteration, in those of the profile; a forecast.
        base: what it is compared with.
        config: its file, in configs/segvggt/.
    """

    says: str
    training: Mapping[str, Any]
    pace: float = 1.0
    base: str = BASE
    config: str = 'all24_no_fada'


def _wide(features: int, embedding: int) -> dict[str, Any]:
    outs = [features, features, features * 3 // 2, features * 3 // 2]
    return {'model.feature_head.features': features, 'model.feature_head.out_channels': outs,
            **{f'model.{part}.embedding_dim': embedding for part in ('feature_head', 'queries', 'class_head')}}


INPUT = {'train_dataset.width': 168, 'test_dataset.width': 168}
RATE = {'parameter_groups.new.lr': 1e-3, 'parameter_groups.pretrained.lr': 5e-4}
WEIGHTS = {'model.weights.classification': 2.5, 'model.weights.mask_bce': 5.0, 'model.weights.mask_dice': 5.0}
FEW_VIEWS = {'batches.views': [2, 4]}
BETAS = {'optimizer.betas': [0.9, 0.95]}
CHANGES = {
    'as_built': Change('as the profile', {}),
    'masks': Change('masks at full resolution of the input', {'model.feature_head.down_ratio': 1}, 1.3),
    'input': Change('input of 168 x 126', INPUT, 1.5),
    'features': Change('features twice as wide, 64 in the place of 32', _wide(32, 64), 1.4),
    'deep': Change('classes and masks are supervised after layers 3, 5 and 7, too', {
        'model.queries.supervised_layers': [2, 4, 6]}, 1.3),
    'masked': Change('patch tokens that a query finds unlikely are hidden from its next layer', {
        'model.queries.mask_attention': {'threshold': 0.4}}),
    'weights': Change('classes and masks count five times as much, cameras and depth as before', WEIGHTS),
    'views': Change('6 to 12 views of a room in the place of 3 to 8, as many images', {'batches.views': [6, 12]}),
    'few_views': Change('2 to 4 views of a room in the place of 3 to 8, as many images', FEW_VIEWS),
    'half_batches': Change('half the images in an update, twice the updates', {
        'batches.max_images': 12, 'train.iterations': 800}, 0.6),
    'view_term': Change('a further term of the mask logits for each query and view (plugin `view_term`)', {
        'plugins': ['view_term'], 'model.feature_head.type': 'ViewTermFeatureHead'}),
    'whole': Change('all of the backbone learns, no LoRA', {'model.backbone.lora': None}),
    'rate': Change('half the learning rate', RATE),
    'quarter_rate': Change('a quarter of the learning rate', {
        'parameter_groups.new.lr': 5e-4, 'parameter_groups.pretrained.lr': 2.5e-4}),
    'betas': Change('the optimizer forgets squared gradients sooner (0.95 in the place of 0.999)', BETAS),
    'weights_betas': Change('five times the weights, and squared gradients that are forgotten sooner', WEIGHTS | BETAS),
    'input_rate': Change('input of 168 x 126 and half the learning rate', INPUT | RATE, 1.5),
    'longer': Change('1600 iterations', {'train.iterations': 1600}),
    'together': Change('five times the weights and 2 to 4 views, 3000 iterations: as many minutes as 2400 of the profile',
                       WEIGHTS | FEW_VIEWS | {'train.iterations': 3000}, 0.85, LONG_BASE),
    'all_around': Change('five times the weights and 8 views all around the room, 3000 iterations',
                         {**WEIGHTS, **where_fada_pays.SETTINGS['far'].training, 'train.iterations': 3000}, base=LONG_BASE),
    'more_rooms': Change('five times the weights and 2 to 4 views, 3000 iterations on 400 other rooms (`tiny_more`) in '
                         'the place of 160', WEIGHTS | FEW_VIEWS | {
                             'train.iterations': 3000, 'train_dataset.folder': 'rooms/tiny_more',
                             'experiment.trained_on': 'built-in rooms (preset tiny_more)'}, 0.85, LONG_BASE),
    'best': Change('five times the weights, 2 to 4 views, and squared gradients that are forgotten sooner, 5000 iterations, '
                   'with FADA as built', WEIGHTS | {'model.weights.fada': 2.5} | FEW_VIEWS | BETAS | {
                       'train.iterations': 5000}, 0.85, LONG_BASE, 'all24_fada'),
}


def job(change: str, seed: int) -> Job:
    """Return a change with a seed."""
    one = CHANGES[change]
    return Job(OUT.name, change, f'configs/segvggt/{one.config}.py', seed, one.training, pace=one.pace,
               test=ATTENTION if one.config == 'all24_no_fada' else WITHOUT_COST)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog='benchmarks/rooms/stronger.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', nargs='+', metavar='CHANGE', default=[*CHANGES][1:], help=', '.join(
        f'{name}: {one.says}' for name, one in CHANGES.items()))
    add_options(options)
    return options


def main(argv: list[str] | None = None) -> int:
    """Train and score what is open, all changes with a seed before the next seed; returns 1 where something failed."""
    args = parser().parse_args(argv)
    check_names(args.only, CHANGES)
    return run_all([job(change, seed) for seed in args.seeds or SEEDS for change in args.only], args)


def table_lines(out: Path = OUT, base: Path = where_fada_pays.OUT) -> Iterator[str]:
    """Yield the table of what is kept as Markdown: each change, and by how much its scores differ from those without it."""
    bases = {BASE: kept_of(base, BASE), LONG_BASE: kept_of(base, LONG_BASE)}
    rows = [[says, *bases[name].cells(), '–', '–', '–'] for name, says in (
        (BASE, 'as the profile'), (LONG_BASE, 'as the profile, 2400 iterations')) if bases[name].metrics]
    for name, change in CHANGES.items():
        own = kept_of(out, name)
        if own.metrics:
            gains = own.gains(bases[change.base])
            rows.append([change.says, *own.cells(), *map(said, gains.values()), verdict(gains['AP25'])])
    scored = {name: kept_of(out, name, LOWER) for name in CHANGES}
    if any(one.metrics for one in scored.values()):
        gains = together(scored).gains(together({name: kept_of(out, name) for name in CHANGES}))
        rows.append(['masks from a probability of 0.2 on in the place of 0.4: '
                     + ', '.join(f'`{name}` {", ".join(own.cells()[2:])}' for name, own in scored.items() if own.metrics),
                     f'{len(gains["AP25"].by_seed)} pairs', *['–'] * 3, *map(said, gains.values()), verdict(gains['AP25'])])
    yield from pipes(('change', 'seeds', 'CPU-min', 'AP25', 'AP50', 'AP25 − without', 'AP50 − without', 'it'), rows)
    yield from open_line((('changes', name, job(name, seed)) for seed in SEEDS for name in [*CHANGES][1:]), out.parent)


if __name__ == '__main__':
    sys.exit(run(main))
