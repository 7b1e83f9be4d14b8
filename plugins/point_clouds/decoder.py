"""Queries that read superpoints: the decoder of SPFormer and OneFormer3D (baselines.md sections 3.1 to 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jrs_plugins.point_clouds.sampling import farthest_points
from jrs_plugins.point_clouds.scene_voxels import SceneVoxels
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.registry import MODELS, build
from jrs.structures import Moves, QueryPredictions


@dataclass
class Superpoints(Moves):
    """The S superpoints of one scene.

    Attributes:
        features: (S, C).
        positions: (S, 3) metres, the mean of each superpoint's points.
        num_points: (S,) int64.
        voxels: of the scene, for decoders that read them; else None.
    """

    features: Tensor
    positions: Tensor
    num_points: Tensor
    voxels: SceneVoxels | None = None


@dataclass
class PointPredictions(QueryPredictions):
    """What the queries of a point-cloud method say; masks are (Q, 1, 1, S): superpoints are the pixels of one view.

    Attributes:
        semantic_logits: (Q, K' + 1) over all classes of the data set, stuff included, of the superpoint that each query
            stands for; the last column is "no class". None without that head.
        element_features: (n, S, C) what the superpoints are after each of n steps, of the last prediction in training; None
            where no loss asks.
        voxel_logits, voxel_offsets: (X, K + 1) and (X, 3) metres, the class of each voxel and how far the centre of its
            instance is from it, of the last prediction in training; None without such heads.
    """

    semantic_logits: Tensor | list[Tensor] | None = None
    element_features: Tensor | list[Tensor] | None = None
    voxel_logits: Tensor | list[Tensor] | None = None
    voxel_offsets: Tensor | list[Tensor] | None = None


@MODELS.register_module()
class LearnedQueries(nn.Module):
    """Queries that are the same for every scene.

    Args:
        dim_in: not read.
        width: C.
        num_queries: Q.
    """

    def __init__(self, dim_in: int, width: int, num_queries: int = 400) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(num_queries, width))

    def forward(self, scene: Superpoints) -> tuple[Tensor, None]:
        """Return the queries (Q, C), which stand for no superpoint, whatever the scene."""
        return self.embedding, None


@MODELS.register_module()
class SuperpointQueries(nn.Module):
    """One query per superpoint, from its features; in training for a random share of them.

    Args:
        dim_in: channels of the superpoints.
        width: C.
        train_share: bounds of the share of the superpoints that a training scene draws.
    """

    def __init__(self, dim_in: int, width: int, train_share: tuple[float, float] = (0.5, 1.0)) -> None:
        super().__init__()
        self.train_share = train_share
        self.projection = nn.Sequential(nn.Linear(dim_in, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, scene: Superpoints) -> tuple[Tensor, Tensor]:
        """Return queries (Q, C) and the superpoint (Q,) that each stands for."""
        features = scene.features
        elements = torch.arange(len(features), device=features.device)
        if self.training:
            low, high = self.train_share
            count = math.floor((low + (high - low) * torch.rand(()).item()) * len(features))
            elements = torch.randperm(len(features), device=features.device)[:max(1, count)]
        return self.projection(features[elements]), elements


@MODELS.register_module()
class FarthestPointQueries(nn.Module):
    """Queries from the features of superpoints that lie far from each other, so that they cover the scene.

    Ours, for what is known of QueryFormer (baselines.md section 3.5): high coverage, low repetition.

    Args:
        dim_in: channels of the superpoints.
        width: C.
        num_queries: Q; a scene of fewer superpoints has one query for each.
    """

    def __init__(self, dim_in: int, width: int, num_queries: int = 400) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.projection = nn.Sequential(nn.Linear(dim_in, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, scene: Superpoints) -> tuple[Tensor, Tensor]:
        """Return queries (Q, C) and the superpoint (Q,) that each stands for."""
        elements = farthest_points(scene.positions, min(self.num_queries, len(scene.positions)))
        return self.projection(scene.features[elements]), elements


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network; the norm follows each sum.

    Args:
        width: C of queries and keys.
        num_heads: heads of both attentions.
        hidden: width of the feed-forward network.
        cross_norm: whether there is a norm after the cross-attention; SPFormer's weights are trained without.
        activation: of the feed-forward network.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, cross_norm: bool = True,
                 activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.cross_attention = nn.MultiheadAttention(width, num_heads)
        self.cross_norm = nn.LayerNorm(width) if cross_norm else nn.Identity()
        self.self_attention, self.self_norm = nn.MultiheadAttention(width, num_heads), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), activation(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, blocked: Tensor, places: Tensor | None = None,
                key_places: Tensor | None = None) -> Tensor:
        """Return queries (Q, C) that have read `keys` (S, C) where `blocked` (Q, S) is False.

        `places` (Q, C) and `key_places` (S, C) say where queries and keys are: attention compares them, and does not read
        them.
        """
        read, _ = self.cross_attention(_placed(queries, places), _placed(keys, key_places), keys, attn_mask=blocked,
                                       need_weights=False)
        queries = self.cross_norm(queries + read)
        seen = _placed(queries, places)
        queries = self.self_norm(queries + self.self_attention(seen, seen, queries, need_weights=False)[0])
        return self.norm(queries + self.feed_forward(queries))


def _placed(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values + places


class QueryHeads(nn.Module):
    """What a normalised query says: classes, the overlap of its mask, and where it stands for a superpoint its semantics.

    Args:
        width: C.
        num_classes: K.
        score: whether there is a head for the overlap.
        semantic_classes: K', None = no such head.
        semantic_layers: 1 or 2 linear layers of it.
    """

    def __init__(self, width: int, num_classes: int, score: bool, semantic_classes: int | None = None,
                 semantic_layers: int = 1) -> None:
        super().__init__()
        self.classes = _two_layers(width, num_classes + 1)
        self.score = _two_layers(width, 1) if score else None
        self.semantic = None
        if semantic_classes is not None:
            self.semantic = _two_layers(width, semantic_classes + 1) if semantic_layers == 2 else \
                nn.Linear(width, semantic_classes + 1)

    def forward(self, queries: Tensor, mask_features: Tensor, last: bool, **known: Tensor | None) -> PointPredictions:
        """Return the prediction of one level: masks are inner products of `queries` (Q, C) and `mask_features` (S, C).

        `known` are further fields of the prediction.
        """
        masks = queries @ mask_features.T                                                   # (Q, S)
        scores = None if self.score is None else self.score(queries)[:, 0]
        semantic = self.semantic(queries) if last and self.semantic is not None else None
        return PointPredictions(queries, self.classes(queries), masks[:, None, None], scores=scores,
                                semantic_logits=semantic, **known)


@MODELS.register_module()
class SuperpointDecoder(nn.Module):
    """Queries read superpoints layer by layer, each where its mask so far is likely.

    There is a prediction before the first layer and one after each; in evaluation only the last one is kept.

    Args:
        dim_in: channels of the superpoints.
        num_classes: K.
        start: how queries start: `LearnedQueries`, `SuperpointQueries` or `FarthestPointQueries`.
        layers, width, num_heads, hidden: of the decoder.
        cross_norm: see `DecoderLayer`.
        mask_threshold: superpoints whose mask probability is lower are hidden from a query; one that would see nothing sees
            everything.
        score_head: whether a head says the overlap of each mask with its instance.
        semantic_classes: K' classes of a semantic head of the last prediction, None = no such head.
        semantic_layers: 1 or 2 linear layers of it.

    Raises:
        ConfigError: a width that the heads do not divide, or no layer.
    """

    def __init__(self, dim_in: int, num_classes: int, start: dict, layers: int = 6, width: int = 256, num_heads: int = 8,
                 hidden: int = 1024, cross_norm: bool = True, mask_threshold: float = 0.5, score_head: bool = False,
                 semantic_classes: int | None = None, semantic_layers: int = 1, path: str = 'model.decoder') -> None:
        super().__init__()
        if layers < 1 or width % num_heads:
            raise ConfigError(f'{path} needs at least one layer and a width that num_heads divides, got layers={layers}, '
                              f'width={width}, num_heads={num_heads}.')
        self.start = build(MODELS, start, f'{path}.start', dim_in=dim_in, width=width)
        self.key_projection = nn.Sequential(nn.Linear(dim_in, width), nn.LayerNorm(width), nn.ReLU())
        self.mask_projection = nn.Sequential(nn.Linear(dim_in, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, hidden, cross_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.heads = QueryHeads(width, num_classes, score_head, semantic_classes, semantic_layers)
        self.mask_threshold = mask_threshold

    def forward(self, scene: Superpoints) -> PointPredictions:
        """Return the predictions of one scene; the earlier ones are its `auxiliary`, in training only."""
        keys, mask_features = self.key_projection(scene.features), self.mask_projection(scene.features)     # (S, C) each
        queries, elements = self.start(scene)

        def predict(last: bool) -> PointPredictions:
            return self.heads(self.norm(queries), mask_features, last, elements=elements, element_points=scene.num_points)
        levels = [predict(False)]
        for index, layer in enumerate(self.layers):
            queries = layer(queries, keys, blocked_elements(levels[-1].mask_logits, self.mask_threshold))
            levels.append(predict(index + 1 == len(self.layers)))
        return levels[-1] if not self.training else replace(levels[-1], auxiliary=levels[:-1])


@torch.no_grad()
def blocked_elements(mask_logits: Tensor, threshold: float) -> Tensor:
    """Return which elements are hidden from each query, (Q, E) bool, by its `mask_logits` (Q, ..., E) so far.

    Those whose probability is below `threshold`; none of a query that would see nothing.
    """
    blocked = mask_logits.flatten(1).sigmoid() < threshold
    return blocked & ~blocked.all(dim=1, keepdim=True)


def side_by_side(scenes: Sequence[PointPredictions]) -> PointPredictions:
    """Return the predictions of B scenes, each without an axis B, as one whose fields are lists of B tensors."""
    first = scenes[0]
    lists = {f.name: [getattr(scene, f.name) for scene in scenes] for f in fields(first)
             if isinstance(getattr(first, f.name), Tensor)}
    auxiliary = [side_by_side([scene.auxiliary[level] for scene in scenes]) for level in range(len(first.auxiliary))]
    return replace(first, **lists, auxiliary=auxiliary)


def _two_layers(width: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim_out))
