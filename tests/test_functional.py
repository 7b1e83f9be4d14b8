"""Formulas against slow loops, their limits, and what keeps them safe at full size."""

import math

import pytest
import torch

from jrs import masks
from jrs.functional import (
    js_divergence,
    kl_divergence,
    matched_bce,
    matched_dice,
    pairwise_bce,
    pairwise_dice,
)
from jrs.masks import mask_logits
from jrs.structures import QueryPredictions


def logits_and_targets(queries=4, instances=3, elements=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(queries, elements, generator=generator)
    return logits, torch.rand(instances, elements, generator=generator) < 0.4


def distributions(rows, views=5, seed=0):
    return torch.rand(rows, views, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def slow_bce(logits, target):
    total = 0.0
    for logit, truth in zip(logits.double().tolist(), target.tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total -= math.log(probability if truth else 1 - probability)
    return total / len(target)


def slow_dice(logits, target, smooth):
    probabilities = [1 / (1 + math.exp(-logit)) for logit in logits.double().tolist()]
    overlap = sum(probability * truth for probability, truth in zip(probabilities, target.tolist(), strict=True))
    return 1 - (2 * overlap + smooth) / (sum(probabilities) + sum(target.tolist()) + smooth)


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p.double().tolist(), q.double().tolist(), strict=True) if a > 0)


@pytest.mark.parametrize('piece_values', [1, 8, 2 ** 24])
def test_pairwise_forms_equal_a_loop_over_pairs_whatever_the_piece(monkeypatch, piece_values):
    monkeypatch.setattr(masks, 'PIECE_VALUES', piece_values)
    logits, targets = logits_and_targets()
    for query in range(len(logits)):
        for instance in range(len(targets)):
            row, target = logits[query], targets[instance]
            assert pairwise_bce(logits, targets)[query, instance].item() == pytest.approx(slow_bce(row, target), 1e-5)
            assert pairwise_dice(logits, targets, 2.0)[query, instance].item() == pytest.approx(
                slow_dice(row, target, 2.0), 1e-5)


def test_the_diagonal_of_the_pairwise_form_is_the_matched_form():
    logits, targets = logits_and_targets(4, 4)
    torch.testing.assert_close(pairwise_bce(logits, targets).diagonal(), matched_bce(logits, targets))
    torch.testing.assert_close(pairwise_dice(logits, targets, 3.0).diagonal(), matched_dice(logits, targets, 3.0))


@pytest.mark.parametrize('piece_values', [8, 2 ** 24])
def test_elements_that_are_not_valid_do_not_count(monkeypatch, piece_values):
    monkeypatch.setattr(masks, 'PIECE_VALUES', piece_values)
    logits, targets = logits_and_targets()
    valid = torch.arange(logits.shape[1]) % 3 > 0
    for formula in (pairwise_bce, pairwise_dice):
        torch.testing.assert_close(formula(logits, targets, valid=valid), formula(logits[:, valid], targets[:, valid]))


@pytest.mark.parametrize('formula', [pairwise_bce, pairwise_dice])
def test_no_instances_and_no_valid_elements_give_finite_costs_of_the_right_shape(formula):
    logits, targets = logits_and_targets()
    assert formula(logits, targets[:0]).shape == (4, 0)
    nothing = formula(logits, targets, valid=torch.zeros(11, dtype=torch.bool))
    assert nothing.shape == (4, 3)
    assert nothing.abs().max() == 0


def test_the_order_of_elements_does_not_matter_and_that_of_queries_permutes_rows():
    logits, targets = logits_and_targets()
    order, queries = torch.randperm(11), torch.randperm(4)
    for formula in (pairwise_bce, pairwise_dice):
        torch.testing.assert_close(formula(logits[:, order], targets[:, order]), formula(logits, targets))
        torch.testing.assert_close(formula(logits[queries], targets), formula(logits, targets)[queries])


def test_huge_logits_give_exact_losses_and_finite_gradients():
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    targets = torch.tensor([[True, False, False, False]])
    loss = matched_bce(logits, targets)
    assert loss.item() == 2500
    assert pairwise_bce(logits.detach(), targets).item() == 2500
    (loss + matched_dice(logits, targets)).sum().backward()
    assert logits.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision():
    logits, targets = logits_and_targets(4, 4, 1000)
    p, q = distributions(4), distributions(4, seed=1)
    calls = [lambda: pairwise_bce(logits, targets), lambda: pairwise_dice(logits, targets),
             lambda: matched_bce(logits, targets), lambda: matched_dice(logits, targets), lambda: js_divergence(p, q),
             lambda: kl_divergence(p, q), lambda: mask_logits(logits, torch.randn(2, 1000, 3, 3, generator=seeded()))]
    plain = [call() for call in calls]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = [call() for call in calls]
    for one, other in zip(plain, inside, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def seeded():
    return torch.Generator().manual_seed(0)


def test_js_equals_the_mean_of_two_kl_to_the_middle():
    p, q = distributions(3), distributions(3, seed=1)
    for row in range(3):
        middle = (p[row] + q[row]) / 2
        expected = (slow_kl(p[row], middle) + slow_kl(q[row], middle)) / 2
        assert js_divergence(p, q)[row].item() == pytest.approx(expected, 1e-4)


def test_js_is_symmetric_zero_for_equals_and_ln_2_for_disjoint_distributions():
    p, q = distributions(3), distributions(3, seed=1)
    torch.testing.assert_close(js_divergence(p, q), js_divergence(q, p))
    assert js_divergence(p, p).abs().max() < 1e-7
    left, right = torch.tensor([0.25, 0.75, 0, 0]), torch.tensor([0, 0, 0.5, 0.5])
    assert js_divergence(left, right).item() == pytest.approx(math.log(2), 1e-6)
    assert (js_divergence(p, q) < math.log(2)).all()


def test_kl_equals_a_loop_after_flooring_both_and_is_not_symmetric():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.9, 0.1])
    floored = [[max(value, 1e-6) for value in row.tolist()] for row in (p, q)]
    floored = [torch.tensor([value / sum(row) for value in row], dtype=torch.float64) for row in floored]
    assert kl_divergence(p, q).item() == pytest.approx(slow_kl(*floored), 1e-5)
    assert kl_divergence(q, p).item() == pytest.approx(slow_kl(*reversed(floored)), 1e-5)
    assert kl_divergence(p, p).item() == 0


