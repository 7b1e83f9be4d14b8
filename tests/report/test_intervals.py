"""Intervals of differences: paired by room and by seed, and claims that are judged by them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from jrs.benchmarks import get_benchmark
from jrs.errors import DataError
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.evaluation.kept import AGNOSTIC, AWARE, keep_matches, write_matches
from jrs.report.claims import FAILS, HOLDS, OPEN, Cells, claim_from
from jrs.report.intervals import DRAWS, Draws, difference, draws_of, interval, of_means, resampled_of, table_of
from jrs.report.tables import load_tables
from tests.evaluation.test_instance_ap import random_scene
from tests.report._entries import entries

BENCHMARK = get_benchmark('scannet20')
ROOMS = tuple(f'scene{number}' for number in range(5))
NOISE = np.random.default_rng(0).integers(-20, 20, DRAWS)             # rooms are hard or easy for every row


def cell(values, rooms=ROOMS, spread=0.0):
    """Row 1 of Table 3 with these values by seed: draws around them that all rows share, and some of its own."""
    number = entries(3)[0].numbers['map']
    rng = np.random.default_rng(int(10 * values[0]))
    number.values = dict(enumerate(values))
    number.draws = {seed: Draws(rooms, value + NOISE + spread * rng.normal(size=DRAWS)) for seed, value in enumerate(values)}
    return number


def test_rooms_that_are_hard_for_both_rows_do_not_widen_their_difference():
    found = difference(cell([21.0, 22.0]), cell([20.0, 21.0]))
    assert found.value == 1.0 and found.by_seed == (1.0, 1.0) and found.scenes == 5
    assert (found.low, found.high) == pytest.approx((1.0, 1.0)) and found.sign == 1
    wide = difference(cell([21.0, 22.0], spread=3.0), cell([20.0, 21.0], spread=3.0))
    assert wide.low < -3 and wide.high > 5 and wide.sign == 0


def test_seeds_that_disagree_and_one_seed_decide_nothing():
    both = difference(cell([25.0, 15.0]), cell([20.0, 20.0]))
    assert both.sign == 0 and (both.low, both.high) == pytest.approx((-12.706 * 5, 12.706 * 5), rel=1e-4)   # t of one degree
    assert difference(cell([25.0]), cell([20.0])).low == 5 and difference(cell([25.0]), cell([20.0])).sign == 0


def test_rows_without_a_seed_or_rooms_in_common_have_no_interval():
    left, right = cell([21.0, 22.0]), cell([20.0, 20.5])
    assert difference(left, cell([20.0, 20.5], ROOMS[:4])) is None
    right.values = {7: 20.0}
    assert difference(left, right) is None
    left.draws = {}
    assert difference(left, cell([20.0])) is None


def test_an_interval_holds_95_of_100_draws_of_a_mean():
    """Means of 100 rooms whose values are normal: the interval is the textbook's."""
    values = np.random.default_rng(1).normal(size=100)
    low, high = interval([values.mean()], (draws_of([str(number) for number in range(100)]) @ values)[None] / 100)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 10, rel=0.1)


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_where_there_is_nothing_five_of_a_hundred_intervals_say_otherwise(seeds):
    """A draw of two seeds, as of rooms, would say so of every second one: they have one sign."""
    rng = np.random.default_rng(seeds)
    ends = [interval(values, np.tile(values[:, None], (1, 2))) for values in rng.normal(size=(1000, seeds))]
    assert np.mean([low > 0 or high < 0 for low, high in ends]) == pytest.approx(0.05, abs=0.02)


def test_of_one_row_and_a_constant_the_interval_is_student_s():
    row, single = cell([20.0, 23.0, 21.0]), cell([15.0])
    told = stats.ttest_1samp([*row.values.values()], 15.0).confidence_interval(0.95)
    assert not of_means((1.0, row), (-1.0, single)).decides and of_means((1.0, row), (-1.0, single)).sign == 0
    single.fixed = True
    for found in (of_means((1.0, row), (-1.0, single)), of_means((1.0, row), plus=-15.0)):
        assert (found.low + 15, found.high + 15) == pytest.approx((told.low, told.high))
    assert of_means((2.0, single), plus=1.0).low == of_means((2.0, single), plus=1.0).high == 31.0
    assert not of_means((1.0, cell([0.0, 0.0])), (-1.0, cell([0.1, 0.1]))).decides


