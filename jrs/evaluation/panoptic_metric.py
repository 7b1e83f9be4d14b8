"""Panoptic quality as a metric of runs: on the benchmark's mesh, and on the pixels of the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError, NotMeasured
from jrs.evaluation.instance_ap import IDS_PER_CLASS
from jrs.evaluation.metrics import SceneMetric
from jrs.evaluation.panoptic import NONE, SegmentCounts, count_segments, painted
from jrs.geometry.pixels import at_centres
from jrs.registry import METRICS, POSTPROCESSORS, build
from jrs.structures import Instances, Reconstruction, SceneBatch

VERTICES, PIXELS = 'vertices', 'pixels'


@METRICS.register_module()
class PanopticMetric(SceneMetric):
    """PQ, SQ and RQ of things, beside average precision: `vertices/PQ_things`, `pixels/PQ_things` and so on.

    Instances are things; no model here predicts stuff, so walls and floors are void and the numbers are called `_things`.
    What is matched and what is void: `jrs.evaluation.panoptic`. Class-agnostic numbers take all classes as one.

    Args:
        benchmark: name in `jrs.benchmarks`.
        where: 'vertices' (masks are moved to the mesh as for average precision) and 'pixels' (true instance images of the
            views, at the resolution of the masks), or one of them.
        transfer: of 'vertices', as of `InstanceAPMetric`.
        class_aware: score classes; False where the model's classes are not the benchmark's.
        class_agnostic: also score all classes as one.
        min_score, min_share: which scored masks become segments (`jrs.evaluation.panoptic.painted`).
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.
    """

    default_prefix = 'panoptic'

    def __init__(self, benchmark: str, where: Sequence[str] = (VERTICES, PIXELS), transfer: Mapping | None = None,
                 class_aware: bool = True, class_agnostic: bool = True, min_score: float = 0.0, min_share: float = 0.5,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        where = (where,) if isinstance(where, str) else tuple(where)
        if not where or not {*where} <= {VERTICES, PIXELS} or not class_aware and not class_agnostic:
            raise ConfigError(f"PanopticMetric.where is 'vertices', 'pixels' or both, got {where}; class_aware or "
                              'class_agnostic must be on.')
        self.benchmark, self.where = get_benchmark(benchmark), where
        self.transfer = build(POSTPROCESSORS, dict(transfer or {'type': 'PosedTransfer'}), 'PanopticMetric.transfer')
        self.class_aware, self.class_agnostic = class_aware, class_agnostic
        self.min_score, self.min_share = min_score, min_share
        self.reads_maps = ('instance_ids',) if PIXELS in where else ()

    def describe(self) -> dict[str, str]:
        """Return the rule in words."""
        return {'panoptic': f'things of {self.benchmark.name}; IoU > 0.5, void out of the union, segments more than half '
                            f'void not counted; masks of score >= {self.min_score:g} with {self.min_share:g} of them free',
                **{f'panoptic_{name}': words for name, words in self.transfer.describe().items() if VERTICES in self.where},
                **(self.names_in_words() if self.class_aware else {})}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, SegmentCounts]:
        """Count the segments of one scene, by place and by whether classes count."""
        instances = reconstruction.instances
        if instances is None:
            raise NotMeasured('the model has no postprocessor')
        scored = {}
        for place, (true, classes, masks) in self._places(batch, index, reconstruction, instances):
            segments, kept = painted(masks, instances.scores.cpu().numpy(), len(true), self.min_score, self.min_share)
            labels = instances.labels.cpu().numpy()[kept]
            if self.class_aware:
                scored[f'{place}/'] = count_segments(true, classes, segments, labels, self.benchmark.num_classes)
            if self.class_agnostic:
                scored[f'{place}/agnostic_'] = count_segments(true, 0 * classes, segments, 0 * labels, 1)
        return scored

    def _places(self, batch: SceneBatch, index: int, reconstruction: Reconstruction, instances: Instances):
        """Yield where there is something to score: true segments (N,), their classes (G,), and M masks (N,) bool."""
        if VERTICES in self.where and batch.ground_truth is not None:
            truth = batch.ground_truth[index]
            visible = self.transfer.visible_pixels(truth, batch.input_size(index), instances.packed.size, reconstruction)
            packed = self.transfer.lift(instances, truth, visible, reconstruction.features)
            kept = np.ones(len(truth.vertex_ids), dtype=bool)
            kept[[] if truth.excluded is None else truth.excluded] = False
            true, classes = self._segments(truth.vertex_ids[kept], truth.vertex_ids[kept] // IDS_PER_CLASS)
            yield VERTICES, (true, classes, (np.unpackbits(row, count=len(kept)).view(bool)[kept] for row in packed))
        if PIXELS in self.where and batch.instance_ids is not None and batch.instances is not None:
            ids = at_centres(batch.instance_ids[index], instances.packed.size).cpu().numpy().ravel().astype(np.int64)
            table = batch.instances[index]
            numbers, order = np.unique(table.ids.cpu().numpy(), return_index=True)
            place = np.searchsorted(numbers, ids).clip(0, max(len(numbers) - 1, 0))
            known = numbers[place] == ids if len(numbers) else np.zeros(len(ids), dtype=bool)
            classes, masks = table.labels.cpu().numpy()[order], (mask.cpu().numpy().ravel() for mask in instances.packed)
            yield PIXELS, (np.where(known, place, NONE), classes, masks)

    def _segments(self, ids: np.ndarray, class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return segment (N,) and classes (G,) of vertices (N,) with `ids` and `class_ids`; what is no thing is void."""
        index = self.benchmark.class_indices(class_ids)
        thing = (index >= 0) & (ids >= IDS_PER_CLASS)
        _, first, inverse = np.unique(ids[thing], return_index=True, return_inverse=True)
        segments = np.full(len(ids), NONE)
        segments[thing] = inverse
        return segments, index[thing][first]

    def summarise(self, scenes: list[dict[str, SegmentCounts]]) -> dict[str, float]:
        """Return PQ, SQ and RQ over all scenes, by place."""
        numbers = {'scenes': float(len(scenes))}
        for way in sorted({key for scene in scenes for key in scene}):
            counts, apart = SegmentCounts.total(scene[way] for scene in scenes if way in scene), {}
            if self.names_apart is not None and 'agnostic' not in way:
                apart = {f'{kind}_': [self.benchmark.class_names.index(name) for name in names]
                         for kind, names in self.names_apart.items()}
            for kind, classes in {'': None, **apart}.items():
                numbers |= {f'{way}{kind}{name}_things': value for name, value in counts.quality(classes).items()}
        return numbers
