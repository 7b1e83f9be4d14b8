"""One set of predictions by several rules of transfer: each has the numbers, and the oracle, of a metric of its own."""

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError
from jrs.evaluation.rules import build_rules
from jrs.postprocess.lift import PosedTransfer, VisiblePixels
from jrs.registry import METRICS, build
from tests.evaluation.test_metrics import _noisy
from tests.postprocess.box_scene import make_batch, make_reconstruction

BENCHMARK = get_benchmark('scannet20')


def metric(**options):
    return build(METRICS, {'type': 'InstanceAPMetric', 'benchmark': 'scannet20', **options}, 'metrics.instances')


def scored(one, batch, seeds=(0, 1)):
    """Return the numbers of a metric over the scenes of `batch`."""
    one.process(batch, [make_reconstruction(batch, index, _noisy(batch, index, seed)) for index, seed in enumerate(seeds)])
    return one.evaluate(1)


@pytest.fixture(scope='module')
def batch():
    """Two scenes in four views, of which rules make something else: sensor depth is off by up to 12 cm."""
    made = make_batch(BENCHMARK, num_views=4, names=('a', 'b'))
    for truth in made.ground_truth:
        truth.depth_m = truth.depth_m + np.where(truth.depth_m > 0, np.linspace(0, 0.12, truth.depth_m.shape[2]), 0).astype(
            np.float32)
    return made


def test_each_rule_has_the_numbers_and_the_oracle_of_a_metric_of_its_own(batch):
    rules = {'vote=any': dict(vote='any'), 'superpoint_vote=None': dict(superpoint_vote=None),
             'superpoint_vote=observed': dict(superpoint_vote='observed'),
             'superpoint_vote=mode': dict(superpoint_vote='mode'),
             'depth_tolerance_m=0.05': dict(depth_tolerance_m=0.05),
             'vote=any+superpoint_vote=None': dict(vote='any', superpoint_vote=None)}
    several = metric(rules=list(rules))
    numbers = scored(several, batch)
    assert {name: value for name, value in numbers.items() if 'rule/' not in name} == scored(metric(), batch)
    assert [row['rule'] for row in several.by_rule] == ['as configured', *rules]
    assert several.by_rule[0]['numbers']['AP'] == numbers['instance/AP']
    different = set()
    for row, changes in zip(several.by_rule[1:], rules.values(), strict=True):
        alone = {name.removeprefix('instance/'): value for name, value in
                 scored(metric(transfer=dict(type='PosedTransfer', **changes)), batch).items() if 'class/' not in name}
        assert row['numbers'] == {name: value for name, value in alone.items() if name != 'scenes'}
        assert row['transfer'] == PosedTransfer(**changes).describe()
        assert all(numbers[f'instance/rule/{row["rule"]}/{name}'] == value for name, value in row['numbers'].items())
        different.add((row['numbers']['agnostic_AP'], row['numbers']['oracle_agnostic_AP']))
    assert len(different) >= 5                                   # the rules are not one and the same


def test_vertices_are_looked_up_again_only_where_a_rule_sees_others(batch, monkeypatch):
    calls = []
    look_up = PosedTransfer.visible_pixels
    monkeypatch.setattr(PosedTransfer, 'visible_pixels',
                        lambda self, *arguments: calls.append(self.depth_tolerance_m) or look_up(self, *arguments))
    scored(metric(rules=['vote=any', 'superpoint_vote=observed', 'vote=any+superpoint_vote=mode', 'depth_tolerance_m=0.05']),
           batch, seeds=(0,))
    assert calls == [0.10, 0.05]


def test_what_is_kept_of_a_scene_does_not_grow_with_it_whatever_the_rules():
    def kept_bytes(batch):
        one = metric(rules=['vote=any', 'superpoint_vote=mode'])
        one.process(batch, [make_reconstruction(batch, 0, _noisy(batch, 0, 0))])
        by_rule = one.results[0][1]['rules']
        records = [record for counted in by_rule.values() if isinstance(counted, dict) for record in counted.values()]
        assert len(records) == 6 and not any(isinstance(value, VisiblePixels) for record in records
                                             for value in vars(record).values())
        return sum(value.nbytes for record in records for value in vars(record).values())
    small, large = make_batch(BENCHMARK, num_views=2), make_batch(BENCHMARK, num_views=2)
    for name in ('vertices', 'vertex_ids', 'superpoints'):
        setattr(large.ground_truth[0], name, np.repeat(getattr(large.ground_truth[0], name), 5, axis=0))
    assert abs(kept_bytes(large) - kept_bytes(small)) < 2_000 < 20_000 > kept_bytes(large)


def test_all_is_every_alternative_but_the_own_one():
    names = [rule.name for rule in metric(transfer=dict(type='PosedTransfer', vote='any'), rules=['all']).beside]
    assert names[:5] == ['vote=majority', 'vote=mean_prob', 'superpoint_vote=observed', 'superpoint_vote=mode',
                         'superpoint_vote=None']
    assert {'depth_tolerance_m=0.05', 'depth_tolerance_m=0.2', 'rounding=floor'} <= set(names)
    assert not {'vote=any', 'depth_tolerance_m=0.1', 'superpoint_vote=all_points'} & set(names)
    assert 'pairing=pixel' in [rule.name for rule in metric(transfer=dict(type='UnposedTransfer'), rules=['all']).beside]
    assert [rule.name for rule in metric(rules=['vote=any', 'all', 'vote = any']).beside].count('vote=any') == 1


def test_a_transfer_that_takes_no_votes_offers_none():
    class OnPoints(PosedTransfer):
        def __init__(self):
            super().__init__()
    own = OnPoints()
    with pytest.raises(ConfigError, match='OnPoints offers no `alternatives`'):
        build_rules({'type': OnPoints}, own, ['all'], 'rules')
    with pytest.raises(ConfigError, match="no rule 'any'"):
        build_rules({'type': OnPoints}, own, ['any'], 'rules')


def test_a_rule_that_the_model_has_nothing_for_says_so_and_the_others_are_scored(batch):
    one = metric(rules=['vote=mean_prob', 'vote=any'])
    numbers = scored(one, batch)                                 # these instances have no embedding
    assert 'reads mask probabilities' in one.by_rule[1]['not_measured'] and one.by_rule[1]['numbers'] == {}
    assert 'instance/rule/vote=any/AP' in numbers and not any('mean_prob' in name for name in numbers)


@pytest.mark.parametrize(('rule', 'said'), [
    ('any', "no rule 'any'. Did you mean 'vote=any'"), ('al', "Did you mean 'all'"), ('vote=', "has no vote ''"),
    ('vot=any', "rule 'vot=any': PosedTransfer has no argument 'vot'. Did you mean 'vote'"),
    ('vote=most', "PosedTransfer has no vote 'most'"), ('superpoint_vote=observd', "Did you mean 'observed'"),
    ('depth_tolerance_m=narrow', "depth_tolerance_m must be a number above 0, got 'narrow'"),
    ('depth_tolerance_m=-1', 'depth_tolerance_m must be a number above 0, got -1'), ('vote=any+', "no rule 'vote=any\\+'"),
    ('type=UnposedTransfer', "no argument 'type'")])
def test_a_rule_that_is_none_is_answered_with_near_ones(rule, said):
    with pytest.raises(ConfigError, match=said):
        metric(rules=[rule])


def test_rules_are_a_list():
    with pytest.raises(ConfigError, match=r"must be a list of rules, got 'all': write \['all'\]"):
        metric(rules='all')
