"""Sparse matching: only a query that stands for an element of the instance may answer for it."""

import json

import pytest
import torch
from torch import Tensor

from jrs.errors import ConfigError
from jrs.matching.sparse import SparseMatcher
from jrs.registry import COSTS
from jrs.structures import InstanceTargets, QueryPredictions
from tests._data import MAIN, command


class Given:
    """A cost that returns what it was made with."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        return self.values


def match(cost: list[list[float]], elements: list[int], masks: list[list[int]], k: int = 1) -> list[tuple[int, int]]:
    """Return the pairs for a cost (Q, G), the element of each query, and masks (G, E)."""
    matcher = SparseMatcher(dict(given=Given(torch.tensor(cost).view(len(elements), len(masks)))), k=k)
    masks = torch.tensor(masks, dtype=torch.bool).view(len(masks), 1, 1, -1)                # (G, 1, 1, E)
    target = InstanceTargets(torch.zeros(len(masks), dtype=torch.int64), masks, torch.ones(len(masks), 1))
    pred = QueryPredictions(torch.zeros(len(elements), 4), elements=torch.tensor(elements, dtype=torch.int64))
    found = matcher(pred, target)
    return list(zip(found.queries.tolist(), found.instances.tolist(), strict=True))


def test_each_instance_takes_its_cheapest_query_among_those_whose_element_it_contains():
    cost = [[0.0, 0.0], [3.0, 9.0], [2.0, 9.0], [9.0, 5.0]]
    assert match(cost, [4, 0, 1, 2], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]) == [(2, 0), (3, 1)]


def test_k_queries_are_kept_against_a_slow_loop():
    torch.manual_seed(0)
    cost, elements = torch.rand(9, 3), torch.randint(6, (9,))
    masks = torch.zeros(3, 6, dtype=torch.int64)
    masks[0, :2], masks[1, 2:5], masks[2, 5] = 1, 1, 1
    for k in (1, 2, 3):
        expected = []
        for instance in range(3):
            own = sorted((float(cost[query, instance]), query) for query in range(9) if masks[instance, elements[query]])
            expected += [(query, instance) for _, query in own[:k]]
        assert match(cost.tolist(), elements.tolist(), masks.tolist(), k) == sorted(expected)


def test_ties_at_the_next_value_select_nobody():
    assert match([[1.0], [1.0], [2.0]], [0, 0, 0], [[1]]) == []
    assert match([[1.0], [1.0], [2.0]], [0, 0, 0], [[1]], k=2) == [(0, 0), (1, 0)]


def test_with_k_queries_or_fewer_all_eligible_ones_are_kept():
    assert match([[1.0], [7.0]], [0, 0], [[1, 0]], k=2) == [(0, 0), (1, 0)]
    assert match([[1.0], [7.0]], [0, 1], [[1, 0]], k=3) == [(0, 0)]


def test_an_instance_without_an_eligible_query_stays_unmatched():
    assert match([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [0, 0, 0], [[1, 0], [0, 1]]) == [(0, 0)]


def test_every_level_is_matched_by_its_own_elements():
    matcher = SparseMatcher(dict(given=Given(torch.tensor([[1.0], [2.0]]))))
    target = InstanceTargets(torch.zeros(1, dtype=torch.int64), torch.tensor([[[[True, False]]]]), torch.ones(1, 1))
    levels = [QueryPredictions(torch.zeros(2, 4), elements=torch.tensor(elements)) for elements in ([1, 0], [0, 1])]
    levels[1].auxiliary = levels[:1]
    found = matcher(levels[1], target)
    assert found.queries.tolist() == [0] and found.auxiliary[0].queries.tolist() == [1]


@pytest.mark.parametrize('streamed', [False, True])
def test_a_learned_query_stands_for_the_valid_element_that_it_is_surest_of(streamed):
    features = torch.tensor([[[[0.0, 9.0]], [[1.0, 0.0]]]])                     # (V, D, h, w)
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])             # surest of the pixels 1, 0 and 0
    masks = torch.tensor([[[[True, False]]], [[[False, True]]]])                # (G, V, h, w): one pixel each
    target = InstanceTargets(torch.zeros(2, dtype=torch.int64), masks, torch.ones(2, 1))
    pred = QueryPredictions(embedding, features=features)
    if not streamed:
        pred.mask_logits = torch.einsum('qd,vdhw->qvhw', embedding, features)
    matcher = SparseMatcher(dict(given=Given(torch.tensor([[2.0, 2.0], [1.0, 1.0], [3.0, 3.0]]))))
    found = matcher(pred, target)
    assert list(zip(found.queries.tolist(), found.instances.tolist(), strict=True)) == [(0, 1), (1, 0)]
    target.valid = torch.tensor([[[True, False]]])                              # now pixel 0 is all that is known
    assert matcher(pred, target).instances.tolist() == [0]


def test_the_main_experiment_learns_with_it_by_one_override(debug_data, tmp_path):
    words = [MAIN, '--profile', 'debug', '--work-dir', tmp_path, '--cfg-options', 'model.matcher.type=SparseMatcher']
    assert command('train', *words, f'data_root={debug_data}', 'train.iterations=2', 'hooks.pictures=None') == 0
    rows = [json.loads(line) for line in (tmp_path / 'terms.jsonl').read_text().splitlines()]
    assert len(rows) == 2 and all(row['loss_mask_dice'] > 0 for row in rows)


def test_a_senseless_k_is_refused():
    with pytest.raises(ConfigError, match='model.matcher.k'):
        SparseMatcher(dict(given=Given(torch.zeros(2, 1))), k=0)


def test_the_costs_are_those_of_the_registry():
    assert 'ClassCost' in COSTS.names()
    matcher = SparseMatcher(dict(class_=dict(type='ClassCost'), fada=None), weights=dict(class_=0.5))
    assert matcher.costs['class_'].weight == 0.5 and list(matcher.costs) == ['class_']
