"""Time and memory of attention with view mass, forward + backward, one subprocess per measurement.

    OMP_NUM_THREADS=1 python benchmarks/view_attention.py --json benchmarks/results/view_attention_cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jrs.layers.cross_attention import attention_with_view_mass  # noqa: E402

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
METHODS = ('plain', 'one_hot', 'blocked', 'auto')


def memory_mb(field: str) -> float:
    """Return VmRSS or VmHWM of this process in MB (Linux)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field + ':'):
            return int(line.split()[1]) / 1024
    raise OSError(f'/proc/self/status has no {field}')


def make_inputs(args: argparse.Namespace, dtype: torch.dtype) -> list:
    """Return query, key, value (leaves) and the view of each token."""
    generator = torch.Generator().manual_seed(0)
    view_index = torch.arange(args.views).repeat_interleave(args.tokens // args.views)
    shapes = [(1, args.heads, n, args.dim) for n in (args.queries, len(view_index), len(view_index))]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes] + [view_index]


def run(query, key, value, view_index, num_views: int, method: str):
    """Forward, and backward of a loss that reads both the output and the masses."""
    output, mass = attention_with_view_mass(query, key, value, view_index, num_views, method)
    loss = output.float().square().mean() - mass.clamp_min(1e-9).log().mean()
    loss.backward()
    return output.detach(), mass.detach()


def measure(args: argparse.Namespace) -> dict:
    """Measure one method in this process; the high-water mark is reset at the start."""
    torch.set_num_threads(1)
    small = argparse.Namespace(**{**vars(args), 'queries': 40, 'tokens': 40 * args.views})
    run(*make_inputs(small, DTYPES[args.dtype]), args.views, args.method)          # loads kernels
    Path('/proc/self/clear_refs').write_text('5')
    start_mb = memory_mb('VmRSS')
    inputs = make_inputs(args, DTYPES[args.dtype])
    inputs_mb = memory_mb('VmRSS')
    seconds = time.process_time()
    run(*inputs, args.views, args.method)
    seconds = time.process_time() - seconds
    peak_mb = memory_mb('VmHWM')
    return {'cpu_s': seconds, 'peak_mb': peak_mb - start_mb, 'peak_mb_beyond_inputs': peak_mb - inputs_mb}


def relative_errors(args: argparse.Namespace) -> dict:
    """Return max |a - b| / max |b| of output, mass and gradients in float32, against the plain path."""
    args = argparse.Namespace(**{**vars(args), 'queries': 40, 'tokens': 100 * args.views, 'heads': 4})
    results = {}
    for method in METHODS:
        inputs = make_inputs(args, torch.float32)
        results[method] = [*run(*inputs, args.views, method), *(x.grad for x in inputs[:3])]
    names = ('output', 'mass', 'grad_query', 'grad_key', 'grad_value')
    return {method: {name: ((a - b).abs().max() / b.abs().max()).item()
                     for name, a, b in zip(names, tensors, results['plain'], strict=True)}
            for method, tensors in results.items() if method not in ('plain', 'auto')}


def measure_all(args: argparse.Namespace) -> list[dict]:
    """Measure every method and dtype `--repeats` times in turn, each in a fresh process; keep the smallest."""
    rows = []
    for dtype in DTYPES:
        runs = {method: [] for method in args.methods}
        for _ in range(args.repeats):
            for method in args.methods:
                command = [sys.executable, __file__, '--one', method, dtype, *args.sizes]
                runs[method].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        best = {method: {key: min(run[key] for run in done) for key in done[0]} for method, done in runs.items()}
        for method, figures in best.items():
            ratios = {f'{key}_over_plain': figures[key] / best['plain'][key] for key in figures}
            rows.append({'dtype': dtype, 'method': method, **figures, **ratios})
            print(' '.join(f'{key}={value:.3f}' if isinstance(value, float) else str(value)
                           for key, value in rows[-1].items()), flush=True)
    return rows


def cpu_model() -> str:
    """Return the processor's name as Linux gives it."""
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Parse the command line; measure one method (`--one`, used by itself) or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('queries', 200), ('tokens', 25008), ('heads', 16), ('dim', 64), ('views', 24)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=METHODS)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--one', nargs=2, metavar=('METHOD', 'DTYPE'))
    args = parser.parse_args()
    if args.one:
        args.method, args.dtype = args.one
        print(json.dumps(measure(args)))
        return
    args.sizes = [part for name in ('queries', 'tokens', 'heads', 'dim', 'views')
                  for part in (f'--{name}', str(getattr(args, name)))]
    torch.set_num_threads(1)
    report = {'command': ' '.join(['python', *sys.argv]), 'machine': f'{cpu_model()}, {platform.system()}, 1 thread',
              'python': platform.python_version(), 'torch': torch.__version__,
              'sizes': ' '.join(args.sizes), 'repeats': args.repeats, 'statistic': 'smallest of the repeats',
              'relative_error_float32': relative_errors(args), 'measurements': measure_all(args)}
    print(json.dumps(report['relative_error_float32'], indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
