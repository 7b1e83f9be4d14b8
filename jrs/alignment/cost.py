"""FADA in the matcher: a query is cheap for the instance whose views it already looks at."""

from __future__ import annotations

from torch import Tensor

from jrs.alignment.divergence import Alignment
from jrs.errors import ConfigError
from jrs.registry import COSTS, check_shape
from jrs.structures import InstanceTargets, QueryPredictions


@COSTS.register_module()
class ViewAttentionCost:
    """How far a query's attention over views is from where an instance is visible (Eq. 8).

    Args:
        alignment: divergence between two distributions over views, from ``ALIGNMENTS`` (the paper: Jensen-Shannon).
        weight: multiplier in the matching cost.
        per_view: divide by V, the number of views (the paper in words; the formula, Eq. 9, is lost).
    """

    def __init__(self, alignment: Alignment, weight: float, per_view: bool = True) -> None:
        self.alignment = alignment
        self.weight = weight
        self.per_view = per_view

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return the cost of each query-instance pair, shape (Q, G).

        Reads ``pred.view_attention`` (L, Q, V) and ``target.view_visibility`` (G, V); rows over V sum to one.

        Raises:
            ConfigError: the queries do not report their attention.
        """
        attention = required_attention(pred, 'ViewAttentionCost')[:, :, None]    # (L, Q, 1, V)
        divergence = self.alignment(attention, target.view_visibility)           # (L, Q, G)
        expected = (*attention.shape[:2], len(target.view_visibility))
        check_shape(divergence, expected, '(L, Q, G)', 'The alignment', self.alignment)
        views = target.num_views if self.per_view else 1
        return self.weight * divergence.mean(dim=0) / views                      # (Q, G)


def required_attention(pred: QueryPredictions, reader: str) -> Tensor:
    """Return ``pred.view_attention`` (L, Q, V), or say who needs it and cannot have it."""
    if pred.view_attention is None:
        raise ConfigError(f'{reader} reads the view attention of the queries, and these queries report none. '
                          'Use queries that do in training (InsertedQueries), or set this entry to None.')
    return pred.view_attention
