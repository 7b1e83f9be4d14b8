"""The assignment: optimal, complete where it can be, and clear about what is wrong."""

from itertools import permutations

import pytest
import torch

from jrs.errors import ConfigError
from jrs.matching.hungarian import HungarianMatcher, NonFiniteError
from jrs.registry import COSTS as COST_SLOT
from jrs.structures import QueryPredictions
from tests.matching.test_costs import scene

COSTS = {'classes': dict(type='ClassCost'), 'bce': dict(type='MaskBCECost'), 'dice': dict(type='MaskDiceCost'),
         'fada': None}
WEIGHTS = {'classes': 0.5, 'bce': 1.0, 'dice': 1.0, 'camera': 5.0}


def test_the_assignment_is_the_cheapest_of_all():
    matcher = HungarianMatcher(COSTS, WEIGHTS)
    for seed in range(5):
        pred, target = scene(seed=seed)
        match, cost = matcher(pred, target), matcher.total_cost(pred, target)
        assert sorted(match.instances.tolist()) == [0, 1, 2]
        cheapest = min(sum(cost[query, instance] for instance, query in enumerate(order))
                       for order in permutations(range(5), 3))
        torch.testing.assert_close(cost[match.queries, match.instances].sum(), cheapest)


def test_the_total_is_the_weighted_sum_of_the_costs_that_are_on():
    pred, target = scene()
    alone = [HungarianMatcher({name: COSTS[name]}, {name: 1.0}).total_cost(pred, target)
             for name in ('classes', 'bce', 'dice')]
    torch.testing.assert_close(HungarianMatcher(COSTS, WEIGHTS).total_cost(pred, target),
                               0.5 * alone[0] + alone[1] + alone[2])


def test_a_perfect_prediction_is_matched_to_its_instance():
    pred, target = scene()
    pred.mask_logits[[4, 0, 3]] = target.masks.float() * 20 - 10
    match = HungarianMatcher({'bce': COSTS['bce'], 'dice': COSTS['dice']}, WEIGHTS)(pred, target)
    assert dict(zip(match.instances.tolist(), match.queries.tolist(), strict=True)) == {0: 4, 1: 0, 2: 3}


@pytest.mark.parametrize('queries, instances', [(5, 0), (2, 6), (3, 3)])
def test_as_many_pairs_as_the_smaller_side(queries, instances):
    match = HungarianMatcher(COSTS, WEIGHTS)(*scene(queries, instances))
    assert len(set(match.queries.tolist())) == len(set(match.instances.tolist())) == min(queries, instances)
    assert match.queries.dtype == match.instances.dtype == torch.int64


def test_auxiliary_levels_are_matched_by_their_own_predictions():
    pred, target = scene()
    other, _ = scene(seed=1)
    pred.auxiliary = [other]
    matcher = HungarianMatcher(COSTS, WEIGHTS)
    match = matcher(pred, target)
    assert len(match.auxiliary) == 1
    assert match.auxiliary[0].queries.tolist() == matcher(other, target).queries.tolist()
    assert match.queries.tolist() != match.auxiliary[0].queries.tolist()


def test_a_cost_that_is_not_finite_is_named_with_query_and_instance():
    pred, target = scene()
    pred.mask_logits[3, 0, 0, 0] = float('nan')
    with pytest.raises(NonFiniteError, match="cost 'bce' is nan for query 3 and instance 0"):
        HungarianMatcher(COSTS, WEIGHTS)(pred, target)


def test_a_missing_weight_or_cost_is_a_config_error():
    with pytest.raises(ConfigError, match=r"model.matcher.costs.dise.*Did you mean 'dice'"):
        HungarianMatcher({'dise': COSTS['dice']}, WEIGHTS)
    with pytest.raises(ConfigError, match='no cost that is on'):
        HungarianMatcher({'fada': None}, WEIGHTS)
    with pytest.raises(ConfigError, match=r'model.matcher.costs.fada.*alignment'):
        HungarianMatcher({'fada': dict(type='ViewAttentionCost', weight=0.5, alignmet=None)}, WEIGHTS)


def test_a_cost_may_set_its_own_weight_and_is_offered_the_alignment():
    def alignment(attention, target):
        return (attention - target).abs().sum(dim=-1)
    matcher = HungarianMatcher({'fada': dict(type='ViewAttentionCost', weight=7.0)}, {}, alignment)
    assert matcher.costs['fada'].weight == 7.0
    assert matcher.costs['fada'].alignment is alignment


def test_matching_leaves_no_gradient_behind():
    pred, target = scene()
    pred = QueryPredictions(pred.embedding, pred.class_logits.requires_grad_(), pred.mask_logits.requires_grad_())
    matcher = HungarianMatcher(COSTS, WEIGHTS)
    matcher(pred, target)
    assert pred.mask_logits.grad is None


class Weightless:
    def __call__(self, pred, target):
        return torch.zeros(pred.embedding.shape[0], len(target.labels))


def test_a_cost_that_the_weights_do_not_reach_is_refused(monkeypatch):
    COST_SLOT.names()
    monkeypatch.setitem(COST_SLOT._module_dict, 'Weightless', Weightless)
    with pytest.raises(ConfigError, match='model.matcher.costs.a: the constructor of Weightless takes no `weight`'):
        HungarianMatcher(dict(a=dict(type='Weightless')), dict(a=2.0))
