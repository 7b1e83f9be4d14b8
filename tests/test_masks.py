"""One way to read masks: in costs and losses, in training (made in pieces) and after `predict_all` (given)."""

import pytest
import torch

from jrs import masks
from jrs.config import load_config
from jrs.masks import MaskLogits
from jrs.matching.hungarian import HungarianMatcher
from jrs.registry import COSTS, LOSSES, MODELS, build
from jrs.structures import InstanceTargets, Match, QueryPredictions
from tests._data import MAIN, random_batch


class Overlap:
    """A cost as the documents show it."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, pred, target):
        cost = torch.zeros(len(pred.embedding), len(target.labels), device=pred.embedding.device)
        for logits, wanted in pred.masks().pieces(target.flat_masks, target.flat_valid):
            cost = cost + logits.sigmoid() @ wanted.T
        return -self.weight * cost


class Error:
    """A loss on matched pairs likewise."""

    reads = 'instances'

    def __call__(self, pred, target, match):
        read, wanted = pred.masks(match.queries), target.flat_masks[match.instances]
        errors = read.total(lambda logits, true: (logits.sigmoid() - true).abs().sum(dim=1), wanted, target.flat_valid)
        return errors.sum()


def scene(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(5, 4, generator=generator).to(dtype).requires_grad_()
    features = torch.randn(3, 4, 6, 7, generator=generator).to(dtype).requires_grad_()
    true = torch.rand(2, 3, 6, 7, generator=generator) < 0.4
    target = InstanceTargets(torch.tensor([0, 1]), true, torch.full((2, 3), 1 / 3),
                             valid=torch.rand(3, 6, 7, generator=generator) < 0.8)
    streamed = QueryPredictions(embedding, features=features)
    given = QueryPredictions(embedding, mask_logits=masks.mask_logits(embedding, features))
    return dict(streamed=streamed, given=given), target, (embedding, features)


@pytest.mark.parametrize('piece_values', [1, 100, 2 ** 24])
@pytest.mark.parametrize('kind', ['streamed', 'given'])
def test_costs_and_losses_read_the_same_masks_wherever_they_are(monkeypatch, kind, piece_values):
    preds, target, leaves = scene()
    whole = preds['given'].mask_logits.flatten(1)[:, target.flat_valid]
    true = target.flat_masks[:, target.flat_valid].float()
    match = Match(torch.tensor([3, 1]), torch.tensor([1, 0]))
    expected = (whole[match.queries].sigmoid() - true[match.instances]).abs().sum()
    gradients = torch.autograd.grad(expected, leaves, retain_graph=True)
    monkeypatch.setattr(masks, 'PIECE_VALUES', piece_values)
    torch.testing.assert_close(Overlap(2.0)(preds[kind], target), -2 * whole.sigmoid() @ true.T)
    loss = Error()(preds[kind], target, match)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(torch.autograd.grad(loss, leaves), gradients, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('kind', ['streamed', 'given'])
def test_pieces_are_float32_whatever_the_heads_gave_and_dense_is_all_of_them(kind):
    preds, target, _ = scene(torch.bfloat16)
    read = preds[kind].masks(torch.tensor([4, 0]))
    assert read.shape == (2, 126) and len(read) == 2 and read.dense().shape == (2, 126)
    assert read.dense().dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        pieces = list(read.pieces(target.flat_masks))
    assert all(tensor.dtype == torch.float32 for piece in pieces for tensor in piece)
    torch.testing.assert_close(torch.cat([logits for logits, _ in pieces], dim=1), read.dense())


def test_no_query_no_target_and_no_view_read_as_nothing():
    preds, target, _ = scene()
    nobody = torch.zeros(0, dtype=torch.int64)
    assert preds['streamed'].masks(nobody).dense().shape == (0, 126)
    assert Overlap(1.0)(preds['streamed'], target.select(nobody)).shape == (5, 0)
    empty = MaskLogits(torch.zeros(2, 4), torch.zeros(0, 4, 6, 7))
    assert empty.total(lambda logits, wanted: logits.sum(dim=1), torch.zeros(2, 0)).tolist() == [0, 0]


def test_a_cost_and_a_loss_of_masks_train_and_match_after_prediction_alike(monkeypatch):
    for slot, part in ((COSTS, Overlap), (LOSSES, Error)):
        slot.names()
        monkeypatch.setattr(slot, '_module_dict', {**slot._module_dict, part.__name__: part})
    cfg = load_config(MAIN, 'debug')
    costs = dict(mine=dict(type='Overlap', weight=1.0))
    torch.manual_seed(0)
    model = build(MODELS, dict(cfg.model, num_classes=5, matcher=dict(type='HungarianMatcher', costs=costs), teacher=None,
                               losses=dict(mine=dict(type='Error')), weights=dict(mine=0.5)), 'model')
    batch = random_batch(num_views=2)
    terms = model(batch, mode='loss')
    terms['loss_mine'].backward()
    assert terms['loss_mine'] > 0 and model.queries.tokens.grad.abs().max() > 0
    target = InstanceTargets(torch.tensor([0]), torch.ones(1, 2, 28, 28).bool(), torch.full((1, 2), 0.5))
    with torch.no_grad():
        matches = [HungarianMatcher(costs)(predict(batch).queries.scene(0), target)
                   for predict in (model.predict_all, lambda batch: model.forward_images(batch.images))]
    assert matches[0].queries.tolist() == matches[1].queries.tolist()
