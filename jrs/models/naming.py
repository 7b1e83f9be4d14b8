"""Classes of masks that no query made, such as clusters: the class head reads the mean instance feature of each mask.

In training the masks are the true ones, each is its own match, and the class loss says what it says of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jrs.structures import Instances, InstanceTargets, Match, QueryPredictions

BY_MEAN = 'names by the mean feature of the mask'


def mean_features(features: Tensor, masks: Tensor) -> Tensor:
    """Return the mean (n, D) of features (V, D, h, w) inside each of the masks (n, V, h, w) bool; 0 for an empty one."""
    inside = masks.flatten(1).to(features.dtype)                                # (n, V*h*w)
    total = inside @ features.movedim(1, -1).flatten(0, 2)                      # (n, D)
    return total / inside.sum(dim=1, keepdim=True).clamp_min(1)


def named_regions(head: nn.Module, features: Tensor,
                  targets: Sequence[InstanceTargets]) -> tuple[QueryPredictions, list[Match]]:
    """Return the true instances of B scenes as queries that only have classes, and that each is matched to itself.

    `features` are (B, V, D, h, w), and masks of the targets (G, V, h, w).
    """
    embeddings = [mean_features(of_scene, target.masks) for of_scene, target in zip(features, targets, strict=True)]
    every = torch.arange(max(map(len, embeddings)), device=features.device)
    logits = [head(embedding[None])[0] for embedding in embeddings]                             # (G, K + 1) each
    queries = QueryPredictions(embeddings, class_logits=logits, classes=getattr(head, 'classes', 'softmax'))
    return queries, [Match(every[:len(embedding)], every[:len(embedding)]) for embedding in embeddings]


def named(head: nn.Module, instances: Instances, features: Tensor) -> Instances:
    """Return instances with the class that the head gives to the mean feature of each mask; their scores stay.

    `features` are (V, D, h, w), brought to the size of the masks where that is another one.
    """
    if not len(instances):
        return instances
    if tuple(features.shape[-2:]) != tuple(instances.packed.size):
        features = F.interpolate(features, size=instances.packed.size, mode='nearest')
    embedding = torch.cat([mean_features(features, mask[None]) for mask in instances.packed])   # (M, D)
    seen = QueryPredictions(embedding, class_logits=head(embedding[None])[0], classes=getattr(head, 'classes', 'softmax'))
    labels = seen.class_probabilities()[0].argmax(dim=1)                                        # (M,)
    ranking = f'{instances.ranking}; {BY_MEAN}' if instances.ranking else ''
    return replace(instances, labels=labels.to(instances.labels.dtype), ranking=ranking)
