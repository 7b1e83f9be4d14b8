"""Matching of queries that each stand for one element of the scene: an instance takes its cheapest own queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from jrs.errors import ConfigError
from jrs.functional import surest_elements
from jrs.matching.hungarian import CostMatcher
from jrs.registry import MATCHERS
from jrs.structures import InstanceTargets, QueryPredictions

INELIGIBLE = 1e8                               # cost of a query whose element is not of the instance


@MATCHERS.register_module()
class SparseMatcher(CostMatcher):
    """Gives each instance the `k` cheapest queries whose own element it contains (baselines.md section 2.1).

    Kept are the queries whose cost is strictly below the (k + 1)-th smallest of the instance, so that ties at that value
    select nobody; with k queries or fewer, all that are eligible. An instance without an eligible query stays unmatched.
    Instances that do not share elements never share a query. A learned query stands for the valid element at which its mask
    is most likely (ours; the methods with this matcher make their queries from elements).

    Args:
        costs, weights, alignment, path: see `CostMatcher`.
        k: queries per instance, at least 1.

    Raises:
        ConfigError: `k` below 1, or what `CostMatcher` raises.
    """

    def __init__(self, costs: Mapping[str, dict | None], weights: Mapping[str, float] | None = None, k: int = 1,
                 alignment: Callable[[Tensor, Tensor], Tensor] | None = None, path: str = 'model.matcher') -> None:
        super().__init__(costs, weights, alignment, path)
        if k < 1:
            raise ConfigError(f'{path}.k must be at least 1, got {k!r}.')
        self.k = k

    def assign(self, cost: Tensor, pred: QueryPredictions, target: InstanceTargets) -> tuple[Tensor, Tensor]:
        """Return the kept pairs for `cost` (Q, G), in ascending order of the query."""
        elements = pred.elements if pred.elements is not None else surest_elements(pred.masks(), target.flat_valid)
        eligible = target.flat_masks[:, elements].T.to(cost.device)              # (Q, G)
        cost = cost.masked_fill(~eligible, INELIGIBLE)
        if len(cost) > self.k:
            eligible &= cost < cost.kthvalue(self.k + 1, dim=0).values
        queries, instances = eligible.nonzero().unbind(dim=1)                               # (n,) each
        return queries, instances
