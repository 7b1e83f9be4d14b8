"""Queries that read voxels, coarse ones first, and answer with masks of superpoints: Mask3D (baselines.md section 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.point_clouds.decoder import DecoderLayer, PointPredictions, Superpoints, blocked_elements
from jrs_plugins.point_clouds.fourier import FourierPositions, in_own_box
from jrs_plugins.point_clouds.pooling import superpoint_mean
from jrs_plugins.point_clouds.res16unet import Convolution
from jrs_plugins.point_clouds.sampling import farthest_points
from jrs_plugins.point_clouds.scene_voxels import SceneVoxels
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.registry import MODELS


@MODELS.register_module()
class LevelDecoder(nn.Module):
    """Queries at voxels far from each other read the levels of a network, coarsest first, several rounds.

    The layers of all rounds are the same. There is a prediction before each layer and one after the last; in evaluation
    only the last one is kept. Masks are of superpoints, whose features are means over their voxels.

    Args:
        dim_in: channels of the voxels.
        num_classes: K.
        level_dims: channels of the network's levels, coarsest first.
        num_queries: Q in evaluation; a scene of fewer voxels has one query for each.
        train_queries: Q in training.
        rounds: how often the levels are read.
        width, num_heads, hidden: of the layers.
        train_voxels: how many voxels of a level training looks at, at most and at random, for each level that is read,
            coarsest first.
        mask_threshold: voxels whose mask probability, averaged over the finest ones, is lower are hidden from a query; one
            that would see nothing sees everything.

    Raises:
        ConfigError: a network without levels, or sizes that do not fit.
    """

    reads = 'levels'

    def __init__(self, dim_in: int, num_classes: int, level_dims: Sequence[int] | None = None, num_queries: int = 150,
                 train_queries: int = 100, rounds: int = 3, width: int = 128, num_heads: int = 8, hidden: int = 1024,
                 train_voxels: Sequence[int] = (200, 800, 3200, 12800), mask_threshold: float = 0.5,
                 path: str = 'model.decoder') -> None:
        super().__init__()
        if level_dims is None:
            raise ConfigError(f'{path}: LevelDecoder reads a network at several strides: set model.network to one that has '
                              'levels, such as Res16UNet34C.')
        if rounds < 1 or not 1 <= len(train_voxels) <= len(level_dims) or width % num_heads or width % 2:
            raise ConfigError(f'{path} needs at least one round, 1 to {len(level_dims)} levels and an even width that '
                              f'num_heads divides, got rounds={rounds}, train_voxels={tuple(train_voxels)}, width={width}, '
                              f'num_heads={num_heads}.')
        self.num_queries, self.train_queries = num_queries, train_queries
        self.rounds, self.train_voxels, self.mask_threshold = rounds, tuple(train_voxels), mask_threshold
        self.mask_features = Convolution(dim_in, width, 1, bias=True)
        self.positions = FourierPositions(width)
        self.place = nn.Sequential(nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU())
        self.squeeze = nn.ModuleList(nn.Linear(dim, width) for dim in level_dims[:len(train_voxels)])
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, hidden, activation=nn.ReLU) for _ in train_voxels)
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        self.embedding = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, scene: Superpoints) -> PointPredictions:
        """Return the predictions of one scene; the earlier ones are its `auxiliary`, in training only."""
        voxels = scene.voxels
        mask_features = superpoint_mean(self.mask_features(voxels.features), voxels.superpoints, len(scene.num_points))
        key_places = [self.positions(in_own_box(voxels.at_level(voxels.positions, number)))
                      for number in range(len(self.layers))]                                # (X_l, C) each
        places = self.places(voxels.positions, self.starts(voxels.cells))
        queries, levels = torch.zeros_like(places), []
        for _ in range(self.rounds):
            for number, (squeeze, layer) in enumerate(zip(self.squeeze, self.layers, strict=True)):
                levels.append(self._predict(queries, mask_features, scene))
                rows = self._looked_at(number, voxels.levels[number])
                logits = self.logits_at(number, levels[-1], voxels)[:, rows]                # (Q, n)
                queries = layer(queries, squeeze(voxels.levels[number][rows]),
                                blocked_elements(logits, self.mask_threshold), places, key_places[number][rows])
        last = self._predict(queries, mask_features, scene)
        return last if not self.training else replace(last, auxiliary=levels)

    @staticmethod
    @torch.no_grad()
    def logits_at(number: int, queries: PointPredictions, voxels: SceneVoxels) -> Tensor:
        """Return the mask logits (Q, X_l) of the voxels of level `number`: means over those of the finest."""
        return voxels.at_level(queries.mask_logits.flatten(1)[:, voxels.superpoints].T, number).T

    def starts(self, cells: Tensor) -> Tensor:
        """Return the voxels (Q,) at which queries are, of voxels `cells` (X, 3)."""
        count = self.train_queries if self.training else self.num_queries
        return farthest_points(cells, min(count, len(cells)))

    def places(self, positions: Tensor, starts: Tensor) -> Tensor:
        """Return what queries know of where they are, (Q, C), of voxels at `positions` (X, 3) metres of which they are."""
        sine = self.positions(in_own_box(positions)[starts])                                # (Q, C)
        return self.place(sine.T).T

    def _predict(self, queries: Tensor, mask_features: Tensor, scene: Superpoints) -> PointPredictions:
        normed = self.norm(queries)
        embedding = self.embedding(normed)
        masks = embedding @ mask_features.T                                                 # (Q, S)
        return PointPredictions(embedding, self.classes(normed), masks[:, None, None], element_points=scene.num_points)

    def _looked_at(self, number: int, features: Tensor) -> Tensor:
        """Return the rows (n,) of a level that training looks at; in evaluation all."""
        count, most = len(features), self.train_voxels[number]
        if not self.training or count <= most:
            return torch.arange(count, device=features.device)
        return torch.randperm(count, device=features.device)[:most]
