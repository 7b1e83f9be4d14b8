"""FADA: the divergences, the target, the cost and the loss."""

import math

import pytest
import torch

from jrs.alignment.cost import ViewAttentionCost
from jrs.alignment.divergence import JensenShannon, KullbackLeibler
from jrs.alignment.loss import ViewAttentionLoss
from jrs.alignment.visibility import view_visibility
from jrs.errors import ConfigError
from jrs.functional import kl_divergence
from jrs.registry import ALIGNMENTS, COSTS, build
from jrs.structures import InstanceTargets, Match, QueryPredictions

ALL = [JensenShannon(), KullbackLeibler('forward'), KullbackLeibler('reverse')]


def scene(layers=3, queries=4, instances=4, views=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(layers, queries, views, generator=generator).softmax(dim=-1)
    masks = torch.rand(instances, views, 6, 6, generator=generator) < 0.3
    masks[:, 0] = False
    pred = QueryPredictions(torch.zeros(queries, 2), view_attention=attention)
    return pred, InstanceTargets(torch.zeros(instances, dtype=torch.int64), masks, view_visibility(masks))


def pairs(queries, instances):
    return Match(torch.tensor(queries), torch.tensor(instances))


def test_unseen_view_gets_zero_visibility_and_rows_sum_to_one():
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[0, 0, :2], masks[0, 2, 0] = True, True                    # 8 and 4 pixels
    masks[1, 1, 0, 0] = True
    assert view_visibility(masks).tolist() == [[pytest.approx(2 / 3), 0, pytest.approx(1 / 3)], [0, 1, 0]]


def test_an_instance_without_pixels_has_a_row_of_zeros():
    assert view_visibility(torch.zeros(1, 3, 2, 2, dtype=torch.bool)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize('alignment', ALL)
def test_cost_equals_a_loop_over_layers_and_pairs(alignment):
    pred, target = scene()
    cost = ViewAttentionCost(alignment, weight=0.5)(pred, target)
    assert cost.shape == (4, 4)
    for query in range(4):
        for instance in range(4):
            values = [alignment(pred.view_attention[layer, query], target.view_visibility[instance]).item()
                      for layer in range(3)]
            assert cost[query, instance].item() == pytest.approx(0.5 * sum(values) / 3 / 5, rel=1e-5)


@pytest.mark.parametrize('alignment', ALL)
def test_loss_is_the_mean_cost_of_the_matched_pairs(alignment):
    pred, target = scene()
    match = pairs([3, 0, 1], [0, 2, 3])
    cost = ViewAttentionCost(alignment, weight=1.0)(pred, target)
    torch.testing.assert_close(ViewAttentionLoss(alignment)(pred, target, match),
                               cost[match.queries, match.instances].mean())


def test_a_loss_may_be_the_sum_over_pairs_and_neither_need_be_divided_by_the_views():
    pred, target = scene()                                          # 5 views
    match = pairs([3, 0, 1], [0, 2, 3])
    each = [sum(JensenShannon()(pred.view_attention[layer, query], target.view_visibility[instance]).item()
                for layer in range(3)) / 3 for query, instance in zip((3, 0, 1), (0, 2, 3), strict=True)]
    expected = {('mean', True): sum(each) / 3 / 5, ('mean', False): sum(each) / 3, ('sum', True): sum(each) / 5,
                ('sum', False): sum(each)}
    for (reduction, per_view), value in expected.items():
        loss = ViewAttentionLoss(JensenShannon(), reduction, per_view)
        assert loss(pred, target, match).item() == pytest.approx(value, rel=1e-5), (reduction, per_view)
    cost, undivided = (ViewAttentionCost(JensenShannon(), 1.0, per_view)(pred, target) for per_view in (True, False))
    torch.testing.assert_close(undivided, 5 * cost)
    with pytest.raises(ConfigError, match="'mean' or 'sum'.*'total'"):
        ViewAttentionLoss(JensenShannon(), 'total')


def test_a_sum_counts_pairs_by_their_weight_and_is_none_without_any():
    pred, target = scene()
    loss = ViewAttentionLoss(JensenShannon(), 'sum')
    first, second = (loss(pred, target, pairs([query], [query])) for query in (1, 2))
    weighed = Match(torch.tensor([1, 2]), torch.tensor([1, 2]), weights=torch.tensor([3.0, 0.5]))
    torch.testing.assert_close(loss(pred, target, weighed), 3 * first + second / 2)
    nothing = Match(torch.tensor([1]), torch.tensor([1]), weights=torch.zeros(1))
    empty = torch.zeros(0, dtype=torch.int64)
    assert loss(pred, target, nothing) is None and loss(pred, target, Match(empty, empty)) is None


def test_attention_equal_to_visibility_costs_nothing_and_elsewhere_ln_2_per_view():
    masks = torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    masks[0, :2, 0], masks[1, 2:, 0] = True, True
    target = InstanceTargets(torch.zeros(2, dtype=torch.int64), masks, view_visibility(masks))
    pred = QueryPredictions(torch.zeros(2, 2), view_attention=target.view_visibility.expand(3, 2, 4))
    expected = torch.tensor([[0.0, math.log(2) / 4], [math.log(2) / 4, 0.0]])
    torch.testing.assert_close(ViewAttentionCost(JensenShannon(), 1.0)(pred, target), expected)


@pytest.mark.parametrize('alignment', ALL)
def test_views_may_be_permuted_and_queries_permute_the_rows(alignment):
    pred, target = scene()
    cost = ViewAttentionCost(alignment, 1.0)
    order, queries = torch.randperm(5), torch.randperm(4)
    moved = QueryPredictions(pred.embedding, view_attention=pred.view_attention[:, queries][:, :, order])
    moved_target = InstanceTargets(target.labels, target.masks[:, order], view_visibility(target.masks[:, order]))
    torch.testing.assert_close(cost(moved, moved_target), cost(pred, target)[queries])


@pytest.mark.parametrize('alignment', ALL)
def test_gradient_is_finite_with_unseen_views_and_lowers_the_loss(alignment):
    pred, target = scene()
    logits = torch.zeros(3, 4, 5, requires_grad=True)
    loss = ViewAttentionLoss(alignment)
    match = pairs([0, 1, 2, 3], [0, 1, 2, 3])

    def value():
        return loss(QueryPredictions(pred.embedding, view_attention=logits.softmax(dim=-1)), target, match)
    before = value()
    before.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 0] > 0).all()                          # the unseen view should get less attention
    with torch.no_grad():
        logits -= logits.grad
    assert value() < before


