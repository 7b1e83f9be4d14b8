"""Summing the costs, and the optimal one-to-one assignment of queries to true instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jrs.errors import ConfigError, NonFiniteError, did_you_mean
from jrs.registry import COSTS, MATCHERS, build, check_shape
from jrs.structures import InstanceTargets, Match, QueryPredictions


class CostMatcher:
    """Sums the named costs and matches every supervised level; a subclass says in `assign` who gets whom.

    Args:
        costs: name -> config of a part of ``COSTS``; None turns a cost off.
        weights: name -> multiplier, shared with the loss of the same name; not asked for a cost that sets its own.
        alignment: divergence between distributions over views, offered to the costs that ask for it.
        path: where this matcher stands in the config, for messages.

    Raises:
        ConfigError: no cost is on, or one has no weight.
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
        """
        auxiliary = [self(level, target) for level in pred.auxiliary]
        device = pred.embedding.device
        if target.labels.shape[0] == 0:
            nobody = torch.zeros(0, dtype=torch.int64, device=device)
            return Match(nobody, nobody, auxiliary)
        queries, instances, *weights = self.assign(self.total_cost(pred, target).cpu(), pred, target)
        return Match(queries.to(device), instances.to(device), auxiliary, *(weight.to(device) for weight in weights))

    def assign(self, cost: Tensor, pred: QueryPredictions, target: InstanceTargets) -> tuple[Tensor, ...]:
        """Return queries (n,) and their instances (n,), int64, for `cost` (Q, G) on the CPU with G > 0.

        A third tensor (n,) becomes the weights of the pairs (`Match.weights`).
        """
        raise NotImplementedError

    def total_cost(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return the sum of the costs, (Q, G) float64; raises NonFiniteError when an entry is not finite."""
        costs = {name: cost(pred, target) for name, cost in self.costs.items()}
        expected = (pred.embedding.shape[0], target.labels.shape[0])
        for name, cost in costs.items():
            check_shape(cost, expected, '(Q, G)', f'The matching cost {name!r}', self.costs[name])
        costs = {name: cost.double() for name, cost in costs.items()}
        total = sum(costs.values())
        if not total.isfinite().all():
            for name, cost in costs.items():
                _check_finite(name, cost)
        return total


@MATCHERS.register_module()
class HungarianMatcher(CostMatcher):
    """Solves the rectangular assignment (baselines.md section 2.1): min(Q, G) pairs of least total cost.

    Args and errors: see `CostMatcher`.
    """

    def assign(self, cost: Tensor, pred: QueryPredictions, target: InstanceTargets) -> tuple[Tensor, Tensor]:
        """Return the optimal pairs for `cost` (Q, G), in ascending order of the query."""
        queries, instances = linear_sum_assignment(cost.numpy())
        return torch.from_numpy(queries), torch.from_numpy(instances)


def _weight_offer(name: str, cost: object, weights: Mapping[str, float], path: str) -> dict[str, float]:
    if not isinstance(cost, Mapping) or 'weight' in cost:
        return {}
    if name not in weights:
        raise ConfigError(f'{path} has no weight: model.weights does not name {name!r}.{did_you_mean(name, weights)}')
    return {'weight': weights[name]}


def _check_finite(name: str, cost: Tensor) -> None:
    wrong = (~cost.isfinite()).nonzero()                                # (n, 2)
    if len(wrong):
        query, instance = wrong[0].tolist()
        raise NonFiniteError(
            f'The matching cost {name!r} is {cost[query, instance].item()} for query {query} and instance {instance} '
            f'({len(wrong)} of {cost.numel()} pairs are not finite). The predictions it reads have diverged: lower the '
            'learning rate, check gradient clipping, or resume from an earlier checkpoint.')
