"""Adapters of the scores to mmengine: what a scene leaves behind is small, and each scene counts once.

A metric's `describe()` says by which rules its numbers came about; tables of results print it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from jrs.benchmarks import STRICTEST_THRESHOLD, get_benchmark, threshold_words
from jrs.errors import ConfigError, DataError, NotMeasured
from jrs.evaluation.cameras import camera_scores
from jrs.evaluation.depth import SCALES, depth_errors, scale_estimator
from jrs.evaluation.instance_ap import AveragePrecision, SceneMatches, assign, evaluate
from jrs.evaluation.kept import AGNOSTIC, AWARE, KeptMatches, keep_matches
from jrs.evaluation.rules import OWN, build_rules
from jrs.evaluation.saving import ONCE, check_names, save_predictions
from jrs.finite import refuse_nonfinite
from jrs.geometry.pixels import at_centres
from jrs.registry import METRICS, POSTPROCESSORS, build
from jrs.structures import InstanceTable, Reconstruction, SceneBatch, SceneGroundTruth

CLASS, RULE = 'class/', 'rule/'                # in the names of numbers of one class, and of a rule beside the metric's own
OTHERWISE = 'by_'                              # before the name of another ranking, of what is kept and of its numbers


@dataclass
class Unmeasured:
    """Stands for the score of a scene that the model does not give what is measured."""

    reason: str


class SceneMetric(BaseMetric):
    """Base of metrics over scenes. A subclass gives `score_scene` and `summarise`.

    `self.results` holds (scene name, what `score_scene` returned). Samplers may hand a scene to several processes or
    twice to one: it counts once. Processes may hold different numbers of scenes.

    Where a model lacks the part that a metric measures, `score_scene` raises NotMeasured: there is then no number of it, and
    `rules` says why.
    """

    not_measured = ''
    scored_names: Sequence[str] = ()                       # of the scenes, of the process that computes
    trained_names: frozenset[str] | None = None            # of a model whose classes are words; None = all were trained

    @property
    def names_apart(self) -> dict[str, list[str]] | None:
        """Which classes of the benchmark are `known` from the model's training, and which `novel`; None where none is."""
        names = getattr(getattr(self, 'benchmark', None), 'class_names', ())
        if self.trained_names is None or self.trained_names.issuperset(names):
            return None
        return {'known': [name for name in names if name in self.trained_names],
                'novel': [name for name in names if name not in self.trained_names]}

    def names_in_words(self) -> dict[str, str]:
        """Return that some names are novel, for `describe`; empty where none is."""
        apart = self.names_apart
        return {} if apart is None else {
            'novel_names': f'{len(apart["novel"])} of {len(self.benchmark.class_names)}: in no training of these weights; '
                           'their means are novel_..., the others known_...'}

    def process(self, data_batch: SceneBatch, data_samples: Sequence[Reconstruction]) -> None:
        """Score each scene of a batch."""
        for index, reconstruction in enumerate(data_samples):
            name = data_batch.scene_names[index]
            try:
                scored = self.score_scene(data_batch, index, reconstruction)
            except NotMeasured as reason:
                scored = Unmeasured(str(reason))
            self.results.append((name, scored))

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the metrics over the scenes of all processes. `size` is not needed: nothing is cut off or padded."""
        self.results = [self.results]                          # one shard per process, of any length
        return super().evaluate(get_world_size())

    def compute_metrics(self, results: list[list[tuple[str, Any]]]) -> dict[str, float]:
        """Merge the shards of all processes and summarise; the order of scenes does not depend on who scored them."""
        scenes = {name: scored for shard in results for name, scored in shard}
        reasons = [scored.reason for scored in scenes.values() if isinstance(scored, Unmeasured)]
        self.not_measured = f'not measured: {reasons[0]}' if reasons else ''
        if reasons:
            print_log(f'{type(self).__name__}: {self.not_measured}', 'current', logging.WARNING)
            return {}
        self.scored_names = sorted(scenes)
        return self.summarise([scenes[name] for name in self.scored_names])

    def rules(self) -> dict[str, str]:
        """Return `describe()`, and that nothing was measured where that is so."""
        return self.describe() | ({self.prefix or type(self).__name__: self.not_measured} if self.not_measured else {})

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> Any:
        """Return the statistics of scene `index` of the batch; small, and on the CPU."""
        raise NotImplementedError

    def summarise(self, scenes: list[Any]) -> dict[str, float]:
        """Return the metrics over all scenes."""
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        """Return the rules in words, for tables of results; none unless a subclass states them."""
        return {}


@METRICS.register_module()
class InstanceAPMetric(SceneMetric):
    """Average precision on the benchmark mesh: class-aware, class-agnostic, and the oracle's beside them.

    The oracle sends the true instance images of the same views through the same transfer, at the resolution of the
    predicted masks: what masks in these views could reach at most.

    Args:
        benchmark: name in `jrs.benchmarks`; class indices of predictions are positions among its classes.
        transfer: what moves masks to the mesh, from `POSTPROCESSORS`; None = `PosedTransfer` with its defaults,
            `UnposedTransfer` goes through the model's own cameras and depth, and the oracle with it.
        class_aware: score classes; False where the model's classes are not the benchmark's (a ScanNet200 model on
            ScanNet++): labels are then ignored.
        class_agnostic: also score all classes as one, each query once with its best score (evaluation.md section 5).
        oracle: also score the oracle, where the batch has true instance images.
        include_095: average also over IoU 0.95 (the official programs do not).
        rules: further transfers that the same predictions and the oracle are scored by: what each changes of `transfer`, as
            'vote=any+superpoint_vote=None', or 'all' (`jrs.evaluation.rules`). Their numbers are called `rule/<rule>/...`.
        predictions: folder that gets what is scored by `transfer` as files of the benchmark's format, which
            `tools/evaluate.py` scores alike; `class_agnostic/` in it has each query once. None = nothing is written.
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.

    Where the classes of the model are words and some were never trained (`names_apart`), their means are given apart, as
    `known_AP`, `novel_AP` and so on.

    Attributes:
        by_rule: after `evaluate`, of the process that computes: a row per transfer, its own first, where there are `rules`.
        kept: then, too: the matches of every scene by `transfer`.
    """

    default_prefix = 'instance'

    def __init__(self, benchmark: str, transfer: Mapping | None = None, class_aware: bool = True,
                 class_agnostic: bool = True, oracle: bool = True, include_095: bool = False, rules: Sequence[str] = (),
                 predictions: str | None = None, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not class_aware and not class_agnostic:
            raise ConfigError('InstanceAPMetric needs class_aware or class_agnostic; both are off.')
        self.benchmark = get_benchmark(benchmark)
        transfer = dict(transfer or {'type': 'PosedTransfer'})
        self.transfer = build(POSTPROCESSORS, transfer, 'InstanceAPMetric.transfer')
        self.beside = build_rules(transfer, self.transfer, rules, 'InstanceAPMetric.rules')
        self.class_aware = class_aware
        self.class_agnostic = class_agnostic
        self.oracle = oracle
        self.include_095 = include_095
        self.predictions = None if predictions is None else Path(predictions)
        self.reads_maps = ('instance_ids',) if oracle else ()
        self.views_per_scene, self.truth, self.ranking, self.by_rule = 'no scene scored yet', {}, {}, []
        self.kept: KeptMatches | None = None

    @property
    def dataset_meta(self) -> dict | None:
        """What the data set says of itself, None where it says nothing.

        Raises:
            ConfigError: it has the vertices of another benchmark, whose ids would be read as other classes.
            DataError: predictions are to be saved, and a scene has a name that their format cannot hold.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Check the benchmark of the data set before anything is scored."""
        given = (meta or {}).get('benchmark', self.benchmark.name)
        if given != self.benchmark.name:
            raise ConfigError(f'InstanceAPMetric scores the {len(self.benchmark.class_names)} classes of '
                              f'{self.benchmark.name!r}, and the data set has those of {given!r}: set '
                              'metrics.<name>.benchmark and *_dataset.benchmark to the same.')
        if self.predictions is not None:
            check_names((meta or {}).get('scene_names', ()))
        self._dataset_meta = meta

    def describe(self) -> dict[str, str]:
        """Return benchmark, thresholds, transfer rule, label setting and views per scene in words."""
        thresholds = (*self.benchmark.iou_thresholds, *([STRICTEST_THRESHOLD] if self.include_095 else []))
        settings = [name for name, on in (('class-aware', self.class_aware),
                                          ('class-agnostic, each query once', self.class_agnostic)) if on]
        return {'benchmark': f'{self.benchmark.name} ({self.benchmark.num_classes} classes)',
                'overlaps': threshold_words(thresholds), 'min_region': str(self.benchmark.min_region),
                'labels': '; '.join(settings), **self.transfer.describe(), 'views_per_scene': self.views_per_scene,
                **self.truth, **self.ranking, **(self.names_in_words() if self.class_aware else {})}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, Any]:
        """Move the instances of one scene to its mesh and count overlaps, by each rule."""
        mask_size = _predicted(reconstruction.instances, 'queries with a postprocessor').packed.size
        reconstruction = self._things_of(reconstruction)
        truth = _required(batch.ground_truth, 'ground_truth', batch, index)
        input_size = batch.input_size(index)
        visible = self.transfer.visible_pixels(truth, input_size, mask_size, reconstruction)
        scored = self._count(self.transfer, visible, batch, index, reconstruction, self.predictions)
        by_rule = {}
        for rule in self.beside:                               # one after another: a scene's masks on the mesh are large
            try:
                seen = visible if rule.sees_the_same else rule.transfer.visible_pixels(truth, input_size, mask_size,
                                                                                       reconstruction)
                by_rule[rule.name] = self._count(rule.transfer, seen, batch, index, reconstruction)
            except NotMeasured as reason:
                by_rule[rule.name] = Unmeasured(str(reason))
        scored |= {'rules': by_rule} if by_rule else {}
        return scored | {'num_views': len(truth.depth_m), 'source': truth.source,
                         'ranking': reconstruction.instances.ranking}

    def _things_of(self, reconstruction: Reconstruction) -> Reconstruction:
        """Return it without instances of stuff, which no average precision is given of (`ScenesOfSplit.stuff`)."""
        if not (self.dataset_meta or {}).get('stuff'):
            return reconstruction
        found = reconstruction.instances
        return replace(reconstruction, instances=found.select(found.labels < self.benchmark.num_classes))

    def _count(self, transfer: Any, visible: Any, batch: SceneBatch, index: int, reconstruction: Reconstruction,
               predictions: Path | None = None) -> dict[str, SceneMatches]:
        """Count overlaps of predictions, of each query once, and of the oracle, by one rule; save the predictions there."""
        instances, truth = reconstruction.instances, batch.ground_truth[index]
        packed = transfer.lift(instances, truth, visible, reconstruction.features)
        labels = instances.labels.cpu().numpy() if self.class_aware else np.zeros(len(packed), dtype=np.int64)
        found = packed, self._class_ids(labels, truth), instances.scores.cpu().numpy()
        counted = {'matches': assign(truth.vertex_ids, *found, self.benchmark, truth.excluded)}
        if self.class_agnostic:
            once = best_row_per_query(instances.queries, instances.scores)
            counted['agnostic'] = counted['matches'].keep_rows(once)
            counted |= {f'{OTHERWISE}{name}': counted['agnostic'].with_scores(scores.cpu().numpy())
                        for name, scores in instances.rankings.items()}
        if predictions is not None:
            self._save(predictions, truth, found, counted)
        if self.oracle and batch.instance_ids is not None and batch.instances is not None:
            images = at_centres(batch.instance_ids[index], instances.packed.size)                   # (V, h, w)
            counted['oracle'] = self._oracle(transfer, images, batch.instances[index], truth, visible)
        return counted

    def _save(self, folder: Path, truth: SceneGroundTruth, found: tuple[np.ndarray, np.ndarray, np.ndarray],
              counted: dict[str, SceneMatches]) -> None:
        """Write predictions as they are scored with their classes, and each query once; the one alone that is scored."""
        if self.class_aware:
            save_predictions(folder, self.benchmark, truth, *found, counted['matches'])
        if self.class_agnostic:
            once = folder / ONCE if self.class_aware else folder
            save_predictions(once, self.benchmark, truth, *found, counted['agnostic'])

    def summarise(self, scenes: list[dict[str, Any]]) -> dict[str, float]:
        """Return AP, AP50, AP25 and per class; before it `agnostic_`, `oracle_`, `head_`, `by_size_` ..."""
        views = [scene['num_views'] for scene in scenes]
        self.views_per_scene = views_words(views)
        sources = sorted({scene['source'] for scene in scenes} - {'mesh'})
        self.truth = {'ground_truth': ' and '.join(sources)} if sources else {}
        rankings = sorted({scene['ranking'] for scene in scenes} - {''})
        self.ranking = {'ranking': ' and '.join(rankings)} if rankings else {}
        kinds = [kind for kind, on in ((AWARE, self.class_aware), (AGNOSTIC, self.class_agnostic)) if on]
        self.kept = keep_matches(self.scored_names, self.benchmark, self.include_095,
                                 {kind: [scene[kind] for scene in scenes] for kind in kinds})
        numbers = {'scenes': float(len(scenes)), **self._numbers(scenes)}
        self.by_rule = [self._row(OWN, self.transfer, numbers)] if self.beside else []
        for rule in self.beside:
            counted = [scene['rules'][rule.name] for scene in scenes]
            reasons = [one.reason for one in counted if isinstance(one, Unmeasured)]
            found = {} if reasons else self._numbers(counted)
            self.by_rule.append(self._row(rule.name, rule.transfer, found, *reasons[:1]))
            numbers |= {f'{RULE}{rule.name}/{name}': value for name, value in found.items() if not name.startswith(CLASS)}
        return numbers

    def _row(self, rule: str, transfer: Any, numbers: Mapping[str, float], reason: str = '') -> dict[str, Any]:
        """Return a row of `by_rule`: which metric and rule, in words, its means, and why there are none."""
        means = {name: value for name, value in numbers.items() if not name.startswith(CLASS)}
        return {'metric': self.prefix, 'rule': rule, 'transfer': transfer.describe(), 'numbers': means,
                **({'not_measured': reason} if reason else {})}

    def _numbers(self, counted: list[dict[str, SceneMatches]]) -> dict[str, float]:
        """Return the numbers of one rule over all scenes."""
        numbers = {}
        if self.class_aware:
            numbers |= _flatten(self._evaluate([scene['matches'] for scene in counted]))
        if self.class_agnostic:
            merged = self._evaluate([scene['agnostic'] for scene in counted], class_agnostic=True)
            numbers |= {f'agnostic_{name}': value for name, value in merged.means.items()}
            for way in sorted({key for scene in counted for key in scene if key.startswith(OTHERWISE)}):
                merged = self._evaluate([scene[way] for scene in counted], class_agnostic=True)
                numbers |= {f'{way}_agnostic_{name}': value for name, value in merged.means.items()}
        oracles = [scene['oracle'] for scene in counted if 'oracle' in scene]
        if oracles:
            numbers |= {f'oracle_{name}': value for name, value in self._evaluate(oracles).means.items()}
            merged = self._evaluate(oracles, class_agnostic=True)
            numbers |= {f'oracle_agnostic_{name}': value for name, value in merged.means.items()}
        return numbers

    def _evaluate(self, scenes: list[SceneMatches], class_agnostic: bool = False) -> AveragePrecision:
        found = evaluate(scenes, self.benchmark, class_agnostic, self.include_095)
        return found if class_agnostic else found.split_by_name(self.names_apart or {})

    def _oracle(self, transfer: Any, instance_ids: Tensor, table: InstanceTable, truth: SceneGroundTruth,
                visible: Any) -> SceneMatches:
        if (self.dataset_meta or {}).get('stuff'):
            things = table.labels < self.benchmark.num_classes
            table = InstanceTable(table.ids[things], table.labels[things])
        packed = transfer.lift_ids(instance_ids, table.ids, truth, visible)
        labels = self._class_ids(table.labels.cpu().numpy(), truth)
        return assign(truth.vertex_ids, packed, labels, np.ones(len(packed)), self.benchmark, truth.excluded)

    def _class_ids(self, labels: np.ndarray, truth: SceneGroundTruth) -> np.ndarray:
        """Return the data set's ids (M,) of class indices (M,)."""
        num_classes = self.benchmark.num_classes
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise DataError(f'{truth.scene_name}: class indices {labels.min()} .. {labels.max()} do not fit '
                            f'{self.benchmark.name} with {num_classes} classes; set the benchmark that the model was '
                            f'trained for, or class_aware=False.')
        return np.array(self.benchmark.class_ids)[labels]


