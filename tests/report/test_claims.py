"""Every claim of the paper's text: it holds for the paper's own numbers, and numbers made by hand turn it both ways."""

import pytest

from jrs.errors import ConfigError
from jrs.report.claims import FAILS, HOLDS, KINDS, OPEN, UNKNOWN, Cells, claim_from, judge
from jrs.report.tables import load_tables
from tests.report._entries import entries, published

TABLES = (*range(1, 10), 'A3')
AP = [f'{benchmark}_{ap}' for benchmark in ('scannetv2', 'scannet200', 'scannetpp') for ap in ('map', 'map50', 'map25')]


def verdict(claim, table, *values):
    """Return status and numbers of one claim on rows made by hand."""
    return claim_from(dict(text='', source='', **claim)).judge(Cells(entries(table, *values)))


def verdict_on(table, words, *values):
    """Return the verdict of the one claim of a table whose text has `words`."""
    found = [one for one in judge(entries(table, *values)) if words in one.text]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize('number', TABLES)
def test_the_claims_hold_for_the_numbers_of_the_paper(number):
    """A3 is said in words only: its cells are none of the paper's."""
    status = UNKNOWN if number == 'A3' else HOLDS
    verdicts = judge(published(number))
    assert verdicts and [one.status for one in verdicts] == [status] * len(verdicts)


@pytest.mark.parametrize('number', TABLES)
def test_without_numbers_no_claim_can_be_judged_and_each_says_what_is_missing(number):
    for one in judge(entries(number)):
        assert one.status == UNKNOWN and 'missing: ' in one.numbers, one


def test_every_comparison_of_the_text_is_claimed():
    kinds = {number: sorted(next(kind for kind in KINDS if kind in claim) for claim in load_tables([number])[0].claims)
             for number in TABLES}
    assert kinds == {1: ['first', 'first', 'near', 'ratio'], 2: ['difference', 'first'], 3: ['difference'] * 2,
                     4: ['order'] * 2, 5: ['check', 'value'], 6: ['check', 'first', 'first', 'ratio', 'ratio'],
                     7: ['difference'], 8: ['difference', 'difference', 'order'], 9: ['order'], 'A3': ['slope'] * 2}
    assert all(claim['source'] for number in TABLES for claim in load_tables([number])[0].claims)


@pytest.mark.parametrize('claim', [
    dict(first=1), dict(difference=1.0, order=[]), {}, dict(slope=1, cell=[1, 'map'], sign=2)])
def test_a_claim_of_no_kind_or_with_a_wrong_key_is_refused(claim):
    with pytest.raises(ConfigError, match="the claim ''"):
        claim_from(dict(text='', source='', **claim))


@pytest.mark.parametrize(('first', 'second', 'status', 'words'), [
    ((20.0, 21.0), (30.0, 31.0), HOLDS, 'ours 30.5 − 20.5 = +10.0 [+1.0..+19.0] (95% over seeds alone, n = 2 and 2)'),
    ((30.0, 31.0), (20.0, 21.0), FAILS, '= -10.0 [-19.0..-1.0]'),
    ((20.0, 30.0), (21.0, 31.0), OPEN, '= +1.0 [-88.8..+90.8]'),
    ((20.0, 20.0), (30.0, 30.0), OPEN, '= +10.0 (n = 2 and 2: seeds that do not differ decide nothing)'),
    ((20.0,), (30.0,), OPEN, 'ours 30.0 − 20.0 = +10.0 (n = 1 and 1: one seed decides nothing)'),
    ((20.0,), (30.0, 30.1), OPEN, '(n = 2 and 1: one seed'),
    ((20.0,), (), UNKNOWN, 'paper +4.4; missing: row 2, loss yes, cost no (map)')])
def test_a_difference_holds_with_the_same_sign_beyond_its_interval(first, second, status, words):
    found = judge(entries(3, {'map': first}, {'map': second}))[0]
    assert found.status == status and words in found.numbers


