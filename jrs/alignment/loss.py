"""FADA in the objective: each layer of a matched query should look where its instance is visible."""

from __future__ import annotations

from torch import Tensor

from jrs.alignment.cost import required_attention
from jrs.alignment.divergence import Alignment
from jrs.errors import ConfigError
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions


@LOSSES.register_module()
class ViewAttentionLoss:
    """Divergence of matched queries' attention from their instances' visibility, all layers supervised (Eq. 8).

    Args:
        alignment: divergence between two distributions over views, from ``ALIGNMENTS`` (the paper: Jensen-Shannon).
        reduction: 'mean' or 'sum' over the matched pairs of a scene; over layers it is a mean (the paper averages "over all
            layers and frames", and of pairs it says nothing).
        per_view: divide by V, the number of views; `ViewAttentionCost` has the same switch.

    Raises:
        ConfigError: another reduction.
    """

    reads = 'instances'
    every_level = False                        # the final prediction already carries the attention of all layers

    def __init__(self, alignment: Alignment, reduction: str = 'mean', per_view: bool = True) -> None:
        if reduction not in ('mean', 'sum'):
            raise ConfigError(f"ViewAttentionLoss.reduction must be 'mean' or 'sum', over matched pairs, got {reduction!r}.")
        self.alignment = alignment
        self.reduction = reduction
        self.per_view = per_view

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return the mean over layers and mean or sum over pairs (`Match`), divided by V: a scalar, None without pairs.

        Reads ``pred.view_attention`` (L, Q, V) and ``target.view_visibility`` (G, V); rows over V sum to one.

        Raises:
            ConfigError: the queries do not report their attention.
        """
        attention = required_attention(pred, 'ViewAttentionLoss')[:, match.queries]      # (L, n, V)
        divergence = self.alignment(attention, target.view_visibility[match.instances])           # (L, n)
        value = match.mean(divergence) if self.reduction == 'mean' else match.sum(divergence)
        return value / target.num_views if value is not None and self.per_view else value