def test_kl_directions_are_what_they_say():
    attention, target = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.0, 0.5, 0.5])
    assert KullbackLeibler('forward')(attention, target) == kl_divergence(target, attention)
    assert KullbackLeibler('reverse')(attention, target) == kl_divergence(attention, target)
    assert KullbackLeibler('reverse')(attention, target).isfinite()


def test_one_view_and_no_instances_are_fine():
    pred, target = scene(views=1)
    target.view_visibility = torch.ones(4, 1)
    assert ViewAttentionLoss(JensenShannon())(pred, target, pairs([0], [0])).item() == pytest.approx(0, abs=1e-7)
    pred, target = scene(instances=0)
    empty = torch.zeros(0, dtype=torch.int64)
    assert ViewAttentionCost(JensenShannon(), 1.0)(pred, target).shape == (4, 0)
    assert ViewAttentionLoss(JensenShannon())(pred, target, Match(empty, empty)) is None


def test_queries_without_view_attention_are_refused_with_a_way_out():
    _, target = scene()
    pred = QueryPredictions(torch.zeros(4, 2))
    with pytest.raises(ConfigError, match='ViewAttentionCost reads the view attention'):
        ViewAttentionCost(JensenShannon(), 1.0)(pred, target)
    with pytest.raises(ConfigError, match='ViewAttentionLoss reads the view attention'):
        ViewAttentionLoss(JensenShannon())(pred, target, pairs([0], [0]))


def test_wrong_direction_or_floor_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'forward'"):
        KullbackLeibler('foward')
    with pytest.raises(ConfigError, match='floor above 0'):
        KullbackLeibler(floor=0)


def test_a_plugin_needs_no_more_than_a_callable():
    class TotalVariation:
        def __call__(self, attention, target):
            return (attention - target).abs().sum(dim=-1) / 2

    ALIGNMENTS.register_module(module=TotalVariation)
    try:
        pred, target = scene()
        cost = build(COSTS, dict(type='ViewAttentionCost'), 'model.matcher.costs.fada', weight=1.0,
                     alignment=build(ALIGNMENTS, dict(type='TotalVariation'), 'model.alignment'))
        assert cost(pred, target).shape == (4, 4)
    finally:
        ALIGNMENTS.module_dict.pop('TotalVariation')
