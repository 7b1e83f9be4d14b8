"""Which kernel torch chooses for the attentions of the paper's model, and how long each one takes.

    python benchmarks/attention_kernels.py --device cuda --json benchmarks/results/attention_kernels.json
    python benchmarks/attention_kernels.py --device cpu --tokens 256 --queries 16

Self-attention over all tokens (16 heads of 64, as pairs across views have it), and cross-attention of queries with values of
88 and 168 elements: one-hot columns of 24 and 100 views behind the 64, as training and `_one_hot` have them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import publish  # noqa: E402
from jrs.engine.record import device_name  # noqa: E402
from jrs.layers.kernels import KERNELS, choose_kernels, free_choice, kernels_used  # noqa: E402
from jrs.schema import DEVICE  # noqa: E402

HEADS, WIDTH = 16, 64


def seconds(run, device: torch.device, repeats: int) -> float:
    """Return the shortest time of `repeats` calls."""
    best = float('inf')
    for _ in range(repeats + 1):
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def measure(queries: int, tokens: int, value_width: int, dtype: torch.dtype, device: torch.device, repeats: int) -> dict:
    """Return the kernel that our list chooses, and the seconds of each kernel; None where one cannot do it."""
    query, key, value = (torch.randn(1, HEADS, count, width, dtype=dtype, device=device)
                         for count, width in ((queries, WIDTH), (tokens, WIDTH), (tokens, value_width)))

    def run() -> None:
        F.scaled_dot_product_attention(query, key, value, scale=WIDTH ** -0.5)
    times: dict[str, float | None] = {}
    for name, kernel in KERNELS.items():
        if name == 'math' and queries * tokens * HEADS > 2 ** 31:
            continue                           # it would hold all weights
        try:
            with sdpa_kernel(kernel):
                times[name] = seconds(run, device, repeats)
        except RuntimeError:
            times[name] = None
    choose_kernels(DEVICE['attention_kernels'] if device.type == 'cuda' else list(KERNELS))
    chosen = kernels_used(run)
    free_choice()
    return dict(queries=queries, tokens=tokens, value_width=value_width, dtype=str(dtype), chosen=chosen, seconds=times)


def main() -> None:
    """Print a line of JSON per attention."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--device', default='cuda')
    options.add_argument('--tokens', type=int, default=24 * 1041, help='of all views')
    options.add_argument('--queries', type=int, default=400)
    options.add_argument('--repeats', type=int, default=5)
    options.add_argument('--json', type=Path)
    args = options.parse_args()
    device = torch.device(args.device)
    dtypes = (torch.bfloat16, torch.float32)
    for queries, width in ((args.tokens, WIDTH), (args.queries, WIDTH), (args.queries, 88), (args.queries, 168)):
        for dtype in dtypes:
            publish(measure(queries, args.tokens, width, dtype, device, args.repeats), args.json, torch=torch.__version__,
                    device=device_name(device))


if __name__ == '__main__':
    main()
