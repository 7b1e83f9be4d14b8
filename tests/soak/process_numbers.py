"""Trains the same updates in one process that takes all slots in turn, in two that share gradients, and in two that share a
sharded model, and shows how far terms and weights are apart: debug size, CPU. A command, not a test: minutes.

    python tests/soak/process_numbers.py [--steps 20] [--slots 8] [--sharded-steps 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ['OMP_NUM_THREADS'] = '1'            # the ranks are forks: OpenMP's threads of the parent would be missed there


def main() -> int:
    """Run; returns 1 when terms or weights are further apart than the tolerance."""
    args = _parser().parse_args()
    from tests._data import make_data
    from tests.engine.test_processes import TOLERANCE
    folder = Path(tempfile.mkdtemp(prefix='process_numbers_'))
    try:
        (folder / 'raw').mkdir()
        data, worst = make_data(folder, folder / 'raw'), 0.0
        for kind, steps, sharding in (('DDP', args.steps, None), ('fully_shard', args.sharded_steps, 'fully_shard')):
            one = train(data, folder / f'one_{kind}', steps, args.slots, 1)
            two = train(data, folder / kind, steps, args.slots, 2, f'train.sharding={sharding}')
            worst = max(worst, show(one, two, f'{steps} updates, 2 processes x {args.slots // 2}, {kind}'))
        return int(worst > TOLERANCE)
    finally:
        shutil.rmtree(folder)


def train(data: Path, run: Path, steps: int, slots: int, processes: int, *options: str) -> Path:
    """Train in so many processes, whose loss also depends on what each slot draws at random; returns the run's folder."""
    from tests.engine._ranks import start_ranks, wait
    from tests.engine.test_processes import noisy_loss, words
    given = words(data, run, f'train.iterations={steps}', f'train.save_every={steps}', f'batches.slots={slots}', *options)
    ranks = start_ranks(run.with_name(f'{run.name}_output'), 'train', *given, count=processes, before=noisy_loss)
    if wait(ranks, 600 + 60 * steps) != [0] * processes:
        raise SystemExit(''.join(rank.text for rank in ranks))
    return run


def show(one: Path, two: Path, what: str) -> float:
    """Print how far a run is from that of one process; return the larger distance."""
    from tests.engine.test_processes import distance, losses
    terms, weights = distance(one, two)
    print(f'{what:45}: loss {losses(one)[0]:.5f} -> {losses(one)[-1]:.5f}, to 1 process at most {terms:.1e} in a term '
          f'(relative), {weights:.1e} in a weight', flush=True)
    return max(terms, weights)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--slots', type=int, default=8, help='of an update')
    parser.add_argument('--sharded-steps', type=int, default=2, help='of the sharded run, which is slow at this size')
    return parser


if __name__ == '__main__':
    sys.exit(main())
