"""Score anybody's prediction files against ground-truth files, as the benchmark's own program does.

`evaluate export-ground-truth --help` says how ground-truth files are made from prepared scenes, and `test --help` how
predictions of a checkpoint are saved as such files (--save-predictions).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from pathlib import Path

import numpy as np

from jrs.benchmarks import BENCHMARKS, Benchmark, get_benchmark, threshold_words
from jrs.cli.ground_truth import COMMAND as EXPORT
from jrs.cli.ground_truth import MESH_MASK, RECORD, check_benchmark
from jrs.cli.ground_truth import main as export_ground_truth
from jrs.cli.parser import Parser, config_argument
from jrs.errors import ConfigError, DataError
from jrs.evaluation.instance_ap import AGNOSTIC_NAME, AveragePrecision, SceneMatches, assign, evaluate
from jrs.io.atomic import atomic_write, check_folder
from jrs.io.names import readable, some
from jrs.io.submission import ORIGIN, SceneSubmission, read_vertex_numbers, submission_format
from jrs.io.submission_arrays import SUFFIX as ARRAYS
from jrs.io.submission_arrays import read_either
from jrs.io.text import read_json

NUMBERS = ('AP', 'AP50', 'AP25')


def main(argv: list[str] | None = None) -> int:
    """Run ``tools/evaluate.py``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [EXPORT]:
        return export_ground_truth(argv[1:])
    args = _parser().parse_args(argv)
    name, plugins = load(args)
    benchmark = get_benchmark(name)
    check_benchmark(args.ground_truth, name)
    names = scene_names(args.predictions, args.ground_truth)
    if args.out is not None:
        check_folder(args.out)
    left_out = LeftOut(benchmark)
    scenes = [_read_scene(name, args.predictions, args.ground_truth, args.data, benchmark, left_out) for name in names]
    left_out.look_for_files(args.predictions, args.ground_truth, names)
    if not args.class_agnostic:
        left_out.refuse_foreign_classes(args.predictions)
    result = evaluate(scenes, benchmark, args.class_agnostic, args.include_095)
    if not args.class_agnostic:
        result = result.split_by_name(names_apart(args.predictions, benchmark))
    print('\n'.join([format_table(result, len(scenes)), *left_out.lines(args.class_agnostic)]))
    if plugins:
        from jrs.plugins import hook_of
        kind = 'instance/agnostic_' if args.class_agnostic else 'instance/'
        numbers = {f'{kind}{measure}': value for measure, value in result.means.items()}
        hook_of('jrs_evaluation', plugins)(iteration=None, metrics=numbers)
    if args.out is not None:
        write_result(args.out, result, names, benchmark, left_out.lines(args.class_agnostic, shown=None))
        print(f'written: {args.out / "instance_ap.json"}, {args.out / "instance_ap.csv"}')
    return 0


