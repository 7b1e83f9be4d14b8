"""The paper's tables again, on rooms that only score: rows of a seed start alike and see the same batches in one order.

    python benchmarks/rooms/tables.py --dry-run                               # what is there, what is open, how long
    python benchmarks/rooms/tables.py --jobs 2                                # all of it; goes on where it was stopped
    python benchmarks/rooms/tables.py --only 3 7 --seeds 0 1
    python benchmarks/rooms/page.py                                           # writes docs/rooms.md of what is there

Tables 3 and 7 are of the length of the profile `rooms`; 4 and 8, whose claims are orders and decoders that learn slowly, of
twice that. Each row is trained once for all tables of a length; the one without FADA and the one as built are rows of
where_fada_pays.py, too, and are kept there. Prepare the rooms as that says. Scores are those of benchmarks/rooms/study.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rooms import where_fada_pays  # noqa: E402
from benchmarks.rooms.publish import RESULTS  # noqa: E402
from benchmarks.rooms.study import ITERATIONS, Job, add_options, check_names, is_kept, open_line, run_all  # noqa: E402
from jrs.cli import run  # noqa: E402
from jrs.report.tables import load_tables  # noqa: E402

NAME = 'tables'                                 # of the study
LENGTHS = {3: ITERATIONS, 7: ITERATIONS, 4: 2 * ITERATIONS, 8: 2 * ITERATIONS}    # of the tables, in the order of their use
SEEDS = {3: 3, 7: 3, 4: 3, 8: 2}                # how many are planned of the rows of each
OF_FADA = {('all24_no_fada', ITERATIONS): 'none', ('all24_fada', ITERATIONS): 'mean'}         # rows of where_fada_pays.py
PACE = {'vggt_mask2former_6l': 1.6, 'vggt_mask2former_12l': 2.2, 'vggt_mask2former_18l': 2.8}


def configs(table: int) -> list[str]:
    """Return the config files of the rows of a table, as they stand in its data."""
    return [config for row in load_tables([table])[0].rows if row.kind != 'external' for config in row.configs.values()]


def job(config: str, length: int, seed: int) -> Job:
    """Return a row of so many iterations with a seed."""
    stem = Path(config).stem
    if (stem, length) in OF_FADA:
        return where_fada_pays.job('rooms', OF_FADA[stem, length], seed)
    training = {} if length == ITERATIONS else {'train.iterations': length}
    return Job(NAME, f'{stem}_{length}', config, seed, training, pace=PACE.get(stem, 1.0))


def planned(table: int, seeds: Sequence[int] | None = None) -> list[Job]:
    """Return the jobs of a table, all rows with a seed before the next seed; by default with the seeds that are planned."""
    return [job(config, LENGTHS[table], seed) for seed in seeds or range(SEEDS[table]) for config in configs(table)]


def kept_runs(table: int, config: str, out: Path = RESULTS) -> Iterator[tuple[int, Path]]:
    """Yield seed and folder of what is kept of a row of a table, seeds beyond those that are planned included."""
    first = job(config, LENGTHS[table], 0)
    folders = first.in_(out).parent.glob(f'{first.stem}_seed[0-9]*')
    for seed in sorted(int(folder.name.rpartition('_seed')[2]) for folder in folders):
        one = job(config, LENGTHS[table], seed)
        if is_kept(one, out):
            yield seed, one.in_(out)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog='benchmarks/rooms/tables.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', nargs='+', metavar='TABLE', default=[*map(str, LENGTHS)],
                         help=f'default, and in this order: {" ".join(map(str, LENGTHS))}')
    add_options(options)
    return options


def main(argv: list[str] | None = None) -> int:
    """Train and score what is open, a table before the next; returns 1 where something failed."""
    args = parser().parse_args(argv)
    check_names(args.only, [*map(str, LENGTHS)])
    jobs = [one for table in map(int, args.only) for one in planned(table, args.seeds)]
    return run_all([*{one.name: one for one in jobs}.values()], args)


def open_lines(out: Path = RESULTS) -> Iterator[str]:
    """Yield which rows are open, by table."""
    yield from open_line(((f'Table {table}', one.stem, one) for table in LENGTHS for one in planned(table)), out)


if __name__ == '__main__':
    sys.exit(run(main))
