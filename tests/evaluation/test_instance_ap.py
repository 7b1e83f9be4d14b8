"""Average precision on scenes worked out by hand, and what must not change it."""

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.errors import DataError
from jrs.evaluation.instance_ap import area_under_curve, assign, evaluate, resampled

BENCHMARK = get_benchmark('scannet20')
CHAIR, TABLE = 5, 7


def _ids(*runs):
    """(vertex id, count) pairs -> (N,)."""
    return np.concatenate([np.full(count, number) for number, count in runs])


def _masks(num_points, *ranges):
    masks = np.zeros((len(ranges), num_points), dtype=bool)
    for mask, (start, stop) in zip(masks, ranges, strict=True):
        mask[start:stop] = True
    return masks


def _score(vertex_ids, ranges, labels, scores, **options):
    return evaluate([assign(vertex_ids, _masks(len(vertex_ids), *ranges), np.array(labels), np.array(scores), BENCHMARK)],
                    BENCHMARK, **options)


def _of_class(result, class_id):
    row = result.class_ids.index(class_id)
    return {name: values[row] for name, values in result.per_class.items()}


def random_scene(seed, num_points=3000, num_predictions=25):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(num_points, 9, replace=False))
    vertex_ids = np.zeros(num_points, dtype=np.int64)
    for number, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True), start=1):
        vertex_ids[start:stop] = rng.choice([CHAIR, TABLE, 2]) * 1000 + number
    place = rng.integers(0, 8, num_predictions)
    starts, stops = edges[place] + rng.integers(-60, 60, num_predictions), edges[place + 1] + rng.integers(-60, 60)
    masks = _masks(num_points, *zip(starts.clip(0), stops.clip(0), strict=True))
    return vertex_ids, masks, rng.choice([CHAIR, TABLE], num_predictions), rng.normal(size=num_predictions)


def test_perfect_prediction_scores_one():
    ids = _ids((0, 50), (5001, 200), (5002, 150), (7001, 300))
    result = _score(ids, [(50, 250), (250, 400), (400, 700)], [CHAIR, CHAIR, TABLE], [0.1, 0.9, 0.5])
    assert result.means == {'AP': 1.0, 'AP50': 1.0, 'AP25': 1.0}
    assert result.finite_classes == 2
    assert _score(ids, [(50, 250), (250, 400), (400, 700)], [1, 99, 0], [0.1, 0.9, 0.5],
                  class_agnostic=True).means['AP'] == pytest.approx(1.0)


def test_area_is_the_plain_trapezoid():
    # recall, precision from the lowest score: (1, 2/3), (1/2, 1/2), (1/2, 1), then (0, 1)
    assert area_under_curve(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 0) == \
        pytest.approx(0.5 * (2 / 3 + 1 / 2) / 2 + 0.5)


def test_equal_scores_are_one_operating_point():
    ids = _ids((5001, 200), (5002, 200), (0, 100), (1001, 300), (7001, 300))
    result = _score(ids, [(0, 200), (700, 900)], [CHAIR, CHAIR], [1.0, 1.0])     # one hit, one on the table
    assert _of_class(result, CHAIR)['AP50'] == pytest.approx(0.5 * 0.5 * (1 + 0.5))
    assert _of_class(result, TABLE)['AP50'] == 0.0                               # objects, but no prediction
    assert np.isnan(_of_class(result, 3)['AP50'])                                # neither


@pytest.mark.parametrize('scores', [(0.9, 0.4), (0.4, 0.9)])
def test_duplicate_costs_a_false_positive_at_the_smaller_score(scores):
    ids = _ids((5001, 200), (5002, 200))
    result = _score(ids, [(0, 200), (0, 200)], [CHAIR, CHAIR], scores)
    # true at 0.9: P = 1, R = 1/2; with the false one at 0.4: P = 1/2, R = 1/2; one object missed
    assert _of_class(result, CHAIR)['AP50'] == pytest.approx(0.5)
    both = _score(ids, [(0, 200), (0, 200), (200, 400)], [CHAIR] * 3, (*scores, 0.3))
    assert _of_class(both, CHAIR)['AP50'] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_prediction_half_on_void_counts_at_half_and_not_at_a_quarter():
    ids = _ids((5001, 200), (2001, 100), (7001, 100))                            # the floor is void
    result = _score(ids, [(0, 200), (200, 400)], [CHAIR, CHAIR], [0.5, 0.9])
    assert _of_class(result, CHAIR)['AP25'] == 1.0                               # 0.5 > 0.25: ignored
    assert _of_class(result, CHAIR)['AP50'] == pytest.approx(_curve_with_false_first())


