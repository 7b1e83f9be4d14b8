"""Queries with a place in the scene: MAFT's decoder (baselines.md section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jrs_plugins.point_clouds.decoder import PointPredictions, QueryHeads, Superpoints, blocked_elements
from jrs_plugins.point_clouds.fourier import FourierPositions, own_box
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.registry import MODELS


class RelativeTables(nn.Module):
    """Learned vectors per head for how far a key is from a query along each axis, in cells; far ones share the last cell.

    Args:
        num_heads, head_width: of the attention.
        reach: cells to either side.
        cell_m: edge of a cell in metres.
    """

    def __init__(self, num_heads: int, head_width: int, reach: int, cell_m: float) -> None:
        super().__init__()
        self.reach, self.cell_m = reach, cell_m
        shape = (num_heads, head_width, 3 * 2 * reach)
        self.query_table, self.key_table, self.value_table = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02)) for _ in range(3))

    def cells(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the cell (3, Q, S) int64 along each axis, numbered through, of keys (S, 3) from queries (Q, 3), metres."""
        away = (queries[:, None] - keys) / self.cell_m                                      # (Q, S, 3)
        cell = away.floor().long().clamp(-self.reach, self.reach - 1) + self.reach
        return (cell + 2 * self.reach * torch.arange(3, device=cell.device)).permute(2, 0, 1)

    def logits(self, query: Tensor, key: Tensor, cells: Tensor) -> Tensor:
        """Return what positions add to the logits, (heads, Q, S), for `query` (heads, Q, d), `key` (heads, S, d)."""
        of_query = query @ self.query_table                                                 # (heads, Q, cells)
        of_key = key @ self.key_table                                                       # (heads, S, cells)
        heads, total = len(query), 0
        for cell in cells:
            total = total + of_query.gather(2, cell.expand(heads, -1, -1))
            total = total + of_key.gather(2, cell.T.expand(heads, -1, -1)).mT
        return total

    def values(self, weights: Tensor, cells: Tensor) -> Tensor:
        """Return the mean (heads, Q, d) of the value vectors by `weights` (heads, Q, S)."""
        share = weights.new_zeros(*weights.shape[:2], self.value_table.shape[2])            # (heads, Q, cells)
        for cell in cells:
            share = share.scatter_add(2, cell.expand(len(weights), -1, -1), weights)
        return share @ self.value_table.mT


