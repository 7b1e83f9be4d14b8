"""Class and mask terms against slow loops."""

import math
from dataclasses import replace

import pytest
import torch

from jrs.alignment.divergence import JensenShannon
from jrs.alignment.loss import ViewAttentionLoss
from jrs.errors import ConfigError
from jrs.losses.instance import ClassLoss, MaskBCELoss, MaskDiceLoss
from jrs.matching.hungarian import HungarianMatcher
from jrs.structures import UNNAMED, Match
from tests.matching.test_costs import scene

MATCH = Match(torch.tensor([1, 4]), torch.tensor([2, 0]))
NOBODY = Match(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def test_class_loss_equals_a_weighted_loop_over_queries():
    pred, target = scene()
    wanted = [3, target.labels[2].item(), 3, 3, target.labels[0].item()]
    total = weights = 0.0
    for logits, label in zip(pred.class_logits.tolist(), wanted, strict=True):
        weight = 0.1 if label == 3 else 1.0
        total -= weight * (logits[label] - math.log(sum(map(math.exp, logits))))
        weights += weight
    assert ClassLoss(0.1)(pred, target, MATCH).item() == pytest.approx(total / weights, rel=1e-5)


def test_without_instances_classes_say_no_object_and_masks_say_nothing():
    pred, target = scene(instances=0)
    expected = -pred.class_logits.log_softmax(dim=1)[:, -1].mean()
    torch.testing.assert_close(ClassLoss()(pred, target, NOBODY), expected)
    assert MaskBCELoss()(pred, target, NOBODY) is None
    assert MaskDiceLoss()(pred, target, NOBODY) is None


@pytest.mark.parametrize('ignore', [False, True])
def test_mask_losses_are_means_over_matched_pairs_and_valid_pixels(ignore):
    pred, target = scene(ignore=ignore)
    valid = target.valid.flatten() if ignore else torch.ones(48, dtype=torch.bool)
    bce, dice = [], []
    for query, instance in ((1, 2), (4, 0)):
        probability = pred.mask_logits[query].flatten()[valid].sigmoid()
        truth = target.masks[instance].flatten()[valid].float()
        bce.append(-(truth * probability.log() + (1 - truth) * (1 - probability).log()).mean())
        dice.append(1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1))
    torch.testing.assert_close(MaskBCELoss()(pred, target, MATCH), torch.stack(bce).mean())
    torch.testing.assert_close(MaskDiceLoss()(pred, target, MATCH), torch.stack(dice).mean())


@pytest.mark.parametrize('loss', [ClassLoss(), MaskBCELoss(), MaskDiceLoss()])
def test_gradient_reaches_the_predictions_and_the_order_of_pairs_does_not_matter(loss):
    pred, target = scene()
    pred.class_logits.requires_grad_(), pred.mask_logits.requires_grad_()
    value = loss(pred, target, MATCH)
    value.backward()
    reached = [tensor.grad for tensor in (pred.class_logits, pred.mask_logits) if tensor.grad is not None]
    assert len(reached) == 1 and reached[0].abs().sum() > 0
    torch.testing.assert_close(loss(pred, target, Match(MATCH.queries.flip(0), MATCH.instances.flip(0))), value)


def test_right_predictions_lose_less_than_wrong_ones():
    pred, target = scene()
    pred.mask_logits = torch.zeros_like(pred.mask_logits)
    pred.mask_logits[MATCH.queries] = target.masks[MATCH.instances].float() * 20 - 10
    for loss in (MaskBCELoss(), MaskDiceLoss()):
        right = loss(pred, target, MATCH)
        assert right < 0.01
        assert loss(pred, target, Match(MATCH.queries, MATCH.instances.flip(0))) > 0.3


WEIGHTED = [ClassLoss(0.1), MaskBCELoss(), MaskDiceLoss(), ViewAttentionLoss(JensenShannon())]


def weighted(*weights):
    return Match(MATCH.queries, MATCH.instances, weights=torch.tensor(weights))


