"""Time, memory and parameters per scene of the methods that see points, at full size, beside what is published of them.

    python benchmarks/point_clouds.py                                  # all methods, one synthetic room of 30,000 points
    python benchmarks/point_clouds.py --methods oneformer3d --points 150000 --superpoints 2000 --device cuda
    python benchmarks/point_clouds.py --table benchmarks/results/point_clouds_cpu.json          # a record as a table

A room is the six sides of a cube, one point per 2 cm voxel, cut into patches as superpoints; weights are random. Times
depend on the numbers of voxels and superpoints, and in the post-processing on how many masks a network finds, which a
trained one may do differently. CPU times are CPU seconds of one thread, after a first pass that is not counted; memory is
what a pass takes beside the weights. Published are parameters, counted in the methods' own classes (buffers, and parts that
are trained beside and not used, included); times of a scene are in none of our sources.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import publish  # noqa: E402
from jrs.config import load_config  # noqa: E402
from jrs.engine.build import build_model  # noqa: E402
from jrs.engine.usage import memory_gb, peak_memory_gb, reset_peak  # noqa: E402
from jrs.errors import ConfigError  # noqa: E402
from jrs.plugins import load_plugins  # noqa: E402

VOXEL_M = 0.02
STAGES = ('voxels', 'network', 'pooling', 'decoder', 'postprocessing')
PUBLISHED = {                                  # values in the methods' own weights: baselines_keys/ of the specification
    'spformer_scannetv2': 17612571, 'oneformer3d_scannetv2': 17523733, 'oneformer3d': 44577422, 'maft_scannetv2': 20150995,
    'mask3d': 39675576, 'mask3d_scannetv2': 39634456, 'relation3d': 22405639, 'relation3d_scannetv2': 22358899,
    'sgiformer_l': 43009873, 'sgiformer_l_scannetv2': 35127172}
METHODS = ('spformer_scannetv2', 'oneformer3d_scannetv2', 'oneformer3d', 'maft_scannetv2', 'mask3d', 'relation3d_scannetv2',
           'sgiformer_l_scannetv2', 'queryformer_scannetv2')


def main(argv: list[str] | None = None) -> None:
    """Measure each method, print and keep the record, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--methods', nargs='+', default=METHODS, help='configs of configs/baselines (default: %(default)s)')
    options.add_argument('--points', type=int, default=30000, help='about so many (default: %(default)s)')
    options.add_argument('--superpoints', type=int, default=400, help='about so many (default: %(default)s)')
    options.add_argument('--repeats', type=int, default=3, help='passes, of which the median counts (default: %(default)s)')
    options.add_argument('--device', default='cpu', help='a torch device (default: %(default)s)')
    options.add_argument('--out', type=Path, help='list of records to append to')
    options.add_argument('--table', type=Path, metavar='FILE', help='print the newest of these records as a table, and stop')
    args = options.parse_args(argv)
    if args.table is not None:
        print('\n'.join(table(json.loads(args.table.read_text(encoding='utf-8'))[-1])))
        return
    if min(args.points, args.superpoints, args.repeats) < 1:
        raise ConfigError(f'--points, --superpoints and --repeats are at least 1, got {args.points}, {args.superpoints}, '
                          f'{args.repeats}.')
    torch.set_num_threads(1)
    load_plugins(['point_clouds'])
    rows = [measure(method, args) for method in args.methods]
    record = dict(device=torch.cuda.get_device_name() if args.device != 'cpu' else 'CPU, one thread', rows=rows)
    publish(record, args.out, torch=torch.__version__)
    print('\n'.join(['', *table(record | dict(load=os.getloadavg()[0]))]))


def measure(method: str, args: argparse.Namespace) -> dict:
    """Return the figures of one method at the size of its paper."""
    torch.manual_seed(0)
    cfg = load_config(ROOT / 'configs/baselines' / f'{method}.py', overrides={'weights': None})
    model = build_model(cfg).eval().to(args.device)
    batch = room(cfg, args.points, args.superpoints).to(args.device)
    device, passes = torch.device(args.device), []
    reset_peak(device)
    before = memory_gb(device)
    with Watch(model, args.device) as watch, torch.no_grad():
        for _ in range(args.repeats + 1):
            watch.clear()
            begun = watch.now()
            model(batch, mode='predict')
            passes.append(watch.parts(watch.now() - begun))
    parts = {stage: round(1000 * statistics.median(one[stage] for one in passes[1:]), 1) for stage in STAGES}
    return dict(method=method, points=batch.num_points[0], voxels=batch.num_voxels[0], superpoints=batch.num_superpoints[0],
                parameters_m=round(sum(value.numel() for value in model.state_dict().values()) / 1e6, 2),
                ms=parts, total_ms=round(sum(parts.values()), 1), peak_gb=round(peak_memory_gb(device) - before, 2))