def _curve_with_false_first():
    return area_under_curve(np.array([0.9, 0.5]), np.array([False, True]), 0)


def test_prediction_of_a_small_object_vanishes():
    ids = _ids((5001, 200), (5002, 99), (7001, 301))
    result = _score(ids, [(0, 200), (200, 300)], [CHAIR, CHAIR], [0.5, 0.9])
    assert _of_class(result, CHAIR)['AP'] == 1.0
    grown = _score(_ids((5001, 200), (5002, 100), (7001, 300)), [(0, 200)], [CHAIR], [0.5])
    assert _of_class(grown, CHAIR)['AP50'] == pytest.approx(0.5)                 # at 100 points it counts, and is missed


def test_overlap_must_exceed_the_threshold():
    ids = _ids((5001, 200), (7001, 200))
    assert _of_class(_score(ids, [(0, 100)], [CHAIR], [1.0]), CHAIR)['AP50'] == 0.0         # IoU is exactly 0.5
    assert _of_class(_score(ids, [(0, 101)], [CHAIR], [1.0]), CHAIR)['AP50'] == 1.0


def test_classes_do_not_interact():
    ids = _ids((5001, 200), (7001, 200))
    result = _score(ids, [(0, 200), (200, 400)], [TABLE, TABLE], [0.9, 0.5])
    assert _of_class(result, CHAIR)['AP'] == 0.0
    assert _of_class(result, TABLE)['AP50'] == pytest.approx(_curve_with_false_first())


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('agnostic', [False, True])
def test_only_the_order_of_scores_matters(seed, agnostic):
    ids, masks, labels, scores = random_scene(seed)
    results = [evaluate([assign(ids, masks, labels, changed, BENCHMARK)], BENCHMARK, agnostic)
               for changed in (scores, np.exp(scores), 1e9 * scores - 5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.ap_per_overlap, results[0].ap_per_overlap)
    assert 0 < results[0].means['AP'] < 1


def test_the_literal_reading_adds_one_stricter_threshold():
    ids, masks, labels, scores = random_scene(1)
    scenes = [assign(ids, masks, labels, scores, BENCHMARK)]
    nine, ten = evaluate(scenes, BENCHMARK), evaluate(scenes, BENCHMARK, include_095=True)
    assert len(ten.overlaps) == len(nine.overlaps) + 1 and ten.overlaps[-2] == pytest.approx(0.95)
    assert ten.means['AP'] <= nine.means['AP']
    assert ten.means['AP50'] == nine.means['AP50'] and ten.means['AP25'] == nine.means['AP25']


def test_statistics_do_not_grow_with_points():
    ids, masks, labels, scores = random_scene(2)
    often, more_often = (assign(np.repeat(ids, times), np.repeat(masks, times, axis=1), labels, scores, BENCHMARK)
                         for times in (100, 200))                                # every mask is large enough
    for name, values in vars(often).items():
        assert values.shape == getattr(more_often, name).shape, name
    assert (more_often.pair_intersection == 2 * often.pair_intersection).all()


def test_packed_masks_are_the_same_masks():
    ids, masks, labels, scores = random_scene(3, num_points=3001)
    for plain, packed in zip(vars(assign(ids, masks, labels, scores, BENCHMARK)).values(),
                             vars(assign(ids, np.packbits(masks, axis=1), labels, scores, BENCHMARK)).values(),
                             strict=True):
        np.testing.assert_array_equal(plain, packed)


def test_excluded_vertices_are_deleted_vertices():
    ids, masks, labels, scores = random_scene(4)
    excluded = np.arange(0, 3000, 3)
    keep = np.setdiff1d(np.arange(3000), excluded)
    with_mask = assign(ids, masks, labels, scores, BENCHMARK, excluded)
    for by_mask, by_hand in zip(vars(with_mask).values(),
                                vars(assign(ids[keep], masks[:, keep], labels, scores, BENCHMARK)).values(), strict=True):
        np.testing.assert_array_equal(by_mask, by_hand)


def test_keeping_rows_is_never_having_had_the_others():
    ids, masks, labels, scores = random_scene(5)
    rows = np.array([20, 3, 4, 11])
    kept = assign(ids, masks, labels, scores, BENCHMARK).keep_rows(rows)
    rows = np.sort(rows)
    alone = assign(ids, masks[rows], labels[rows], scores[rows], BENCHMARK)
    assert (kept.row == rows[alone.row]).all()
    for name in vars(alone).keys() - {'row'}:
        np.testing.assert_array_equal(getattr(kept, name), getattr(alone, name), err_msg=name)


def test_nothing_at_all_is_nan_not_zero():
    result = evaluate([], BENCHMARK)
    assert np.isnan(list(result.means.values())).all() and result.finite_classes == 0


@pytest.mark.parametrize(('change', 'message'), [
    ({'masks': np.zeros((2, 300), dtype=bool)}, r'masks must be \(P, 301\) bool'),
    ({'masks': np.zeros((2, 301), dtype=np.float32)}, 'float32'),
    ({'labels': np.array([5])}, '2 masks, 1 labels and 2 scores'),
    ({'scores': np.array([0.5, np.nan])}, '1 of 2 scores are not finite, the first nan of prediction 1'),
    ({'scores': np.array([np.inf, 0.5])}, '1 of 2 scores are not finite, the first inf of prediction 0'),
    ({'excluded': np.array([301])}, 'belongs to another mesh'),
])
def test_input_that_does_not_fit_is_refused(change, message):
    given = {'vertex_ids': _ids((5001, 301)), 'masks': np.zeros((2, 301), dtype=bool), 'labels': np.array([5, 5]),
             'scores': np.array([0.5, 0.5]), 'benchmark': BENCHMARK}
    with pytest.raises(DataError, match=message):
        assign(**(given | change))


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_a_draw_of_scenes_scores_as_the_scenes_that_it_has_as_often_as_it_has_them(class_agnostic):
    scenes = [assign(*random_scene(seed), BENCHMARK) for seed in range(4)]
    times = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 0, 3, 1], [0, 4, 0, 0], [0, 0, 0, 0]])
    found = resampled(scenes, BENCHMARK, times, class_agnostic)
    for draw, often in enumerate(times[:-1]):
        pool = [scene for scene, count in zip(scenes, often, strict=True) for _ in range(count)]
        means = evaluate(pool, BENCHMARK, class_agnostic).means
        assert {name: values[draw] for name, values in found.items()} == pytest.approx(means, abs=1e-12)
    assert all(np.isnan(values[-1]) for values in found.values()) and len(set(found['AP25'][:-1])) == 4


def test_pairs_that_no_score_reads_can_go():
    scenes = [assign(*random_scene(seed), BENCHMARK) for seed in range(3)]
    scenes.append(assign(_ids((5001, 60), (5002, 90), (0, 200)), _masks(350, (0, 140), (0, 65), (150, 350)),
                         np.full(3, CHAIR), np.arange(3.0), BENCHMARK))                   # on objects too small to count
    for agnostic in (False, True):
        whole = [scene.merge_classes() for scene in scenes] if agnostic else scenes
        fewer = [scene.read_pairs(BENCHMARK.min_region) for scene in whole]
        assert sum(len(scene.pair_object) for scene in fewer) < 0.7 * sum(len(scene.pair_object) for scene in whole)
        np.testing.assert_array_equal(evaluate(fewer, BENCHMARK, agnostic).ap_per_overlap,
                                      evaluate(whole, BENCHMARK, agnostic).ap_per_overlap)