@METRICS.register_module()
class DepthMetric(SceneMetric):
    """Depth errors after one scale per scene, averaged over scenes (evaluation.md section 8).

    Args:
        scale: estimator whose errors go by the plain names; `abs_rel` and `delta_1.25` are given for all estimators.
        max_depth_m: sensor readings beyond it do not count; None counts all.
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.
    """

    default_prefix = 'depth'
    reads_maps = ('depth_m',)

    def __init__(self, scale: str = 'median', max_depth_m: float | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        scale_estimator(scale)
        self.scale = scale
        self.max_depth_m = max_depth_m

    def describe(self) -> dict[str, str]:
        """Return scale estimator and depth limit in words."""
        limit = 'none' if self.max_depth_m is None else f'{self.max_depth_m:g} m'
        return {'scale': f'{self.scale}, one per scene over its pooled pixels', 'max_depth': limit,
                'resolution': 'network input'}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, float]:
        """Return the errors of one scene."""
        predicted = _finite(_predicted(reconstruction.depth, 'depth head'), 'depth', batch, index).float().cpu().numpy()
        true_m = _required(batch.depth_m, 'depth_m', batch, index).cpu().numpy()
        scored = depth_errors(predicted, true_m, self.scale, self.max_depth_m)
        for scale in SCALES:
            errors = depth_errors(predicted, true_m, scale, self.max_depth_m)
            scored |= {f'{scale}/{name}': errors[name] for name in ('abs_rel', 'delta_1.25')}
        return scored

    def summarise(self, scenes: list[dict[str, float]]) -> dict[str, float]:
        """Return means over the scenes that have a valid pixel, and how many those are."""
        return _means_over_scenes([scene for scene in scenes if scene['valid_pixels'] > 0])


