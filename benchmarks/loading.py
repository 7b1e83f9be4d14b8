"""Peak memory and time of loading full-size weights, as resident memory of the process: its own pages and mapped ones.

python benchmarks/loading.py segvggt --folder /tmp            writes 6.6 GB of random weights there, measures, deletes them
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'segvggt' / 'all24_fada.py'
CONVERT = ['convert', 'convert --merge-lora', 'convert --dtype bfloat16']


def main() -> None:
    """Write the file, measure each way of using it in a process of its own, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=('vggt', 'segvggt'))
    parser.add_argument('--folder', type=Path, default=Path('/tmp'))
    parser.add_argument('--suffix', choices=('.safetensors', '.pt'), default='.safetensors')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    args = parser.parse_args()
    path = args.folder / f'jrs_loading_{args.kind}{args.suffix}'
    if args.measure:
        print(json.dumps(measure(args.kind, path, args.measure)))
        return
    try:
        write_random_file(args.kind, path)
        size = path.stat().st_size
        print(f'{path.name}: {size / 1e9:.2f} GB; peaks beyond the interpreter, in multiples of it', flush=True)
        ways = ['train', 'teacher'] if args.kind == 'vggt' else ['infer', *CONVERT]
        for way in ways:
            words = [sys.executable, __file__, *sys.argv[1:], '--measure', way]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            steps = json.loads(done.stdout.splitlines()[-1])
            print(f'{way:26}' + '   '.join(f'{name}: {peak / size:.3f} x, {seconds:.1f} s'
                                           for name, (peak, seconds) in steps.items()), flush=True)
    finally:
        path.unlink(missing_ok=True)


def model_config(kind: str) -> dict:
    """Return the config of a full-size model without teacher and losses: geometry only, or all."""
    from jrs.config import load_config
    model = dict(load_config(CONFIG).model, teacher=None, matcher=None, losses=None, alignment=None)
    if kind == 'vggt':
        model.update(queries=None, feature_head=None, class_head=None, backbone=dict(model['backbone'], lora=None))
    return model


def write_random_file(kind: str, path: Path) -> None:
    """Write random weights under the names of VGGT-1B (without track head) or of the released SegVGGT."""
    from jrs.io.lean_build import build_on_meta
    from jrs.io.released_keys import released_key
    from jrs.io.tensor_file import write_tensors
    from jrs.registry import HEADS, MODELS, build
    parts = {'': build_on_meta(lambda: build(MODELS, model_config(kind), 'model'))[0]}
    if kind == 'vggt':
        parts['point_head.'] = build_on_meta(lambda: build(HEADS, dict(type='PointHead', dim_in=2048), 'point_head'))[0]
    state = {released_key(prefix + name, lora=kind == 'segvggt'): value for prefix, part in parts.items()
             for name, value in part.state_dict().items()}

    def fill(name: str, value: torch.Tensor) -> torch.Tensor:
        return 0.02 * torch.randn(value.shape)
    if path.suffix == '.pt':
        torch.save({name: fill(name, value) for name, value in state.items()}, path)
    else:
        write_tensors(path, state, {}, fill)


def measure(kind: str, path: Path, way: str) -> dict[str, tuple[int, float]]:
    """Return step -> (peak of resident bytes since the start beyond those at the start, seconds)."""
    from jrs.cli.convert import main as convert
    from jrs.config import load_config
    from jrs.engine.build import build_model
    from jrs.engine.inference import load_model
    from jrs.io.weights import build_with_weights
    from jrs.registry import MODELS, build
    cfg = load_config(CONFIG, overrides={'weights': str(path), 'model.teacher': None})
    build_model(load_config(CONFIG, 'debug'))                       # imports what building imports
    start, steps = time.perf_counter(), {}
    base = resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')                   # the high-water mark starts here

    def step(name: str) -> None:
        steps[name] = (resident('VmHWM') - base, time.perf_counter() - start)
    if way.startswith('convert'):
        convert([str(path), '--out', str(path.with_name('jrs_loading_out.safetensors')), *way.split()[1:]])
        path.with_name('jrs_loading_out.safetensors').unlink()
        step('all')
        return steps
    makers = {'train': lambda: build_model(cfg), 'infer': lambda: load_model(cfg, path),
              'teacher': lambda: build_with_weights(lambda: build(MODELS, model_config('vggt'), 'model'), path)}
    model = makers[way]()
    step(f'loaded ({sum(value.nbytes for value in model.state_dict().values()) / 1e9:.2f} GB of parameters)')
    with torch.no_grad():
        for value in model.state_dict().values():
            value.sum()
        step('every value read')
        for value in model.state_dict().values():
            value.mul_(1)
        step('every value written')
    return steps


def resident(name: str) -> int:
    """Return `name` (VmRSS, VmHWM) of this process in bytes: private and mapped pages together."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{name}:'))


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    main()
