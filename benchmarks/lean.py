"""Peak memory and CPU time of one forward pass of VGGT-1B's size, and of post-processing at 100 views (CPU, Linux).

    python benchmarks/lean.py forward --views 4 --dtype float32
    python benchmarks/lean.py forward --views 4 --dtype bfloat16
    python benchmarks/lean.py postprocess --views 100

Each call is one measurement in a process of its own and prints one line of JSON; `--json FILE` appends it to a list.
Weights are random: they cost the same as the official ones.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jrs.backbones  # noqa: E402
import jrs.heads  # noqa: E402
import jrs.models  # noqa: E402,F401
from benchmarks.record import publish  # noqa: E402
from jrs.engine.memory import lean_allocations  # noqa: E402
from jrs.io.lean_build import build_on_meta  # noqa: E402
from jrs.layers import block, dpt  # noqa: E402
from jrs.postprocess.instances import QueryMasks  # noqa: E402
from jrs.registry import MODELS, build  # noqa: E402
from jrs.structures import QueryPredictions, SceneBatch  # noqa: E402

MASK_SIZE = (196, 259)
IMAGE_SIZE = (392, 518)


def geometry_model(dtype: str) -> nn.Module:
    """Return VGGT-1B with camera and depth heads and random weights; 'bfloat16' runs its aggregator so."""
    config = dict(type='SegVGGT', autocast=dtype, backbone=dict(type='VGGT'), camera_head=dict(type='CameraHead'),
                  depth_head=dict(type='DepthHead'))
    model, _ = build_on_meta(lambda: build(MODELS, config, 'model'))
    model.narrow()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.empty(parameter.shape, dtype=parameter.dtype)
                fill_value = dict(weight=1.0, gamma=0.01).get(name, 0.0)
                value = value.fill_(fill_value) if value.ndim == 1 else value.normal_(0, 0.02, generator=generator)
                setattr(module, name, nn.Parameter(value, requires_grad=False))
    return model.eval()


def forward(args: argparse.Namespace) -> dict:
    """Measure one pass over `args.views` views of 392 x 518."""
    if args.plain:
        block.HIDDEN_VALUES = dpt.CPU_VALUES = 2 ** 62             # every layer whole, as one would write it down
    else:
        lean_allocations()                                      # as Reconstructor does on a CPU
    model = geometry_model(args.dtype)
    images = torch.rand(1, args.views, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    batch = SceneBatch(images, ['scene'], [[str(view) for view in range(args.views)]])
    wall, cpu = time.perf_counter(), time.process_time()
    model.reconstruct(batch)
    return dict(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall,
                peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def postprocess(args: argparse.Namespace) -> dict:
    """Measure scored masks from given mask logits of 400 queries."""
    generator = torch.Generator().manual_seed(0)
    view_logits = torch.randn(args.views, *MASK_SIZE, generator=generator) * 3 - 2
    logits = torch.empty(400, args.views, *MASK_SIZE)
    for query in range(len(logits)):
        logits[query] = view_logits.roll(query, 0)
    queries = QueryPredictions(torch.zeros(400, 0), torch.randn(400, 199, generator=generator), logits)
    Path('/proc/self/clear_refs').write_text('5')
    inputs_gb = status_gb('VmRSS')
    wall, cpu = time.perf_counter(), time.process_time()
    found = QueryMasks()(queries)
    return dict(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall,
                peak_gb_over_inputs=status_gb('VmHWM') - inputs_gb, inputs_gb=inputs_gb, rows=len(found.scores))


def status_gb(field: str) -> float:
    """Return a line of /proc/self/status in GB (1e9 bytes)."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(field + ':'))


def main() -> None:
    """Measure once and print, or append to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('forward', 'postprocess'))
    parser.add_argument('--views', type=int, default=4)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--plain', action='store_true', help='forward without chunks and without returning freed memory')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = dict(forward=forward, postprocess=postprocess)[args.what](args)
    publish(figures, args.json, torch=torch.__version__)


if __name__ == '__main__':
    main()