@pytest.mark.parametrize(('trained', 'status'), [((30.0, 31.0), HOLDS), ((30.0,), OPEN), ((19.0, 21.5), OPEN)])
def test_what_no_training_here_made_needs_no_further_seed(trained, status):
    """As published weights beside a row of ours: the one value of theirs is what every seed would give."""
    rows = entries(3, {'map': (20.0,)}, {'map': trained})
    rows[0].numbers['map'].fixed = True
    found = judge(rows)[0]
    assert found.status == status and f'n = {len(trained)} and given' in found.numbers
    rows[1].numbers['map'].fixed = True
    assert judge(rows)[0].status == (HOLDS if len(trained) == 1 else status)


@pytest.mark.parametrize(('table', 'claim'), [
    (3, dict(lhs=[1, 'map'], rhs=[2, 'map'], difference=1.0)), (3, dict(lhs=[1, 'map'], rhs=[2, 'map'], ratio=2.0)),
    (3, dict(order=[[1, 'map'], [2, 'map']])), (6, dict(first=1, among=[2], columns=['total_s']))])
def test_a_tie_of_what_is_given_is_neither_more_nor_first(table, claim):
    column = 'map' if table == 3 else 'total_s'
    rows = entries(table, {column: (2.0,)}, {column: (2.0,)}, fixed=True)
    assert claim_from(dict(text='', source='', **claim)).judge(Cells(rows))[0] == FAILS


def test_the_least_of_undecided_times_and_scores_is_named():
    """Less is better of errors: the step that is furthest from one to the better."""
    claim = dict(first=1, among=[2, 3], columns=['abs_rel'])
    status, words = verdict(claim, 9, {'abs_rel': (0.3,)}, {'abs_rel': (0.35,)}, {'abs_rel': (0.25,)})
    assert status == OPEN
    assert words.startswith('2 of 2 comparisons undecided, as SegVGGT joint 0.2500 against 0.3000 in abs rel')
    assert words.endswith(': +0.0500 (n = 1 and 1: one seed decides nothing)')


def seeds(*values):
    """Two seeds about each value, near enough for a whole unit to be decided."""
    return [(value - 0.01, value + 0.01) for value in values]


@pytest.mark.parametrize(('values', 'status'), [
    (seeds(1.0, 2.0, 5.0, 3.0), HOLDS), (seeds(2.0, 1.0, 5.0, 3.0), FAILS),
    ([(1.0,), (2.0,), (5.0,), (3.0,)], OPEN), ([(1.0, 1.1), (0.9, 1.3), (5.0, 5.1), (3.0, 3.1)], OPEN)])
def test_an_order_holds_where_each_of_its_steps_does(values, status):
    found = judge(entries(4, *({'map': own} for own in values)))[0]
    assert found.status == status and found.numbers.count('; step ') == 2


def test_an_order_of_errors_goes_down():
    for values, status in (((0.2, 0.4, 0.3), HOLDS), ((0.4, 0.2, 0.3), FAILS)):
        rows = [{'abs_rel': (value, value + 0.0001)} for value in values]
        assert judge(entries(9, *rows))[0].status == status


def test_one_wrong_pair_refutes_an_order_of_which_cells_are_missing():
    order = dict(order=[[1, 'map'], [2, 'map'], [4, 'map']])
    assert verdict(order, 4, *({'map': own} for own in seeds(2.0, 1.0)))[0] == FAILS
    status, text = verdict(order, 4, *({'map': own} for own in seeds(1.0, 2.0)))
    assert status == UNKNOWN and 'missing: All 24 (map)' in text
    assert verdict(order, 4, {'map': (2.0,)}, {'map': (1.0,)})[0] == UNKNOWN       # one seed refutes nothing


@pytest.mark.parametrize(('left', 'right', 'status'), [
    ((3.0,), (2.0,), HOLDS), ((2.0,), (3.0,), FAILS), ((), (3.0,), UNKNOWN)])