@METRICS.register_module()
class CameraMetric(SceneMetric):
    """AUC, RRA and RTA over all pairs of views of a scene, averaged over scenes (evaluation.md section 9).

    Args:
        thresholds: whole degrees.
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.
    """

    default_prefix = 'camera'
    reads_maps = ()

    def __init__(self, thresholds: Sequence[int] = (3, 5, 15, 30), collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.thresholds = tuple(thresholds)

    def describe(self) -> dict[str, str]:
        """Return the rule in words."""
        return {'pairs': 'all with a true baseline of at least 1e-6 m', 'average': 'over scenes'}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, float]:
        """Return the scores of one scene."""
        predicted = _finite(_predicted(reconstruction.cam_from_world, 'camera head'), 'cam_from_world', batch, index)
        true = _required(batch.cam_from_world, 'cam_from_world', batch, index)
        return camera_scores(predicted.double().cpu().numpy(), true.double().cpu().numpy(), self.thresholds)

    def summarise(self, scenes: list[dict[str, float]]) -> dict[str, float]:
        """Return means over the scenes that have a pair to compare, and how many those are."""
        return _means_over_scenes([scene for scene in scenes if scene['pairs'] > 0])


def views_words(views: Sequence[int]) -> str:
    """Return how many views the scenes that were scored have, one number each, in words."""
    if not views:
        return 'no scene scored'
    return f'{min(views)}-{max(views)}, mean {np.mean(views):.1f}' if max(views) else 'none: points'