@pytest.mark.parametrize(('seeds', 'scales'), [((2, 2), (1, 1)), ((3, 3), (1, 1)), ((2, 3), (3, 1)), ((2, 6), (3, 1))])
def test_means_of_other_seeds_are_told_apart_by_chance_in_five_of_a_hundred_at_most(seeds, scales):
    """Welch's t says so in seven and eleven of a hundred of the latter two."""
    rng, row = np.random.default_rng(0), cell([0.0])
    found = []
    for _ in range(2000):
        both = [replace(row, values=dict(enumerate(rng.normal(scale=scale, size=count))))
                for count, scale in zip(seeds, scales, strict=True)]
        found.append(of_means((1.0, both[0]), (-1.0, both[1])).sign != 0)
    assert np.mean(found) < 0.06


def test_what_is_given_goes_with_every_seed_and_has_the_interval_of_the_rooms():
    given, row = cell([20.0], spread=3.0), cell([23.0, 24.0], spread=3.0)
    given.fixed = True
    found = difference(row, given)
    assert found.by_seed == (3.0, 4.0) and found.decides and found.low < -1 and found.scenes == 5
    assert difference(given, row).by_seed == (-3.0, -4.0)
    other = cell([23.0], spread=3.0)
    assert not difference(other, replace(given, fixed=False)).decides
    other.fixed = True
    found = difference(other, given)
    assert found.decides and found.value == 3.0 and found.sign == 0
    assert found.low == pytest.approx(3 - 1.96 * 18 ** 0.5, rel=0.1)


def test_a_tie_of_what_is_given_is_undecided_over_rooms():
    rows = entries(3)
    for row in (0, 1):
        rows[row].numbers['map'] = cell([20.0])
        rows[row].numbers['map'].fixed = True
    rng = np.random.default_rng(5)
    rows[1].numbers['map'].draws = {0: Draws(ROOMS, 20.0 + 3 * rng.normal(size=DRAWS))}
    for claim in (dict(order=[[1, 'map'], [2, 'map']]), dict(lhs=[1, 'map'], rhs=[2, 'map'], ratio=2.0)):
        status, words = claim_from(dict(text='', source='', **claim)).judge(Cells(rows))
        assert status == OPEN and '(95%, 5 rooms; given)' in words


def test_a_ratio_is_paired_with_its_factor():
    left, right = cell([10.0, 20.0]), cell([24.0, 44.0])
    found = difference(left, right, 0.5)
    assert found.by_seed == (-2.0, -2.0) and found.high < 10


def test_one_pair_with_draws_does_not_hide_seeds_that_have_none():
    rows = entries(3)
    for row, values in ((0, [20.0, 20.1, 20.2]), (1, [30.0, 30.1, 30.2])):
        rows[row].numbers['map'] = cell(values)
        rows[row].numbers['map'].draws = {2: rows[row].numbers['map'].draws[2]}
    claim = claim_from(dict(text='', source='', lhs=[2, 'map'], rhs=[1, 'map'], difference=4.4))
    status, words = claim.judge(Cells(rows))
    assert status == HOLDS and 'over seeds alone, n = 3 and 3' in words


def leave_test(folder, seeds=range(5)):
    """A folder as tools/test.py leaves it, and its scenes."""
    folder.mkdir(parents=True)
    scenes = [assign(*random_scene(seed), BENCHMARK) for seed in seeds]
    metrics = {f'instance/{name}': value for name, value in evaluate(scenes, BENCHMARK).means.items()}
    metrics |= {f'instance/agnostic_{name}': value for name, value in evaluate(scenes, BENCHMARK, True).means.items()}
    (folder / 'results.json').write_text(json.dumps(dict(metrics=metrics, scenes=list(ROOMS))))
    write_matches(folder / 'instance_matches.npz', keep_matches(ROOMS, BENCHMARK, False, {AWARE: scenes, AGNOSTIC: scenes}))
    return scenes


