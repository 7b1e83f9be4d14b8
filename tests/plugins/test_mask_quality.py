"""Classes as probable as the overlap of their masks."""

from dataclasses import replace

import pytest
import torch

from jrs.errors import ConfigError
from jrs.losses.instance import ClassLoss
from jrs.plugins import load_plugins
from jrs.registry import LOSSES, build
from jrs.structures import UNNAMED, Match
from tests.matching.test_costs import scene

MATCH = Match(torch.tensor([1, 4]), torch.tensor([2, 0]))
NO_OBJECT = 0.1


@pytest.fixture(scope='module')
def loss():
    load_plugins(['mask_quality'])
    return build(LOSSES, dict(type='QualityClassLoss', no_object_weight=NO_OBJECT), 'model.losses.classification')


def with_overlap(pred, target, kept: float):
    """Predictions whose matched masks are the true ones, of which a share `kept` is left: that is their IoU."""
    logits = pred.mask_logits.detach().clone()
    for query, instance in zip(MATCH.queries.tolist(), MATCH.instances.tolist(), strict=True):
        mask = target.masks[instance].flatten()
        inside = mask.nonzero()[:, 0]
        mask = torch.zeros_like(mask).index_fill(0, inside[:round(kept * len(inside))], True)
        logits[query] = torch.where(mask, 4.0, -4.0).view_as(logits[query])
    return replace(pred, mask_logits=logits)


def test_with_perfect_masks_it_is_the_class_loss(loss):
    pred, target = scene()
    perfect = with_overlap(pred, target, 1.0)
    torch.testing.assert_close(loss(perfect, target, MATCH), ClassLoss(NO_OBJECT)(perfect, target, MATCH))


def test_it_is_least_where_classes_are_as_probable_as_masks_overlap(loss):
    pred, target = scene()
    pred = with_overlap(pred, target, 0.5)
    masks = pred.mask_logits[MATCH.queries].flatten(1) > 0
    wanted = target.flat_masks[MATCH.instances]
    quality = (masks & wanted).sum(dim=1) / (masks | wanted).sum(dim=1)
    assert 0.3 < quality.min() and quality.max() < 0.7
    logits = torch.zeros_like(pred.class_logits).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss(replace(pred, class_logits=logits), target, MATCH).backward()
        optimizer.step()
    said = logits.detach().softmax(dim=1)
    own = said[MATCH.queries].gather(1, target.labels[MATCH.instances][:, None])[:, 0]
    expected = quality / (quality + NO_OBJECT * (1 - quality))             # the weights of the classes bend it, in order
    torch.testing.assert_close(own, expected, rtol=0.02, atol=0)
    torch.testing.assert_close(said[MATCH.queries, -1], 1 - expected, rtol=0.1, atol=0.01)
    others = [query for query in range(len(said)) if query not in MATCH.queries]
    assert said[others, -1].min() > 0.95


def test_masks_learn_nothing_of_it(loss):
    pred, target = scene()
    pred = replace(pred, mask_logits=pred.mask_logits.detach().clone().requires_grad_(),
                   class_logits=pred.class_logits.detach().clone().requires_grad_())
    loss(pred, target, MATCH).backward()
    assert pred.mask_logits.grad is None and pred.class_logits.grad.abs().max() > 0


def test_pixels_that_nobody_knows_do_not_count(loss):
    pred, target = scene(ignore=True)
    pred = with_overlap(pred, target, 0.5)
    known = loss(pred, target, MATCH)
    changed = torch.where(target.valid, pred.mask_logits, -pred.mask_logits)
    torch.testing.assert_close(loss(replace(pred, mask_logits=changed), target, MATCH), known)


def test_instances_without_a_name_and_no_instances_at_all(loss):
    pred, target = scene()
    unnamed = replace(target, labels=torch.full_like(target.labels, UNNAMED))
    others = [query for query in range(len(pred.class_logits)) if query not in MATCH.queries]
    torch.testing.assert_close(loss(pred, unnamed, MATCH), -pred.class_logits.log_softmax(dim=1)[others, -1].mean())
    nobody = Match(MATCH.queries[:0], MATCH.instances[:0])
    torch.testing.assert_close(loss(pred, target, nobody), ClassLoss(NO_OBJECT)(pred, target, nobody))


def test_a_head_without_no_object_is_refused(loss):
    pred, target = scene()
    with pytest.raises(ConfigError, match='QualityClassLoss is cross-entropy'):
        loss(replace(pred, classes='sigmoid'), target, MATCH)
