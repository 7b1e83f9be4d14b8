"""What each benchmark scores: classes, ignored ids, splits, thresholds and minimum sizes. Data only; needs no torch.

Class tables are read from `jrs/labels/*.tsv` when this module is imported (data.md section 4, evaluation.md section 1).
A *class id* is the data set's own number; a *class index* 0 .. K-1 is the position among the instance classes.

A label space of one's own is registered by a plugin,

    register_benchmark(Benchmark.of_classes('furniture', ('chair', 'table')))

or named by a config, with the arguments of `Benchmark.of_classes`:

    benchmarks = dict(furniture=dict(class_names=('chair', 'table')))

Data sets, metrics, `model.num_classes` (K) and `tools/evaluate.py` then know it by its name.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np

from jrs.errors import ConfigError, PluginError, did_you_mean

LABELS_DIR = Path(__file__).resolve().parent / 'labels'
IOU_THRESHOLDS = tuple(np.arange(0.5, 0.95, 0.05).tolist())          # nine values: 0.95 is not among them
STRICTEST_THRESHOLD = float(np.arange(0.5, 1.0, 0.05)[9])            # 0.95, only for the literal reading of the paper
LOOSE_THRESHOLD = 0.25                                               # AP25; never part of the mean
PREPARED_EVERY = 10                                                  # each n-th frame of a recording is prepared


@dataclass(frozen=True)
class Benchmark:
    """One instance benchmark.

    Attributes:
        name: key in `BENCHMARKS`.
        class_ids: the K instance class ids in benchmark order; their position is the class index.
        class_names: names of `class_ids`.
        all_ids: every id of the label set, walls and floors included.
        ignored_ids: `all_ids` that are no instance class: void for scoring.
        head, common, tail: `class_ids` by frequency; empty where the benchmark has no such split.
        in_validation: `class_ids` that occur in the validation scenes; all of them where that is not published.
        view_stride: every which frame of the full stream is a view.
        submission_format: layout of prediction files, 'scannet' or 'scannetpp'.
        has_superpoints: whether the data set defines superpoints for the vote after 2D -> 3D transfer.
        iou_thresholds: thresholds that AP averages over.
        min_region: objects and predictions of fewer points do not count.
        id_of_label: raw label -> class id, for objects whose scene does not say their class in this benchmark.
        ignored_names: names of `ignored_ids`, where they have any: of these a model may predict stuff (`stuff_ids_of`).
    """

    name: str
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    all_ids: tuple[int, ...]
    ignored_ids: tuple[int, ...]
    head: tuple[int, ...]
    common: tuple[int, ...]
    tail: tuple[int, ...]
    in_validation: tuple[int, ...]
    view_stride: int
    submission_format: str
    has_superpoints: bool
    iou_thresholds: tuple[float, ...] = IOU_THRESHOLDS
    min_region: int = 100
    id_of_label: Mapping[str, int] = field(default_factory=dict, hash=False)
    ignored_names: tuple[str, ...] = ()

    @classmethod
    def of_classes(cls, name: str, class_names: Sequence[str], class_ids: Sequence[int] | None = None,
                   ignored_ids: Sequence[int] = (), labels: Mapping[str, str] | None = None,
                   iou_thresholds: Sequence[float] = IOU_THRESHOLDS, min_region: int = 100, view_stride: int = 1,
                   submission_format: str = 'scannet', has_superpoints: bool = False) -> Benchmark:
        """Return a benchmark of one's own, without frequency splits.

        Args:
            class_names: K different names.
            class_ids: K different whole numbers of at least 1, as the data have them; None = 1 .. K.
            ignored_ids: further ids of the data that are void for scoring, such as walls.
            labels: raw label -> class name, for objects of scenes that were prepared for other benchmarks; None = labels
                that are a class name.
            iou_thresholds, min_region, view_stride, submission_format, has_superpoints: as the attributes; thresholds begin
                with 0.5.

        Raises:
            ConfigError: what of these does not hold.
        """
        names = tuple(class_names)
        ids = tuple(range(1, len(names) + 1)) if class_ids is None else tuple(class_ids)
        thresholds, ignored = tuple(iou_thresholds), tuple(ignored_ids)
        labels = {one: one for one in names} if labels is None else dict(labels)
        _check_classes(name, names, ids, ignored, labels)
        if not thresholds or thresholds[0] != 0.5 or list(thresholds) != sorted(set(thresholds)) or thresholds[-1] > 1:
            raise ConfigError(f'The benchmark {name!r} has iou_thresholds {thresholds}: they rise from 0.5 to at most 1.')
        if isinstance(min_region, bool) or not isinstance(min_region, Integral) or min_region < 1:
            raise ConfigError(f'The benchmark {name!r} has min_region {min_region!r}: it is a whole number of at least 1.')
        return cls(name, ids, names, (*ids, *ignored), ignored, (), (), (), ids, view_stride, submission_format,
                   has_superpoints, thresholds, min_region, {label: ids[names.index(one)] for label, one in labels.items()})

    def class_id(self, classes: Mapping[str, int], label: str) -> int | None:
        """Return the class id of an object; None where this benchmark does not know it.

        Args:
            classes: benchmark -> class id, as its scene says.
            label: its raw label, which counts where the scene says nothing.
        """
        return classes.get(self.name, self.id_of_label.get(label))

    @property
    def num_classes(self) -> int:
        """K, the number of instance classes."""
        return len(self.class_ids)

    @cached_property
    def class_index_of_id(self) -> dict[int, int]:
        """Class id -> class index 0 .. K-1."""
        return {class_id: index for index, class_id in enumerate(self.class_ids)}

    @cached_property
    def name_of_id(self) -> dict[int, str]:
        """Class id -> name, instance classes only."""
        return dict(zip(self.class_ids, self.class_names, strict=True))

    def stuff_ids_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the ids of stuff, such as walls and floors: names among those that are ignored for instances.

        Raises:
            ConfigError: a name that is not ignored, or one twice.
        """
        id_of = dict(zip(self.ignored_names, self.ignored_ids, strict=False))
        for name in names:
            if name not in id_of or list(names).count(name) > 1:
                raise ConfigError(f'The benchmark {self.name!r} has no stuff {name!r}, or it is named twice.'
                                  f'{did_you_mean(name, id_of)}')
        return tuple(id_of[name] for name in names)

    @property
    def splits(self) -> dict[str, tuple[int, ...]]:
        """The frequency splits that exist: name -> class ids."""
        return {name: ids for name in ('head', 'common', 'tail') if (ids := getattr(self, name))}

    def class_indices(self, class_ids: np.ndarray) -> np.ndarray:
        """Return the class index of each class id (...), int64 (...); -1 where it is no instance class."""
        top = max(self.class_ids) + 1
        table = np.full(top + 1, -1, dtype=np.int64)
        table[list(self.class_ids)] = np.arange(self.num_classes)
        class_ids = np.asarray(class_ids, dtype=np.int64)
        return table[np.where((class_ids < 0) | (class_ids > top), top, class_ids)]