def best_row_per_query(queries: Tensor, scores: Tensor) -> np.ndarray:
    """Return the row (n,) of each query's best score, ascending; the first of equal ones.

    Args:
        queries: (M,) the query of each row.
        scores: (M,).
    """
    queries, scores = queries.cpu().numpy(), scores.cpu().numpy()
    order = np.argsort(-scores, kind='stable')
    _, first = np.unique(queries[order], return_index=True)
    return np.sort(order[first])


def _flatten(result: AveragePrecision) -> dict[str, float]:
    numbers = {**result.means, 'finite_classes': float(result.finite_classes)}
    for split, means in result.split_means.items():
        numbers |= {f'{split}_{name}': value for name, value in means.items()}
    for name, values in result.per_class.items():
        numbers |= {f'class/{class_name}/{name}': float(value)
                    for class_name, value in zip(result.class_names, values, strict=True) if np.isfinite(value)}
    return numbers


def _means_over_scenes(scenes: list[dict[str, float]]) -> dict[str, float]:
    means = {name: float(np.mean([scene[name] for scene in scenes])) for name in (scenes[0] if scenes else ())}
    return means | {'scenes': float(len(scenes))}


def _required(value: Any, what: str, batch: SceneBatch, index: int) -> Any:
    if value is None:
        raise DataError(f'{batch.scene_names[index]}: this metric needs {what}, which is not there; '
                        'remove the metric from the config or add it to the data.')
    return value[index]


def _finite(values: Tensor, name: str, batch: SceneBatch, index: int) -> Tensor:
    """Return predicted `values` (...); a NonFiniteError where they are not all finite: errors of NaN compare as none."""
    refuse_nonfinite({name: values}, f'what the model predicts for {batch.scene_names[index]}', 'Its weights are broken or '
                     'of another model; the scene is not scored.')
    return values


def _predicted(value: Any, part: str) -> Any:
    if value is None:
        raise NotMeasured(f'the model has no {part}')
    return value
