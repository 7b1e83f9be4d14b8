"""Trains the debug profile for many iterations, with checkpoints, validations and pictures, and shows what grows: resident
memory, open files, threads, Python's objects. A command, not a test: minutes.

    python tests/soak/memory_growth.py [--iterations 2000] [--workers 0]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ROWS = 10
LIMIT_MIB = 10                                 # growth over the second half that is not noise: a leak of one image shows


def main() -> int:
    """Run; returns 1 when something grows."""
    args = _parser().parse_args()
    folder = Path(tempfile.mkdtemp(prefix='memory_growth_'))
    try:
        rows = measure(args, folder)
    finally:
        shutil.rmtree(folder)
    half = rows[len(rows) // 2:]
    growth = half[-1][1] - half[0][1]
    more = {name: half[-1][place] - half[0][place] for place, name in ((2, 'open files'), (3, 'threads'))}
    print(f'iterations {half[0][0]} to {half[-1][0]}: {growth:+.2f} MiB, '
          + ', '.join(f'{value:+d} {name}' for name, value in more.items()))
    return int(growth > LIMIT_MIB or any(value > 0 for value in more.values()))


def measure(args: argparse.Namespace, folder: Path) -> list[tuple[int, float, int, int, int]]:
    """Train; return iterations, MiB, open files, threads and objects, `ROWS` times."""
    from jrs.engine.hooks import TermLog
    from tests._data import MAIN, command, make_data
    (folder / 'raw').mkdir()
    data, every, rows = make_data(folder, folder / 'raw'), max(1, args.iterations // ROWS), []
    write = TermLog.after_train_iter

    def look(self, runner, *arguments, **named) -> None:
        write(self, runner, *arguments, **named)
        if (runner.iter + 1) % every == 0:
            gc.collect()
            rows.append((runner.iter + 1, resident_mib(), len(os.listdir('/proc/self/fd')), threading.active_count(),
                         len(gc.get_objects())))
            print(f'{rows[-1][0]:10} {rows[-1][1]:10.1f} {rows[-1][2]:10} {rows[-1][3]:8} {rows[-1][4]:10}',
                  file=sys.__stdout__, flush=True)
    TermLog.after_train_iter = look
    print(f'{"iteration":>10} {"MiB":>10} {"open files":>10} {"threads":>8} {"objects":>10}')
    given = ['train', MAIN, '--profile', 'debug', '--work-dir', folder / 'run', '--cfg-options', f'data_root={data}',
             f'train.iterations={args.iterations}', f'train.save_every={every}', f'train.validate_every={5 * every}',
             f'train.workers={args.workers}', f'train.log_every={every}', f'hooks.pictures.interval={every}']
    with contextlib.redirect_stdout(io.StringIO()):
        code = command(*given)
    if code != 0:
        raise SystemExit('training failed')
    return rows


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--workers', type=int, default=0, help='of the loader')
    return parser


if __name__ == '__main__':
    sys.exit(main())