def test_a_test_is_drawn_again_from_what_it_keeps_and_a_published_one_from_its_table(tmp_path):
    scenes = leave_test(tmp_path / 'test')
    found = resampled_of(tmp_path / 'test')
    assert len(found) == 6 and all(one.scenes == ROOMS and one.values.shape == (DRAWS,) for one in found.values())
    often = draws_of(ROOMS)[7]
    pool = [scene for scene, count in zip(scenes, often, strict=True) for _ in range(count)]
    assert found['instance/agnostic_AP25'].values[7] == pytest.approx(evaluate(pool, BENCHMARK, True).means['AP25'])
    (tmp_path / 'published').mkdir()
    (tmp_path / 'published' / 'results.json').write_bytes((tmp_path / 'test' / 'results.json').read_bytes())
    assert resampled_of(tmp_path / 'published') == {}
    (tmp_path / 'published' / 'resampled.csv').write_text(table_of(found))
    again = resampled_of(tmp_path / 'published')
    assert again.keys() == found.keys()
    for name, one in found.items():
        np.testing.assert_allclose(again[name].values, one.values, rtol=1e-5)


def test_matches_of_another_test_are_refused(tmp_path):
    leave_test(tmp_path / 'test')
    path = tmp_path / 'test' / 'results.json'
    results = json.loads(path.read_text())
    for changed in (dict(results, scenes=[*ROOMS[:4], 'other']),
                    dict(results, metrics=results['metrics'] | {'instance/AP': 0.5})):
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match='is not of the test in .*Score the weights again'):
            resampled_of(tmp_path / 'test')


@pytest.mark.parametrize(('values', 'difference', 'order', 'near'), [
    (([20.0, 21.0], [24.0, 25.0], [28.0, 29.0]), HOLDS, HOLDS, FAILS),
    (([24.0, 26.0], [20.0, 22.0], [28.0, 30.0]), FAILS, FAILS, FAILS),
    (([20.0, 21.0], [20.0, 21.0], [28.0, 29.0]), OPEN, OPEN, HOLDS),
    (([20.0, 21.0], [24.0, 26.0], [28.0, 29.0]), OPEN, OPEN, OPEN), (([20.0], [24.0], [28.0]), OPEN, OPEN, OPEN)])
def test_claims_of_rows_with_draws_are_judged_by_their_intervals(values, difference, order, near):
    rows = entries(3)
    for row, own in zip(rows, values, strict=True):
        row.numbers['map'] = cell(own)
    places = [[number, 'map'] for number in (1, 2, 3)]
    for claim, status in ((dict(lhs=places[1], rhs=places[0], difference=4.4), difference), (dict(order=places), order),
                          (dict(lhs=places[1], rhs=places[0], near=1.0), near)):
        found, words = claim_from(dict(text='', source='', **claim)).judge(Cells(rows))
        assert found == status and '(95%, 5 rooms; ' in words
        assert ('one seed decides nothing' in words) == (len(values[0]) == 1)


def test_an_order_with_a_step_the_wrong_way_is_refuted_whatever_is_missing():
    rows = entries(4)
    for number, own in ((0, [24.0, 25.0]), (1, [20.0, 21.0])):
        rows[number].numbers['map'] = cell(own)
    claim = next(claim for claim in load_tables([4])[0].claims if claim['order'][1][0] == 2)
    status, words = claim_from({key: value for key, value in claim.items() if key != 'table'}).judge(Cells(rows))
    assert status == FAILS and 'missing' in words
    rows[0].numbers['map'], rows[1].numbers['map'] = rows[1].numbers['map'], rows[0].numbers['map']
    assert claim_from({key: value for key, value in claim.items() if key != 'table'}).judge(Cells(rows))[0] != FAILS
