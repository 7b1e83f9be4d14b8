"""``make demo``: built-in rooms, fine-tuning of SegVGGT on them, scores beside those of an untrained model and of the
weights that come with the project, a report to look at."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

from jrs.cli.output import READER_LEFT
from jrs.cli.parser import Parser
from jrs.config import load_config
from jrs.errors import JrsError
from jrs.io.progress import clock, memory_gb
from jrs.places import command_words, own_config, project

if TYPE_CHECKING:
    from jrs.datasets.dataset import SceneDataset
    from jrs.models.segvggt import SegVGGT

CONFIG = 'segvggt/all24_fada'
SCRATCH_CONFIG = 'segvggt/all24_fada_true_geometry'
PRESET = 'tiny_demo'                                         # rooms that no weights of the project have seen
SLOTS = 2                                                    # of an update: one per process, or one after the other
LEARNING_RATES = {'new': 2.8e-3, 'pretrained': 1.4e-3}      # the profile's, times the root of two: twice the batch
SCRATCH = {'weights': None, 'model.backbone.lora': None}    # with the ground truth as teacher
OF_DATA = ('data_root', 'train_dataset.folder', 'test_dataset.folder', 'val_dataset.folder')
SHARES = dict(rooms=0.2, training=0.71, scoring=0.07, report=0.02)             # of the time, as measured
PROJECTS = 'with the weights that come with the project'
HEADLINES = {'instance/agnostic_AP25': 'class-agnostic AP25', 'instance/agnostic_AP50': 'class-agnostic AP50',
             'instance/AP25': 'class-aware AP25', 'instance/AP50': 'class-aware AP50',
             'instance/oracle_agnostic_AP50': 'oracle (true masks), class-agnostic AP50',
             'depth/abs_rel': 'depth Abs Rel', 'depth/delta_1.25': 'depth δ < 1.25'}
NOTICE = ('These weights were trained for minutes on procedurally generated rooms: fine-tuned, as the paper does with VGGT, '
          'from the geometry that comes with the project. They show that the road works; they are no match for real photos. '
          'For those use the released weights (README, "Your own photos").')
SCRATCH_NOTICE = ('These weights were trained for minutes on procedurally generated rooms, from random numbers. They show '
                  'what pre-trained geometry is worth; they are no match for any photo.')


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/demo.py', description=__doc__)
    options.add_argument('--out', type=Path, default=Path('outputs/demo'), help='folder of everything the demo makes')
    options.add_argument('--rooms', type=int, default=60, help='rooms to generate; one in six is held out')
    options.add_argument('--iterations', type=int, default=300, help='updates of the weights')
    options.add_argument('--scratch', action='store_true', help='from random numbers, without the geometry that comes with '
                         'the project: to compare with')
    return options


def main(argv: list[str] | None = None) -> None:
    """Run all steps; a demo that was stopped goes on where it was."""
    args = parser().parse_args(argv)
    from jrs.engine.writer import one_writer
    with one_writer(args.out, command_words('demo', argv)):
        run_steps(args)


def run_steps(args: argparse.Namespace) -> None:
    """Run what is not done yet."""
    start = time.monotonic()
    overrides = {'data_root': str(args.out / 'data'), 'train_dataset.folder': 'rooms', 'test_dataset.folder': 'rooms',
                 'val_dataset.folder': 'rooms', 'experiment.trained_on': f'built-in rooms (preset {PRESET})',
                 'train.iterations': args.iterations, 'batches.slots': SLOTS,
                 **{f'parameter_groups.{name}.lr': rate for name, rate in LEARNING_RATES.items()},
                 **(SCRATCH if args.scratch else {})}
    config = own_config(SCRATCH_CONFIG if args.scratch else CONFIG)
    run_dir = args.out / 'run'
    steps = {'rooms': lambda: make_rooms(args.out / 'data' / 'rooms', args.rooms),
             'training': lambda: train(config, run_dir, overrides),
             'scoring': lambda: score_all(config, args.out, run_dir, overrides),
             'report': lambda: write_demo_report(args.out, run_dir, load_config(config, 'rooms', overrides),
                                                 SCRATCH_NOTICE if args.scratch else NOTICE)}
    for number, (name, step) in enumerate(steps.items(), start=1):
        seconds, done = time.monotonic() - start, sum(SHARES[other] for other in list(steps)[:number - 1])
        left = f', about {clock(seconds / done * (1 - done))} left' if done else ''
        so_far = f'{seconds / 60:.1f} min so far{left}, memory {memory_gb():.2f} GB'
        print(f'--- demo {number} of {len(steps)}: {name} ({so_far})', flush=True)
        step()
    print_summary(args.out, run_dir)
    print(f'\nopen {args.out / "report.html"}   ({(time.monotonic() - start) / 60:.1f} min in all)')


def make_rooms(folder: Path, rooms: int) -> None:
    """Generate rooms as scene folders; those that are there already are kept."""
    _tool('prepare', 'rooms', '--preset', PRESET, '--rooms', str(rooms), '--out', str(folder), '--jobs', str(processes()))


def train(config: Path, run_dir: Path, overrides: dict) -> None:
    """Train with one single-threaded process per core, resuming where a former demo stopped."""
    if (run_dir / 'weights.safetensors').is_file():
        print(f'{run_dir} is trained already')
        return
    resume = ['--resume'] if (run_dir / 'last_checkpoint').is_file() else []
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes()),
               str(project() / 'tools' / 'train.py'), str(config), '--profile', 'rooms',
               '--work-dir', str(run_dir), *resume, '--cfg-options', *_options(overrides)]
    _run(command)


def score_all(config: Path, out: Path, run_dir: Path, overrides: dict) -> None:
    """Score an untrained model, the trained one and the weights of the project on the held-out rooms, side by side."""
    from jrs.engine.inference import DEFAULT_WEIGHTS
    data = {name: overrides[name] for name in OF_DATA}
    what = {'untrained': (config, 'untrained', overrides), 'committed': (own_config(CONFIG), DEFAULT_WEIGHTS, data),
            'trained': (config, run_dir / 'weights.safetensors', overrides)}
    with ThreadPoolExecutor(processes()) as pool:
        for done in [pool.submit(_score, *what[name], folder, quiet=name != 'trained')
                     for name, folder in score_folders(out, run_dir).items()]:
            done.result()


def _score(config: Path, weights: Path | str, overrides: dict, folder: Path, quiet: bool) -> None:
    command = _tool_command('test', str(config), str(weights), '--profile', 'rooms', '--out', str(folder), '--cfg-options',
                            *_options(overrides))
    _run(command, subprocess.DEVNULL if quiet else None)              # one of them says how far they are


def write_demo_report(out: Path, run_dir: Path, cfg: Config, notice: str) -> None:
    """Write `report.html`: numbers, loss curves, and two held-out rooms in pictures."""
    from jrs.engine.build import build_dataset
    from jrs.engine.hooks import change_percent
    from jrs.engine.inference import DEFAULT_WEIGHTS, load_model
    from jrs.report.compare import default_window, weighted_terms
    from jrs.report.runs import read_runs
    from jrs.visualization.html import table
    from jrs.visualization.report import write_report
    scores = {name: read_scores(folder) for name, folder in score_folders(out, run_dir).items()}
    summary = json.loads((run_dir / 'terms_summary.json').read_text(encoding='utf-8-sig'))
    rows = [[words, *(100 * scores[name][key] if 'AP' in words else scores[name][key] for name in scores)]
            for key, words in HEADLINES.items() if scores['trained'].get(key) is not None]
    terms = [[name, value['first'], value['last'], change_percent(value)]
             for name, value in sorted(summary['terms'].items())]
    runs = read_runs([run_dir])
    numbers = (f'<section><h2>Held-out rooms</h2>{table(["metric (AP in percent)", *scores], rows)}'
               f'<h2>Training</h2>{table(["term", "mean of first 20", "mean of last 20", "change in %"], terms)}'
               f'{weighted_terms(runs, default_window(runs))}</section>')
    facts = json.loads((run_dir / 'test' / 'results.json').read_text(encoding='utf-8-sig'))['facts']
    models = {'after these minutes': load_model(cfg, run_dir / 'weights.safetensors')}
    if 'committed' in scores:
        models[PROJECTS] = load_model(load_config(own_config(CONFIG), 'rooms'), DEFAULT_WEIGHTS)
    sections = [numbers, *room_sections(models, build_dataset(cfg, 'test_dataset'), count=2)]
    write_report(out / 'report.html', 'jrs demo: SegVGGT on built-in rooms', sections, facts, notice,
                 subtitle='all24_fada, profile rooms; every number is of held-out rooms, which no training has seen')


def room_sections(models: dict[str, SegVGGT], rooms: SceneDataset, count: int) -> list[str]:
    """Return report sections of the first held-out rooms as each of the models, by title, sees them.

    Each has the true objects and the view attention.
    """
    from jrs.datasets.dataset import collate_scenes
    from jrs.models.targets import instance_targets
    from jrs.postprocess.distinct import distinct_instances
    from jrs.visualization.report import scene_section
    sections = []
    for index, (title, model) in product(range(min(count, len(rooms))), models.items()):
        batch = collate_scenes([rooms[index]]).unpacked()
        scene = model.reconstruct(batch, track_views=True)[0]
        scene = replace(scene, instances=distinct_instances(scene.instances, min_score=0.05))
        on_true_geometry = replace(scene, depth=batch.depth_m[0], intrinsics=batch.intrinsics[0],
                                   cam_from_world=batch.cam_from_world[0])
        truth = instance_targets(batch, tuple(scene.features.shape[-2:]))[0]
        sections.append(scene_section(scene, rooms.benchmark.class_names, truth, true_geometry=on_true_geometry,
                                      title=f'Held-out room {batch.scene_names[0]}, {title}'))
    return sections


def print_summary(out: Path, run_dir: Path) -> None:
    """Print the terms, first against last, and the scores, untrained against trained."""
    from jrs.engine.hooks import format_summary
    print('\n' + format_summary(json.loads((run_dir / 'terms_summary.json').read_text(encoding='utf-8-sig'))))
    found = {name: read_scores(folder) for name, folder in score_folders(out, run_dir).items()}
    print(f'\n{"held-out rooms":44} ' + ' '.join(f'{name:>10}' for name in found))
    for key, words in HEADLINES.items():
        values = [scores.get(key) for scores in found.values()]
        print(f'{words:44} ' + ' '.join(f'{"-" if value is None else f"{value:.4f}":>10}' for value in values))


def score_folders(out: Path, run_dir: Path) -> dict[str, Path]:
    """Return where the scores of the untrained and the trained model lie, and of the project's weights if they are there."""
    from jrs.engine.inference import DEFAULT_WEIGHTS
    beside = {'committed': out / 'committed'} if DEFAULT_WEIGHTS.is_file() else {}
    return {'untrained': out / 'untrained', 'trained': run_dir / 'test', **beside}


def read_scores(folder: Path) -> dict:
    """Return the metrics of a `results.json`."""
    return json.loads((folder / 'results.json').read_text(encoding='utf-8-sig'))['metrics']


def processes() -> int:
    """Return how many single-threaded processes the demo uses: two, or one on a single core."""
    return min(SLOTS, os.cpu_count() or 1)


def _options(overrides: dict) -> list[str]:
    return [f'{path}={value}' for path, value in overrides.items()]


def _tool_command(name: str, *words: str) -> list[str]:
    return [sys.executable, str(project() / 'tools' / f'{name}.py'), *words]


def _tool(name: str, *words: str) -> None:
    _run(_tool_command(name, *words))


def _run(command: list[str], output: int | None = None) -> None:
    code = subprocess.run(command, env=_environment(), stdout=output).returncode
    if code == READER_LEFT:
        raise BrokenPipeError
    if code != 0:
        raise JrsError(f'this step failed with exit code {code}; what went wrong stands above. The command was:\n  '
                       + ' '.join(command))


def _environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