def load(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the name of the benchmark and the plugins that were loaded for it; a config has both.

    Raises:
        ConfigError: neither --benchmark nor a config that names one.
    """
    from jrs.config import load_config
    from jrs.plugins import load_plugins
    load_plugins(args.plugins)
    cfg = None if args.config is None else load_config(args.config)
    name = args.benchmark or (cfg and cfg.test_dataset.get('benchmark'))
    if not name:
        raise ConfigError('Say what is scored: --benchmark NAME, or --config FILE whose test_dataset names a benchmark.')
    return name, [*args.plugins, *(cfg.plugins if cfg else ())]


def scene_names(predictions: Path, ground_truth: Path) -> list[str]:
    """Return the scenes of the ground truth, sorted; each must have a prediction file, and none may be left over.

    Raises:
        DataError: no ground truth, a scene without predictions, or predictions without a scene.
    """
    expected, lists, arrays = ({path.stem for path in folder.glob(f'*{suffix}') if not path.name.startswith('.')} for
                               folder, suffix in ((ground_truth, '.txt'), (predictions, '.txt'), (predictions, ARRAYS)))
    given = lists | arrays
    if not expected:
        raise DataError(f'{ground_truth} holds no <scene>.txt ground-truth files. From prepared scenes they are made by: '
                        'python tools/evaluate.py export-ground-truth --scenes DIR --split NAME --benchmark NAME --out DIR')
    if twice := sorted(lists & arrays):
        raise DataError(f'{predictions} has {twice[0]}.txt and {twice[0]}{ARRAYS}{" and so on" if len(twice) > 1 else ""}: '
                        'keep the one that is to be scored.')
    for lacking, folder, advice in (
            (expected - given, predictions, 'write an empty <scene>.txt for a scene without instances'),
            (given - expected, ground_truth, 'remove the prediction files that are not to be scored')):
        if lacking:
            shown = ', '.join(sorted(lacking)[:5]) + (', …' if len(lacking) > 5 else '')
            raise DataError(f'{folder} has no file for {len(lacking)} scenes ({shown}): {advice}.')
    return sorted(expected)


def names_apart(predictions: Path, benchmark: Benchmark) -> dict[str, list[str]]:
    """Return which classes were `known` and which `novel` to a model of words, as tools/test.py noted; empty without a note.

    Raises:
        DataError: a note that is none.
    """
    if not (predictions / ORIGIN).is_file():
        return {}
    note = read_json(predictions / ORIGIN)
    noted = note.get('class_names') if isinstance(note, dict) else None
    if not noted:
        return {}
    apart = {kind: noted.get(kind) if isinstance(noted, dict) else None for kind in ('known', 'novel')}
    whole = all(isinstance(names, list) for names in apart.values())
    if not whole or sorted(map(str, sum(apart.values(), []))) != sorted(benchmark.class_names):
        raise DataError(f'{predictions / ORIGIN}: class_names must have the classes of {benchmark.name!r} as known and '
                        'novel ones. Remove the file to score without.')
    return apart


def format_table(result: AveragePrecision, num_scenes: int) -> str:
    """Return a text table: a row per class that has objects, then the means."""
    rows = [(name, values) for name, *values in zip(result.class_names, *result.per_class.values(), strict=True)
            if math.isfinite(values[0])]
    rows += [(split, means.values()) for split, means in result.split_means.items()]
    rows.append(('mean', result.means.values()))
    width = max(len(name) for name, _ in rows)
    lines = [f'{"class":{width}}' + ''.join(f'{number:>9}' for number in NUMBERS)]
    lines += [f'{name:{width}}' + ''.join(f'{value:9.4f}' for value in values) for name, values in rows]
    overlaps = threshold_words(result.overlaps[:-1])
    lines.append(f'{num_scenes} scenes, {result.finite_classes} of {len(result.class_ids)} classes have objects, '
                 f'AP over IoU {overlaps}')
    return '\n'.join(lines)


def write_result(folder: Path, result: AveragePrecision, names: list[str], benchmark: Benchmark,
                 left_out: list[str]) -> None:
    """Write `instance_ap.json` and `instance_ap.csv` (the benchmark's columns); NaN is null and nan."""
    classes = zip(result.class_ids, result.class_names, result.ap_per_overlap, *result.per_class.values(), strict=True)
    record = {'benchmark': benchmark.name, 'class_agnostic': result.class_names == (AGNOSTIC_NAME,), 'scenes': names,
              'left_out': left_out, 'overlaps': result.overlaps.tolist(),
              'finite_classes': result.finite_classes, **_without_nan(result.means),
              'splits': {name: _without_nan(means) for name, means in result.split_means.items()},
              'classes': [{'id': class_id, 'name': name,
                           **_without_nan(dict(zip(NUMBERS, map(float, values), strict=True))),
                           'ap_per_overlap': [_null(float(value)) for value in per_overlap]}
                          for class_id, name, per_overlap, *values in classes]}
    with atomic_write(folder / 'instance_ap.json', 'w') as file:
        json.dump(record, file, indent=1, allow_nan=False)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(('class', 'class id', 'ap', 'ap50', 'ap25'))
    for name, class_id, *values in zip(result.class_names, result.class_ids, *result.per_class.values(), strict=True):
        writer.writerow((name, class_id, *(repr(float(value)) for value in values)))
    with atomic_write(folder / 'instance_ap.csv', 'w') as file:
        file.write(table.getvalue())


class LeftOut:
    """What of the files does not count, or was not read, over all scenes: the programs of the benchmarks do not say."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.predictions = self.repeated = self.small = self.unknown = 0
        self.foreign: dict[int, int] = {}                      # class ids that the data set does not have -> how often
        self.masks: set[str] = set()
        self.files: list[tuple[str, str]] = []

    def count(self, found: SceneSubmission, matches: SceneMatches) -> None:
        """Take in what became of the predictions of a scene."""
        self.predictions += len(found.labels)
        self.repeated += found.repeated
        self.small += len(found.labels) - len(matches.row)
        self.unknown += int((matches.prediction_class < 0).sum())
        self.masks.update(found.files)
        labels, counts = np.unique(found.labels, return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            if label not in self.benchmark.all_ids:
                self.foreign[label] = self.foreign.get(label, 0) + count

    def refuse_foreign_classes(self, predictions: Path) -> None:
        """Raise a DataError where no prediction has a class id that the data set knows."""
        if self.predictions and sum(self.foreign.values()) == self.predictions:
            raise DataError(f'{predictions}: none of {self.predictions} predictions has a class id of '
                            f'{self.benchmark.name}: they have {self._foreign_ids()}. {self._about_ids()}')

    def _foreign_ids(self) -> str:
        return some([str(label) for label in sorted(self.foreign)])

    def _about_ids(self) -> str:
        ids, names = self.benchmark.class_ids, self.benchmark.class_names
        return f"Ids are the data set's own ({ids[0]} {names[0]} .. {ids[-1]} {names[-1]}): of index i of a network " \
               f'jrs.benchmarks.BENCHMARKS[{self.benchmark.name!r}].class_ids[i].'

    def look_for_files(self, predictions: Path, ground_truth: Path, names: list[str]) -> None:
        """Look for files that no list names, and that are of no scene."""
        lists = {*(f'{name}{suffix}' for name in names for suffix in ('.txt', ARRAYS)), ORIGIN}
        given = sorted(path.relative_to(predictions) for path in predictions.rglob('*') if not path.is_dir())
        extra = [readable(path) for path in given if path.as_posix() not in lists | self.masks]
        self.files += [(f'of {readable(predictions)} no list names', name) for name in extra]
        true = sorted(path.name for path in ground_truth.iterdir() if path.name not in {*lists, *names, RECORD})
        self.files += [(f'of {readable(ground_truth)} are no <scene>.txt', readable(name)) for name in true]

    def lines(self, class_agnostic: bool, shown: int | None = 8) -> list[str]:
        """Return a line for each kind; `shown` names of files at most."""
        kinds = ((self.small, f'have fewer than {self.benchmark.min_region} vertices and do not count'),
                 (0 if class_agnostic else self.unknown, f'are of no class that {self.benchmark.name} scores'))
        lines = [f'{count} of {self.predictions} predictions {words}' for count, words in kinds if count]
        if self.foreign and not class_agnostic:
            lines.append(f'{sum(self.foreign.values())} of {self.predictions} predictions have a class id that the data set '
                         f'does not have: {self._foreign_ids()}. {self._about_ids()}')
        lines += [f'{self.repeated} lines name a mask that a later line names again, which counts'] if self.repeated else []
        for words in dict.fromkeys(words for words, _ in self.files):
            names = [name for kind, name in self.files if kind == words]
            lines.append(f'{len(names)} files {words}, and were not read: {some(names, shown)}')
        return lines


def _read_scene(name: str, predictions: Path, ground_truth: Path, data: Path | None, benchmark: Benchmark,
                left_out: LeftOut) -> SceneMatches:
    truth = read_vertex_numbers(ground_truth / f'{name}.txt')
    layout = submission_format(benchmark.submission_format)
    found = read_either(predictions, name, layout, len(truth))
    listed = (data or ground_truth) / name / MESH_MASK
    excluded = read_vertex_numbers(listed) if data is not None or listed.is_file() else None
    try:
        matches = assign(truth, found.masks, found.labels, found.scores, benchmark, excluded)
    except DataError as error:
        raise DataError(f'{name}: {error}') from None
    left_out.count(found, matches)
    return matches


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog='tools/evaluate.py', description=__doc__)
    parser.add_argument('--predictions', type=Path, required=True, metavar='DIR',
                        help='<scene>.txt per scene: `mask-file class-id confidence` per line; or <scene>.npz with masks '
                        '(N, M), classes (M,) and scores (M,); docs/external.md')
    parser.add_argument('--ground-truth', type=Path, required=True, metavar='DIR',
                        help='<scene>.txt per scene: class id * 1000 + instance number of each vertex')
    parser.add_argument('--benchmark', help=f'{", ".join(BENCHMARKS)}, or one of --config or --plugins')
    parser.add_argument('--config', type=config_argument, metavar='FILE',
                        help='experiment whose benchmark is scored, or whose plugins '
                        'and `benchmarks` --benchmark is one of')
    parser.add_argument('--plugins', nargs='+', default=(), metavar='NAME', help='plugins that register benchmarks')
    parser.add_argument('--class-agnostic', action='store_true',
                        help='all instance classes as one, labels ignored; list each mask once, not once per class')
    parser.add_argument('--include-095', action='store_true',
                        help='average also over IoU 0.95, which the official programs leave out')
    parser.add_argument('--data', type=Path, metavar='DIR',
                        help=f'ScanNet++: folder of scenes whose {MESH_MASK} names vertices to leave out; default: that '
                        'of --ground-truth, where it has such files')
    parser.add_argument('--out', type=Path, metavar='DIR', help='write instance_ap.json and instance_ap.csv here')
    return parser


def _without_nan(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: _null(value) for name, value in numbers.items()}


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
