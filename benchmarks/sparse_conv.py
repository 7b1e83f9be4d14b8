"""Time of a sparse convolution, forward and backward, against the same loop under autograd.

    python benchmarks/sparse_conv.py [--voxels 50000] [--width 32] [--pairs 9]

Voxels are of planes at right angles, as rooms have them, about nine neighbours each (itself included). Both sides use the
same pairs, sorted voxels and one thread, and are timed in turn: the ratio is the median over the pairs of CPU times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from jrs.plugins import load_plugins
from jrs.registry import MODELS

LIMIT = 0.65


def planes(count: int) -> Tensor:
    """Return about `count` different voxels (n, 4) of three planes that meet in a corner."""
    side = int((count / 3) ** 0.5) + 1
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    zero = torch.zeros(len(cells), 1, dtype=torch.int64)
    faces = [torch.cat([zero, *columns], dim=1) for columns in (
        (zero, cells), (cells[:, :1], zero, cells[:, 1:]), (cells, zero))]
    return torch.cat(faces).unique(dim=0)


def loop(features: Tensor, weight: Tensor, pairs) -> Tensor:
    """Return what the convolution returns, (X, C) of `features` (X, C): one autograd node per gather, product and sum."""
    result = features @ weight[pairs.centre]
    for place, (outputs, inputs) in enumerate(zip(pairs.outputs, pairs.inputs, strict=True)):
        if len(outputs):
            result = result.index_add(0, outputs, features.index_select(0, inputs) @ weight[place])
    return result


def cpu_seconds(function: Callable, rows: int, width: int, pairs) -> float:
    """Return the CPU time of one forward and backward pass."""
    features = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(27, width, width, requires_grad=True)
    start = time.process_time()
    function(features, weight, pairs).sum().backward()
    return time.process_time() - start


def main(argv: list[str] | None = None) -> int:
    """Print both times and their ratio; 1 where the ratio is above the limit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--voxels', type=int, default=50000)
    options.add_argument('--width', type=int, default=32)
    options.add_argument('--pairs', type=int, default=9, help='how often both are timed')
    args = options.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    load_plugins(['point_clouds'])
    module = sys.modules[MODELS.get('SparseUNet').__module__]
    convolution = sys.modules[module.SparseConvolution.__module__].sparse_convolution
    torch.set_num_threads(1)
    voxels = planes(args.voxels)
    level, _ = module.sorted_level(voxels, module.padded_extent(voxels, 1))
    start = time.process_time()
    pairs = level.neighbours(3)
    found = time.process_time() - start
    times = [(cpu_seconds(loop, len(level), args.width, pairs), cpu_seconds(convolution, len(level), args.width, pairs))
             for _ in range(args.pairs + 1)][1:]                                # the first pair warms up
    ratio = statistics.median(own / theirs for theirs, own in times)
    neighbours = 1 + sum(map(len, pairs.outputs)) / len(level)
    print(f'{len(level)} voxels, {neighbours:.1f} neighbours each, width {args.width}: neighbours found in {found:.3f} s\n'
          f'loop under autograd {statistics.median(theirs for theirs, _ in times):.3f} s, own backward '
          f'{statistics.median(own for _, own in times):.3f} s of CPU, ratio {ratio:.2f} (limit {LIMIT})')
    return int(ratio > LIMIT)


if __name__ == '__main__':
    sys.exit(main())