@pytest.mark.parametrize('divergence', [js_divergence, kl_divergence, lambda p, q: kl_divergence(q, p)])
def test_gradients_are_finite_where_either_side_is_zero(divergence):
    attention = torch.tensor([[0.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 1.0]])
    value = divergence(attention, target)
    assert value.isfinite().all()
    value.sum().backward()
    assert attention.grad.isfinite().all()


@pytest.mark.parametrize('divergence', [js_divergence, kl_divergence])
def test_divergences_broadcast_to_pairs_and_ignore_the_order_of_views(divergence):
    p, q = distributions(4), distributions(3, seed=1)
    pairs = divergence(p[:, None], q)
    assert pairs.shape == (4, 3)
    torch.testing.assert_close(pairs[2, 1], divergence(p[2], q[1]))
    order = torch.randperm(5)
    torch.testing.assert_close(divergence(p[:, order][:, None], q[:, order]), pairs)


def test_js_passes_gradcheck():
    p = distributions(2).double().requires_grad_()
    q = distributions(2, seed=1).double()
    assert torch.autograd.gradcheck(lambda attention: js_divergence(attention.softmax(-1), q), p)


def test_mask_logits_are_inner_products():
    embedding, features = torch.randn(2, 3, 4), torch.randn(2, 5, 4, 6, 7)
    logits = mask_logits(embedding, features)
    assert logits.shape == (2, 3, 5, 6, 7)
    torch.testing.assert_close(logits[1, 2, 3, 4, 5], embedding[1, 2] @ features[1, 3, :, 4, 5])
    torch.testing.assert_close(mask_logits(embedding[0], features[0]), logits[0])


def streamed_and_given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(4, 6, generator=generator)
    features = torch.randn(5, 6, 3, 7, generator=generator)
    targets = torch.rand(4, 5 * 3 * 7, generator=generator) < 0.4
    valid = torch.rand(5 * 3 * 7, generator=generator) < 0.7
    return embedding, features, targets, valid


@pytest.mark.parametrize('piece_values', [1, 200, 2 ** 24])
@pytest.mark.parametrize('use_valid', [False, True])
@pytest.mark.parametrize('formula', [pairwise_bce, pairwise_dice, matched_bce, matched_dice])
def test_streamed_logits_give_the_same_values_and_gradients_as_given_ones(monkeypatch, formula, use_valid, piece_values):
    embedding, features, targets, valid = streamed_and_given()
    options = dict(valid=valid) if use_valid else {}
    given = [embedding.clone().requires_grad_(), features.clone().requires_grad_()]
    expected = formula(mask_logits(*given).flatten(1), targets, **options)
    monkeypatch.setattr(masks, 'PIECE_VALUES', piece_values)
    lazy = [embedding.clone().requires_grad_(), features.clone().requires_grad_()]
    found = formula(QueryPredictions(lazy[0], features=lazy[1]).masks(), targets, **options)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward(), found.square().sum().backward()
    for one, other in zip(lazy, given, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_streamed_logits_never_exist_as_a_whole(monkeypatch):
    embedding, features, targets, _ = streamed_and_given()
    largest, make = [], masks.mask_logits

    def spy(*inputs):
        largest.append(make(*inputs).numel())
        return make(*inputs)
    monkeypatch.setattr(masks, 'mask_logits', spy)
    monkeypatch.setattr(masks, 'PIECE_VALUES', 3 * 4 * 21)                 # two true masks and a row of what counts
    embedding.requires_grad_()
    matched_bce(QueryPredictions(embedding, features=features).masks(), targets).sum().backward()
    assert max(largest) == 2 * 4 * 21 and len(largest) == 2 * 3           # forward and backward


def test_masks_from_nothing_say_what_is_needed():
    with pytest.raises(ValueError, match='features'):
        QueryPredictions(torch.zeros(2, 3)).masks()