class Watch:
    """Measures the parts of a model as they run, inside a `with` block; what is left of a pass counts as pooling.

    Args:
        model: a `PointSegmenter`.
        device: of its weights.
    """

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        self.device, self.spent, self.running = device, {}, set()
        self.levels = sys.modules['jrs_plugins.point_clouds.voxels'].VoxelLevel
        self.untimed = {name: getattr(self.levels, name) for name in ('_neighbours', '_coarser')}
        for name in ('network', 'pooling', 'decoder'):
            part = getattr(model, name)
            for method in ('forward', 'with_levels'):
                if hasattr(part, method):
                    setattr(part, method, self._timed(name, getattr(part, method)))
        model.postprocessor = self._timed('postprocessing', model.postprocessor)

    def __enter__(self) -> Watch:
        for name, function in self.untimed.items():
            setattr(self.levels, name, self._timed('voxels', function))
        return self

    def __exit__(self, *_) -> None:
        for name, function in self.untimed.items():
            setattr(self.levels, name, function)

    def clear(self) -> None:
        """Begin a pass."""
        self.spent = {}

    def now(self) -> float:
        """Return seconds: of the CPU, or on the clock when the device is done."""
        if self.device == 'cpu':
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def parts(self, total: float) -> dict[str, float]:
        """Return the seconds of each stage of a pass of `total` seconds; finding neighbours is not the network's."""
        spent = {stage: self.spent.get(stage, 0.0) for stage in STAGES}
        spent['network'] -= spent['voxels']
        spent['pooling'] += total - sum(spent.values())
        return spent

    def _timed(self, name: str, function: Callable) -> Callable:
        def run(*given, **named):
            if name in self.running:
                return function(*given, **named)               # of a part that calls itself
            self.running.add(name)
            begun = self.now()
            try:
                return function(*given, **named)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + self.now() - begun
                self.running.discard(name)
        return run


def room(cfg, points: int, superpoints: int):
    """Return about so many points of a synthetic room as the input of a config's test data, in about so many patches."""
    inputs = sys.modules['jrs_plugins.point_clouds.inputs']
    side = (points / 6) ** 0.5 * VOXEL_M                       # edge of a cube whose sides have so many voxels together
    generator = np.random.default_rng(0)
    along = np.arange(0, side, VOXEL_M) + VOXEL_M / 2
    first, second = (grid.ravel() for grid in np.meshgrid(along, along))
    planes = []
    for axis in range(3):
        for place in (0.5 * VOXEL_M, side - 0.5 * VOXEL_M):
            plane = np.insert(np.stack([first, second], axis=1), axis, place, axis=1)
            planes.append(plane)
    cells = np.unique(np.floor(np.concatenate(planes) / VOXEL_M + 1e-6).astype(np.int64), axis=0)
    cloud = (cells + np.where(cells == 0, 0.25, 0.75)) * VOXEL_M           # in the cells that are counted from either origin
    patch = side / max(1.0, (superpoints / 6) ** 0.5)
    _, owner = np.unique(np.floor(cloud / patch).astype(np.int64), axis=0, return_inverse=True)
    settings = {name: value for name, value in cfg.test_dataset.items()
                if name in ('voxel_values', 'voxel_origin', 'features', 'color_scale', 'centred', 'turn')}
    made = inputs.PointInput(VOXEL_M, **settings)
    normals = np.repeat(np.array([[0.0, 0.0, 1.0]]), len(cloud), axis=0)
    return made.tested('room', cloud, generator.uniform(0, 255, cloud.shape), owner.reshape(-1), normals)


def table(record: dict) -> list[str]:
    """Return a record as a Markdown table, measured numbers and published ones labelled."""
    first = record['rows'][0]
    heads = ('method', *(f'{stage}, ms' for stage in STAGES), 'a scene, ms (measured)', 'memory, GB (measured)',
             'parameters, M (measured)', 'parameters, M (published)')
    lines = [f'{record["device"]}; profile paper; a scene of {first["points"]:,} points, {first["voxels"]:,} voxels and '
             f'{first["superpoints"]} superpoints; load of the machine {record["load"]:.1f}.', '',
             '| ' + ' | '.join(heads) + ' |', '| ' + ' | '.join(['---'] * len(heads)) + ' |']
    for row in record['rows']:
        known = PUBLISHED.get(row['method'], 0) / 1e6
        cells = (row['method'], *(f'{row["ms"][stage]:.0f}' for stage in STAGES), f'{row["total_ms"]:.0f}',
                 f'{row["peak_gb"]:.2f}', f'{row["parameters_m"]:.2f}', f'{known:.2f}' if known else '–')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return lines


if __name__ == '__main__':
    main()
