"""``tools/benchmark.py``: time and memory of what users run, the paper's row beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from jrs.cli.options import config_from, overrides_of, positive
from jrs.cli.parser import Parser, config_argument
from jrs.errors import ConfigError, DataError
from jrs.io.names import expanded
from jrs.places import UNTRAINED, command_words

EXAMPLES = """examples:
  python tools/benchmark.py --table 5 --device cuda                          10 to 200 views, as the paper
  python tools/benchmark.py --table 6 --device cuda                          100 views
  python tools/benchmark.py --table 6 --device cuda --config configs/baselines/iggt.py --checkpoint IGGT.pt --scene photos/
  python tools/benchmark.py --fada --device cuda                             update with and without alignment
  python tools/benchmark.py --train --views 8 24 48 --device cuda            seconds of an update, memory
  python tools/benchmark.py --table 5 --profile debug --views 2 4 --device cpu

A reconstruction is that of tools/infer.py --keep-all: view attention is tracked, and post-processing ends with cameras,
points and the instance of each point. Without --scene images are noise, and without --checkpoint weights are fresh: rows say
so. How long clustering and the selection of masks take depends on both; all else does not. Updates are those of
tools/train.py in one process, on noise: teacher, tracked views, clipping, optimizer, and what is computed again on this
card. tools/reproduce.py --table 5 6 reads what is written.
"""
DEFAULT_CONFIG = 'configs/segvggt/all24_fada.py'
PHOTO = (968, 1296)                            # (H, W) of ScanNet's, about 3:4


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/benchmark.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument('--table', type=int, choices=(5, 6), help='run time and memory of inference, as in the paper')
    what.add_argument('--fada', action='store_true', help='update with and without alignment, all parts recomputed as '
                      'configured')
    what.add_argument('--train', action='store_true', help='update of one slot')
    options.add_argument('--config', type=config_argument, default=DEFAULT_CONFIG)
    options.add_argument('--profile', default='paper', help='paper, rooms_small, rooms, debug')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides of the config')
    options.add_argument('--checkpoint', help='weights of --config, for --table; default: fresh ones')
    options.add_argument('--scene', help='folder of photos, scene folder or video, for --table; default: noise')
    options.add_argument('--device', default='auto')
    options.add_argument('--views', type=positive, nargs='+', help="default: the table's; 8 for training. Of --scene so "
                         'many, evenly spaced')
    options.add_argument('--scenes', type=positive, help='of an update; default: as many as fill a slot of the config')
    options.add_argument('--size', type=positive, nargs=2, metavar=('H', 'W'), help='default: that of a photo of ScanNet at '
                         'the width of the config; with --scene, that of its photos')
    options.add_argument('--steps', type=positive, default=20, help='updates that are counted')
    options.add_argument('--threads', type=positive, help='of the CPU')
    options.add_argument('--json', type=Path, help='default benchmarks/results/<what>_<config>_<profile>….json')
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print one line per row, write a JSON record."""
    args = parser().parse_args(argv)
    _check(args)
    import torch

    from jrs.engine.device import device_record
    from jrs.engine.inference import pick_device
    from jrs.engine.record import device_name, git_state
    from jrs.io.atomic import atomic_write
    from jrs.report.work import TIMINGS, computed, timing_name
    cfg, device = config_from(args), pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(cfg.seed)
    what = f'table{args.table}' if args.table else 'fada' if args.fada else 'train'
    record = dict(command=command_words('benchmark', argv), config=args.config, profile=args.profile,
                  device=device_name(device), device_settings=device_record(cfg), threads=torch.get_num_threads(),
                  torch=torch.__version__, **git_state())
    print(f'{record["device"]}: {computed(record)}', flush=True)
    scene = '' if args.scene is None else Path(args.scene).name
    asked = dict(views=args.views, scenes=args.scenes, size=args.size, of=scene)
    further = [f'{name} {value}' for name, value in asked.items() if value]
    path = args.json or TIMINGS / timing_name(what, args.config, args.profile, [*args.cfg_options, *further])
    record['rows'] = []
    for row in (inference_rows if args.table else training_rows)(args, cfg, device):
        record['rows'].append(row)             # what is measured stays, whatever a larger one meets
        with atomic_write(path, 'w') as file:
            file.write(json.dumps(record, indent=1) + '\n')
    print(f'written: {path}')


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, and a scene that is not there."""
    given = [f'--{name}' for name in ('checkpoint', 'scene') if getattr(args, name) is not None]
    if given and not args.table:
        raise ConfigError(f'{" and ".join(given)}: what an update takes does not depend on content; it is measured on '
                          'noise, with fresh weights. Leave them out, or measure --table 5 or 6.')
    if args.scenes and args.table:
        raise ConfigError('--scenes is of an update, --train or --fada; a reconstruction is of one scene, with --views.')
    if args.scene is not None and args.size is not None:
        raise ConfigError('--size is of noise; photos of --scene have the width that the config tests with.')
    if args.scene is not None and not expanded(args.scene).exists():
        raise DataError(f'There is no file or folder {args.scene} (--scene).')


def inference_rows(args, cfg, device):
    """Yield measured rows of Table 5 or 6, each with the paper's.

    Raises:
        DataError: the scene has fewer views than are asked for.
    """
    from jrs.engine.benchmark import measure_inference, noise_photos
    from jrs.engine.inference import Reconstructor
    from jrs.report.tables import load_tables
    table, = load_tables([args.table])
    reconstruct = Reconstructor(args.config, args.checkpoint or UNTRAINED, args.profile, str(device), keep_all=True,
                                overrides=overrides_of(args))
    frames = args.views or ([int(row.cells[0]) for row in table.rows] if args.table == 5 else [100])
    if args.scene is not None and (there := len(reconstruct.views(args.scene))) < max(frames):
        raise DataError(f'{args.scene} has {there} views, and {max(frames)} are to be measured: name fewer with --views, or '
                        'another --scene.')
    for views in frames:
        photos = noise_photos(views, tuple(args.size or default_size(cfg))) if args.scene is None else \
            reconstruct.load(args.scene, max_views=views)
        words = f'{args.scene or "noise"}, {"untrained weights" if args.checkpoint is None else args.checkpoint}'
        row = dict(input_frames=views, size=list(photos.images.shape[-2:]), measured_on=words,
                   on_noise=args.scene is None or args.checkpoint is None, **measure_inference(reconstruct, photos),
                   paper=paper_row(table, args.config, views))
        yield row
        print(_line(row), flush=True)
    for row in table.rows if args.table == 6 else ():
        print(f'     paper  {row.method:20} ' + '  '.join(f'{name} {value}' for name, value in row.paper.items()))


def paper_row(table, config: str, views: int) -> dict | None:
    """Return the paper's numbers for so many views of what a config is of, None where it has none."""
    def is_of(row) -> bool:
        frames = int(row.cells[0]) if table.id == 5 else 100
        return frames == views and Path(config).stem in {Path(own).stem for own in row.configs.values()}
    return next((row.paper for row in table.rows if is_of(row)), None)


