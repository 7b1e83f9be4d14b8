"""What each benchmark scores: classes, ignored ids, splits, thresholds and minimum sizes. Data only; needs no torch.

Class tables are read from `jrs/labels/*.tsv` when this module is imported (data.md section 4, evaluation.md section 1).
A *class id* is the data set's own number; a *class index* 0 .. K-1 is the position among the instance classes.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jrs.errors import ConfigError, did_you_mean

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


def _load(name: str, table: str, **properties) -> Benchmark:
    with open(LABELS_DIR / table, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    scored = [row for row in rows if row['is_instance_class'] == '1']

    def ids(chosen: list[dict]) -> tuple[int, ...]:
        return tuple(int(row['id']) for row in chosen)
    return Benchmark(
        name, ids(scored), tuple(row['name'] for row in scored), ids(rows),
        ignored_ids=ids([row for row in rows if row['is_instance_class'] != '1']),
        **{split: ids([row for row in scored if row.get('split') == split]) for split in ('head', 'common', 'tail')},
        in_validation=ids([row for row in scored if row.get('in_validation', '1') == '1']), **properties)


BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    _load('scannet20', 'scannet20.tsv', view_stride=20, submission_format='scannet', has_superpoints=True),
    _load('scannet200', 'scannet200.tsv', view_stride=20, submission_format='scannet', has_superpoints=True),
    # 60 Hz instead of 30 Hz video: stride 40 is ScanNet's 1.5 views per second (data.md section 7).
    _load('scannetpp', 'scannetpp100.tsv', view_stride=40, submission_format='scannetpp', has_superpoints=False),
)}


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark called `name`.

    Raises:
        ConfigError: there is none; names the near spellings.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f'There is no benchmark {name!r}.{did_you_mean(name, BENCHMARKS)}')
    return BENCHMARKS[name]
