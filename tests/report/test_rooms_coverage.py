"""`benchmarks/rooms/coverage.py`: what queries cover and what ranking alone could give, on a scene worked out by hand."""

import numpy as np
import pytest
import torch

from benchmarks.rooms.coverage import best_overlaps, covered, drawn_elsewhere, in_some_views, lines_of, oracle_ranking
from jrs.benchmarks import get_benchmark
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.structures import InstanceTargets, QueryPredictions

BENCHMARK = get_benchmark('scannet20')


@pytest.fixture
def scene():
    """Three chairs of 200 vertices, a small one, and void; masks: void, the first, 120 of the second, most of the first."""
    ids = np.repeat([5001, 5002, 5003, 5004, 0], [200, 200, 200, 50, 350])
    masks = np.zeros((4, 1000), dtype=bool)
    for mask, (start, stop) in zip(masks, ((700, 1000), (0, 200), (200, 320), (0, 180)), strict=True):
        mask[start:stop] = True
    return assign(ids, masks, np.full(4, 5), np.array([0.9, 0.3, 0.2, 0.8]), BENCHMARK).merge_classes()


def test_of_objects_that_count_the_best_overlap_is_told_by_size(scene):
    best, sizes = best_overlaps(scene, BENCHMARK.min_region)
    assert best.tolist() == [1.0, 0.6, 0.0] and sizes.tolist() == [200] * 3
    found = covered(best, np.array([30, 10, 20]))
    assert found['all'] == dict(objects=3, **{'above_0.25': pytest.approx(2 / 3), 'above_0.5': pytest.approx(2 / 3)})
    assert [found[name]['above_0.5'] for name in ('smallest third', 'middle third', 'largest third')] == [1, 0, 1]


def test_in_one_view_another_query_may_be_the_best_of_an_object():
    true = torch.zeros(2, 2, 4, 20, dtype=torch.bool)          # objects, views
    true[0, :, :2], true[1, 0, 3, :10] = True, True            # 40 pixels in both views; 10 pixels: too few to count
    masks = torch.zeros(2, 2, 4, 20)
    masks[0, 0, :2], masks[1, 1, :1] = 1, 1                    # the first object; half of it, in the other view
    queries = QueryPredictions(torch.zeros(2, 1), mask_logits=masks * 2 - 1)
    target = InstanceTargets(torch.zeros(2, dtype=torch.int64), true, torch.ones(2, 2) / 2)
    iou, pixels = in_some_views(queries, target)['in one view']
    assert iou.tolist() == [1, 0.5] and pixels.tolist() == [40, 40]


def test_where_an_object_is_seen_counts_nothing_that_is_drawn_elsewhere():
    true = torch.zeros(1, 2, 4, 20, dtype=torch.bool)
    true[0, 0, :2] = True
    masks = true.float().clone()
    masks[0, 1] = 1                                            # and all of the view that does not show it
    target = InstanceTargets(torch.zeros(1, dtype=torch.int64), true, torch.tensor([[1.0, 0.0]]))
    queries = QueryPredictions(torch.zeros(1, 1), mask_logits=masks * 2 - 1)
    iou, pixels = in_some_views(queries, target)['where it is seen']
    assert iou.tolist() == [1] and pixels.tolist() == [40]
    assert drawn_elsewhere(queries, target).tolist() == [pytest.approx(80 / 120)]


def test_the_oracle_ranks_the_best_mask_of_each_object_first(scene):
    ranked = oracle_ranking([scene], BENCHMARK)
    assert ranked['AP50'] == pytest.approx(100 * 2 / 3) and ranked['AP25'] == pytest.approx(100 * 2 / 3)
    assert evaluate([scene], BENCHMARK, class_agnostic=True).means['AP50'] < 0.6
    record = dict(covered={'on the mesh': covered(*best_overlaps(scene, BENCHMARK.min_region))},
                  drawn_elsewhere=0.25,
                  average_precision=dict(oracle_ranking=ranked))
    assert '| on the mesh | all | 3 | 66.7% | 66.7% |' in lines_of(record)
    assert '| oracle ranking | 66.7 | 66.7 |' in '\n'.join(lines_of(record))
