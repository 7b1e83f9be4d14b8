"""``tools/compare_runs.py``: training runs side by side, on one page and in TensorBoard; differences of rows of seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from jrs.cli.parser import Parser
from jrs.errors import ConfigError

EXAMPLES = """examples:
  python tools/compare_runs.py work_dirs/all24_fada_rooms_seed0 work_dirs/all24_no_fada_rooms_seed0 --out report.html
  python tools/compare_runs.py 'work_dirs/*_rooms_seed?' --smooth 100
  tensorboard --logdir outputs/comparison_tensorboard
  python tools/compare_runs.py 'work_dirs/all24_*_rooms_seed?' --pairs     AP of rows of seeds, intervals of differences

--pairs takes runs whose names differ in _seed<n> alone as one row. A difference to the first row is that of the seeds which
both have; its interval holds 95 % of 1,000 draws of the scenes, the same for both rows, each with as many draws of seeds. It
is decided where the interval of at least two seeds leaves out 0.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/compare_runs.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('runs', nargs='+', metavar='RUN', help='a run folder of tools/train.py, or a pattern of them in '
                         'quotes; all differences are to the first')
    options.add_argument('--out', type=Path, default=Path('outputs/comparison.html'), help='the page; default %(default)s')
    options.add_argument('--tensorboard', type=Path, metavar='DIR', help='folder with one log per run; default: beside the '
                         'page, <page>_tensorboard')
    options.add_argument('--smooth', type=int, metavar='N', help='iterations in the running mean of training terms, 1 = as '
                         'they are; default one part in 40 of the longest run')
    options.add_argument('--pairs', action='store_true', help='print rows of several seeds and how they differ from the '
                         'first one, with intervals, instead')
    options.add_argument('--test', default='test', metavar='NAME', help='folder in each run that --pairs reads; default '
                         '%(default)s')
    return options


def main(argv: list[str] | None = None) -> None:
    """Write the page and the TensorBoard logs; print the final metrics and what to know before comparing. Or print pairs."""
    args = parser().parse_args(argv)
    if args.smooth is not None and args.smooth < 1:
        raise ConfigError(f'--smooth takes a number of iterations of at least 1, got {args.smooth}.')
    if args.pairs:
        print('\n'.join(pair_lines(args.runs, args.test)))
        return
    from jrs.engine.console import HEADLINE
    from jrs.report.compare import all_notes, comparison_page, metric_head, metric_rows, write_page, write_scalars
    from jrs.report.runs import find_runs, read_runs
    runs = read_runs(find_runs(args.runs))
    logs = args.tensorboard or args.out.with_name(f'{args.out.stem}_tensorboard')
    write_page(args.out, comparison_page(runs, args.smooth))
    write_scalars(runs, logs)
    names = [name for name in HEADLINE if any(name in run.scores for run in runs)]
    rows = metric_rows(runs, names, [run.scores for run in runs])
    print('\n'.join(_aligned([metric_head(runs, 'metric'), *rows])))
    print(''.join(f'note: {note}\n' for note in all_notes(runs)), end='')
    print(f'written: {args.out}, {logs}')


def pair_lines(runs: list[str], test: str) -> list[str]:
    """Return the table of rows of seeds in the runs that words name."""
    from jrs.report.pairs import pair_rows, rows_of
    from jrs.report.runs import find_runs
    return _aligned(pair_rows(rows_of(find_runs(runs), test)))


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ['  '.join(cell.ljust(width) if column == 0 else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
