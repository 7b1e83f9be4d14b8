"""Token merging: alike tokens of different views share one place in the attention over all views, then part again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers.attention import Mix, SceneAttention, fused_attention
from jrs.layers.layout import Layout
from jrs.registry import ATTENTIONS

PROTECTED = 0.1                                # share of the tokens that always keep a place of their own
CELL = 2                                       # side in patches of the cells with one destination each
FEWEST_TOKENS = 10                             # below it nothing is protected, and nothing merges
SIMILARITIES = 2 ** 22                         # that are in memory at a time: 16 MiB


@dataclass(frozen=True)
class Split:
    """Who may merge into whom; by the places of tokens, not by what they hold. N = V * P + E tokens.

    Attributes:
        destinations: (t,) int64 ascending positions that others may merge into.
        sources: (s,) int64 ascending, all others.
        protected: (n,) int64 ascending positions, of both kinds, that keep a place of their own.
    """

    destinations: Tensor
    sources: Tensor
    protected: Tensor

    @classmethod
    def of(cls, layout: Layout, draws: Tensor) -> Split:
        """Return the split of the tokens of `layout`.

        Destinations are all of the first view, special tokens and one patch of each cell of the others, and tokens of no
        view.

        Args:
            layout: of V views of P tokens.
            draws: (V - 1, h_p // 2, w_p // 2) integers in 0 .. 3, 2 * row + column of the destination in its cell; a last
                odd row or column of patches has none.
        """
        views, per_view, device = layout.num_views, layout.num_tokens, layout.is_patch.device
        is_destination = (~layout.is_patch).repeat(views, 1)                    # (V, P)
        is_destination[0] = True
        chosen = torch.zeros(views - 1, *layout.grid, dtype=torch.bool, device=device)
        view, row, column = torch.meshgrid(*(torch.arange(size, device=device) for size in draws.shape), indexing='ij')
        chosen[view, CELL * row + draws // CELL, CELL * column + draws % CELL] = True
        is_destination[1:, layout.patch_index] = chosen.flatten(1)
        is_destination = F.pad(is_destination.flatten(), (0, layout.num_extra), value=True)     # (N,)
        total = views * per_view + layout.num_extra
        count = int(PROTECTED * total)
        protected = torch.arange(count, device=device) * max(1, total // count)
        return cls(is_destination.nonzero().flatten(), (~is_destination).nonzero().flatten(), protected)


@dataclass(frozen=True)
class Merge:
    """Which tokens of B scenes share a place in a sequence of N' < N: the kept sources, the destinations, the protected.

    Attributes:
        best: (B, s) int64, where along `Split.destinations` the one most like each source stands.
        similarity: (B, s) float32, the cosine of both.
        kept, merged: (B, k) and (B, r) int64, where along `Split.sources` those stand that keep a place, or lose it.
        split: of the tokens.
    """

    best: Tensor
    similarity: Tensor
    kept: Tensor
    merged: Tensor
    split: Split

    @classmethod
    @torch.no_grad()
    def of(cls, tokens: Tensor, split: Split, ratio: float) -> Merge:
        """Return what merges of `tokens` (B, N, C): of the sources that are not protected those most like their destination.

        Args:
            tokens: normalised; cosines are taken over the whole width, in float32.
            split: of the N tokens.
            ratio: at most so many of them merge, as a share of N.
        """
        best, similarity = _most_similar(tokens, split)
        free = (~torch.isin(split.sources, split.protected)).nonzero().flatten()                # (f,) along the sources
        count = min(int(ratio * tokens.shape[1]), len(free))
        ranked = free[similarity[:, free].argsort(dim=1, descending=True, stable=True)]         # (B, f)
        return cls(best, similarity, ranked[:, count:].sort().values, ranked[:, :count].sort().values, split)

    @property
    def target(self) -> Tensor:
        """(B, r) int64, where along `Split.destinations` each merged source goes."""
        return self.best.gather(1, self.merged)

    def positions(self) -> Tensor:
        """Return the original position of each place in the sequence, (B, N') int64."""
        scenes = len(self.best)
        return torch.cat([self.split.sources[self.kept], self.split.destinations.expand(scenes, -1),
                          self.split.protected.expand(scenes, -1)], dim=1)

    def reduce(self, heads: Tensor) -> Tensor:
        """Return `heads` (B, heads, N, width) of the sequence, (B, heads, N', width).

        A destination is the mean of itself and of what merges into it; protected tokens are as they were, also those that
        are destinations and have that mean beside them.
        """
        def take(positions: Tensor) -> Tensor:
            return _along_tokens(heads, positions)
        kept, merged = (take(self.split.sources[index]) for index in (self.kept, self.merged))
        own = heads[:, :, self.split.destinations].float()                      # (B, heads, t, width)
        into = self.target[:, None, :, None].expand_as(merged)                  # (B, heads, r, width)
        total = own.scatter_add(2, into, merged.float())
        members = total.new_ones(len(own), own.shape[2]).scatter_add(1, self.target, total.new_ones(self.target.shape))
        mean = (total / members[:, None, :, None]).to(heads.dtype)
        return torch.cat([kept, mean, heads[:, :, self.split.protected]], dim=2)

    def restore(self, attended: Tensor) -> Tensor:
        """Return `attended` (B, heads, N', width) for all N tokens, (B, heads, N, width).

        A merged source gets the row of its destination; the rows of protected tokens go to these alone.
        """
        split, kept = self.split, self.kept.shape[1]
        total = len(split.destinations) + len(split.sources)
        row = self.best.new_empty(len(self.best), total)                        # (B, N): place in the sequence
        first = kept + torch.arange(len(split.destinations), device=row.device)
        row[:, split.destinations] = first
        row.scatter_(1, split.sources[self.merged], kept + self.target)
        row.scatter_(1, split.sources[self.kept], torch.arange(kept, device=row.device).expand(len(row), -1))
        row[:, split.protected] = kept + len(first) + torch.arange(len(split.protected), device=row.device)
        return _along_tokens(attended, row)


@ATTENTIONS.register_module()
class TokenMerging(SceneAttention):
    """Attention over all views with alike tokens merged, as FastVGGT's (backbones.md section 4); has no weights.

    The assignment is each scene's and each block's own; which tokens may take others in is the same for all blocks and
    scenes of a pass. With one view, or fewer than 10 tokens, blocks are left as they are.

    Args:
        ratio: at most so many tokens merge, as a share of all; 0.9 merges all that may.
        start: number of the first block that merges, 0 = all; the number of the pair in VGGT.
        seed: of the draws of a pass, by a generator of its own on the CPU.

    Attributes:
        draws: (V - 1, h_p // 2, w_p // 2) integers in 0 .. 3 to take instead of drawing; None = draw.
    """

    def __init__(self, ratio: float = 0.9, start: int = 0, seed: int = 33) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ConfigError(f'ratio of TokenMerging is the share of tokens that may merge, in (0, 1], got {ratio}; to '
                              'merge none leave global_attention out (None).')
        if start < 0:
            raise ConfigError(f'start of TokenMerging counts blocks from 0, got {start}.')
        self.ratio, self.start, self.seed = ratio, start, seed
        self.draws: Tensor | None = None

    def at(self, block: int, layout: Layout) -> Mix | None:
        """Return attention with merging, from block `start` on; None where there is nothing to merge."""
        total = layout.num_views * layout.num_tokens + layout.num_extra
        if block < self.start or layout.num_views == 1 or total < FEWEST_TOKENS:
            return None
        split = Split.of(layout, self._draw(layout))

        def mix(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
            merge = Merge.of(tokens, split, self.ratio)
            return merge.restore(fused_attention(*(merge.reduce(heads) for heads in (query, key, value)), tokens))
        return mix

    def _draw(self, layout: Layout) -> Tensor:
        """Return the draws of a pass (V - 1, h_p // 2, w_p // 2): the same in each of its blocks.

        Raises:
            ValueError: `draws` were given in another shape.
        """
        shape = (layout.num_views - 1, *(side // CELL for side in layout.grid))
        draws = self.draws
        if draws is None:
            draws = torch.randint(CELL * CELL, shape, generator=torch.Generator().manual_seed(self.seed))
        elif tuple(draws.shape) != shape:
            raise ValueError(f'draws of TokenMerging must be (V - 1, h_p // 2, w_p // 2) = {shape}, got '
                             f'{tuple(draws.shape)}')
        return draws.to(layout.is_patch.device, torch.int64)


def _most_similar(tokens: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Return where along the destinations the one most like each source stands, and the cosine, (B, s) both."""
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(tokens.float(), dim=-1)                              # (B, N, C)
        destinations = unit[:, split.destinations].mT                           # (B, C, t)
        rows = max(1, SIMILARITIES // (len(tokens) * len(split.destinations)))
        found = [(unit[:, part] @ destinations).max(dim=-1) for part in split.sources.split(rows)]      # (B, rows, t) each
    return torch.cat([each.indices for each in found], dim=1), torch.cat([each.values for each in found], dim=1)


def _along_tokens(heads: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens of `heads` (B, heads, N, width) at `positions` (B, n), (B, heads, n, width)."""
    return heads.gather(2, positions[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3]))
