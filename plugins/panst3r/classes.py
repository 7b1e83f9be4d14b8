"""Classes that know nothing of each other: the focal loss, its cost, and a head whose words are learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.losses.over_scenes import InstanceTerm, SceneOfQueries
from jrs.registry import COSTS, HEADS, LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions

FIRST_SCALE, FIRST_PROBABILITY = 5.0, 0.01     # of `LearnedClassHead`


def focal(logits: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the focal loss of independent classes, (Q, K) of `logits` (Q, K), where a class is true, and where it is not.

    alpha (1 - p)^gamma * -log(p) and (1 - alpha) p^gamma * -log(1 - p), p = sigmoid(logits).
    """
    probability = logits.sigmoid()
    return (alpha * (1 - probability) ** gamma * F.softplus(-logits),
            (1 - alpha) * probability ** gamma * F.softplus(logits))


def sigmoid_logits(pred: QueryPredictions, who: str) -> Tensor:
    """Return the class logits (Q, K) float32 of one scene.

    Raises:
        ConfigError: the class head has "no object".
    """
    if pred.classes != 'sigmoid':
        raise ConfigError(f'{who} is of K classes that know nothing of each other, and the class head gives '
                          f"{pred.classes!r}: take a head with classes='sigmoid', or ClassLoss and ClassCost.")
    return pred.class_logits.float()


@COSTS.register_module()
class FocalCost:
    """Focal loss of an instance's class if the query has it, minus that if it has not (baselines.md 4.5; the form is ours).

    Args:
        weight: multiplier in the matching cost.
        alpha, gamma: of `focal`.
        ignored_label: label of instances whose class nobody knows, beside `UNNAMED`: they cost nothing.
    """

    classes = 'sigmoid'

    def __init__(self, weight: float, alpha: float = 0.25, gamma: float = 2.0, ignored_label: int | None = None) -> None:
        self.weight, self.alpha, self.gamma, self.ignored_label = weight, alpha, gamma, ignored_label

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G); reads ``pred.class_logits`` (Q, K) and ``target.labels`` (G,)."""
        true, false = focal(sigmoid_logits(pred, 'FocalCost'), self.alpha, self.gamma)
        unknown = target.unknown(self.ignored_label)                            # (G,)
        cost = (true - false)[:, target.labels.masked_fill(unknown, 0)]         # (Q, G)
        return self.weight * cost.masked_fill(unknown, 0.0)


@LOSSES.register_module()
class FocalLoss(InstanceTerm):
    """Focal loss of all queries over K classes, per matched pair; unmatched queries have none (baselines.md section 4.5).

    The sum over queries and classes is divided by the number of matched pairs, at least 1 (ours; common practice). Queries
    of instances whose class nobody knows do not count.

    Args:
        alpha, gamma: of `focal`.
        ignored_label: as of `FocalCost`.
        options: of `InstanceTerm`; 'pooled' divides the sum of all scenes by all their pairs.
    """

    classes = 'sigmoid'

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, ignored_label: int | None = None, **options) -> None:
        super().__init__(**options)
        self.alpha, self.gamma, self.ignored_label = alpha, gamma, ignored_label

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor:
        """Return a scalar; reads ``pred.class_logits`` (Q, K) and ``target.labels`` (G,).

        Raises:
            ConfigError: the class head has "no object".
        """
        return self.pooled([(pred, target, match)])

    def pooled(self, scenes: Sequence[SceneOfQueries]) -> Tensor:
        """Return a scalar over the queries of all scenes; errors as of a call."""
        total, pairs = 0.0, 0.0
        for pred, target, match in scenes:
            logits = sigmoid_logits(pred, 'FocalLoss')                          # (Q, K)
            labels = target.labels[match.instances]                             # (n,)
            known = ~target.unknown(self.ignored_label)[match.instances]
            counts, wanted = logits.new_ones(len(logits)), torch.zeros_like(logits)
            counts[match.queries] = known.float() if match.weights is None else known * match.weights.float()
            wanted[match.queries[known], labels[known]] = 1.0
            true, false = focal(logits, self.alpha, self.gamma)
            total = total + (counts[:, None] * torch.where(wanted > 0, true, false)).sum()
            pairs = pairs + counts[match.queries].sum()
        return total / torch.as_tensor(pairs, device=total.device).clamp_min(1.0)


@HEADS.register_module()
class LearnedClassHead(nn.Module):
    """`TextClassHead` without words: the vector of each class is learned, so that no text encoder is needed. Ours.

    Each class has a bias beside, and no class is probable at first: a focal loss over many classes would otherwise be all
    that a short training lowers.

    Args:
        num_classes: K.
        embedding_dim: width of what it reads.
        dim: width of the vectors.
    """

    classes = 'sigmoid'

    def __init__(self, num_classes: int, embedding_dim: int = 128, dim: int = 128) -> None:
        super().__init__()
        self.projection = nn.Linear(embedding_dim, dim)
        self.vectors = nn.Parameter(torch.randn(num_classes, dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.bias = nn.Parameter(torch.full((num_classes,), math.log(FIRST_PROBABILITY / (1 - FIRST_PROBABILITY))))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits (B, Q, K), scaled cosines and biases, for `embedding` (B, Q, D); autocast is off."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = F.normalize(self.projection(embedding.to(self.projection.weight.dtype)), dim=-1)
            return self.logit_scale.exp() * (projected @ F.normalize(self.vectors, dim=-1).T) + self.bias