def test_a_ratio_keeps_to_the_papers_side_of_its_bound(left, right, status):
    claim = dict(lhs=[1, 'total_s'], rhs=[2, 'total_s'], ratio=3.75)
    assert verdict(claim, 6, {'total_s': left}, {'total_s': right})[0] == status
    below = dict(lhs=[2, 'total_s'], rhs=[1, 'total_s'], ratio=0.1, bound=0.8)
    assert verdict(below, 6, {'total_s': left}, {'total_s': right})[0] == status


def test_a_ratio_of_what_was_trained_has_an_interval():
    claim = dict(lhs=[1, 'map'], rhs=[2, 'map'], ratio=0.1, bound=0.5)
    for left, right, status in (((1.0, 1.02), (3.0, 3.02), HOLDS), ((2.0, 2.02), (3.0, 3.02), FAILS), ((1.0,), (3.0,), OPEN),
                                ((1.0, 1.4), (2.0, 3.6), OPEN)):
        found, words = verdict(claim, 3, {'map': left}, {'map': right})
        assert found == status and f'{sum(left) / len(left):.1f} − 0.5 * {sum(right) / len(right):.1f} = ' in words
    assert '= -0.2 [-5.9..+5.5] (95% over seeds alone, n = 2 and 2)' in words          # 12.706 sqrt(0.2^2 + (0.5 * 0.8)^2)


@pytest.mark.parametrize(('left', 'right', 'status'), [
    ((80.0, 80.01), (80.9, 80.91), HOLDS), ((80.9, 80.91), (80.0, 80.01), HOLDS), ((80.0, 80.01), (81.1, 81.11), FAILS),
    ((80.0, 80.5), (80.5, 80.9), OPEN), ((80.0,), (80.5,), OPEN)])
def test_near_is_within_a_distance(left, right, status):
    claim = dict(lhs=[1, 'map25'], rhs=[2, 'map25'], near=1.0)
    assert verdict(claim, 3, {'map25': left}, {'map25': right})[0] == status
    assert verdict(claim, 3, {'map25': left})[0] == UNKNOWN


@pytest.mark.parametrize(('column', 'table', 'ours', 'status'), [
    ('total_s', 5, (10.9,), HOLDS), ('total_s', 5, (11.0,), HOLDS), ('total_s', 5, (11.1,), FAILS),
    ('total_s', 5, (2.0,), HOLDS), ('map', 3, (50.0,), OPEN),
    ('map', 3, (9.1, 9.11), HOLDS), ('map', 3, (8.89, 8.9), FAILS), ('map', 3, (50.0, 51.0), HOLDS)])
def test_a_value_is_reached_within_a_share_or_bettered(column, table, ours, status):
    claim = dict(cell=[1, column], value=10.0, within=0.1)
    assert verdict(claim, table, {column: ours})[0] == status and verdict(claim, table)[0] == UNKNOWN


@pytest.mark.parametrize(('values', 'sign', 'status'), [
    ((0.2,), 1, OPEN), ((0.2, 0.21), 1, HOLDS), ((-0.2, -0.21), 1, FAILS), ((-0.2, -0.21), -1, HOLDS),
    ((-0.1, 0.5), 1, OPEN), ((), 1, UNKNOWN)])
def test_a_slope_has_its_sign_beyond_its_interval(values, sign, status):
    assert verdict(dict(cell=[1, 'entropy_slope'], slope=sign), 'A3', {'entropy_slope': values})[0] == status


def test_attention_without_fada_widens_and_with_it_narrows():
    as_said = [{'entropy_slope': own} for own in seeds(0.5, -0.5)]
    assert [one.status for one in judge(entries('A3', *as_said))] == [HOLDS, HOLDS]
    assert [one.status for one in judge(entries('A3', *reversed(as_said)))] == [FAILS, FAILS]


def ap(value, **changed):
    """Return a row of Tables 1 and 2, of two seeds, with one number in all columns."""
    return {column: seeds(changed.get(column, value))[0] for column in AP}


