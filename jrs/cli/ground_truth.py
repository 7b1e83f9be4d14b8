"""``tools/evaluate.py export-ground-truth``: ground-truth files from prepared scenes, for scoring anybody's predictions.

ScanNet's text format for every benchmark, ScanNet++ included: `<scene>.txt` with class id * 1000 + instance number of each
vertex of the scene's mesh, 0 = nothing, class ids as the benchmark has them. Vertices that do not exist for scoring are
listed where ScanNet++ lists them, `<scene>/scans/mesh_aligned_0.05_mask.txt`; the evaluation looks there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jrs.cli.parser import Parser, config_argument
from jrs.errors import ConfigError, DataError
from jrs.io.atomic import atomic_folder, check_folder, refuse_filled, writing_to
from jrs.io.submission import write_vertex_numbers
from jrs.io.text import read_json

if TYPE_CHECKING:                              # brings torch: `--help` does not wait for it
    from jrs.datasets.scenes import ScenesOfSplit

COMMAND = 'export-ground-truth'
RECORD = 'ground_truth.json'
MESH_MASK = 'scans/mesh_aligned_0.05_mask.txt'
EXAMPLES = """examples:
  python tools/evaluate.py export-ground-truth --scenes data/scannet --split val --benchmark scannet200 --out truth/val
  python tools/evaluate.py export-ground-truth --config configs/segvggt/all24_fada.py --profile rooms --out truth/rooms
  python tools/evaluate.py --predictions DIR --ground-truth truth/val --benchmark scannet200
For a row of tools/reproduce.py: --out predictions/ground_truth/<benchmark> (scannetv2, scannet200, scannetpp), and
predictions/ground_truth/<benchmark>_val_random10 with --split val_random10 for Table 2.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog=f'tools/evaluate.py {COMMAND}', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--scenes', type=Path, metavar='DIR', help='a prepared data set: scene folders and lists of splits')
    options.add_argument('--split', help='name of a list there, with --scenes')
    options.add_argument('--benchmark', help='whose classes count, with --scenes')
    options.add_argument('--config', type=config_argument,
                         help='instead: an experiment, of whose test_dataset the three are taken')
    options.add_argument('--profile', default='paper', help='scale of --config: paper, rooms_small, rooms, debug')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of --config')
    options.add_argument('--out', type=Path, required=True, metavar='DIR', help='a folder that is new, or empty')
    return options


def main(argv: list[str]) -> int:
    """Write the ground truth of all scenes; returns the exit code."""
    args = parser().parse_args(argv)
    refuse_filled(args.out, '--out')
    dataset = dataset_of(args)
    check_folder(args.out.parent)
    counted = export(dataset, args.out)
    print(f'written: {args.out}: {len(counted)} scenes of {dataset.root}, split {dataset.split!r}, with '
          f'{sum(counted.values())} objects of {dataset.benchmark.name}')
    return 0


def dataset_of(args: argparse.Namespace) -> ScenesOfSplit:
    """Return the data set that the options name.

    Raises:
        ConfigError: neither --scenes, --split and --benchmark nor --config, or both. DataError: the scenes are not there.
    """
    given = [f'--{name}' for name in ('scenes', 'split', 'benchmark') if getattr(args, name) is not None]
    if (args.config is None) == (len(given) < 3) or args.config is not None and given:
        raise ConfigError('Say what is exported: --scenes DIR --split NAME --benchmark NAME, or --config FILE; got '
                          f'{", ".join([*given, *(["--config"] if args.config else [])]) or "neither"}.')
    from jrs.datasets.scenes import ScenesOfSplit
    if args.config is None:
        return ScenesOfSplit('', args.split, args.benchmark, str(args.scenes), mode='test')
    from jrs.cli.options import config_from
    from jrs.engine.build import build_dataset
    dataset = build_dataset(config_from(args), 'test_dataset', maps=(), patch_size=1)
    if not isinstance(dataset, ScenesOfSplit):
        raise ConfigError(f'test_dataset: a {type(dataset).__name__} does not say what the vertices of its scenes are; only '
                          'data sets of scenes with meshes (jrs.datasets.scenes.ScenesOfSplit) have ground truth in files.')
    return dataset


def export(dataset: ScenesOfSplit, out: Path) -> dict[str, int]:
    """Write the ground truth of the scenes of `dataset`, all or nothing; returns how many objects each has.

    Raises:
        DataError: a scene is not annotated, or has no mesh; before anything is written where the scenes say so themselves.
        ConfigError: no object is of a class of the benchmark.
    """
    bare = [scene.name for scene in dataset.scenes if scene.instances is None]
    if bare:
        raise DataError(f'{dataset.root}, split {dataset.split!r}: {len(bare)} of {len(dataset.scenes)} scenes are not '
                        f'annotated, first {bare[0]}: there is no ground truth of them. Name a split that is annotated.')
    dataset.check_labels()
    counted = {}
    with writing_to(out), atomic_folder(out) as folder:
        for scene in dataset.scenes:
            ids, excluded = dataset.vertex_truth(scene)
            write_vertex_numbers(folder / f'{scene.name}.txt', ids)
            if excluded is not None:
                write_vertex_numbers(folder / scene.name / MESH_MASK, excluded)
            classes = dataset.benchmark.class_indices(np.unique(ids) // 1000)
            counted[scene.name] = int((classes >= 0).sum())
        record = dict(benchmark=dataset.benchmark.name, data=str(dataset.root), split=dataset.split, objects=counted)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    return counted


def check_benchmark(ground_truth: Path, benchmark: str) -> None:
    """Raise a ConfigError where a folder says that it is the ground truth of another benchmark."""
    path = ground_truth / RECORD
    if not path.is_file():
        return
    record = read_json(path)
    named = record.get('benchmark', benchmark) if isinstance(record, dict) else benchmark
    if named != benchmark:
        raise ConfigError(f'{ground_truth} is the ground truth of {named!r} ({RECORD}), not of {benchmark!r}: the ids would '
                          f'be read as other classes. Score with --benchmark {named}, or export another.')
