"""Each cost on its matched pairs is its loss; order of elements, views and queries means nothing."""

import pytest
import torch

from jrs.losses.instance import MaskBCELoss, MaskDiceLoss
from jrs.matching.costs import ClassCost, MaskBCECost, MaskDiceCost
from jrs.structures import UNNAMED, InstanceTargets, Match, QueryPredictions

COSTS = [ClassCost(0.5), MaskBCECost(1.0), MaskDiceCost(1.0)]


def scene(queries=5, instances=3, views=2, ignore=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = QueryPredictions(torch.zeros(queries, 2), class_logits=torch.randn(queries, 4, generator=generator),
                            mask_logits=torch.randn(queries, views, 4, 6, generator=generator))
    masks = torch.rand(instances, views, 4, 6, generator=generator) < 0.4
    valid = torch.rand(views, 4, 6, generator=generator) < 0.7 if ignore else None
    labels = torch.randint(3, (instances,), generator=generator)
    return pred, InstanceTargets(labels, masks, torch.zeros(instances, views), valid)


def test_class_cost_is_minus_the_probability_of_the_label():
    pred, target = scene()
    cost = ClassCost(0.5)(pred, target)
    probability = pred.class_logits.exp() / pred.class_logits.exp().sum(dim=1, keepdim=True)
    for query in range(5):
        for instance, label in enumerate(target.labels.tolist()):
            assert cost[query, instance].item() == pytest.approx(-0.5 * probability[query, label].item(), rel=1e-5)


def test_class_cost_of_independent_classes_is_minus_their_own_probability():
    pred, target = scene()
    pred.class_logits, pred.classes = pred.class_logits[:, :-1], 'sigmoid'
    expected = -2 * torch.stack([pred.class_logits[:, label].sigmoid() for label in target.labels], dim=1)
    torch.testing.assert_close(ClassCost(2.0)(pred, target), expected)


@pytest.mark.parametrize('ignore', [False, True])
@pytest.mark.parametrize('cost, loss', [(MaskBCECost(1.0), MaskBCELoss()), (MaskDiceCost(1.0, 3.0), MaskDiceLoss(3.0))])
def test_a_matched_pair_costs_what_it_loses(cost, loss, ignore):
    pred, target = scene(ignore=ignore)
    pairwise = cost(pred, target)
    for query, instance in ((0, 2), (4, 1), (2, 0)):
        match = Match(torch.tensor([query]), torch.tensor([instance]))
        torch.testing.assert_close(loss(pred, target, match), pairwise[query, instance])


@pytest.mark.parametrize('cost', COSTS)
def test_pixels_that_are_not_valid_cost_nothing(cost):
    pred, target = scene(ignore=True)
    before = cost(pred, target)
    pred.mask_logits[:, ~target.valid] = 50.0
    target.masks[:, ~target.valid] = True
    torch.testing.assert_close(cost(pred, target), before)


@pytest.mark.parametrize('cost', COSTS)
def test_order_of_views_queries_and_instances_only_permutes(cost):
    pred, target = scene()
    views, queries, instances = torch.tensor([1, 0]), torch.randperm(5), torch.randperm(3)
    moved = QueryPredictions(pred.embedding, pred.class_logits[queries], pred.mask_logits[queries][:, views])
    moved_target = InstanceTargets(target.labels[instances], target.masks[instances][:, views], target.view_visibility)
    torch.testing.assert_close(cost(moved, moved_target), cost(pred, target)[queries][:, instances])


@pytest.mark.parametrize('cost', COSTS)
@pytest.mark.parametrize('queries, instances, views', [(5, 0, 2), (2, 6, 2), (5, 3, 1)])
def test_no_instances_more_instances_than_queries_and_one_view(cost, queries, instances, views):
    value = cost(*scene(queries, instances, views))
    assert value.shape == (queries, instances)
    assert value.isfinite().all()


def test_an_unnamed_instance_costs_every_query_the_same():
    pred, target = scene()
    expected = ClassCost(0.5)(pred, target)
    target.labels[1] = UNNAMED
    found = ClassCost(0.5)(pred, target)
    assert found[:, 1].eq(-0.5).all() and found[:, [0, 2]].equal(expected[:, [0, 2]])