class PlacedLayer(nn.Module):
    """Self-attention, cross-attention with content and position side by side, feed-forward; the norm follows each sum.

    Args:
        width: C.
        num_heads, hidden: of the layer.
        first: whether it is the first layer, where positions are also added to the contents.
        reach, cell_m: of `RelativeTables`.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, first: bool, reach: int, cell_m: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        for name in ('sa_qcontent', 'sa_qpos', 'sa_kcontent', 'sa_kpos', 'sa_v', 'sa_out', 'ca_qcontent', 'ca_kcontent',
                     'ca_kpos', 'ca_v', 'ca_qpos_sine', 'ca_out'):
            setattr(self, name, nn.Linear(width, width))
        self.ca_qpos = nn.Linear(width, width) if first else None
        self.tables = RelativeTables(num_heads, width // num_heads, reach, cell_m)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, content: Tensor, place: Tensor, sine: Tensor, keys: Tensor, key_sine: Tensor, cells: Tensor,
                blocked: Tensor | None) -> Tensor:
        """Return the contents (Q, C) after this layer.

        Args:
            content, place, sine: (Q, C) queries, their learned positions, and the plain ones.
            keys, key_sine: (S, C) superpoints and their plain positions.
            cells: (3, Q, S), see `RelativeTables`.
            blocked: (Q, S) bool, what a query may not see; None = it sees everything.
        """
        content = self.norm1(content + self._among_queries(content, place))
        content = self.norm2(content + self._of_superpoints(content, place, sine, keys, key_sine, cells, blocked))
        return self.norm3(content + self.feed_forward(content))

    def _among_queries(self, content: Tensor, place: Tensor) -> Tensor:
        query, key, value = (self._heads(values) for values in (
            self.sa_qcontent(content) + self.sa_qpos(place), self.sa_kcontent(content) + self.sa_kpos(place),
            self.sa_v(content)))
        return self.sa_out(_together(F.scaled_dot_product_attention(query, key, value)))

    def _of_superpoints(self, content: Tensor, place: Tensor, sine: Tensor, keys: Tensor, key_sine: Tensor, cells: Tensor,
                        blocked: Tensor | None) -> Tensor:
        query, key, key_place = self.ca_qcontent(content), self.ca_kcontent(keys), self.ca_kpos(key_sine)
        if self.ca_qpos is not None:
            query, key = query + self.ca_qpos(place), key + key_place
        query, key = self._heads(query), self._heads(key)                                   # (heads, n, d)
        scale = 1 / math.sqrt(2 * query.shape[2])
        query, place_query = scale * query, scale * self._heads(self.ca_qpos_sine(sine))
        logits = query @ key.mT + place_query @ self._heads(key_place).mT + self.tables.logits(query, key, cells)
        if blocked is not None:
            logits = logits.masked_fill(blocked, float('-inf'))
        weights = logits.softmax(dim=-1)                                                    # (heads, Q, S)
        return self.ca_out(_together(weights @ self._heads(self.ca_v(keys)) + self.tables.values(weights, cells)))

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.num_heads, -1)).transpose(0, 1)                    # (n, C) -> (heads, n, d)


def _together(values: Tensor) -> Tensor:
    return values.transpose(0, 1).flatten(1)                                                # (heads, n, d) -> (n, C)


@MODELS.register_module()
class PlacedDecoder(nn.Module):
    """Queries with reference points that move from layer to layer, in attention that knows how far keys are (MAFT).

    A prediction follows each layer; there is none before the first, which therefore sees everything. In evaluation only the
    last one is kept.

    Args:
        dim_in: channels of the superpoints.
        num_classes: K.
        num_queries: Q.
        layers, width, num_heads, hidden: of the decoder.
        mask_threshold: superpoints whose mask probability is lower are hidden from a query in the next layer.
        score_head: whether a head says the overlap of each mask with its instance.
        reach, cell_m: cells to either side, and their edge in metres, of the relative positions.

    Raises:
        ConfigError: a width that the heads do not divide, or no layer.
    """

    def __init__(self, dim_in: int, num_classes: int, num_queries: int = 400, layers: int = 6, width: int = 256,
                 num_heads: int = 8, hidden: int = 1024, mask_threshold: float = 0.1, score_head: bool = True,
                 reach: int = 24, cell_m: float = 0.1) -> None:
        super().__init__()
        if layers < 1 or width % num_heads or width % 2:
            raise ConfigError(f'model.decoder needs at least one layer and an even width that num_heads divides, got '
                              f'layers={layers}, width={width}, num_heads={num_heads}.')
        self.reference = nn.Parameter(torch.rand(num_queries, 3))                           # before the sigmoid
        self.key_projection = nn.Sequential(nn.Linear(dim_in, width), nn.LayerNorm(width), nn.ReLU())
        self.mask_projection = nn.Sequential(nn.Linear(dim_in, width), nn.ReLU(), nn.Linear(width, width))
        self.key_positions, self.query_positions = FourierPositions(width), FourierPositions(width)
        self.place = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.move = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                  nn.Linear(width, 3))
        self.centre = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
        for head in (self.move, self.centre):                                               # centres start at the references
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        self.layers = nn.ModuleList(PlacedLayer(width, num_heads, hidden, index == 0, reach, cell_m)
                                    for index in range(layers))
        self.norm = nn.LayerNorm(width)
        self.heads = QueryHeads(width, num_classes, score_head)
        self.mask_threshold = mask_threshold

    def forward(self, scene: Superpoints, watch: Callable[[Tensor], None] = lambda centres: None) -> PointPredictions:
        """Return the predictions of one scene; the earlier ones are its `auxiliary`, in training only.

        `watch` is called with the reference points (Q, 3) in metres with which each layer starts.
        """
        keys, mask_features = self.key_projection(scene.features), self.mask_projection(scene.features)     # (S, C) each
        low, extent = own_box(scene.positions)
        key_sine = self.key_positions((scene.positions - low) / extent)                     # (S, C)
        reference = self.reference.sigmoid()                                                # (Q, 3) in units of the box
        content, levels = torch.zeros_like(self.query_positions(reference)), []
        for layer in self.layers:
            seen = reference.detach() if levels else reference
            centres = low + reference * extent                                              # metres; moves the layer before
            watch(centres)
            sine = self.query_positions(seen)
            cells = layer.tables.cells((low + seen * extent).detach(), scene.positions)
            blocked = blocked_elements(levels[-1].mask_logits, self.mask_threshold) if levels else None
            content = layer(content, self.place(sine), sine, keys, key_sine, cells, blocked)
            normed = self.norm(content)
            levels.append(self.heads(normed, mask_features, False, centres=centres + self.centre(normed),
                                     element_points=scene.num_points))
            reference = seen + self.move(normed) / extent
        return levels[-1] if not self.training else replace(levels[-1], auxiliary=levels[:-1])