def _line(row: dict) -> str:
    paper = row['paper'] or {}
    numbers = '  '.join(f'{name} {value:.3f}' + (f' (paper {paper[name]})' if name in paper else '')
                        for name, value in row['ours'].items())
    kernels = ', '.join(f'{name} x {count}' for name, count in row['kernels'].items()) or 'no kernel'
    found = '' if row['instances'] is None else f'{row["instances"]} instances, '
    return (f'{row["input_frames"]:4d} views  {numbers}  attention by {kernels}; {found}{row["points"]} points; on '
            f'{row["measured_on"]}')


def training_rows(args, cfg, device):
    """Yield seconds and memory of updates: of the config as it is, or with and without alignment."""
    from jrs.config import load_config
    from jrs.engine.benchmark import as_trained, compare_steps, measure_training, noise_batch
    for views in args.views or [8]:
        scenes = args.scenes or max(1, cfg.batches.max_images // views)
        batch = noise_batch(views, tuple(args.size or default_size(cfg)), scenes)
        if args.train:
            trained = as_trained(cfg, device)
            models = dict(step=trained)
            measured = dict(step=measure_training(trained, batch, device, args.steps))
        else:
            same = {**overrides_of(args), 'device.recomputation': 'as_configured'}
            off = {**same, 'model.matcher.costs.fada': None, 'model.losses.fada': None, 'model.alignment': None}
            models = {name: as_trained(load_config(args.config, args.profile, changes), device)
                      for name, changes in dict(off=off, on=same).items()}
            measured = compare_steps(models, batch, device, args.steps)
            measured |= {f'memory_{name}': measure_training(each, batch, device, 1) for name, each in models.items()}
        first = next(iter(models.values()))
        row = dict(views=views, scenes=scenes, size=list(batch.images.shape[-2:]), measured_on='noise, untrained weights',
                   recomputed=first.recomputation, teacher=first.teacher, **measured)
        yield row
        print(f'{scenes} x {views:4d} views  {json.dumps(measured)}  recomputed: {first.recomputation}; teacher: '
              f'{first.teacher}', flush=True)


def default_size(cfg) -> tuple[int, int]:
    """Return (H, W) of a photo of ScanNet at the width that the config tests with, in whole patches."""
    from jrs.config import backbone_patch_size
    width, patch = cfg.test_dataset.width, cfg.test_dataset.get('patch_size') or backbone_patch_size(cfg) or 14
    return round(width * PHOTO[0] / PHOTO[1] / patch) * patch, width
