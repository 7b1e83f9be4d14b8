"""Panoptic quality: by hand, against torchmetrics, and as a metric on mesh and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError, DataError
from jrs.evaluation.panoptic import SegmentCounts, as_stuff, count_segments, painted
from jrs.registry import METRICS, build
from jrs.structures import Instances, InstanceTable
from tests.postprocess.box_scene import make_batch, make_reconstruction, true_instances


def quality(true, classes, predicted, labels, num_classes=2):
    arrays = (np.array(values, dtype=np.int64) for values in (true, classes, predicted, labels))
    return count_segments(*arrays, num_classes).quality()


def test_a_perfect_cut_has_quality_1_and_segments_may_have_any_number():
    assert quality([0, 0, 1, 1, -1], [0, 1], [1, 1, 0, 0, -1], [1, 0]) == dict(PQ=1.0, SQ=1.0, RQ=1.0)


def test_quality_by_hand():
    """Class 0: one pair of IoU 3/4, one missed. Class 1: one wrong. So PQ = (0.75 / 1.5 + 0) / 2."""
    true = [0, 0, 0, 0, 1, 1, -1, -1]
    predicted = [0, 0, 0, -1, 1, 1, -1, -1]
    found = quality(true, [0, 0], predicted, [0, 1])
    assert found == pytest.approx(dict(PQ=0.25, SQ=0.375, RQ=1 / 3))


@pytest.mark.parametrize(('covered', 'pq'), [(2, 0.0), (3, 0.75)])
def test_a_pair_needs_an_iou_above_one_half(covered, pq):
    predicted = [0] * covered + [-1] * (4 - covered)
    assert quality([0] * 4, [0], predicted, [0])['PQ'] == pq


def test_void_is_left_out_of_the_union_and_mostly_void_segments_do_not_count():
    assert quality([0, 0, -1, -1, -1], [0], [0, 0, 0, 0, 0], [0])['PQ'] == 1.0             # 3 of 5 elements on void
    true = [0, 0, 1, -1, -1, -1]
    assert quality(true, [0, 1], [0, 0, 1, 1, 1, -1], [0, 0])['RQ'] == 0.5                 # class 1 is missed
    assert quality(true, [0, 1], [0, 0, 1, 1, -1, -1], [0, 0])['RQ'] == pytest.approx(1 / 1.5 / 2)     # half void: wrong


def test_classes_without_a_segment_are_left_out_and_nothing_is_no_number():
    assert quality([0, 0], [1], [0, 0], [1], num_classes=9)['PQ'] == 1.0
    assert np.isnan(quality([-1, -1], [], [-1, -1], [])['PQ'])
    assert quality([-1, -1, 0], [0], [0, -1, 1], [7, 0])['PQ'] == 1.0                      # 7 is no class


def test_scenes_are_pooled_and_some_classes_can_be_asked_for():
    right, missed = (count_segments(np.zeros(4, dtype=int), np.array([0]), np.full(4, number), np.array([0]), 2)
                     for number in (0, -1))
    total = SegmentCounts.total([right, missed, right])
    assert total.quality()['PQ'] == pytest.approx(2 / 2.5) and total.quality([0]) == total.quality()
    assert np.isnan(total.quality([1])['PQ'])


def random_cut(rng) -> tuple:
    """True segments and classes, predicted ones that are mostly the same; every element has a predicted segment."""
    true, true_classes = rng.integers(-1, 6, 200), rng.integers(0, 3, 6)
    predicted = np.where(rng.random(200) < 0.8, true, rng.integers(0, 7, 200))
    predicted[predicted < 0] = 6
    return true, true_classes, predicted, np.where(rng.random(7) < 0.8, np.append(true_classes, 1), rng.integers(0, 3, 7))


def test_random_cuts_are_what_a_slow_loop_says():
    for seed in range(20):
        true, true_classes, predicted, labels = random_cut(np.random.default_rng(seed))
        values = []
        for kind in range(3):
            found, total, used = 0.0, 0, set()
            for number in {*true[true >= 0]} if kind in true_classes else ():
                if true_classes[number] != kind:
                    continue
                for other in {*predicted}:
                    inside = ((true == number) & (predicted == other)).sum()
                    union = ((true == number) | (predicted == other) & (true >= 0)).sum()
                    if labels[other] == kind and inside > 0.5 * union:
                        found, total, used = found + inside / union, total + 1, used | {number, ('p', other)}
            missed = sum(true_classes[number] == kind and number not in used for number in {*true[true >= 0]})
            wrong = sum(labels[other] == kind and ('p', other) not in used
                        and ((predicted == other) & (true < 0)).sum() <= 0.5 * (predicted == other).sum()
                        for other in {*predicted})
            if total + missed + wrong:
                values.append(found / (total + 0.5 * (missed + wrong)))
        assert count_segments(true, true_classes, predicted, labels, 3).quality()['PQ'] == pytest.approx(np.mean(values))


@pytest.mark.slow
def test_random_cuts_are_what_torchmetrics_says():
    """Slow by its import alone."""
    from torchmetrics.functional import detection
    rng = np.random.default_rng(0)
    pooled, ours, theirs = [], [], []
    for _ in range(20):
        true, true_classes, predicted, labels = random_cut(rng)
        pooled.append((np.stack([labels[predicted], predicted], axis=1),
                       np.stack([np.where(true < 0, 9, true_classes[true]), true], axis=1)))      # 9 = no known class
        ours.append(count_segments(true, true_classes, predicted, labels, 3))
        theirs.append(detection.panoptic_quality(*(torch.from_numpy(one)[None] for one in pooled[-1]), things={0, 1, 2},
                                                 stuffs=set(), allow_unknown_preds_category=True, return_sq_and_rq=True))
    for one, other in zip(ours, theirs, strict=True):
        found = one.quality()
        np.testing.assert_allclose([found['PQ'], found['SQ'], found['RQ']], other.numpy(), atol=1e-6)
    together = detection.panoptic_quality(*(torch.from_numpy(np.stack(one)) for one in zip(*pooled, strict=True)),
                                          things={0, 1, 2}, stuffs=set())
    assert SegmentCounts.total(ours).quality()['PQ'] == pytest.approx(float(together), abs=1e-6)


def test_masks_that_overlap_are_painted_best_first():
    masks = np.array([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]], dtype=bool)
    segments, kept = painted(iter(masks), np.array([0.9, 0.8, 0.7, 0.1]), 6, min_score=0.2)
    assert segments.tolist() == [0, 0, 0, 1, 1, -1] and kept.tolist() == [0, 2]             # the second has 1 of 3 free
    assert painted(masks, np.array([0.9, 0.8, 0.7, 0.1]), 6, min_share=0.3)[1].tolist() == [0, 1, 2, 3]


def metric(**options):
    return build(METRICS, dict(type='PanopticMetric', benchmark='scannet20', **options), 'metrics.panoptic')


def score(part, change=lambda instances: instances, **batch_options):
    batch = make_batch(get_benchmark('scannet20'), **batch_options)
    part.process(batch, [make_reconstruction(batch, 0, change(true_instances(batch, 0)))])
    return part.evaluate(1)


def test_true_masks_are_perfect_on_pixels_and_nearly_so_on_vertices():
    found = score(metric())
    assert found['panoptic/pixels/PQ_things'] == found['panoptic/pixels/agnostic_PQ_things'] == 1.0
    assert 0.9 < found['panoptic/vertices/PQ_things'] <= 1.0 and found['panoptic/scenes'] == 1
    assert 'IoU > 0.5' in metric().describe()['panoptic']


def test_a_wrong_class_counts_only_where_classes_count():
    def wrong(instances):
        instances.labels[:] = (instances.labels + 1) % 18
        return instances
    found = score(metric(where='pixels'), wrong)
    assert found['panoptic/pixels/agnostic_PQ_things'] == 1.0 > found['panoptic/pixels/PQ_things']
    assert not [name for name in found if 'vertices' in name]
    assert set(score(metric(where=['vertices'], class_aware=False))) == {
        'panoptic/scenes', *(f'panoptic/vertices/agnostic_{name}_things' for name in ('PQ', 'SQ', 'RQ'))}


def test_known_and_novel_names_are_given_apart():
    part = metric(where='pixels')
    part.trained_names = frozenset(part.benchmark.class_names) - {part.benchmark.class_names[7]}        # one of the boxes
    found = score(part, lambda instances: instances.select([0, 1, 2]))
    assert found['panoptic/pixels/known_PQ_things'] == 1.0 and found['panoptic/pixels/novel_PQ_things'] == 0.0
    assert 0 < found['panoptic/pixels/PQ_things'] < 1 and '1 of 18' in part.describe()['novel_names']
    assert not [name for name in found if 'agnostic' in name and 'novel' in name]


def test_what_is_scored_where_must_be_one_of_two():
    with pytest.raises(ConfigError, match="'vertices', 'pixels' or both"):
        metric(where='faces')


def test_all_of_one_stuff_is_one_segment_and_things_stay_apart():
    segments, classes = np.array([0, 1, 2, 3, 4, -1]), np.array([0, 5, 0, 5, 6])
    assert as_stuff(segments, classes, 5).tolist() == [0, 1, 2, 1, 4, -1]
    assert as_stuff(np.array([-1, -1]), np.zeros(0, dtype=int), 5).tolist() == [-1, -1]


@pytest.mark.slow
def test_random_cuts_with_stuff_are_what_torchmetrics_says():
    from torchmetrics.functional import detection
    rng = np.random.default_rng(1)
    for _ in range(20):
        true, true_classes, predicted, labels = random_cut(rng)                          # class 2 is stuff
        ours = count_segments(as_stuff(true, true_classes, 2), true_classes, as_stuff(predicted, labels, 2), labels, 3)
        theirs = detection.panoptic_quality(
            torch.from_numpy(np.stack([labels[predicted], predicted], axis=1))[None],
            torch.from_numpy(np.stack([np.where(true < 0, 9, true_classes[true]), true], axis=1))[None], things={0, 1},
            stuffs={2}, allow_unknown_preds_category=True)
        assert ours.quality()['PQ'] == pytest.approx(float(theirs), abs=1e-6)


FLOOR, THINGS = 9, 18                          # id of the floor, and its label in scannet20


def with_floor():
    """The box scene with its floor as stuff: in the pictures, on the mesh, and among the true instances."""
    batch = make_batch(get_benchmark('scannet20'))
    floor = (batch.instance_ids == 0) & (batch.depth_m > 0)
    batch.instance_ids[floor] = FLOOR
    table = batch.instances[0]
    batch.instances = [InstanceTable(torch.cat([table.ids, torch.tensor([FLOOR])]),
                                     torch.cat([table.labels, torch.tensor([THINGS])]))]
    ids = batch.ground_truth[0].vertex_ids
    ids[ids == 0] = 2 * 1000 + FLOOR
    return batch


def score_stuff(change=lambda instances: instances, extras=lambda batch: {}, **options):
    part, batch = metric(**options), with_floor()
    part.dataset_meta = {'benchmark': 'scannet20', 'stuff': ('floor',)}
    found = make_reconstruction(batch, 0, change(true_instances(batch, 0)))
    found.extras = extras(batch)
    part.process(batch, [found])
    assert part.describe()['panoptic'].startswith('things and stuff of scannet20')
    return part.evaluate(1)


def test_stuff_that_is_predicted_is_scored_beside_things():
    found = score_stuff()
    assert [found[f'panoptic/pixels/{name}'] for name in ('PQ', 'PQ_things', 'PQ_stuff', 'agnostic_PQ_things')] == [1.0] * 4
    assert found['panoptic/vertices/PQ_stuff'] > 0.9 and found['panoptic/vertices/PQ_things'] > 0.9
    assert not [name for name in found if 'agnostic' in name and 'stuff' in name]


def test_stuff_in_two_pieces_is_whole_and_missing_stuff_costs_its_class_alone():
    def halves(instances):
        floor = instances.masks[-1:]
        left = floor.clone()
        left[..., :40] = False
        masks = torch.cat([instances.masks[:-1], left, floor & ~left])
        labels = torch.cat([instances.labels, torch.tensor([THINGS])])
        return Instances(masks, labels, torch.ones(len(labels)), torch.arange(len(labels)))
    assert score_stuff(halves, where='pixels')['panoptic/pixels/PQ_stuff'] == 1.0
    found = score_stuff(lambda instances: instances.select([0, 1, 2, 3]), where='pixels')
    assert found['panoptic/pixels/PQ_stuff'] == 0 and found['panoptic/pixels/PQ_things'] == 1.0
    assert found['panoptic/pixels/PQ'] == pytest.approx(3 / 4)                           # 3 classes of things, 1 of stuff


def true_map(batch):
    """What a model would say that maps the vertices right: stuff has wall 0 and floor 1, things come after."""
    benchmark, ids = get_benchmark('scannet20'), batch.ground_truth[0].vertex_ids
    things = benchmark.class_indices(ids // 1000)
    return dict(panoptic_semantic=torch.from_numpy(np.where(things >= 0, things + 2, 1)),
                panoptic_instance=torch.from_numpy(np.where(things >= 0, ids % 1000 + 2, 1)))


def test_a_map_of_the_vertices_is_scored_as_it_is():
    found = score_stuff(lambda instances: instances.select([]), true_map, where='vertices')
    assert [found[f'panoptic/vertices/{name}'] for name in ('PQ', 'PQ_things', 'PQ_stuff')] == [1.0] * 3
    with pytest.raises(DataError, match='maps 3 points'):
        score_stuff(extras=lambda batch: {name: values[:3] for name, values in true_map(batch).items()}, where='vertices')


def test_average_precision_is_of_things_whatever_stuff_is_predicted():
    part, batch = build(METRICS, dict(type='InstanceAPMetric', benchmark='scannet20'), 'metrics.a'), with_floor()
    part.dataset_meta = {'benchmark': 'scannet20', 'stuff': ('floor',)}
    part.process(batch, [make_reconstruction(batch, 0, true_instances(batch, 0))])
    plain, without = build(METRICS, dict(type='InstanceAPMetric', benchmark='scannet20'), 'metrics.a'), make_batch(
        get_benchmark('scannet20'))
    plain.process(without, [make_reconstruction(without, 0, true_instances(without, 0))])
    assert part.evaluate(1) == plain.evaluate(1)
