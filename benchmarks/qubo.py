"""Time of PanSt3R's selection of masks, and what annealing finds beyond a greedy choice, on masks of random boxes.

python benchmarks/qubo.py                       100 masks in 20 views of 512 x 384, ten seeds of the annealing
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import publish  # noqa: E402
from jrs.plugins import load_plugins  # noqa: E402
from jrs.registry import POSTPROCESSORS, build  # noqa: E402
from jrs.structures import QueryPredictions, SceneContext  # noqa: E402


def main() -> None:
    """Choose masks of one scene in one thread; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--masks', type=int, default=100)
    parser.add_argument('--views', type=int, default=20)
    parser.add_argument('--size', type=int, nargs=2, default=(384, 512), metavar=('H', 'W'))
    parser.add_argument('--seeds', type=int, default=10)
    parser.add_argument('--out', type=Path, help='list of records to append to')
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_plugins(['panst3r'])
    from jrs_plugins.panst3r import qubo, selection
    scene = boxes(args.masks, args.views, tuple(args.size))
    begun, used = time.perf_counter(), time.process_time()
    found = build(POSTPROCESSORS, dict(type='QuboMasks'), 'model.postprocessor')(scene)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - used
    weights = selection.overlap_weights(selection.Probabilities(scene), args.masks).numpy()
    greedy = qubo.energies(weights, qubo.greedy(weights)[None])[0]
    chosen = [qubo.energies(weights, qubo.choose(weights, seed)[None])[0] for seed in range(args.seeds)]
    publish(dict(
        masks=args.masks, views=args.views, size=list(args.size), instances=len(found), seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds, 1), peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        greedy_energy=float(greedy), lowest_energy=float(min(chosen)), highest_energy=float(max(chosen)),
        seeds_as_good_as_greedy=int(np.sum(np.array(chosen) <= greedy)), seeds=args.seeds), args.out)


def boxes(count: int, views: int, size: tuple[int, int]) -> SceneContext:
    """Return a scene of masks at half of `size` (H, W): a box in each view, whose sides are not sharp."""
    generator = torch.Generator().manual_seed(0)
    height, width = (side // 2 for side in size)
    middle, reach = (torch.rand(count, views, 2, generator=generator) for _ in range(2))
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    inside = [0.05 + 0.2 * reach[..., axis, None] - (places - middle[..., axis, None]).abs()        # (M, V, h or w)
              for axis, places in enumerate((rows, columns))]
    logits = 60 * torch.minimum(inside[0][..., None], inside[1][..., None, :])                      # (M, V, h, w)
    words = torch.randn(count, 20, generator=generator)
    return SceneContext(QueryPredictions(torch.zeros(count, 1), words, logits.clamp(-8, 8), classes='sigmoid'),
                        image_size=size, scene_name='boxes')


if __name__ == '__main__':
    main()
