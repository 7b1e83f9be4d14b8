"""Trains the same global batches in one process, in two that share gradients, and in two that share a sharded model, and
shows how far their losses are apart: instance terms, debug size, CPU. A command, not a test: minutes.

    python tests/soak/process_numbers.py [--steps 50] [--sharded-steps 10]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ['OMP_NUM_THREADS'] = '1'            # the ranks are forks: OpenMP's threads of the parent would be missed there


def main() -> int:
    """Run; returns 1 when losses are further apart than the tolerance."""
    args = _parser().parse_args()
    from tests._data import command, make_data
    from tests.engine._ranks import start_ranks, wait
    from tests.engine.test_processes import TOLERANCE, after_iteration, losses, words
    folder = Path(tempfile.mkdtemp(prefix='process_numbers_'))
    try:
        (folder / 'raw').mkdir()
        data = make_data(folder, folder / 'raw')
        schedule = (f'train.iterations={args.steps}', f'train.save_every={args.steps}')
        with contextlib.redirect_stdout(io.StringIO()):
            code = command('train', *words(data, folder / 'one', *schedule, 'batches.max_images=4'))
        if code != 0:
            raise SystemExit('training in one process failed')

        def stop(rank: int) -> None:
            after_iteration(args.sharded_steps - 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        ddp = start_ranks(folder / 'out', 'train', *words(data, folder / 'DDP', *schedule))
        codes = wait(ddp, 60 * args.steps)
        sharded = start_ranks(folder / 'out', 'train', *words(data, folder / 'fully_shard', *schedule,
                                                              'train.sharding=fully_shard'), before=stop)
        if codes != [0, 0] or wait(sharded, 60 * args.steps) != [143, 143]:
            raise SystemExit(ddp[0].text + sharded[0].text)
        two = {name: losses(folder / name) for name in ('DDP', 'fully_shard')}
        return int(show(losses(folder / 'one'), two) > TOLERANCE)
    finally:
        shutil.rmtree(folder)


def show(one: list[float], two: dict[str, list[float]]) -> float:
    """Print how far losses of two processes are from those of one; return the largest relative distance."""
    worst = 0.0
    for name, values in two.items():
        apart = [abs(value - own) / abs(own) for value, own in zip(values, one, strict=False)]
        worst = max(worst, *apart)
        print(f'2 processes, {name:12}: {len(values):3} steps, loss {one[0]:.5f} -> {one[len(values) - 1]:.5f}, '
              f'largest relative distance to 1 process {max(apart):.1e}, at the last step {apart[-1]:.1e}')
    return worst


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=50)
    parser.add_argument('--sharded-steps', type=int, default=10, help='of the sharded run, which is slow at this size')
    return parser


if __name__ == '__main__':
    sys.exit(main())
