"""``make demo``: built-in rooms, fine-tuning of SegVGGT on them, scores beside an untrained model's, a report to look at."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config

from jrs.cli.output import READER_LEFT
from jrs.cli.parser import Parser
from jrs.config import load_config
from jrs.errors import JrsError
from jrs.io.progress import clock, memory_gb
from jrs.places import command_words, own_config, project

CONFIG = 'segvggt/all24_fada'
SCRATCH_CONFIG = 'segvggt/all24_fada_true_geometry'
SLOTS = 2                                                    # of an update: one per process, or one after the other
LEARNING_RATES = {'new': 2.8e-3, 'pretrained': 1.4e-3}      # the profile's, times the root of two: twice the batch
SCRATCH = {'weights': None, 'model.backbone.lora': None}    # with the ground truth as teacher
SHARES = dict(rooms=0.2, training=0.71, scoring=0.07, report=0.02)             # of the time, as measured
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
                 'val_dataset.folder': 'rooms', 'train.iterations': args.iterations, 'batches.slots': SLOTS,
                 **{f'parameter_groups.{name}.lr': rate for name, rate in LEARNING_RATES.items()},
                 **(SCRATCH if args.scratch else {})}
    config = own_config(SCRATCH_CONFIG if args.scratch else CONFIG)
    run_dir = args.out / 'run'
    steps = {'rooms': lambda: make_rooms(args.out / 'data' / 'rooms', args.rooms),
             'training': lambda: train(config, run_dir, overrides),
             'scoring': lambda: score_both(config, args.out, run_dir, overrides),
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
    _tool('prepare', 'rooms', '--preset', 'tiny', '--rooms', str(rooms), '--out', str(folder), '--jobs', str(processes()))


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


def score_both(config: Path, out: Path, run_dir: Path, overrides: dict) -> None:
    """Score the trained and an untrained model on the held-out rooms, side by side in two processes."""
    scoring = [_tool_command('test', str(config), weights, '--profile', 'rooms', '--out', str(folder), '--cfg-options',
                             *_options(overrides))
               for folder, weights in zip(score_folders(out, run_dir).values(),
                                          ('untrained', str(run_dir / 'weights.safetensors')), strict=True)]
    outputs = (subprocess.DEVNULL, None)                               # one of the two says how far they are
    started = [subprocess.Popen(command, env=_environment(), stdout=output)
               for command, output in zip(scoring, outputs, strict=True)]
    for command, process in zip(scoring, started, strict=True):
        if process.wait() != 0:
            raise JrsError(f'scoring failed with exit code {process.returncode}: {" ".join(command)}')


def write_demo_report(out: Path, run_dir: Path, cfg: Config, notice: str) -> None:
    """Write `report.html`: numbers, loss curves, and two held-out rooms in pictures."""
    from jrs.engine.hooks import change_percent
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
    sections = [numbers, *room_sections(run_dir, cfg, count=2)]
    write_report(out / 'report.html', 'jrs demo: SegVGGT on built-in rooms', sections, facts, notice,
                 subtitle='all24_fada, profile rooms; every number is of held-out rooms')


def room_sections(run_dir: Path, cfg: Config, count: int) -> list[str]:
    """Return report sections of the first held-out rooms, with the true objects and the view attention."""
    from jrs.benchmarks import get_benchmark
    from jrs.datasets.dataset import collate_scenes
    from jrs.engine.build import build_dataset
    from jrs.engine.inference import load_model
    from jrs.models.targets import instance_targets
    from jrs.postprocess.distinct import distinct_instances
    from jrs.visualization.report import scene_section
    model = load_model(cfg, run_dir / 'weights.safetensors')
    rooms, sections = build_dataset(cfg, 'test_dataset'), []
    for index in range(min(count, len(rooms))):
        batch = collate_scenes([rooms[index]]).unpacked()
        scene = model.reconstruct(batch, track_views=True)[0]
        scene = replace(scene, instances=distinct_instances(scene.instances, min_score=0.05))
        on_true_geometry = replace(scene, depth=batch.depth_m[0], intrinsics=batch.intrinsics[0],
                                   cam_from_world=batch.cam_from_world[0])
        truth = instance_targets(batch, tuple(scene.features.shape[-2:]))[0]
        sections.append(scene_section(scene, get_benchmark(cfg.train_dataset.benchmark).class_names, truth,
                                      true_geometry=on_true_geometry, title=f'Held-out room {batch.scene_names[0]}'))
    return sections


def print_summary(out: Path, run_dir: Path) -> None:
    """Print the terms, first against last, and the scores, untrained against trained."""
    from jrs.engine.hooks import format_summary
    print('\n' + format_summary(json.loads((run_dir / 'terms_summary.json').read_text(encoding='utf-8-sig'))))
    untrained, trained = map(read_scores, score_folders(out, run_dir).values())
    print(f'\n{"held-out rooms":44} {"untrained":>10} {"trained":>10}')
    for key, words in HEADLINES.items():
        values = [scores.get(key) for scores in (untrained, trained)]
        print(f'{words:44} ' + ' '.join(f'{"-" if value is None else f"{value:.4f}":>10}' for value in values))


def score_folders(out: Path, run_dir: Path) -> dict[str, Path]:
    """Return where the scores of the untrained and of the trained model lie."""
    return {'untrained': out / 'untrained', 'trained': run_dir / 'test'}


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


def _run(command: list[str]) -> None:
    code = subprocess.run(command, env=_environment()).returncode
    if code == READER_LEFT:
        raise BrokenPipeError
    if code != 0:
        raise JrsError(f'this step failed with exit code {code}; what went wrong stands above. The command was:\n  '
                       + ' '.join(command))


def _environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
