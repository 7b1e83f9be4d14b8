"""Every registered backbone at one small size on the built-in rooms: geometry from scratch, then queries on top.

    python tools/prepare.py rooms --preset tiny --out data/rooms/tiny --jobs 2
    python benchmarks/backbones.py --dry-run                              # what would be trained, how long
    python benchmarks/backbones.py --jobs 2 --seeds 0 1 2                 # all of it; goes on where it was stopped
    python benchmarks/backbones.py --only Pi3 VGGT --minutes 1 --json /tmp/try.json --work-dirs /tmp/try

For each backbone and seed: cameras and depth from fresh weights by the recipe of
configs/geometry/pretrain_rooms_neighbours.py (truth as teacher, correspondence told, no LoRA), scored by tools/test.py and,
on windows of four neighbouring views, by benchmarks/rooms/spacing.py; from there its `_fada.py` with the truth as teacher,
scored by tools/test.py. Sizes are those of the profile. Parts that only one of them has keep the losses of its config (a
scale in metres).

Fair means: the same rooms and views in the same order (update k of a seed draws the same ones whoever trains), and the same
CPU time. A schedule needs its length before it starts, so that updates per minute are measured first, one after another in
this process, and written down; the number is the same for all seeds and for whoever goes on.

Each training is a run folder of tools/train.py below --work-dirs; Ctrl-C and SIGTERM save it, a kill loses its updates since
the last checkpoint, and the same command goes on. What is finished is written at once to --json, and to docs/backbones.md
where that is the committed record; what is not there is open.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.backbone_list import ROOT, Backbone, listed  # noqa: E402
from benchmarks.backbone_table import RESULTS, STAGES, write_page  # noqa: E402
from benchmarks.commands import Commands, StageError, ended_by_sigterm  # noqa: E402
from jrs.cli import run  # noqa: E402
from jrs.config import load_config, parse_override, resolve_config  # noqa: E402
from jrs.datasets.sampling import own_slots  # noqa: E402
from jrs.engine.build import (  # noqa: E402
    build_dataset,
    build_model,
    check_ready,
    maps_of_run,
    patch_size_of,
    training_loader,
    training_optimizer,
)
from jrs.engine.record import device_name, git_state, read_record  # noqa: E402
from jrs.engine.step import training_step  # noqa: E402
from jrs.engine.update import update_of  # noqa: E402
from jrs.errors import ConfigError, DataError, did_you_mean  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.registry import BACKBONES, PRETEXTS, build  # noqa: E402

RECIPE = ROOT / 'configs' / 'geometry' / 'pretrain_rooms_neighbours.py'
TRUTH = dict(_delete_=True, type='GroundTruthTeacher')
WARM, TIMED = 2, 12                             # updates before and while seconds are counted
PASSES = 5                                      # over one room of the test, of which the median counts
SPACING = ROOT / 'benchmarks' / 'rooms' / 'spacing.py'


class Record:
    """What is known so far, in a JSON file: settings, what each backbone costs, what each stage reached, on what machine.

    Args:
        path: of the file.
        settings: that make all numbers comparable; a file with others is refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.lock = path, threading.Lock()
        self.values: dict[str, Any] = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else dict(
            settings=dict(settings), backbones={}, stages=[])
        if self.values['settings'] != settings:
            raise DataError(f'{path} holds numbers of {self.values["settings"]}, and {settings} was asked for: they do not '
                            'belong into one table. Ask for the same, or name another --json.')

    def cost(self, name: str) -> dict | None:
        """Return what was measured of a backbone."""
        return self.values['backbones'].get(name)

    def stage(self, name: str, seed: int, stage: str) -> dict | None:
        """Return what a stage reached; None where it is open or failed."""
        return next((one for one in self.values['stages'] if _key(one) == (name, seed, stage) and 'error' not in one), None)

    def add_cost(self, name: str, cost: dict) -> None:
        """Write down what a backbone costs."""
        with self.lock:
            self.values['backbones'][name] = cost | dict(machine=machine(), commit=git_state()['commit'])
            self._write()

    def add_stage(self, stage: dict) -> None:
        """Write down what a stage reached, in the place of what stood there."""
        with self.lock:
            self.values['stages'] = [one for one in self.values['stages'] if _key(one) != _key(stage)] + [stage]
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path, 'w') as file:
            file.write(json.dumps(self.values, indent=1) + '\n')
        if self.path.resolve() == RESULTS:
            write_page()


