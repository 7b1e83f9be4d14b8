"""Average precision of 3D instances, as the programs of ScanNet, ScanNet200 and ScanNet++ compute it.

Two pure steps: `assign` reduces one scene to overlap statistics that do not grow with the number of points, and
`evaluate` pools any number of scenes (evaluation.md sections 1-5). The order of predictions matters below IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jrs.benchmarks import LOOSE_THRESHOLD, STRICTEST_THRESHOLD, Benchmark
from jrs.errors import DataError

IDS_PER_CLASS = 1000                       # vertex id = class id * 1000 + instance number
AGNOSTIC_NAME = 'class_agnostic'


@dataclass(frozen=True)
class SceneMatches:
    """What average precision needs to know of one scene with G objects, P predictions and E overlapping pairs.

    Attributes:
        object_class: (G,) class index; objects stand in ascending order of vertex id.
        object_size: (G,) points.
        row: (P,) position of each prediction in the input; those below the minimum region are gone.
        prediction_class: (P,) class index, -1 = label is no instance class.
        score: (P,) float64.
        size: (P,) points.
        void: (P,) points that lie on no object of any instance class.
        pair_object, pair_prediction: (E,) positions of the pairs that overlap, ordered by object, then prediction.
        pair_intersection: (E,) points in common.
    """

    object_class: np.ndarray
    object_size: np.ndarray
    row: np.ndarray
    prediction_class: np.ndarray
    score: np.ndarray
    size: np.ndarray
    void: np.ndarray
    pair_object: np.ndarray
    pair_prediction: np.ndarray
    pair_intersection: np.ndarray

    @property
    def pair_iou(self) -> np.ndarray:
        """The overlap of each pair, (E,) in (0, 1]."""
        union = self.object_size[self.pair_object] + self.size[self.pair_prediction] - self.pair_intersection
        return self.pair_intersection / union

    def merge_classes(self) -> SceneMatches:
        """Return the class-agnostic scene: objects of one class, predictions whatever their label; void unchanged."""
        return replace(self, object_class=np.zeros_like(self.object_class),
                       prediction_class=np.zeros_like(self.prediction_class))

    def with_scores(self, scores: np.ndarray) -> SceneMatches:
        """Return the scene with other scores (M,), one for each prediction of the input."""
        return replace(self, score=np.asarray(scores, dtype=np.float64)[self.row])

    def keep_rows(self, rows: np.ndarray) -> SceneMatches:
        """Return the scene with only the predictions that stood at `rows` (n,), int64 in any order, of the input."""
        kept = np.isin(self.row, rows)
        new_position = np.cumsum(kept) - 1
        pairs = kept[self.pair_prediction]
        return replace(self, row=self.row[kept], prediction_class=self.prediction_class[kept], score=self.score[kept],
                       size=self.size[kept], void=self.void[kept], pair_object=self.pair_object[pairs],
                       pair_prediction=new_position[self.pair_prediction[pairs]],
                       pair_intersection=self.pair_intersection[pairs])

    def read_pairs(self, min_region: int) -> SceneMatches:
        """Return the scene with the pairs alone that a score may read: of one class, over IoU 0.25 or of small objects."""
        read = self.object_class[self.pair_object] == self.prediction_class[self.pair_prediction]
        read &= (self.pair_iou > LOOSE_THRESHOLD) | (self.object_size[self.pair_object] < min_region)
        return self._of_pairs(read)

    def _of_pairs(self, chosen: np.ndarray) -> SceneMatches:
        return replace(self, pair_object=self.pair_object[chosen], pair_prediction=self.pair_prediction[chosen],
                       pair_intersection=self.pair_intersection[chosen])


@dataclass(frozen=True)
class AveragePrecision:
    """AP of pooled scenes.

    Attributes:
        class_ids, class_names: the K classes, in benchmark order; one entry for class-agnostic.
        overlaps: (T,) IoU thresholds; all but the last make up AP, the last is 0.25.
        ap_per_overlap: (K, T) float64 in [0, 1]; NaN where no object of the class was there.
        splits: head/common/tail, known/novel -> class ids; empty where the benchmark has none.
    """

    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    overlaps: np.ndarray
    ap_per_overlap: np.ndarray
    splits: dict[str, tuple[int, ...]]

    def split_by_name(self, names: Mapping[str, Collection[str]]) -> AveragePrecision:
        """Return the same with further splits: their name -> the names of their classes."""
        id_of = dict(zip(self.class_names, self.class_ids, strict=True))
        further = {split: tuple(id_of[name] for name in chosen) for split, chosen in names.items()}
        return replace(self, splits=self.splits | further)

    @property
    def per_class(self) -> dict[str, np.ndarray]:
        """`AP`, `AP50` and `AP25` of each class, (K,) each."""
        return _measures(self.ap_per_overlap)

    @property
    def means(self) -> dict[str, float]:
        """`AP`, `AP50` and `AP25`: means over the classes that are not NaN; NaN where all are."""
        return {name: float(_nan_mean(values)) for name, values in self.per_class.items()}

    @property
    def split_means(self) -> dict[str, dict[str, float]]:
        """The same means over head, common and tail classes."""
        rows = {name: np.isin(self.class_ids, ids) for name, ids in self.splits.items()}
        return {name: {key: float(_nan_mean(values[chosen])) for key, values in self.per_class.items()}
                for name, chosen in rows.items()}

    @property
    def finite_classes(self) -> int:
        """Number of classes that enter the means."""
        return int(np.isfinite(self.per_class['AP']).sum())


def assign(vertex_ids: np.ndarray, masks: np.ndarray, labels: np.ndarray, scores: np.ndarray, benchmark: Benchmark,
           excluded: np.ndarray | None = None) -> SceneMatches:
    """Count how the predictions of one scene overlap its objects (evaluation.md section 2).

    Args:
        vertex_ids: (N,) integers, class id * 1000 + instance number; 0 = void.
        masks: (P, N) bool, or (P, ceil(N / 8)) uint8 as `np.packbits(masks, axis=1)` makes them.
        labels: (P,) class ids of the data set; ids that are no instance class count class-agnostically only.
        scores: (P,) any range, finite; compared as float64.
        benchmark: classes and minimum region.
        excluded: indices of vertices that do not exist for scoring (ScanNet++'s mesh mask).

    Raises:
        DataError: lengths that do not fit, or a score that is not finite.
    """
    vertex_ids = np.asarray(vertex_ids)
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _check_scene(vertex_ids, masks, labels, scores, excluded)
    column, object_ids = _columns(vertex_ids, benchmark, excluded)
    num_objects = len(object_ids)
    counts = _count_points(masks, column, num_objects + 2)[:, :num_objects + 1]     # (P, G + 1), last one is void
    sizes = counts.sum(axis=1)
    row = np.flatnonzero(sizes >= benchmark.min_region)
    pair_object, pair_prediction = np.nonzero(counts[row, :num_objects].T)
    return SceneMatches(
        object_class=benchmark.class_indices(object_ids // IDS_PER_CLASS),
        object_size=np.bincount(column, minlength=num_objects)[:num_objects],
        row=row, prediction_class=benchmark.class_indices(labels[row]), score=scores[row], size=sizes[row],
        void=counts[row, num_objects], pair_object=pair_object, pair_prediction=pair_prediction,
        pair_intersection=counts[row][pair_prediction, pair_object])


def evaluate(scenes: Sequence[SceneMatches], benchmark: Benchmark, class_agnostic: bool = False,
             include_095: bool = False) -> AveragePrecision:
    """Return the average precision over all scenes together (evaluation.md section 3).

    Args:
        scenes: one record per scene; none twice.
        benchmark: the one that `assign` was given.
        class_agnostic: merge all instance classes into one and ignore the labels of predictions (section 5).
        include_095: also average over IoU 0.95, the literal reading of the paper; the official programs do not.
    """
    overlaps = _overlaps(benchmark, include_095)
    once = np.ones((1, len(scenes)), dtype=np.int64)
    ap = _pooled(scenes, benchmark, overlaps, once, class_agnostic)[0]
    if class_agnostic:
        return AveragePrecision((0,), (AGNOSTIC_NAME,), overlaps, ap, {})
    return AveragePrecision(benchmark.class_ids, benchmark.class_names, overlaps, ap, benchmark.splits)


def resampled(scenes: Sequence[SceneMatches], benchmark: Benchmark, times: np.ndarray, class_agnostic: bool = False,
              include_095: bool = False) -> dict[str, np.ndarray]:
    """Return `AP`, `AP50` and `AP25`, (B,) each: the means that `evaluate` gives of B draws out of S scenes.

    Args:
        scenes, benchmark, class_agnostic, include_095: as for `evaluate`.
        times: (B, S) whole numbers, how often a draw has each scene.
    """
    ap = _pooled(scenes, benchmark, _overlaps(benchmark, include_095), times, class_agnostic)          # (B, K, T)
    return {name: _nan_mean(values) for name, values in _measures(ap).items()}


def _overlaps(benchmark: Benchmark, include_095: bool) -> np.ndarray:
    return np.array((*benchmark.iou_thresholds, *((STRICTEST_THRESHOLD,) if include_095 else ()), LOOSE_THRESHOLD))


def _measures(ap: np.ndarray) -> dict[str, np.ndarray]:
    """Return `AP`, `AP50` and `AP25` (..., K) of AP (..., K, T) per overlap."""
    return {'AP': ap[..., :-1].mean(axis=-1), 'AP50': ap[..., 0], 'AP25': ap[..., -1]}


def _pooled(scenes: Sequence[SceneMatches], benchmark: Benchmark, overlaps: np.ndarray, times: np.ndarray,
            class_agnostic: bool) -> np.ndarray:
    """Return AP (B, K, T) at each overlap of B pools, which have the scenes so many `times` (B, S)."""
    if class_agnostic:
        scenes = [scene.merge_classes() for scene in scenes]
    num_classes = 1 if class_agnostic else benchmark.num_classes
    pool = [_candidates(scene, benchmark.min_region) for scene in scenes]
    has_object = _occurs([candidates.scene.object_class[candidates.counted] for candidates in pool], times, num_classes)
    has_prediction = _occurs([scene.prediction_class for scene in scenes], times, num_classes)
    ap = np.full((len(times), num_classes, len(overlaps)), np.nan)
    for column, threshold in enumerate(overlaps):
        entries = [_entries(candidates, threshold) for candidates in pool]
        found = _average_precisions(entries, has_object & has_prediction, times)
        ap[..., column] = np.where(has_object, found, np.nan)
    return ap


def _check_scene(vertex_ids, masks, labels, scores, excluded) -> None:
    num_points = vertex_ids.shape[0]
    width = {np.dtype(bool): num_points, np.dtype(np.uint8): -(-num_points // 8)}.get(masks.dtype)
    if vertex_ids.ndim != 1 or masks.ndim != 2 or width is None or masks.shape[1] != width:
        raise DataError(f'masks must be (P, {num_points}) bool or (P, {-(-num_points // 8)}) packed uint8 for the '
                        f'{num_points} vertices of the ground truth, got {masks.shape} {masks.dtype}.')
    if not len(masks) == len(labels) == len(scores):
        raise DataError(f'{len(masks)} masks, {len(labels)} labels and {len(scores)} scores: these must be as many.')
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise DataError(f'{len(wrong)} of {len(scores)} scores are not finite, the first {scores[wrong[0]]} of prediction '
                        f'{wrong[0]}: what is NaN ranks nowhere. Scores must be numbers that can be compared.')
    if excluded is not None and len(excluded) and not 0 <= np.min(excluded) <= np.max(excluded) < num_points:
        raise DataError(f'the mesh mask names vertices {np.min(excluded)} .. {np.max(excluded)}, but the scene has '
                        f'vertices 0 .. {num_points - 1}: it belongs to another mesh.')


def _columns(vertex_ids: np.ndarray, benchmark: Benchmark,
             excluded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the column (N,) each vertex counts in, and the ids (G,) of the objects.

    Columns 0 .. G-1 are objects in ascending id, G is void, G + 1 is not there at all.
    """
    valid = (benchmark.class_indices(vertex_ids // IDS_PER_CLASS) >= 0) & (vertex_ids >= IDS_PER_CLASS)
    present = np.ones(len(vertex_ids), dtype=bool)
    if excluded is not None and len(excluded):
        present[excluded] = False
    object_ids, inverse = np.unique(vertex_ids[valid & present], return_inverse=True)
    column = np.where(present, len(object_ids), len(object_ids) + 1)
    column[valid & present] = inverse
    return column, object_ids


def _count_points(masks: np.ndarray, column: np.ndarray, num_columns: int) -> np.ndarray:
    """Return how many points of each mask fall in each column, (P, num_columns)."""
    counts = np.zeros((len(masks), num_columns), dtype=np.int64)
    packed = masks.dtype == np.uint8
    for index, mask in enumerate(masks):
        inside = np.unpackbits(mask, count=len(column)).view(bool) if packed else mask
        counts[index] = np.bincount(column[inside], minlength=num_columns)
    return counts


@dataclass(frozen=True)
class _Candidates:
    """Pairs of the same class of one scene, with what does not depend on the threshold. `counted` = large enough."""

    scene: SceneMatches
    pair_object: np.ndarray
    pair_prediction: np.ndarray
    iou: np.ndarray
    counted: np.ndarray                    # (G,) bool
    ignorable: np.ndarray                  # (P,) share of a prediction on void and on objects too small to count


def _candidates(scene: SceneMatches, min_region: int) -> _Candidates:
    same = scene._of_pairs(scene.object_class[scene.pair_object] == scene.prediction_class[scene.pair_prediction])
    counted = scene.object_size >= min_region
    small = np.where(counted[same.pair_object], 0, same.pair_intersection)
    on_small = np.bincount(same.pair_prediction, weights=small, minlength=len(scene.size))
    return _Candidates(scene, same.pair_object, same.pair_prediction, same.pair_iou, counted,
                       (scene.void + on_small) / scene.size)


def _entries(candidates: _Candidates, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return class, score and truth of each entry of the curve, and the classes of the objects that were missed."""
    scene = candidates.scene
    hit = candidates.iou > threshold
    found, further = _match(candidates, hit)
    alone = np.ones(len(scene.size), dtype=bool)
    alone[candidates.pair_prediction[hit]] = False                 # small objects take predictions away, too
    alone &= (candidates.ignorable <= threshold) & (scene.prediction_class >= 0)
    matched = np.fromiter(found, dtype=np.int64, count=len(found))
    missed = candidates.counted.copy()
    missed[matched] = False
    further_object = np.array([position for position, _ in further], dtype=np.int64)
    classes = np.concatenate([scene.object_class[matched], scene.object_class[further_object],
                              scene.prediction_class[alone]])
    scores = np.concatenate([np.array(list(found.values()), dtype=np.float64),
                             np.array([score for _, score in further], dtype=np.float64), scene.score[alone]])
    return classes, scores, np.arange(len(classes)) < len(matched), scene.object_class[missed]


def _match(candidates: _Candidates, hit: np.ndarray) -> tuple[dict[int, float], list[tuple[int, float]]]:
    """Go through the hits by object, then prediction. Return object -> score, and (object, score) of each further hit.

    A further hit leaves the larger score to the object and is not marked as used: the official programs do so.
    """
    pairs = hit & candidates.counted[candidates.pair_object]
    score = candidates.scene.score.tolist()
    found, further, used = {}, [], set()
    for position, prediction in zip(candidates.pair_object[pairs].tolist(), candidates.pair_prediction[pairs].tolist(),
                                    strict=True):
        if prediction in used:
            continue
        if position not in found:
            found[position] = score[prediction]
            used.add(prediction)
        else:
            further.append((position, min(found[position], score[prediction])))
            found[position] = max(found[position], score[prediction])
    return found, further


def _average_precisions(entries: list[tuple], chosen: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the AP (B, K) of the `chosen` classes (B, K) of pools that have scenes `times` (B, S); 0 of the others."""
    result = np.zeros(chosen.shape)
    if not chosen.any():
        return result
    classes, scores, true, missed = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    scene, missed_in = (np.repeat(np.arange(len(entries)), [len(part[place]) for part in entries]) for place in (0, 3))
    order = np.argsort(classes, kind='stable')
    classes, scores, true, scene = classes[order], scores[order], true[order], scene[order]
    missed_of = np.zeros((len(entries), chosen.shape[1]), dtype=np.int64)                   # (S, K)
    np.add.at(missed_of, (missed_in, missed), 1)
    num_missed = times @ missed_of                                                          # (B, K)
    for index in np.flatnonzero(chosen.any(axis=0)):
        first, last = np.searchsorted(classes, index), np.searchsorted(classes, index, side='right')
        areas = areas_under_curves(scores[first:last], true[first:last], scene[first:last], num_missed[:, index], times)
        result[:, index] = np.where(chosen[:, index], areas, 0)
    return result


def area_under_curve(scores: np.ndarray, true: np.ndarray, num_missed: int) -> float:
    """Return the area under precision over recall by the trapezoid rule; the curve ends at (recall 0, precision 1).

    Args:
        scores: (n,) of all entries; equal scores are one operating point.
        true: (n,) bool, whether the entry is a found object.
        num_missed: objects that no entry found.
    """
    alone = np.zeros(len(scores), dtype=np.int64)
    return float(areas_under_curves(scores, true, alone, np.array([num_missed]), np.ones((1, 1), dtype=np.int64))[0])


def areas_under_curves(scores: np.ndarray, true: np.ndarray, scene: np.ndarray, num_missed: np.ndarray,
                       times: np.ndarray) -> np.ndarray:
    """Return the `area_under_curve` (B,) of B pools of the same S scenes.

    Args:
        scores, true: (n,) as there.
        scene: (n,) which scene each entry is of.
        num_missed: (B,) objects that no entry found.
        times: (B, S) whole numbers, how often a pool has each scene. One without any entry has the area 0.
    """
    if len(scores) == 0:
        return np.zeros(len(times))
    distinct, point = np.unique(scores, return_inverse=True)                # (m,) operating points, (n,)
    hits = np.bincount(point, weights=true, minlength=len(distinct)) > 0
    # A point has an area where recall changes: where it has a true entry, or the one before or behind it has.
    kept = np.flatnonzero(hits | np.r_[hits[1:], False] | np.r_[True, hits[:-1]])
    place = np.searchsorted(kept, point, side='right') - 1                  # the last kept point at or below the entry's
    shape = (times.shape[1], len(kept))
    of_scene = [np.bincount(scene[chosen] * len(kept) + place[chosen], minlength=shape[0] * shape[1]).reshape(shape)
                for chosen in (slice(None), true)]
    entries, positives = (times @ _from_place(counts) for counts in of_scene)                            # (B, m) each
    # An operating point that a pool does not have is the next one again; behind its last one the curve has ended.
    precision = np.where(entries > 0, positives / np.maximum(entries, 1), 1.0)
    precision = np.pad(precision, ((0, 0), (0, 1)), constant_values=1.0)
    recall = positives / np.maximum(positives[:, :1] + num_missed[:, None], 1)
    extended = np.pad(np.concatenate((recall[:, :1], recall), axis=1), ((0, 0), (0, 2)))    # ends at recall 0, and stays
    steps = 0.5 * (extended[:, :-2] - extended[:, 2:])
    return np.array([np.dot(heights, widths) for heights, widths in zip(precision, steps, strict=True)])


def _from_place(counts: np.ndarray) -> np.ndarray:
    """Return the sums of (B, n) from each place on to the end."""
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]


def _occurs(classes: list[np.ndarray], times: np.ndarray, num_classes: int) -> np.ndarray:
    """Return whether each pool has a class (B, K), of the classes of S scenes that are pooled `times` (B, S); -1 is none."""
    occurs = np.zeros((len(classes), num_classes), dtype=np.int64)
    for scene, present in zip(occurs, classes, strict=True):
        scene[present[present >= 0]] = 1
    return times @ occurs > 0


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of what is finite along the last axis; NaN where nothing is."""
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    return np.where(count > 0, np.where(finite, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)
