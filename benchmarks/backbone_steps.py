"""VGGT of two checkouts beside each other: same operations of torch, same outputs to the bit, CPU time by alternating pairs.

    git worktree add /tmp/before f114031
    python benchmarks/backbone_steps.py /tmp/before --pairs 15
    python benchmarks/backbone_steps.py /tmp/before --size full --pairs 5 --repeats 1      # VGGT-1B, random weights

Two processes, one per checkout, run in turns. Operations are counted by a dispatch mode during a pass, and during a training
step with and without recomputation (small size only). `--json FILE` appends the record to a list.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    'small': dict(views=4, size=(112, 112), config=dict(embed_dim=64, depth=8, num_heads=2, patch_embed='conv', img_size=112,
                                                        feature_layers=(1, 3, 5, 7))),
    'full': dict(views=2, size=(196, 252), config={}),
}


def child(size: str, repeats: int) -> None:
    """Answer lines of standard input: `check` with counts and hashes, `time` with the CPU seconds of a pass."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from jrs.backbones.vggt import VGGT

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: dict[str, int] = {}

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            self.found[str(operation)] = self.found.get(str(operation), 0) + 1
            return operation(*args, **(kwargs or {}))

    torch.manual_seed(0)
    given = SIZES[size]
    images = torch.rand(1, given['views'], 3, *given['size'])
    backbone = VGGT(**given['config'])

    def digest(tensors) -> str:
        return hashlib.sha256(b''.join(value.detach().contiguous().numpy().tobytes() for value in tensors)).hexdigest()

    def run() -> list:
        tokens = [state.tokens for state in backbone.layers(images)]
        features = backbone.features()
        return [*tokens, *features.taps, features.geometry_tokens, features.patch_index]

    def forward() -> str:
        with torch.no_grad():
            return digest(run())

    def step(recompute: bool) -> str:
        backbone.activation_checkpointing = recompute
        backbone.train().zero_grad()
        run()[-2].square().mean().backward()
        return digest([value.grad for value in backbone.parameters() if value.grad is not None])

    def counted(function, *args) -> dict:
        with Count() as count:
            result = function(*args)
        return dict(operations=count.found, sha256=result)

    for line in sys.stdin:
        backbone.eval()
        if line.strip() == 'check':
            answer = dict(names=sorted(backbone.state_dict()), forward=counted(forward))
            if size == 'small':
                answer |= dict(training=counted(step, False), recomputing=counted(step, True))
        else:
            start = time.process_time()
            with torch.no_grad():
                for _ in range(repeats):
                    run()
            answer = (time.process_time() - start) / repeats
        print(json.dumps(answer), flush=True)


class Checkout:
    """A child process of a checkout."""

    def __init__(self, folder: Path, size: str, repeats: int) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, '--child', '--size', size, '--repeats', str(repeats)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
                                        env={'PYTHONPATH': str(folder), 'OMP_NUM_THREADS': '1', 'PATH': ''})

    def ask(self, question: str):
        """Return the answer to a line."""
        self.process.stdin.write(question + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(before: Path, size: str, pairs: int, repeats: int) -> dict:
    """Return what differs, and the ratio of CPU times."""
    sides = [Checkout(before, size, repeats), Checkout(ROOT, size, repeats)]
    checks = [side.ask('check') for side in sides]
    figures = {}
    for name in [name for name in checks[0] if name != 'names']:
        old, new = (check[name]['operations'] for check in checks)
        differing = {key: (old.get(key, 0), new.get(key, 0)) for key in {*old, *new} if old.get(key) != new.get(key)}
        figures[name] = dict(operations=sum(new.values()), kinds=len(new), differing=differing,
                             bit_equal=checks[0][name]['sha256'] == checks[1][name]['sha256'])
    seconds = []
    for pair in range(pairs):
        order = sides if pair % 2 == 0 else sides[::-1]
        found = {id(side): side.ask('time') for side in order}
        seconds.append([found[id(side)] for side in sides])
    for side in sides:
        side.close()
    return dict(size=size, names_equal=checks[0]['names'] == checks[1]['names'], **figures, pairs=pairs, seconds=seconds,
                median_ratio=median(new / old for old, new in seconds) if seconds else None)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('before', type=Path, nargs='?', help='the other checkout')
    parser.add_argument('--size', choices=sorted(SIZES), default='small')
    parser.add_argument('--pairs', type=int, default=15)
    parser.add_argument('--repeats', type=int, default=20, help='passes per measurement')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.size, args.repeats)
        return
    sys.path.insert(0, str(ROOT))
    from benchmarks.record import publish
    publish(compare(args.before.resolve(), args.size, args.pairs, args.repeats), args.json)


if __name__ == '__main__':
    main()
