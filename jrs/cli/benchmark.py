"""``tools/benchmark.py``: time and memory, the paper's row beside ours; random weights, random images."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from jrs.cli.options import config_from
from jrs.cli.parser import Parser, config_argument
from jrs.places import command_words

EXAMPLES = """examples:
  python tools/benchmark.py --table 5 --device cuda                          10 to 200 views, as the paper
  python tools/benchmark.py --table 6 --device cuda                          100 views
  python tools/benchmark.py --fada --device cuda                             training step with and without alignment
  python tools/benchmark.py --train --views 8 24 48 --device cuda            step time and memory
  python tools/benchmark.py --table 5 --profile debug --views 2 4 --device cpu
"""
DEFAULT_CONFIG = 'configs/segvggt/all24_fada.py'


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/benchmark.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument('--table', type=int, choices=(5, 6), help='run time and memory of inference, as in the paper')
    what.add_argument('--fada', action='store_true', help='training step with and without alignment')
    what.add_argument('--train', action='store_true', help='training step of one slot of an update')
    options.add_argument('--config', type=config_argument, default=DEFAULT_CONFIG)
    options.add_argument('--profile', default='paper', help='paper, rooms_small, rooms, debug')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides of the config')
    options.add_argument('--device', default='auto')
    options.add_argument('--views', type=int, nargs='+', help="default: the table's; 8 for training")
    options.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='default: 3:4 at the width of the config')
    options.add_argument('--steps', type=int, default=20, help='training steps that are counted')
    options.add_argument('--threads', type=int, help='of the CPU')
    options.add_argument('--json', type=Path, help='default benchmarks/results/<what>_<device>.json')
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print one line per row, write a JSON record."""
    args = parser().parse_args(argv)
    import torch

    from jrs.engine.device import device_record
    from jrs.engine.inference import pick_device
    cfg, device = config_from(args), pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = tuple(args.size) if args.size else default_size(cfg)
    what = f'table{args.table}' if args.table else 'fada' if args.fada else 'train'
    rows = inference_rows(args, cfg, device, size) if args.table else training_rows(args, cfg, device, size)
    record = dict(command=command_words('benchmark', argv), config=args.config,
                  profile=args.profile, size=size, device=device_name(device), device_settings=device_record(cfg),
                  threads=torch.get_num_threads(), torch=torch.__version__, rows=rows)
    path = args.json or Path('benchmarks/results') / f'{what}_{args.profile}_{device.type}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + '\n')
    print(f'written: {path}')


def inference_rows(args, cfg, device, size) -> list[dict]:
    """Return measured rows of Table 5 or 6, each with the paper's."""
    from jrs.engine.benchmark import measure_inference
    from jrs.report.tables import load_tables
    times, methods = load_tables([5, 6])
    paper = {int(row.cells[0]): row.paper for row in times.rows}               # by the number of views
    model = build_for(cfg, teacher=None).eval().narrow()
    rows = []
    for views in args.views or ([100] if args.table == 6 else list(paper)):
        measured = measure_inference(model, views, size, device)
        kernels = measured.pop('kernels')
        rows.append(dict(input_frames=views, ours=measured, kernels=kernels, paper=paper.get(views)))
        print(f'{views:4d} views  ' + '  '.join(f'{name} {value:.3f}' + _paper(paper.get(views), name)
                                               for name, value in measured.items())
              + f'  attention {kernels}', flush=True)
    for row in methods.rows if args.table == 6 else ():
        print(f'     paper  {row.method:20} ' + '  '.join(f'{name} {value}' for name, value in row.paper.items()))
    return rows


def training_rows(args, cfg, device, size) -> list[dict]:
    """Return step times: with and without alignment, or of the config as it is; the teacher is the ground truth.

    `--train` takes one scene, `--fada` as many as a slot of the config's updates has of so many views.
    """
    from jrs.engine.benchmark import compare_steps, measure_training, random_batch
    rows = []
    for views in args.views or [8]:
        scenes = 1 if args.train else max(1, cfg.batches.max_images // views)
        batch = random_batch(views, size, device, scenes)
        model = build_for(cfg, teacher=dict(type='GroundTruthTeacher')).train().to(device)
        if args.train:
            measured = dict(step=measure_training(model, batch, args.steps))
        else:
            off = dict(cfg.model, matcher=_without(cfg.model.matcher, 'costs'), losses=dict(cfg.model.losses, fada=None),
                       alignment=None)
            without = build_for(dict(cfg._cfg_dict, model=off), teacher=dict(type='GroundTruthTeacher')).train().to(device)
            models = dict(off=without, on=model)
            measured = compare_steps(models, batch, args.steps)
            measured |= {f'memory_{name}': measure_training(each, batch, 1) for name, each in models.items()}
        rows.append(dict(views=views, scenes=scenes, **measured))
        print(f'{scenes} x {views:4d} views  {json.dumps(measured)}', flush=True)
    return rows


def build_for(cfg, teacher: dict | None):
    """Return the model with fresh weights; process and model compute as `cfg.device` says."""
    from jrs.engine.device import prepare_device
    from jrs.registry import MODELS, build
    model = build(MODELS, dict(cfg['model'], teacher=teacher), 'model')
    prepare_device(cfg, model)
    return model


def default_size(cfg) -> tuple[int, int]:
    """Return (H, W) of 3:4 images at the width that the config tests with, in whole patches."""
    from jrs.config import backbone_patch_size
    width, patch = cfg.test_dataset.width, cfg.test_dataset.get('patch_size') or backbone_patch_size(cfg) or 14
    return round(width * 0.75 / patch) * patch, width


def device_name(device) -> str:
    """Return the accelerator's name, or the processor's."""
    import torch
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{device.type}: {platform.processor()}'


def _without(matcher, key: str) -> dict:
    return dict(matcher, **{key: dict(matcher[key], fada=None)})


def _paper(row: dict | None, name: str) -> str:
    return f' (paper {row[name]})' if row else ''
