"""Panoptic quality as a metric of runs: on the benchmark's mesh, and on the pixels of the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError, DataError, NotMeasured
from jrs.evaluation.instance_ap import IDS_PER_CLASS
from jrs.evaluation.metrics import SceneMetric
from jrs.evaluation.panoptic import NONE, SegmentCounts, as_stuff, count_segments, painted
from jrs.geometry.pixels import at_centres
from jrs.registry import METRICS, POSTPROCESSORS, build
from jrs.structures import Instances, Reconstruction, SceneBatch, SceneGroundTruth

VERTICES, PIXELS = 'vertices', 'pixels'
MAP, NUMBERS = 'panoptic_semantic', 'panoptic_instance'      # (N,) each, in the extras of a reconstruction


@METRICS.register_module()
class PanopticMetric(SceneMetric):
    """PQ, SQ and RQ beside average precision: `vertices/PQ_things`, `pixels/PQ_things` and so on.

    Instances are things. Where the model predicts stuff, `PQ_stuff` and the `PQ` of all classes stand beside it; where it
    does not, walls and floors are void. A model predicts stuff by instances of the names in `stuff` of its data set, or by a
    map of the vertices (`panoptic_semantic` and `panoptic_instance` in `Reconstruction.extras`), scored as it is.
    What is matched and what is void: `jrs.evaluation.panoptic`. Class-agnostic numbers take all classes of things as one.

    Args:
        benchmark: name in `jrs.benchmarks`.
        where: 'vertices' (masks are moved to the mesh as for average precision) and 'pixels' (true instance images of the
            views, at the resolution of the masks), or one of them.
        transfer: of 'vertices', as of `InstanceAPMetric`.
        class_aware: score classes; False where the model's classes are not the benchmark's.
        class_agnostic: also score all classes of things as one.
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
        self.min_score, self.min_share, self.num_stuff = min_score, min_share, 0
        self.reads_maps = ('instance_ids',) if PIXELS in where else ()

    def describe(self) -> dict[str, str]:
        """Return the rule in words."""
        scored = 'things and stuff' if self.num_stuff else 'things'
        return {'panoptic': f'{scored} of {self.benchmark.name}; IoU > 0.5, void out of the union, segments more than half '
                            f'void not counted; masks of score >= {self.min_score:g} with {self.min_share:g} of them free',
                **{f'panoptic_{name}': words for name, words in self.transfer.describe().items() if VERTICES in self.where},
                **(self.names_in_words() if self.class_aware else {})}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, SegmentCounts]:
        """Count the segments of one scene, by place and by whether classes count."""
        instances = reconstruction.instances
        if instances is None:
            raise NotMeasured('the model has no postprocessor')
        stuff = self._stuff_ids(reconstruction)
        self.num_stuff = len(stuff)
        scored = {}
        for place, (true, classes, masks) in self._places(batch, index, reconstruction, instances, stuff):
            if place == VERTICES and MAP in reconstruction.extras:
                segments, labels = self._mapped(reconstruction, batch.ground_truth[index], len(stuff))
            else:
                segments, kept = painted(masks, instances.scores.cpu().numpy(), len(true), self.min_score, self.min_share)
                labels = instances.labels.cpu().numpy()[kept]
            scored |= self._counted(place, true, classes, segments, labels, len(stuff))
        return scored

    def _stuff_ids(self, reconstruction: Reconstruction) -> tuple[int, ...]:
        """Return the class ids of the stuff that the model predicts, in the order of their labels K .. K + S - 1."""
        named = self.benchmark.stuff_ids_of((self.dataset_meta or {}).get('stuff', ()))
        return self.benchmark.ignored_ids if MAP in reconstruction.extras else named

    def _counted(self, place: str, true: np.ndarray, classes: np.ndarray, segments: np.ndarray, labels: np.ndarray,
                 num_stuff: int) -> dict[str, SegmentCounts]:
        """Return the counts of segments (N,) against true ones (N,), of classes (P,) and (G,)."""
        scored, things = {}, self.benchmark.num_classes
        if self.class_aware:
            scored[f'{place}/'] = count_segments(as_stuff(true, classes, things), classes,
                                                 as_stuff(segments, labels, things) if num_stuff else segments, labels,
                                                 things + num_stuff)
        if self.class_agnostic:
            true, segments = (np.where(np.append(of < things, False)[numbers], numbers, NONE) if num_stuff else numbers
                              for numbers, of in ((true, classes), (segments, labels)))
            scored[f'{place}/agnostic_'] = count_segments(true, 0 * classes, segments, 0 * labels, 1)
        return scored

    def _mapped(self, reconstruction: Reconstruction, truth: SceneGroundTruth,
                num_stuff: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the segment of each vertex that counts (n,) as the model's own map says, and classes (P,).

        Raises:
            DataError: the map is of another number of vertices.
        """
        semantic, instance = (reconstruction.extras[name].cpu().numpy() for name in (MAP, NUMBERS))
        if len(semantic) != len(truth.vertex_ids):
            raise DataError(f'{truth.scene_name}: the model maps {len(semantic)} points, and the mesh has '
                            f'{len(truth.vertex_ids)} vertices.')
        kept = self._kept(truth)
        _, first, segments = np.unique(instance[kept], return_index=True, return_inverse=True)
        numbers = semantic[kept][first]                        # stuff first, as the model numbers them
        return segments, np.where(numbers < num_stuff, numbers + self.benchmark.num_classes, numbers - num_stuff)

    @staticmethod
    def _kept(truth: SceneGroundTruth) -> np.ndarray:
        """Return which vertices count for scoring, (N,) bool."""
        kept = np.ones(len(truth.vertex_ids), dtype=bool)
        kept[[] if truth.excluded is None else truth.excluded] = False
        return kept

    def _places(self, batch: SceneBatch, index: int, reconstruction: Reconstruction, instances: Instances,
                stuff: tuple[int, ...]):
        """Yield where there is something to score: true segments (N,), their classes (G,), and M masks (N,) bool."""
        if VERTICES in self.where and batch.ground_truth is not None:
            truth = batch.ground_truth[index]
            visible = self.transfer.visible_pixels(truth, batch.input_size(index), instances.packed.size, reconstruction)
            packed = self.transfer.lift(instances, truth, visible, reconstruction.features)
            kept = self._kept(truth)
            true, classes = self._segments(truth.vertex_ids[kept], truth.vertex_ids[kept] // IDS_PER_CLASS, stuff)
            yield VERTICES, (true, classes, (np.unpackbits(row, count=len(kept)).view(bool)[kept] for row in packed))
        if PIXELS in self.where and batch.instance_ids is not None and batch.instances is not None:
            ids = at_centres(batch.instance_ids[index], instances.packed.size).cpu().numpy().ravel().astype(np.int64)
            table = batch.instances[index]
            numbers, order = np.unique(table.ids.cpu().numpy(), return_index=True)
            place = np.searchsorted(numbers, ids).clip(0, max(len(numbers) - 1, 0))
            known = numbers[place] == ids if len(numbers) else np.zeros(len(ids), dtype=bool)
            classes, masks = table.labels.cpu().numpy()[order], (mask.cpu().numpy().ravel() for mask in instances.packed)
            yield PIXELS, (np.where(known, place, NONE), classes, masks)

    def _segments(self, ids: np.ndarray, class_ids: np.ndarray, stuff: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return segment (N,) and classes (G,) of vertices (N,) with `ids` and `class_ids`; what is neither is void."""
        index = self.benchmark.class_indices(class_ids)
        for place, class_id in enumerate(stuff):
            index[class_ids == class_id] = self.benchmark.num_classes + place
        counts = (index >= 0) & (ids >= IDS_PER_CLASS)
        _, first, inverse = np.unique(ids[counts], return_index=True, return_inverse=True)
        segments = np.full(len(ids), NONE)
        segments[counts] = inverse
        return segments, index[counts][first]

    def summarise(self, scenes: list[dict[str, SegmentCounts]]) -> dict[str, float]:
        """Return PQ, SQ and RQ over all scenes, by place: of things, and where stuff is predicted of stuff and of both."""
        numbers = {'scenes': float(len(scenes))}
        for way in sorted({key for scene in scenes for key in scene}):
            counts = SegmentCounts.total(scene[way] for scene in scenes if way in scene)
            for kind, classes in self._kinds(way, len(counts.found)).items():
                numbers |= {f'{way}{kind.format(name)}': value for name, value in counts.quality(classes).items()}
        return numbers

    def _kinds(self, way: str, num_classes: int) -> dict[str, range | list[int]]:
        """Return what quality is given of: how its name is written -> classes."""
        if 'agnostic' in way:
            return {'{}_things': range(1)}
        things, kinds = self.benchmark.num_classes, {'{}_things': range(self.benchmark.num_classes)}
        if num_classes > things:
            kinds |= {'{}_stuff': range(things, num_classes), '{}': range(num_classes)}
        for kind, names in (self.names_apart or {}).items():
            kinds[f'{kind}_{{}}_things'] = [self.benchmark.class_names.index(name) for name in names]
        return kinds
