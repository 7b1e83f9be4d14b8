"""Class and mask terms against slow loops."""

import math

import pytest
import torch

from jrs.losses.instance import ClassLoss, MaskBCELoss, MaskDiceLoss
from jrs.structures import Match
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
