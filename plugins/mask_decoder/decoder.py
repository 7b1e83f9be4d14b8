"""Queries that read the backbone's feature taps after it is done: masked cross-attention, self-attention, feed-forward.

Source: baselines.md section 4.2, whose choices are ours; the paper says 6, 12 or 18 layers after Mask2Former (Table 8).
Runs in float32, like every part after the backbone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.registry import QUERIES
from jrs.structures import FeatureTaps, LayerState, QueryPredictions

WAVELENGTH_RANGE = 10000                       # longest over shortest wavelength of the sine positions


class Attention(nn.Module):
    """Multi-head attention whose queries and keys may carry positions that the values lack.

    Args:
        dim: width C.
        num_heads: heads; divides `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return (B, Q, C) for `query` (B, Q, C), `key` and `value` (B, T, C).

        `allowed` (B, Q, T) bool hides a token from a query in all heads where it is False.
        """
        mask = None if allowed is None else allowed[:, None]                    # (B, 1, Q, T)
        output = F.scaled_dot_product_attention(self._heads(self.q_proj(query)), self._heads(self.k_proj(key)),
                                                self._heads(self.v_proj(value)), attn_mask=mask)
        return self.proj(output.transpose(1, 2).flatten(2))                     # (B, heads, Q, d) -> (B, Q, C)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)            # (B, n, C) -> (B, heads, n, d)


class DecoderLayer(nn.Module):
    """Masked cross-attention, then self-attention, then a feed-forward network; the norm follows each sum.

    Args:
        dim: width C.
        num_heads: heads of both attentions.
        hidden: width of the feed-forward network.
    """

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attention, self.cross_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.self_attention, self.self_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_position: Tensor, tokens: Tensor, token_position: Tensor,
                allowed: Tensor) -> Tensor:
        """Return the queries (B, Q, C) after this layer.

        Args:
            queries, query_position: (B, Q, C), (1, Q, C).
            tokens, token_position: (B, T, C), (T, C).
            allowed: (B, Q, T) bool.
        """
        read = self.cross_attention(queries + query_position, tokens + token_position, tokens, allowed)
        queries = self.cross_norm(queries + read)
        placed = queries + query_position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.norm(queries + self.feed_forward(queries))


@QUERIES.register_module()
class MaskDecoder(nn.Module):
    """A decoder after the backbone (baselines.md section 4.2): VGGT (FT) + mask decoder of Table 8.

    It reads nothing while the backbone runs. Afterwards each layer reads the tokens of one tap, in turn; where the mask that
    a query has so far is unlikely, tokens are hidden from it. There is no view attention: set `model.alignment` to None.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        num_queries: Q, each with learned content and a learned position.
        num_heads: heads of all attentions; divides `width`.
        layers: decoder layers.
        width: of queries and keys; a multiple of 4.
        hidden: width of the feed-forward networks.
        embedding_dim: D of the projected queries.
        levels: taps that the backbone leaves.
        mask_threshold: patches whose mask probability is lower are hidden from a query.

    Raises:
        ConfigError: a width that heads or positions do not divide, or no layer.
    """

    def __init__(self, dim_in: int, num_queries: int = 400, num_heads: int = 8, layers: int = 6, width: int = 256,
                 hidden: int = 2048, embedding_dim: int = 128, levels: int = 4, mask_threshold: float = 0.5) -> None:
        super().__init__()
        _check_sizes(num_heads, layers, width, mask_threshold)
        self.num_queries, self.levels = num_queries, levels
        self.lowest_logit = math.log(mask_threshold / (1 - mask_threshold))
        self.content = nn.Parameter(torch.randn(1, num_queries, width))         # (1, Q, C)
        self.position = nn.Parameter(torch.randn(1, num_queries, width))        # (1, Q, C)
        used = min(levels, layers)
        self.tap_projections = nn.ModuleList(nn.Linear(dim_in, width) for _ in range(used))
        self.level_embedding = nn.Parameter(torch.randn(used, width))
        self.kept_channels = (3 * layers + used) * width        # per token, for the backward pass: keys, values, their input
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, embedding_dim)

    def start(self, num_scenes: int, track_views: bool = False) -> None:
        """Return no state: the queries start after the backbone."""

    def read(self, state: None, layer: LayerState) -> None:
        """Read nothing."""

    def finish(self, state: None, taps: FeatureTaps, features: Tensor) -> QueryPredictions:
        """Return the projected queries (B, Q, D) after the last layer.

        In training `auxiliary` holds those before the first layer and after each but the last: as many as layers.

        Args:
            state: None.
            taps: `levels` maps (B, V, P, dim_in) and where their patches stand.
            features: (B, V, D, h, w) instance features, from which the masks of every level come.

        Raises:
            ValueError: another number of taps.
        """
        if len(taps.taps) != self.levels:
            raise ValueError(f'MaskDecoder was built for {self.levels} taps and this backbone leaves {len(taps.taps)}: set '
                             'model.queries.levels to the length of its feature_layers.')
        with torch.autocast(features.device.type, enabled=False):
            embeddings = self._decode(taps, features)
        return QueryPredictions(embeddings[-1], auxiliary=[QueryPredictions(embedding) for embedding in embeddings[:-1]]
                                if self.training else [])

    def _decode(self, taps: FeatureTaps, features: Tensor) -> list[Tensor]:
        """Return the embeddings (B, Q, D) before the first and after each layer."""
        tokens = self._tokens(taps)
        token_position = _token_positions(taps, self.content.shape[-1])         # (T, C)
        cells = cell_features(features, taps.patch_grid)                        # (B, V, D, h_p * w_p)
        queries = self.content.expand(len(features), -1, -1)                    # (B, Q, C)
        embeddings = [self._embed(queries)]
        for index, layer in enumerate(self.layers):
            allowed = self.allowed_tokens(embeddings[-1], cells, taps)
            queries = layer(queries, self.position, tokens[index % len(tokens)], token_position, allowed)
            embeddings.append(self._embed(queries))
        return embeddings

    def _embed(self, queries: Tensor) -> Tensor:
        return self.projection(self.norm(queries))                              # (B, Q, D)

    def _tokens(self, taps: FeatureTaps) -> list[Tensor]:
        """Return the tokens (B, T, C) of each level that a layer reads, views end to end.

        The level's embedding is in keys and values: a layer sees one level, and what all keys share cancels in its softmax.
        """
        return [project(tap.flatten(1, 2).to(project.weight.dtype)) + level      # (B, T, C)
                for tap, project, level in zip(taps.taps, self.tap_projections, self.level_embedding, strict=False)]

    @torch.no_grad()
    def allowed_tokens(self, embedding: Tensor, cells: Tensor, taps: FeatureTaps) -> Tensor:
        """Return which tokens each query may see, (B, Q, T) bool: patches that its mask covers, and all that are no patch.

        A query whose mask covers no patch of any view sees everything.

        Args:
            embedding: (B, Q, D).
            cells: (B, V, D, h_p * w_p), instance features averaged over each patch.
            taps: where patches stand among the P tokens of a view.
        """
        logits = torch.einsum('bqd,bvdn->bqvn', embedding, cells)               # (B, Q, V, h_p * w_p)
        seen = logits >= self.lowest_logit
        seen |= ~seen.flatten(2).any(dim=2)[:, :, None, None]                   # (B, Q, 1, 1)
        allowed = torch.ones(*seen.shape[:3], taps.taps[0].shape[2], dtype=torch.bool, device=seen.device)
        allowed[..., taps.patch_index] = seen                                   # (B, Q, V, P)
        return allowed.flatten(2)                                               # (B, Q, T)


@torch.no_grad()
def cell_features(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return features (B, V, D, h, w) averaged over each cell of the patch grid, (B, V, D, h_p * w_p).

    A mask's logits are linear in them: their inner products with a query are its mask logits averaged over each patch, and
    the (Q, V, h, w) logits of a level never exist.
    """
    cells = F.adaptive_avg_pool2d(features.flatten(0, 1), grid)                 # (B*V, D, h_p, w_p)
    return cells.flatten(2).unflatten(0, features.shape[:2])                    # (B, V, D, h_p * w_p)


def sine_positions(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Return 2D sine positions (h_p * w_p, width) of the cells of a grid, row-major: half of the width per axis.

    Cell centres run from 0 to 2 pi over each axis, so that they do not depend on the size of the image.
    """
    quarter = width // 4
    frequency = WAVELENGTH_RANGE ** -(torch.arange(quarter, device=device) / quarter)
    axes = []
    for count in grid:
        angle = (torch.arange(count, device=device) + 0.5)[:, None] * (2 * math.pi / count) * frequency
        axes.append(torch.cat([angle.sin(), angle.cos()], dim=1))               # (count, width / 2)
    down, across = axes
    rows, columns = grid
    return torch.cat([down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)], dim=2).flatten(0, 1)


def _token_positions(taps: FeatureTaps, width: int) -> Tensor:
    """Return the positions (T, width) of the tokens of all views; those that are no patch have none, 0."""
    views, tokens = taps.taps[0].shape[1:3]
    of_view = torch.zeros(tokens, width, device=taps.taps[0].device)
    of_view[taps.patch_index] = sine_positions(taps.patch_grid, width, of_view.device)
    return of_view.repeat(views, 1)                                             # (T, width)


def _check_sizes(num_heads: int, layers: int, width: int, mask_threshold: float) -> None:
    if width % num_heads or width % 4:
        raise ConfigError(f'MaskDecoder.width must be a multiple of num_heads and of 4, got width={width}, '
                          f'num_heads={num_heads}.')
    if layers < 1 or not 0 < mask_threshold < 1:
        raise ConfigError('MaskDecoder needs at least one layer and a mask_threshold between 0 and 1, got '
                          f'layers={layers}, mask_threshold={mask_threshold}.')
