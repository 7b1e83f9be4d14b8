"""Queries with a place in the scene: the decoder of MAFT and Relation3D (baselines.md sections 3.4 and 3.8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jrs_plugins.point_clouds.decoder import PointPredictions, QueryHeads, Superpoints, blocked_elements
from jrs_plugins.point_clouds.fourier import FourierPositions, own_box
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.registry import MODELS

MASKS_OF = ('projection', 'keys')
RELATION_WIDTH = 64                            # of the release, whatever the width of the queries


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


class PlacedReading(nn.Module):
    """Cross-attention with content and position side by side, then a feed-forward network; the norm follows each sum.

    Args:
        width: C.
        num_heads, hidden: of the layer.
        reach, cell_m: of `RelativeTables`.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, reach: int, cell_m: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        for name in ('ca_qcontent', 'ca_kcontent', 'ca_kpos', 'ca_v', 'ca_qpos_sine', 'ca_out'):
            setattr(self, name, nn.Linear(width, width))
        self.ca_qpos = None
        self.tables = RelativeTables(num_heads, width // num_heads, reach, cell_m)
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def read(self, content: Tensor, place: Tensor | None, sine: Tensor, keys: Tensor, key_place: Tensor, cells: Tensor,
             blocked: Tensor | None) -> Tensor:
        """Return the contents (Q, C) after this layer's reading.

        Args:
            content, sine: (Q, C) of who reads, and plain positions.
            place: (Q, C) learned positions, which only a layer that adds them to the content reads.
            keys, key_place: (S, C) of who is read, and positions.
            cells: (3, Q, S), see `RelativeTables`.
            blocked: (Q, S) bool, what must not be seen; None = everything is seen.
        """
        query, key, key_place = self.ca_qcontent(content), self.ca_kcontent(keys), self.ca_kpos(key_place)
        if self.ca_qpos is not None:
            query, key = query + self.ca_qpos(place), key + key_place
        query, key = self._heads(query), self._heads(key)                                   # (heads, n, d)
        scale = 1 / math.sqrt(2 * query.shape[2])
        query, place_query = scale * query, scale * self._heads(self.ca_qpos_sine(sine))
        logits = query @ key.mT + place_query @ self._heads(key_place).mT + self.tables.logits(query, key, cells)
        if blocked is not None:
            logits = logits.masked_fill(blocked, float('-inf'))
        weights = logits.softmax(dim=-1)                                                    # (heads, Q, S)
        seen = self.ca_out(_together(weights @ self._heads(self.ca_v(keys)) + self.tables.values(weights, cells)))
        content = self.norm2(content + seen)
        return self.norm3(content + self.feed_forward(content))

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.num_heads, -1)).transpose(0, 1)                    # (n, C) -> (heads, n, d)


class PlacedLayer(PlacedReading):
    """Self-attention of queries, and then a reading.

    Args:
        first: whether it is the first layer, where positions are also added to the contents.
        width, num_heads, hidden, reach, cell_m: of `PlacedReading`.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, first: bool, reach: int, cell_m: float) -> None:
        super().__init__(width, num_heads, hidden, reach, cell_m)
        for name in ('sa_qcontent', 'sa_qpos', 'sa_kcontent', 'sa_kpos', 'sa_v', 'sa_out'):
            setattr(self, name, nn.Linear(width, width))
        self.ca_qpos = nn.Linear(width, width) if first else None
        self.norm1 = nn.LayerNorm(width)

    def forward(self, content: Tensor, place: Tensor, sine: Tensor, keys: Tensor, key_sine: Tensor, cells: Tensor,
                blocked: Tensor | None, relations: Tensor | None = None) -> Tensor:
        """Return the contents (Q, C) after this layer.

        `relations` (heads, Q, Q) are added to the logits of the self-attention; for the others see `PlacedReading.read`.
        """
        content = self.norm1(content + self._among_queries(content, place, relations))
        return self.read(content, place, sine, keys, key_sine, cells, blocked)

    def _among_queries(self, content: Tensor, place: Tensor, relations: Tensor | None) -> Tensor:
        query, key, value = (self._heads(values) for values in (
            self.sa_qcontent(content) + self.sa_qpos(place), self.sa_kcontent(content) + self.sa_kpos(place),
            self.sa_v(content)))
        return self.sa_out(_together(F.scaled_dot_product_attention(query, key, value, attn_mask=relations)))


def _together(values: Tensor) -> Tensor:
    return values.transpose(0, 1).flatten(1)                                                # (heads, n, d) -> (n, C)


class BoxRelations(nn.Module):
    """What a head makes of how the boxes of two queries lie and how large they are (Relation3D, baselines.md section 3.8).

    Args:
        num_heads: of the attention.
        width: of the positions in between.
    """

    def __init__(self, num_heads: int, width: int = RELATION_WIDTH) -> None:
        super().__init__()
        self.positions = FourierPositions(width, dim_in=6)
        self.heads = nn.Conv2d(width, num_heads, 1)

    def forward(self, mask_logits: Tensor, positions: Tensor) -> Tensor:
        """Return (heads, Q, Q) >= 0 for masks (Q, ..., S) of superpoints at `positions` (S, 3); no gradient to masks."""
        centre, size = mask_boxes(mask_logits.detach().flatten(1), positions)               # (Q, 3) each
        grown = size + 1e-5
        away = ((centre[:, None] - centre).abs() / grown[:, None] + 1).log()
        related = torch.cat([away, (grown[:, None] / grown).log()], dim=2)                  # (Q, Q, 6)
        return F.relu(self.heads(self.positions(related).permute(2, 0, 1)))


def mask_boxes(mask_logits: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and size (Q, 3) of the boxes of masks (Q, S): where logit > 0, and the most likely superpoint always."""
    inside = mask_logits > 0
    inside = inside.scatter(1, mask_logits.argmax(dim=1, keepdim=True), True)[:, :, None]   # (Q, S, 1)
    low = positions.masked_fill(~inside, float('inf')).amin(dim=1)
    high = positions.masked_fill(~inside, -float('inf')).amax(dim=1)
    return (low + high) / 2, high - low


