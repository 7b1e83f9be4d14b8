"""Queries of what voxels are likely to be, and superpoints that read them in turn: SGIFormer (baselines.md section 3.7)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jrs_plugins.point_clouds.convolution import RowNorm
from jrs_plugins.point_clouds.decoder import DecoderLayer, PointPredictions, QueryHeads, Superpoints, blocked_elements
from jrs_plugins.point_clouds.fourier import FourierPositions, in_own_box
from jrs_plugins.point_clouds.pooling import superpoint_mean
from jrs_plugins.point_clouds.scene_voxels import SceneVoxels
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.registry import MODELS


class SuperpointReading(nn.Module):
    """Superpoints read queries, then each other; the norm follows each sum, positions are compared and not read.

    Args:
        width: C.
        num_heads: heads of both attentions.
        among: whether superpoints read each other.
    """

    def __init__(self, width: int, num_heads: int, among: bool) -> None:
        super().__init__()
        self.cross_attention, self.cross_norm = nn.MultiheadAttention(width, num_heads), nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, num_heads) if among else None
        self.self_norm = nn.LayerNorm(width) if among else None

    def forward(self, superpoints: Tensor, places: Tensor, queries: Tensor) -> Tensor:
        """Return superpoints (S, C) at `places` (S, C) that have read `queries` (Q, C)."""
        read, _ = self.cross_attention(superpoints + places, queries, queries, need_weights=False)
        superpoints = self.cross_norm(superpoints + read)
        if self.self_attention is None:
            return superpoints
        seen = superpoints + places
        return self.self_norm(superpoints + self.self_attention(seen, seen, superpoints, need_weights=False)[0])


@MODELS.register_module()
class GuidedDecoder(nn.Module):
    """Queries of the voxels that are most likely of an object, and learned ones; they and superpoints read in turn.

    Two heads say of each voxel its class and how far the centre of its instance is; superpoints are where these centres are.
    There is a prediction before the first layer and one after each; in evaluation only the last one is kept.

    Args:
        dim_in: channels of the voxels.
        num_classes: K.
        num_guided, num_learned: queries of either kind, Q together, in this order.
        voxel_share: of a scene's voxels, those that guided queries are made of; at least one.
        layers, width, num_heads, hidden: of the decoder.
        mask_threshold: superpoints whose mask probability is lower are hidden from a query; one that would see nothing sees
            everything.
        superpoint_attention: whether superpoints read each other; the release for ScanNet++ does without.
        score_head: whether a head says the overlap of each mask with its instance.

    Raises:
        ConfigError: a width that the heads do not divide, no layer, no query, or a share that is none.
    """

    reads = 'voxels'

    def __init__(self, dim_in: int, num_classes: int, num_guided: int = 200, num_learned: int = 200,
                 voxel_share: float = 0.4, layers: int = 3, width: int = 256, num_heads: int = 8, hidden: int = 1024,
                 mask_threshold: float = 0.5, superpoint_attention: bool = True, score_head: bool = False,
                 path: str = 'model.decoder') -> None:
        super().__init__()
        if layers < 1 or width % num_heads or width % 2 or num_guided < 1 or num_learned < 1:
            raise ConfigError(f'{path} needs at least one layer and one query of either kind, and an even width that '
                              f'num_heads divides, got layers={layers}, num_guided={num_guided}, num_learned={num_learned}, '
                              f'width={width}, num_heads={num_heads}.')
        if not 0 < voxel_share <= 1:
            raise ConfigError(f'{path}.voxel_share must be in (0, 1], got {voxel_share!r}.')
        self.voxel_share, self.mask_threshold = voxel_share, mask_threshold
        self.voxel_classes, self.voxel_offsets = _voxel_head(dim_in, num_classes + 1), _voxel_head(dim_in, 3)
        self.voxel_projection = nn.Sequential(nn.Linear(dim_in, width), nn.LayerNorm(width), nn.ReLU())
        self.guide = nn.Sequential(nn.Linear(width, num_guided), nn.LayerNorm(num_guided), nn.ReLU())
        self.learned = nn.Parameter(torch.randn(num_learned, width))
        self.key_projection = nn.Sequential(nn.Linear(dim_in, width), nn.LayerNorm(width), nn.ReLU())
        self.mask_projection = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.key_positions = FourierPositions(width)
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, hidden) for _ in range(layers))
        self.updates = nn.ModuleList(                                           # nobody would read those after the last
            SuperpointReading(width, num_heads, superpoint_attention) for _ in range(layers - 1))
        self.norm = nn.LayerNorm(width)
        self.heads = QueryHeads(width, num_classes, score_head)

    def of_voxels(self, features: Tensor) -> dict[str, Tensor]:
        """Return what the heads say of voxels (X, C) of all scenes: `class_logits` (X, K + 1), `offsets` (X, 3) metres."""
        return dict(class_logits=self.voxel_classes(features), offsets=self.voxel_offsets(features))

    def forward(self, scene: Superpoints) -> PointPredictions:
        """Return the predictions of one scene; the earlier ones are its `auxiliary`, in training only."""
        voxels = scene.voxels
        keys = self.key_projection(scene.features)                                          # (S, C)
        mask_features, places = self.mask_projection(keys), self.key_positions(self.centres(voxels, len(keys)))
        queries = self.starts(voxels)

        def predict() -> PointPredictions:
            return self.heads(self.norm(queries), mask_features, False, element_points=scene.num_points)
        levels = [predict()]
        for number, layer in enumerate(self.layers):
            if number > 0:
                keys = self.updates[number - 1](keys, places, queries)
            queries = layer(queries, keys + places, blocked_elements(levels[-1].mask_logits, self.mask_threshold))
            levels.append(predict())
        if not self.training:
            return levels[-1]
        return replace(levels[-1], auxiliary=levels[:-1], voxel_logits=voxels.class_logits, voxel_offsets=voxels.offsets)

    def starts(self, voxels: SceneVoxels) -> Tensor:
        """Return the queries (Q, C) with which a scene starts."""
        likely = voxels.class_logits.softmax(dim=1)[:, :-1].amax(dim=1)                     # (X,)
        best = likely.topk(max(1, int(self.voxel_share * len(likely)))).indices
        known = self.voxel_projection(voxels.features[best])                                # (n, C)
        guided = self.guide(known).softmax(dim=0).T @ known                                 # (num_guided, C)
        return torch.cat([guided, self.learned])

    def centres(self, voxels: SceneVoxels, count: int) -> Tensor:
        """Return where each of `count` superpoints is, (S, 3) in 0 .. 1: the mean of its points' centres of instances."""
        centres = (voxels.positions + voxels.offsets)[voxels.point_voxel]                   # (N, 3) metres
        return in_own_box(superpoint_mean(centres, voxels.point_superpoint, count))


def _voxel_head(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim_in), RowNorm(dim_in, eps=1e-3, momentum=0.01), nn.ReLU(),
                         nn.Linear(dim_in, dim_out))