def threshold_words(thresholds: Sequence[float]) -> str:
    """Return IoU thresholds as tables write them: '0.50:0.05:0.90' where they rise by 0.05, else all of them."""
    even = len(thresholds) > 1 and np.allclose(np.diff(thresholds), 0.05)
    return f'{thresholds[0]:.2f}:0.05:{thresholds[-1]:.2f}' if even else ', '.join(f'{one:.2f}' for one in thresholds)


def _rows(table: str) -> list[dict[str, str]]:
    with open(LABELS_DIR / table, encoding='utf-8-sig', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def _load(name: str, rows: list[dict[str, str]], **properties) -> Benchmark:
    scored = [row for row in rows if row['is_instance_class'] == '1']

    ignored = [row for row in rows if row['is_instance_class'] != '1']

    def ids(chosen: list[dict]) -> tuple[int, ...]:
        return tuple(int(row['id']) for row in chosen)
    return Benchmark(
        name, ids(scored), tuple(row['name'] for row in scored), ids(rows), ignored_ids=ids(ignored),
        ignored_names=tuple(row['name'] for row in ignored),
        **{split: ids([row for row in scored if row.get('split') == split]) for split in ('head', 'common', 'tail')},
        in_validation=ids([row for row in scored if row.get('in_validation', '1') == '1']), **properties)


def _rooms(name: str, rows: list[dict[str, str]]) -> Benchmark:
    """Return a label space of the built-in rooms, whose objects go by their labels."""
    return _load(name, rows, view_stride=1, submission_format='scannet', has_superpoints=True,
                 id_of_label={row['name']: int(row['id']) for row in rows})


BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    _load('scannet20', _rows('scannet20.tsv'), view_stride=20, submission_format='scannet', has_superpoints=True),
    _load('scannet200', _rows('scannet200.tsv'), view_stride=20, submission_format='scannet', has_superpoints=True),
    # 60 Hz instead of 30 Hz video: stride 40 is ScanNet's 1.5 views per second (data.md section 7).
    _load('scannetpp', _rows('scannetpp100.tsv'), view_stride=40, submission_format='scannetpp', has_superpoints=False),
    _rooms('rooms', _rows('rooms.tsv')),
    # Names that a training shall not see are missing, chosen so that each of their attributes occurs in one that it sees.
    _rooms('rooms_known', [row for row in _rows('rooms.tsv') if row['held_out'] == '0']),
)}