@MODELS.register_module()
class PlacedDecoder(nn.Module):
    """Queries with reference points that move from layer to layer, in attention that knows how far keys are (MAFT).

    Relation3D's superpoints change too, and its queries know how their boxes lie (the last three arguments).

    A prediction follows each layer; there is none before the first, which therefore sees everything. In evaluation only the
    last one is kept.

    At the start the reference points are spread evenly over the box and the matrices of the layers are drawn after Xavier
    (both ours): contents start at zero, so that queries differ by what their places make them see, and by nothing else.

    Args:
        dim_in: channels of the superpoints.
        num_classes: K.
        num_queries: Q.
        layers, width, num_heads, hidden: of the decoder.
        mask_threshold: superpoints whose mask probability is lower are hidden from a query in the next layer.
        score_head: whether a head says the overlap of each mask with its instance.
        reach, cell_m: cells to either side, and their edge in metres, of the relative positions.
        masks_of: masks are inner products of queries with a 'projection' of the superpoints, or with the 'keys' that queries
            read.
        update_after: numbers of the layers after which superpoints read the queries, all by the same weights.
        relations: whether self-attention of later layers knows how the boxes of the masks before lie.

    Raises:
        ConfigError: a width that the heads do not divide, no layer, or one to update after that is not there; another word
            for `masks_of`.
    """

    def __init__(self, dim_in: int, num_classes: int, num_queries: int = 400, layers: int = 6, width: int = 256,
                 num_heads: int = 8, hidden: int = 1024, mask_threshold: float = 0.1, score_head: bool = True,
                 reach: int = 24, cell_m: float = 0.1, masks_of: str = 'projection', update_after: Sequence[int] = (),
                 relations: bool = False) -> None:
        super().__init__()
        if masks_of not in MASKS_OF or not set(update_after) <= set(range(layers)):
            raise ConfigError(f'model.decoder.masks_of must be one of {", ".join(map(repr, MASKS_OF))}, and update_after '
                              f'name layers out of 0 .. {layers - 1}, got {masks_of!r} and {tuple(update_after)}.')
        if layers < 1 or width % num_heads or width % 2:
            raise ConfigError(f'model.decoder needs at least one layer and an even width that num_heads divides, got '
                              f'layers={layers}, width={width}, num_heads={num_heads}.')
        self.reference = nn.Parameter(torch.rand(num_queries, 3).logit(1e-3))               # before the sigmoid
        self.key_projection = nn.Sequential(nn.Linear(dim_in, width), nn.LayerNorm(width), nn.ReLU())
        self.mask_projection = None if masks_of == 'keys' else nn.Sequential(
            nn.Linear(dim_in, width), nn.ReLU(), nn.Linear(width, width))
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
        for matrix in (value for value in self.layers.parameters() if value.dim() == 2):
            nn.init.xavier_uniform_(matrix)
        self.update = PlacedReading(width, num_heads, hidden, reach, cell_m) if update_after else None
        self.update_after = frozenset(update_after)
        self.relations = BoxRelations(num_heads) if relations else None
        self.norm = nn.LayerNorm(width)
        self.heads = QueryHeads(width, num_classes, score_head)
        self.mask_threshold = mask_threshold

    def forward(self, scene: Superpoints, watch: Callable[[Tensor], None] = lambda centres: None) -> PointPredictions:
        """Return the predictions of one scene; the earlier ones are its `auxiliary`, in training only.

        `watch` is called with the reference points (Q, 3) in metres with which each layer starts.
        """
        keys = self.key_projection(scene.features)                                          # (S, C)
        mask_features = None if self.mask_projection is None else self.mask_projection(scene.features)
        low, extent = own_box(scene.positions)
        key_sine = self.key_positions((scene.positions - low) / extent)                     # (S, C)
        reference = self.reference.sigmoid()                                                # (Q, 3) in units of the box
        content, levels, steps = torch.zeros_like(self.query_positions(reference)), [], [keys]
        for number, layer in enumerate(self.layers):
            seen = reference.detach() if levels else reference
            centres = low + reference * extent                                              # metres; moves the layer before
            watch(centres)
            sine = self.query_positions(seen)
            place, seen_m = self.place(sine), (low + seen * extent).detach()
            blocked = blocked_elements(levels[-1].mask_logits, self.mask_threshold) if levels else None
            relations = None if self.relations is None or not levels else \
                self.relations(levels[-1].mask_logits, scene.positions)
            content = layer(content, place, sine, keys, key_sine, layer.tables.cells(seen_m, scene.positions), blocked,
                            relations)
            if number in self.update_after:
                cells = self.update.tables.cells(scene.positions, seen_m)                   # (3, S, Q)
                keys = self.update.read(keys, None, key_sine, content, place, cells, None)
            steps.append(keys)
            normed = self.norm(content)
            levels.append(self.heads(normed, keys if mask_features is None else mask_features, False,
                                     centres=centres + self.centre(normed), element_points=scene.num_points))
            reference = seen + self.move(normed) / extent
        if not self.training:
            return levels[-1]
        return replace(levels[-1], auxiliary=levels[:-1],
                       element_features=torch.stack(steps) if mask_features is None else None)
