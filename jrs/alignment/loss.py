"""FADA in the objective: each layer of a matched query should look where its instance is visible."""

from __future__ import annotations

from torch import Tensor

from jrs.alignment.cost import required_attention
from jrs.alignment.divergence import Alignment
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions


@LOSSES.register_module()
class ViewAttentionLoss:
    """Divergence of matched queries' attention from their instances' visibility, all layers supervised (Eq. 8).

    Args:
        alignment: divergence between two distributions over views, from ``ALIGNMENTS`` (the paper: Jensen-Shannon).
    """

    reads = 'instances'
    every_level = False                        # the final prediction already carries the attention of all layers

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return the mean over layers and matched pairs (`Match.mean`), divided by V: a scalar, None without pairs.

        Reads ``pred.view_attention`` (L, Q, V) and ``target.view_visibility`` (G, V); rows over V sum to one.

        Raises:
            ConfigError: the queries do not report their attention.
        """
        attention = required_attention(pred, 'ViewAttentionLoss')[:, match.queries]      # (L, n, V)
        mean = match.mean(self.alignment(attention, target.view_visibility[match.instances]))     # of (L, n)
        return None if mean is None else mean / target.num_views
