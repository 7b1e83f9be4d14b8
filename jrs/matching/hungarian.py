"""Summing the costs, and the optimal one-to-one assignment of queries to true instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jrs.errors import ConfigError, NonFiniteError, PluginError, did_you_mean
from jrs.registry import COSTS, MATCHERS, build, check_shape
from jrs.signatures import accepted_keys
from jrs.structures import InstanceTargets, Match, QueryPredictions


class CostMatcher:
    """Sums the named costs and matches every supervised level; a subclass says in `assign` who gets whom.

    Args:
        costs: name -> config of a part of ``COSTS``; None turns a cost off.
        weights: name -> multiplier, shared with the loss of the same name; not asked for a cost that sets its own.
        alignment: divergence between distributions over views, offered to the costs that ask for it.
        path: where this matcher stands in the config, for messages.

    Raises:
        ConfigError: no cost is on, or one has no weight, or its constructor takes none.
    """

    def __init__(self, costs: Mapping[str, dict | None], weights: Mapping[str, float] | None = None,
                 alignment: Callable[[Tensor, Tensor], Tensor] | None = None, path: str = 'model.matcher') -> None:
        weights = weights or {}
        self.costs = {name: build(COSTS, cost, f'{path}.costs.{name}', alignment=alignment,
                                  **_weight_offer(name, cost, weights, f'{path}.costs.{name}'))
                      for name, cost in costs.items() if cost is not None}
        if not self.costs:
            raise ConfigError(f'{path}.costs has no cost that is on: name at least one.')

    @torch.no_grad()
    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Match:
        """Assign the queries of one scene; auxiliary levels are matched each by their own predictions.

        Args:
            pred: class_logits (Q, K + 1), masks() (Q, V*h*w), view_attention (L, Q, V): what the costs read.
            target: G instances; G = 0 and G > Q are fine.

        Returns:
            pairs in ascending order of the query, on the device of the predictions.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
            PluginError: `assign` gives no pairs, one query to two instances, or what does not exist.
        """
        auxiliary = [self(level, target) for level in pred.auxiliary]
        device = pred.embedding.device
        if target.labels.shape[0] == 0:
            nobody = torch.zeros(0, dtype=torch.int64, device=device)
            return Match(nobody, nobody, auxiliary)
        cost = self.total_cost(pred, target)
        given = self.assign(cost, pred, target)
        try:
            queries, instances, *weights = _pairs(given, cost.shape)
        except ValueError as fault:
            raise PluginError(
                f'{type(self).__name__}.assign {fault}. It must return queries (n,) out of 0 .. {cost.shape[0] - 1}, each '
                f'at most once, and the instance of each (n,) out of 0 .. {cost.shape[1] - 1}; a third tensor (n,) >= 0 '
                'weighs the pairs.') from None
        return Match(queries.to(device), instances.to(device), auxiliary, *(weight.to(device) for weight in weights))

    def assign(self, cost: Tensor, pred: QueryPredictions, target: InstanceTargets) -> tuple[Tensor | np.ndarray, ...]:
        """Return queries (n,) and their instances (n,), integers, for `cost` (Q, G) on the CPU with G > 0.

        Tensors, arrays or lists. A third one (n,) becomes the weights of the pairs (`Match.weights`).
        """
        raise NotImplementedError

    def total_cost(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return the sum of the costs, (Q, G) float64 on the CPU; raises NonFiniteError when an entry is not finite."""
        costs = {name: cost(pred, target) for name, cost in self.costs.items()}
        expected = (pred.embedding.shape[0], target.labels.shape[0])
        for name, cost in costs.items():
            check_shape(cost, expected, '(Q, G)', f'The matching cost {name!r}', self.costs[name])
        costs = {name: cost.double() for name, cost in costs.items()}
        total = sum(costs.values()).cpu()                               # the only wait for the device
        if not total.isfinite().all():
            for name, cost in costs.items():
                _check_finite(name, cost)
        return total


@MATCHERS.register_module()
class HungarianMatcher(CostMatcher):
    """Solves the rectangular assignment (baselines.md section 2.1): min(Q, G) pairs of least total cost.

    Args and errors: see `CostMatcher`.
    """

    def assign(self, cost: Tensor, pred: QueryPredictions, target: InstanceTargets) -> tuple[np.ndarray, np.ndarray]:
        """Return the optimal pairs for `cost` (Q, G), in ascending order of the query."""
        return linear_sum_assignment(cost.numpy())


def _pairs(given: object, shape: tuple[int, int]) -> list[Tensor]:
    """Return what `assign` gave for a cost of `shape` (Q, G) as tensors; a ValueError says why it makes no pairs."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError(f'returned a {type(given).__name__}' + (f' of {len(given)}' if hasattr(given, '__len__') else ''))
    queries, instances, *weights = (torch.as_tensor(values) for values in given)
    sizes = [tuple(values.shape) for values in (queries, instances, *weights)]
    if len(set(sizes)) > 1 or len(sizes[0]) != 1:
        raise ValueError(f'returned shapes {", ".join(map(str, sizes))}')
    _check_places(queries, shape[0], 'queries')
    _check_places(instances, shape[1], 'instances')
    if len(queries.unique()) < len(queries):
        twice = queries.mode().values.item()
        raise ValueError(f'gave query {twice} to the instances {instances[queries == twice].tolist()}')
    if weights and not (weights[0] >= 0).all():
        raise ValueError(f'returned weights {weights[0].tolist()[:5]}')
    return [queries.long(), instances.long(), *weights]


def _check_places(places: Tensor, count: int, name: str) -> None:
    if len(places) and (places.is_floating_point() or places.dtype == torch.bool):
        raise ValueError(f'returned {name} of type {places.dtype}')
    outside = places[(places < 0) | (places >= count)].tolist()
    if outside:
        raise ValueError(f'named {name} {outside[:5]}, which do not exist')


def _weight_offer(name: str, cost: object, weights: Mapping[str, float], path: str) -> dict[str, float]:
    if not isinstance(cost, Mapping) or 'weight' in cost:
        return {}
    if name not in weights:
        raise ConfigError(f'{path} has no weight: model.weights does not name {name!r}.{did_you_mean(name, weights)}')
    allowed = accepted_keys(COSTS.lookup(cost.get('type'), path))
    if allowed is not None and 'weight' not in allowed:
        raise ConfigError(f'{path}: the constructor of {cost["type"]} takes no `weight`, so that model.weights.{name} would '
                          'change nothing. Take it, and multiply the cost by it: def __init__(self, weight): …')
    return {'weight': weights[name]}


def _check_finite(name: str, cost: Tensor) -> None:
    wrong = (~cost.isfinite()).nonzero()                                # (n, 2)
    if len(wrong):
        query, instance = wrong[0].tolist()
        raise NonFiniteError(
            f'The matching cost {name!r} is {cost[query, instance].item()} for query {query} and instance {instance} '
            f'({len(wrong)} of {cost.numel()} pairs are not finite). The predictions it reads have diverged: lower the '
            'learning rate, check gradient clipping, or resume from an earlier checkpoint.')