def test_first_means_in_every_column():
    found = verdict_on(2, 'first of the joint', ap(20), ap(30), ap(31))
    assert found.status == HOLDS and found.numbers.startswith(
        'the least of 18 comparisons: IGGT 30.0 against 31.0 in scannetv2 map: +1.0 [+0.8..+1.2] (95% over seeds alone, ')
    refuted = verdict_on(2, 'first of the joint', ap(20), ap(30), ap(31, scannetpp_map25=29.0))
    assert refuted.status == FAILS
    assert refuted.numbers.startswith('not so: IGGT 30.0 against 29.0 in scannetpp map25: -1.0 [')
    even = verdict_on(2, 'first of the joint', ap(31, scannetv2_map=30.995), ap(30), ap(31))
    assert even.status == OPEN and even.numbers.startswith('9 of 18 comparisons undecided, as PanSt3R 31.0 against 31.0 in ')
    single = verdict_on(2, 'first of the joint', ap(20), {column: (30.0,) for column in AP}, ap(31))
    assert single.status == OPEN and 'one seed decides nothing' in single.numbers
    lacking = verdict_on(2, 'first of the joint', {}, {'scannetv2_map': (1.0,)}, ap(31))
    assert lacking.status == UNKNOWN and 'PanSt3R (all columns); IGGT (scannetv2 map50, ' in lacking.numbers


def test_ours_is_first_among_those_without_benchmark_points_only():
    points, with_images, odin, two_stage = [ap(60)] * 7, [ap(70)] * 3, ap(30), ap(2)
    words = 'no benchmark points'
    assert verdict_on(1, words, *points, *with_images, odin, two_stage, ap(31)).status == HOLDS
    assert verdict_on(1, words, *points, *with_images, ap(32), two_stage, ap(31)).status == FAILS
    assert verdict_on(1, 'points alone', *[ap(30)] * 7, *with_images, odin, two_stage, ap(31)).status == HOLDS
    assert verdict_on(1, 'points alone', *points, *with_images, odin, two_stage, ap(31)).status == FAILS


def test_what_is_left_of_a_two_stage_method_and_how_near_the_best_is():
    rows = [*[ap(30)] * 10, ap(1)]
    assert verdict_on(1, 'less than half', *rows, ap(14), ap(29.5)).status == HOLDS
    assert verdict_on(1, 'less than half', *rows, ap(16), ap(29.5)).status == FAILS
    assert verdict_on(1, 'near Relation3D', *rows, ap(14), ap(29.5)).status == HOLDS
    assert verdict_on(1, 'near Relation3D', *rows, ap(14), ap(28.5)).status == FAILS


def times(inference, postprocess, memory):
    total = inference + postprocess
    return dict(inference_s=(inference,), postprocess_s=(postprocess,), total_s=(total,), memory_gb=(memory,))


def test_times_of_the_joint_methods():
    panster, plain, iggt, ours = times(40, 300, 14), times(40, 20, 14), times(8, 1000, 30), times(9, 7, 20)
    assert [one.status for one in judge(entries(6, panster, plain, iggt, ours))] == [HOLDS] * 5
    for words, rows in {'fastest of all': (panster, plain, times(8, 1, 30), ours), 'its clustering': (
            panster, plain, times(800, 8, 30), ours), '3.75 times': (panster, times(5, 5, 14), iggt, ours),
            'least memory': (panster, plain, times(8, 1000, 9), ours)}.items():
        assert verdict_on(6, words, *rows).status == FAILS, words


def test_parts_of_a_time_add_up():
    row = times(1.0, 2.0, 1.0)
    assert verdict_on(6, 'every row', row).status == HOLDS
    assert verdict_on(6, 'every row', row | dict(total_s=(4.0,))).status == FAILS
    assert verdict_on(6, 'every row').status == UNKNOWN


def test_a_table_without_the_column_of_a_claim_leaves_it_open():
    """docs/rooms.md judges tables of which it keeps one column."""
    filled = entries(3, {'map': (1.0,)}, {'map': (2.0,)})
    for entry in filled:
        del entry.numbers['map']
    assert {one.status for one in judge(filled)} == {UNKNOWN}
