"""Queries that read the backbone's feature taps after it is done: masked cross-attention, self-attention, feed-forward.

Source: baselines.md section 4.2, whose choices are ours; the paper says 6, 12 or 18 layers after Mask2Former (Table 8).
Runs in float32, like every part after the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.draws import made_alone
from jrs.errors import ConfigError, find_named
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
        levels: taps that are read, the last ones; None = all.
        tap_dims: width of each tap that the backbone leaves; None = four of `dim_in`.
        mask_threshold: patches whose mask probability is lower are hidden from a query.
        memory: name of a map (B, V, `memory_dim`, h_p, w_p) that a head leaves, read in the place of the taps.
        memory_dim: its channels; where they are `width`, they are read as they are.
        mask_resize: how masks come to the patch grid: 'area' (mean over a patch) or 'bilinear' (corners not aligned, no
            antialiasing).
        positions: of patches: 'centres' (cell centres between 0 and 2 pi, sines before cosines) or 'ends' (Mask2Former's:
            the last cell at 2 pi, sines and cosines in turn).
        mask_layers: linear layers that make the embedding of masks; with more than one, classes are read from what goes into
            them (`class_embedding`), of width `width`.

    Raises:
        ConfigError: a width that heads or positions do not divide, no layer, or a word that is not allowed.
    """

    def __init__(self, dim_in: int, num_queries: int = 400, num_heads: int = 8, layers: int = 6, width: int = 256,
                 hidden: int = 2048, embedding_dim: int = 128, levels: int | None = None, mask_threshold: float = 0.5,
                 tap_dims: Sequence[int] | None = None, memory: str | None = None, memory_dim: int = 256,
                 mask_resize: str = 'area', positions: str = 'centres', mask_layers: int = 1) -> None:
        super().__init__()
        _check_sizes(num_heads, layers, width, mask_threshold)
        self.resize = find_named(RESIZES, mask_resize, 'MaskDecoder.mask_resize')
        self.place = find_named(POSITIONS, positions, 'MaskDecoder.positions')
        tap_dims = [memory_dim] if memory is not None else tuple(tap_dims or [dim_in] * 4)[-(levels or 0):]
        self.num_queries, self.tap_dims, self.levels, self.memory = num_queries, tuple(tap_dims), len(tap_dims), memory
        self.reads = () if memory is None else (memory,)
        self.lowest_logit = math.log(mask_threshold / (1 - mask_threshold))
        self.content = nn.Parameter(torch.randn(1, num_queries, width))         # (1, Q, C)
        self.position = nn.Parameter(torch.randn(1, num_queries, width))        # (1, Q, C)
        used = min(self.levels, layers)
        self.tap_projections = nn.ModuleList(nn.Identity() if memory is not None and dim == width else nn.Linear(dim, width)
                                             for dim in tap_dims[:used])
        self.level_embedding = nn.Parameter(torch.randn(used, width))
        self.kept_channels = (3 * layers + used) * width        # per token, for the backward pass: keys, values, their input
        self.layers = nn.ModuleList(made_alone('layers', range(layers),
                                               lambda: DecoderLayer(width, num_heads, hidden)).values())
        self.norm = nn.LayerNorm(width)
        self.projection = mask_projection(width, embedding_dim, mask_layers)

    def start(self, num_scenes: int, track_views: bool = False) -> None:
        """Return no state: the queries start after the backbone."""

    def read(self, state: None, layer: LayerState) -> None:
        """Read nothing."""

    def finish(self, state: None, taps: FeatureTaps, features: Tensor) -> QueryPredictions:
        """Return the projected queries (B, Q, D) after the last layer.

        In training `auxiliary` holds those before the first layer and after each but the last: as many as layers.

        Args:
            state: None.
            taps: maps (B, V, P, tap_dims[j]), at least `levels`, and where their patches stand.
            features: (B, V, D, h, w) instance features, from which the masks of every level come.

        Raises:
            ValueError: another number of taps.
        """
        if self.memory is None and len(taps.taps) < self.levels:
            raise ValueError(f'MaskDecoder was built for {self.levels} taps and this backbone leaves {len(taps.taps)}: set '
                             'model.queries.levels to the length of its feature_layers, at most.')
        with torch.autocast(features.device.type, enabled=False):
            levels = self._decode(taps, features)
        return replace(levels[-1], auxiliary=levels[:-1] if self.training else [])

    def map_shapes(self, grid: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
        """Return the shape behind (B, V) of the map that is read in the place of taps, for a patch grid (h_p, w_p)."""
        return {self.memory: (self.tap_dims[0], *grid)} if self.memory is not None else {}

    def _decode(self, taps: FeatureTaps, features: Tensor) -> list[QueryPredictions]:
        """Return what masks and classes are read from, before the first and after each layer."""
        taps = self._read(taps)
        tokens = self._tokens(taps)
        token_position = _token_positions(taps, self.place(taps.patch_grid, self.content.shape[-1], features.device))
        cells = cell_features(features, taps.patch_grid, self.resize)           # (B, V, D, h_p * w_p)
        queries = self.content.expand(len(features), -1, -1)                    # (B, Q, C)
        levels = [self._embed(queries)]
        for index, layer in enumerate(self.layers):
            allowed = self.allowed_tokens(levels[-1].embedding, cells, taps)
            queries = layer(queries, self.position, tokens[index % len(tokens)], token_position, allowed)
            levels.append(self._embed(queries))
        return levels

    def _embed(self, queries: Tensor) -> QueryPredictions:
        normed = self.norm(queries)
        one = isinstance(self.projection, nn.Linear)                            # which classes and masks share
        return QueryPredictions(self.projection(normed), class_embedding=None if one else normed)

    def _read(self, taps: FeatureTaps) -> FeatureTaps:
        """Return the last `levels` taps, or the memory as the one tap, which has patches only."""
        if self.memory is None:
            return replace(taps, taps=taps.taps[-self.levels:])
        memory = taps.maps[self.memory]                                         # (B, V, C, h_p, w_p)
        if tuple(memory.shape[-2:]) != taps.patch_grid:
            raise ValueError(f'the map {self.memory!r} must be on the patch grid {taps.patch_grid}, got {memory.shape[-2:]}')
        patches = torch.arange(taps.patch_grid[0] * taps.patch_grid[1], device=memory.device)
        return replace(taps, taps=[memory.flatten(3).transpose(2, 3)], patch_index=patches)

    def _tokens(self, taps: FeatureTaps) -> list[Tensor]:
        """Return the tokens (B, T, C) of each level that a layer reads, views end to end.

        The level's embedding is in keys and values: a layer sees one level, and what all keys share cancels in its softmax.
        """
        return [project(tap.flatten(1, 2).to(level.dtype)) + level              # (B, T, C)
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
def cell_features(features: Tensor, grid: tuple[int, int], resize: Callable = F.adaptive_avg_pool2d) -> Tensor:
    """Return features (B, V, D, h, w) at the patch grid's size, (B, V, D, h_p * w_p): averaged over cells, or `resize`d.

    A mask's logits are linear in them: their inner products with a query are its mask logits resized likewise, and the
    (Q, V, h, w) logits of a level never exist.
    """
    cells = resize(features.flatten(0, 1), grid)                                # (B*V, D, h_p, w_p)
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


def interleaved_positions(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Return Mask2Former's 2D sine positions (h_p * w_p, width) of a grid, row-major: half of the width each, rows first.

    Cells stand at (index + 1) / count * 2 pi; channel 2j is the sine, 2j + 1 the cosine of one wavelength.
    """
    half = width // 2
    wavelength = WAVELENGTH_RANGE ** (2 * (torch.arange(half, device=device) // 2) / half)
    axes = []
    for count in grid:
        angle = torch.arange(1, count + 1, device=device)[:, None] / (count + 1e-6) * 2 * math.pi / wavelength
        axes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1))            # (count, half)
    down, across = axes
    rows, columns = grid
    return torch.cat([down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)], dim=2).flatten(0, 1)


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `maps` (n, C, h, w) resized to (n, C, *size), bilinear, corners not aligned, no antialiasing."""
    return F.interpolate(maps, size=tuple(size), mode='bilinear', align_corners=False)


def mask_projection(width: int, embedding_dim: int, layers: int) -> nn.Module:
    """Return `layers` linear layers, ReLU between them, from `width` to `embedding_dim`."""
    if layers < 1:
        raise ConfigError(f'MaskDecoder.mask_layers must be at least 1, got {layers}.')
    last = nn.Linear(width, embedding_dim)
    return last if layers == 1 else nn.Sequential(*[part for _ in range(layers - 1) for part in (
        nn.Linear(width, width), nn.ReLU())], last)


RESIZES = {'area': F.adaptive_avg_pool2d, 'bilinear': bilinear}
POSITIONS = {'centres': sine_positions, 'ends': interleaved_positions}


def _token_positions(taps: FeatureTaps, of_patches: Tensor) -> Tensor:
    """Return the positions (T, C) of the tokens of all views, `of_patches` (h_p * w_p, C) in each; others have none, 0."""
    views, tokens = taps.taps[0].shape[1:3]
    of_view = torch.zeros(tokens, of_patches.shape[1], device=of_patches.device)
    of_view[taps.patch_index] = of_patches
    return of_view.repeat(views, 1)                                             # (T, width)


def _check_sizes(num_heads: int, layers: int, width: int, mask_threshold: float) -> None:
    if width % num_heads or width % 4:
        raise ConfigError(f'MaskDecoder.width must be a multiple of num_heads and of 4, got width={width}, '
                          f'num_heads={num_heads}.')
    if layers < 1 or not 0 < mask_threshold < 1:
        raise ConfigError('MaskDecoder needs at least one layer and a mask_threshold between 0 and 1, got '
                          f'layers={layers}, mask_threshold={mask_threshold}.')