@pytest.mark.parametrize('loss', WEIGHTED, ids=lambda loss: type(loss).__name__)
def test_pairs_count_by_their_weight_in_every_instance_loss(loss):
    pred, target = scene()
    views = torch.Generator().manual_seed(1)
    pred.view_attention = torch.rand(2, 5, 2, generator=views).softmax(-1)
    target.view_visibility = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9]])
    plain = loss(pred, target, MATCH)
    torch.testing.assert_close(loss(pred, target, weighted(1.0, 1.0)), plain)
    first, second = (loss(pred, target, weighted(*pair)) for pair in ((1.0, 0.0), (0.0, 1.0)))
    assert abs(first - second) > 1e-4
    if isinstance(loss, ClassLoss):                                       # the unmatched queries count beside the pairs
        return
    torch.testing.assert_close(first, loss(pred, target, Match(MATCH.queries[:1], MATCH.instances[:1])))
    torch.testing.assert_close(loss(pred, target, weighted(3.0, 1.0)), (3 * first + second) / 4)
    assert loss(pred, target, weighted(0.0, 0.0)) is None


def test_the_class_of_a_pair_without_weight_is_not_asked_for():
    pred, target = scene()
    pred.class_logits.requires_grad_()
    gradients = [torch.autograd.grad(ClassLoss(0.1)(pred, target, match), pred.class_logits)[0]
                 for match in (weighted(0.0, 1.0), weighted(2.0, 1.0), MATCH)]
    reach = [gradient.abs().sum(dim=1) for gradient in gradients]         # (Q,)
    assert reach[0][1] == 0 and (reach[0][[0, 2, 3, 4]] > 0).all()
    assert reach[1][1] > reach[2][1]
    everybody = Match(torch.arange(3), torch.arange(3), weights=torch.zeros(3))
    assert ClassLoss()(type(pred)(pred.embedding[:3], pred.class_logits[:3]), target, everybody) == 0


def test_a_matcher_may_weigh_its_pairs_and_a_wrong_number_of_weights_is_refused():
    class Sure(HungarianMatcher):
        def assign(self, cost, pred, target):
            queries, instances = super().assign(cost, pred, target)
            return queries, instances, 1 / (1 + cost[queries, instances].float().exp())
    pred, target = scene()
    costs = dict(a=dict(type='ClassCost', weight=1.0))
    match, plain = Sure(costs)(pred, target), HungarianMatcher(costs)(pred, target)
    assert match.queries.equal(plain.queries) and match.weights.shape == match.queries.shape and plain.weights is None
    assert MaskBCELoss()(pred, target, match) != MaskBCELoss()(pred, target, plain)
    with pytest.raises(ValueError, match='one weight for each of the 2 pairs'):
        weighted(1.0, 1.0, 1.0)


def test_cross_entropy_refuses_classes_that_know_nothing_of_each_other():
    pred, target = scene()
    pred.classes = 'sigmoid'
    with pytest.raises(ConfigError, match="'sigmoid'"):
        ClassLoss()(pred, target, Match(torch.arange(1), torch.arange(1)))


def test_queries_of_unnamed_instances_say_nothing_of_classes_and_have_masks():
    pred, target = scene()
    named = replace(target, labels=target.labels.clone())
    target.labels[2] = UNNAMED
    rest = [0, 2, 3, 4]                                                                    # query 1 is matched to it
    logits, wanted = pred.class_logits[rest], torch.tensor([3, 3, 3, target.labels[0]])
    expected = torch.nn.functional.cross_entropy(logits, wanted, torch.tensor([1, 1, 1, 0.1]))
    torch.testing.assert_close(ClassLoss(0.1)(pred, target, MATCH), expected)
    weighted = replace(MATCH, weights=torch.ones(2))
    torch.testing.assert_close(ClassLoss(0.1)(pred, target, weighted), expected)
    assert MaskBCELoss()(pred, target, MATCH).equal(MaskBCELoss()(pred, named, MATCH))


def test_where_every_query_has_an_unnamed_instance_the_class_term_is_zero_with_a_gradient():
    pred, target = scene(queries=2, instances=2)
    target.labels[:] = UNNAMED
    pred.class_logits.requires_grad_()
    value = ClassLoss()(pred, target, Match(torch.arange(2), torch.arange(2)))
    value.backward()
    assert value.item() == 0 and pred.class_logits.grad.eq(0).all()