def _key(stage: Mapping) -> tuple[str, int, str]:
    return stage['backbone'], stage['seed'], stage['stage']


def machine() -> dict[str, Any]:
    """Return on what and with what numbers are made."""
    return dict(device=device_name(torch.device('cpu')), cores=os.cpu_count(), platform=platform.platform(),
                python=platform.python_version(), torch=torch.__version__)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog='benchmarks/backbones.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', nargs='+', metavar='NAME', help='these backbones, as --dry-run names them')
    options.add_argument('--minutes', type=float, nargs='+', default=[18.0, 10.0], metavar='M', help='CPU-minutes of '
                         'geometry training and of fine-tuning; one number: of each (default: 18 10)')
    options.add_argument('--seeds', type=int, nargs='+', default=[0])
    options.add_argument('--jobs', type=int, default=1, help='trainings side by side, one thread each')
    options.add_argument('--profile', default='rooms', help='sizes: rooms (default), rooms_small, debug')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of every run, such as '
                         'data_root=/data')
    options.add_argument('--work-dirs', type=Path, default=Path('work_dirs/backbones'), help='root of the run folders')
    options.add_argument('--json', type=Path, default=RESULTS, help='the record')
    options.add_argument('--dry-run', action='store_true', help='say what would be trained, and how long; run nothing')
    options.add_argument('--page', action='store_true', help='write the table of docs/backbones.md anew; run nothing')
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, train and score what is open; returns 1 where something failed."""
    args = parser().parse_args(argv)
    if args.page:
        print(write_page())
        return 0
    if len(args.minutes) > 2 or min(args.minutes) <= 0 or not all(map(math.isfinite, args.minutes)):
        raise ConfigError(f'--minutes takes one or two positive numbers, got {args.minutes}.')
    if args.jobs < 1 or min(args.seeds) < 0 or args.profile == 'paper':
        raise ConfigError(f'--jobs is at least 1, --seeds at least 0, --profile a small one (rooms, rooms_small, debug), '
                          f'got {args.jobs}, {args.seeds}, {args.profile!r}.')
    backbones, lacking = listed()
    chosen = [_named(name, backbones) for name in dict.fromkeys(args.only)] if args.only else backbones
    minutes = dict(zip(STAGES, [*args.minutes, args.minutes[0]], strict=False))
    changes = [word for word in args.cfg_options if not word.startswith('data_root=')]     # where data lie changes nothing
    record = Record(args.json, dict(profile=args.profile, minutes=minutes, cfg_options=changes))
    print('\n'.join(plan_lines(chosen, lacking, args.seeds, minutes, record, args.jobs)), flush=True)
    return 0 if args.dry_run else Comparison(args, minutes, record, Commands()).compare(chosen)


def _named(name: str, backbones: list[Backbone]) -> Backbone:
    found = {one.name: one for one in backbones}
    if name not in found:
        raise ConfigError(f'--only: no backbone {name!r}.{did_you_mean(name, found)} There are {", ".join(found)}.')
    return found[name]


def plan_lines(backbones: list[Backbone], lacking: list[str], seeds: list[int], minutes: Mapping[str, float], record: Record,
               jobs: int) -> Iterator[str]:
    """Yield what would be done, stage by stage, and how long all of it would take."""
    total = 0.0
    for one in backbones:
        yield f'{one.name}: {_from_root(one.geometry)}, {_from_root(one.fine_tuning)}'
        cost = record.cost(one.name)
        for seed in seeds:
            for stage in STAGES:
                done = record.stage(one.name, seed, stage) is not None
                total += 0 if done else minutes[stage]
                updates = f'{cost["updates"][stage]} updates' if cost else 'updates: to be measured'
                yield f'  seed {seed}, {stage}: {"done" if done else f"{minutes[stage]:g} CPU-minutes, {updates}"}'
    yield from (f'without configs, not compared: {line}' for line in lacking)
    yield f'to train: {total:g} CPU-minutes, {jobs} at a time; measuring and scoring add about two minutes per backbone'


def _from_root(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Comparison:
    """Fills a record.

    Args:
        args: the options.
        minutes: CPU-minutes of each stage.
        record: what is known; each result joins it at once.
        commands: runs a program.
    """

    def __init__(self, args: argparse.Namespace, minutes: Mapping[str, float], record: Record, commands: Commands) -> None:
        self.profile, self.options, self.seeds, self.jobs = args.profile, args.cfg_options, args.seeds, args.jobs
        self.work_dirs, self.minutes, self.record, self.commands = args.work_dirs, minutes, record, commands

    def compare(self, backbones: list[Backbone]) -> int:
        """Measure one after another, then train; returns 1 where something failed."""
        torch.set_num_threads(1)
        for one in backbones:
            if self.record.cost(one.name) is None:
                print(f'{one.name}: measuring', flush=True)
                self.record.add_cost(one.name, self.cost(one))
        with ended_by_sigterm(), ThreadPoolExecutor(self.jobs) as pool:
            jobs = [pool.submit(self.train_and_score, one, seed) for seed in self.seeds for one in backbones]
            try:
                return int(not all([job.result() for job in as_completed(jobs)]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.commands.stop()
                raise

    def cost(self, one: Backbone) -> dict[str, Any]:
        """Return parameters, CPU milliseconds per view, and the updates that each stage has time for."""
        seconds = {stage: self.seconds_per_update(one, stage) for stage in STAGES}
        updates = {stage: max(1, round(60 * self.minutes[stage] / seconds[stage])) for stage in STAGES}
        return self.size_and_speed(one) | dict(update_s=seconds, updates=updates)

    def size_and_speed(self, one: Backbone) -> dict[str, Any]:
        """Return the parameters of backbone and geometry heads, and CPU milliseconds per view on a room of the test."""
        cfg = self.config(one, 'geometry', {'model.pretext': None, 'model.teacher': None})
        model = build_model(cfg).eval()
        images = build_dataset(cfg, 'test_dataset', patch_size=patch_size_of(model))[0].images
        seconds = []
        with torch.inference_mode():
            model.forward_images(images)
            for _ in range(PASSES):
                start = time.process_time()
                model.forward_images(images)
                seconds.append(time.process_time() - start)
        return dict(parameters=sum(value.numel() for value in model.parameters()), views=images.shape[1],
                    size=list(images.shape[-2:]), ms_per_view=1000 * median(seconds) / images.shape[1])

    def seconds_per_update(self, one: Backbone, stage: str) -> float:
        """Return CPU seconds of an update of a stage, reading its data included; mean over the first ones of seed 0."""
        cfg = self.config(one, stage, dict(weights=None))
        check_ready(cfg, 'train_dataset')
        torch.manual_seed(0)
        model = build_model(cfg).train()
        loader = training_loader(cfg, build_dataset(cfg, 'train_dataset', maps_of_run(model), patch_size_of(model)))
        batches, slots = iter(loader), own_slots(0, 1, update_of(cfg).slots)
        optimizer = training_optimizer(cfg, model)
        seconds = []
        for number in range(WARM + TIMED):
            start = time.process_time()
            training_step(model, [next(batches) for _ in slots], optimizer, [(0, slot, number) for slot in slots])
            seconds.append(time.process_time() - start)
        return mean(seconds[WARM:])

    def config(self, one: Backbone, stage: str, changes: Mapping[str, Any]):
        """Return the checked config of a stage of seed 0."""
        given = self.stage_options(one, stage) | dict(changes)
        return load_config(getattr(one, stage), self.profile, dict(map(parse_override, self.options)) | given)

    def stage_options(self, one: Backbone, stage: str) -> dict[str, Any]:
        """Return what makes the training of a stage the same for all backbones: dotted path -> value."""
        if stage == 'fine_tuning':
            return {'model.teacher': TRUTH, 'hooks.pictures': None}
        recipe, own = resolve_config(RECIPE, self.profile), resolve_config(one.geometry, self.profile)
        fresh = {f'model.backbone.{name}': value for name, value in dict(lora=None, activation_checkpointing=False).items()
                 if name in own.model.backbone}
        parameters = [*own.parameter_groups.pretrained.parameters, 'pretext.*']
        return dict({'weights': None, 'model.teacher': TRUTH, 'model.pretext': pretext(recipe, own, fresh),
                     'batches.views': recipe.batches.views, 'batches.slots': recipe.batches.slots,
                     'train_dataset.view_spacing': recipe.train_dataset.view_spacing,
                     'train_dataset.transform': recipe.train_dataset.transform, 'parameter_groups.new': None,
                     'parameter_groups.pretrained.parameters': parameters,
                     'parameter_groups.pretrained.lr': recipe.parameter_groups.pretrained.lr, 'hooks.pictures': None},
                    **fresh)

    def train_and_score(self, one: Backbone, seed: int) -> bool:
        """Bring both stages of a backbone to their end; returns whether they got there."""
        for stage in STAGES:
            if self.record.stage(one.name, seed, stage) is not None:
                continue
            about = dict(backbone=one.name, seed=seed, stage=stage)
            print(f'{one.name}, seed {seed}, {stage}: begins', flush=True)
            try:
                self.record.add_stage(about | self.run_stage(one, seed, stage))
            except StageError as error:
                self.record.add_stage(about | dict(error=str(error)))
                print(f'{one.name}, seed {seed}, {stage}: {error}', file=sys.stderr, flush=True)
                return False
            print(f'{one.name}, seed {seed}, {stage}: done', flush=True)
        return True

    def run_stage(self, one: Backbone, seed: int, stage: str) -> dict[str, Any]:
        """Train, test, and return what is kept of it."""
        folder = self.folder(one, seed, stage)
        self.commands.train(self.training_words(one, seed, stage, folder), folder)
        weights, config = str(folder / 'weights.safetensors'), str(folder / 'config.py')
        self.commands.score(ROOT / 'tools' / 'test.py', [config, weights], folder / 'test' / 'results.json')
        test, record = _json(folder / 'test' / 'results.json'), read_record(folder)
        result = dict(updates=self.record.cost(one.name)['updates'][stage], clock_minutes=60 * record['hours'],
                      training_gb=record['peak_memory_gb'], scoring_gb=test['peak_memory_gb'], commit=record['commit'],
                      machine=machine(),
                      commands=[_typed('tools/train.py', self.training_words(one, seed, stage, folder)),
                                _typed('tools/test.py', [config, weights])])
        if stage == 'fine_tuning':
            names = ('agnostic_AP25', 'agnostic_AP50', 'AP25', 'AP50')
            return result | {name: test['metrics'][f'instance/{name}'] for name in names}
        words = [config, weights, '--steps', '1', '--json', str(folder / 'spacing.json')]
        self.commands.score(SPACING, words, folder / 'spacing.json')
        result['commands'].append(_typed(_from_root(SPACING), words))
        step = _json(folder / 'spacing.json')['steps'][0]
        return result | dict(abs_rel=test['metrics']['depth/abs_rel'], rotation_ratio=step['ratio'],
                             rotation=step['rotation_median'], rotation_identity=step['rotation_median_identity'])

    def training_words(self, one: Backbone, seed: int, stage: str, folder: Path) -> list[str]:
        """Return the words of tools/train.py."""
        options = self.stage_options(one, stage)
        if stage == 'fine_tuning':
            options['weights'] = str(self.folder(one, seed, 'geometry') / 'weights.safetensors')
        options |= {'seed': seed, 'train.iterations': self.record.cost(one.name)['updates'][stage]}
        given = [f'{path}={_plain(value)}' for path, value in options.items()]
        return [_from_root(getattr(one, stage)), '--profile', self.profile, '--work-dir', str(folder), '--cfg-options',
                *self.options, *given]

    def folder(self, one: Backbone, seed: int, stage: str) -> Path:
        """Return the run folder of a stage."""
        name = one.name.replace('+', '-')
        return self.work_dirs / f'{name}_{stage}_{self.minutes[stage]:g}min_seed{seed}'.replace('.', '-')


def pretext(recipe, own, fresh: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the recipe's pretext with its layers at the same shares of the depth of another backbone; layers in which only
    special tokens see other views do not count. None for a backbone that is not made of steps."""
    settings = own.model.backbone.to_dict() | {path.rpartition('.')[2]: value for path, value in fresh.items()}
    backbone = build(BACKBONES, settings, 'model.backbone')
    if not hasattr(backbone, 'watching'):
        return None
    scene = [layer for layer, kind in enumerate(backbone.layer_kinds) if kind == 'scene']
    options, depth = recipe.model.pretext.to_dict(), recipe.model.backbone.depth
    defaults = inspect.signature(PRETEXTS.get(options['type'])).parameters
    for name in ('matching_layers', 'displacement_layers'):
        layers = options.get(name, defaults[name].default)
        places = (math.ceil((layer + 1) / depth * len(scene)) - 1 for layer in layers)
        options[name] = list(dict.fromkeys(scene[place] for place in places))
    return options


def _typed(script: str, words: list[str]) -> str:
    return shlex.join(['python', script, *words])


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, 'to_dict') else value


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


if __name__ == '__main__':
    sys.exit(run(main))