_owners: dict[str, str] = {}                   # benchmark -> the plugin or config that registered it


def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Make a benchmark known by its name in this process; returns it. Registering the same again changes nothing.

    Raises:
        PluginError: the name belongs to another one.
    """
    from jrs.registry import current_owner  # imports mmengine: late, because the tables of this module need nothing
    name = benchmark.name
    known = BENCHMARKS.setdefault(name, benchmark)
    if known != benchmark:
        raise PluginError(f'There is a benchmark {name!r} already: it belongs to {_owners.get(name, "jrs")!r}, and '
                          f'{current_owner()!r} registers another one of that name. Rename one.')
    _owners.setdefault(name, current_owner() if benchmark is known else 'jrs')
    return known


def register_benchmarks(described: Mapping[str, Mapping]) -> None:
    """Register what a config's `benchmarks` describe: name -> arguments of `Benchmark.of_classes`.

    Raises:
        ConfigError: an argument that it does not have, or that does not hold. PluginError: a name is taken.
    """
    from jrs.registry import check_keys, registering_as
    for name, options in described.items():
        if not isinstance(options, Mapping) or 'class_names' not in options:
            raise ConfigError(f'benchmarks.{name} must be dict(class_names=(...), ...), got {options!r}.')
        check_keys(Benchmark.of_classes, options, f'benchmarks.{name}')
        with registering_as(f'benchmarks.{name} of a config'):
            register_benchmark(Benchmark.of_classes(name, **options))


def _check_classes(name: str, names: tuple[str, ...], ids: tuple[int, ...], ignored: tuple[int, ...],
                   labels: Mapping[str, str]) -> None:
    """Raise a ConfigError that names the first thing which is wrong with the classes of a benchmark."""
    wrong = [one for one in (*ids, *ignored) if isinstance(one, bool) or not isinstance(one, Integral) or one < 1]
    faults = {'needs at least one name, all of them different texts': not names or len(set(names)) < len(names) or not all(
                  isinstance(one, str) and one for one in names),
              f'needs one id for each of its {len(names)} names, and has {len(ids)}': len(ids) != len(names),
              f'needs ids that are whole numbers of at least 1, not {wrong[:3]}': bool(wrong),
              'has an id twice': len({*ids, *ignored}) < len(ids) + len(ignored)}
    for fault, there in faults.items():
        if there:
            raise ConfigError(f'The benchmark {name!r} {fault}; got class_names {names}, class_ids {ids}, ignored_ids '
                              f'{ignored}.')
    for label, one in labels.items():
        if one not in names:
            raise ConfigError(f'The benchmark {name!r} maps the label {label!r} to {one!r}.{did_you_mean(one, names)}')


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark called `name`.

    Raises:
        ConfigError: there is none; names the near spellings.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f'There is no benchmark {name!r}.{did_you_mean(name, BENCHMARKS)} A plugin registers one of its '
                          'own with jrs.benchmarks.register_benchmark, a config names one in `benchmarks`.')
    return BENCHMARKS[name]


def class_name(class_names: Sequence[str], label: int) -> str:
    """Return the name of a class index, `class 7` beyond the table, `unnamed` below it (`jrs.structures.UNNAMED`)."""
    if label < 0:
        return 'unnamed'
    return class_names[label] if 0 <= label < len(class_names) else f'class {label}'
