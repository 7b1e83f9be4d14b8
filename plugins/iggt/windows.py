"""The attentions of IGGT's part head (baselines.md section 4.4): inside a view, and inside windows of 8 x 8 pixels.

All take maps (n, C, h, w) of n views and treat views alone. LayerNorms have eps 1e-5, as torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.layers.attention import ReadingAttention
from jrs.layers.block import Mlp

WINDOW, OVERLAPPING = 8, 12                    # sides of the windows of queries, and of keys and values around them
SPAN = WINDOW + OVERLAPPING - 1                # different places of a key beside a query along one axis
UPSAMPLE_WIDTH = 64
CHANNEL_SHARE = 0.01                           # of the convolutions that stand beside the attention


class CrossAttention(ReadingAttention):
    """Each pixel of a map reads all pixels of another one of the same view; the result takes the map's place.

    Args:
        dim: width C of both maps.
        num_heads: divides `dim`.
    """

    def forward(self, maps: Tensor, others: Tensor) -> Tensor:
        """Return (n, C, h, w) for `maps` (n, C, h, w) and `others` (n, C, h', w')."""
        return maps_of(super().forward(rows_of(maps), rows_of(others)), maps.shape[-2:])


class WindowCross(nn.Module):
    """Windows of one map read the overlapping windows of another one that lie around them (`window_cross_attention`).

    The windows of the queries are not those of the picture: `scrambled_windows`.

    Args:
        dim: width C of both maps.
        num_heads: divides `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input_norm, self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(SPAN ** 2, num_heads))
        self.mlp = Mlp(dim, 4 * dim)
        self.tail = Tail(dim)

    def forward(self, maps: Tensor, others: Tensor) -> Tensor:
        """Return (n, C, h, w) for `maps` and `others` (n, C, h, w), whose sides are multiples of 8."""
        tokens = self.input_norm(rows_of(maps))                                 # (n, h*w, C)
        query = maps_of(self.q(self.norm1(tokens)), maps.shape[-2:])
        around = self.norm1(self.input_norm(rows_of(others)))                   # (n, h*w, C)
        keys, values = (overlapping_windows(maps_of(linear(around), maps.shape[-2:])) for linear in (self.k, self.v))
        mixed = attend(scrambled_windows(query), keys, values, self.num_heads, self._position_bias())
        tokens = self.proj(rows_of(from_windows(mixed, maps.shape[-2:]))) + tokens
        return self.tail(tokens + self.mlp(self.norm2(tokens)), maps)

    def _position_bias(self) -> Tensor:
        """Return what is added to the logits of each query (64) and key (144), (heads, 64, 144)."""
        table = self.relative_position_bias_table
        bias = table[position_index(table.device)].permute(2, 0, 1)             # (heads, 64, 144)
        return bias.contiguous()


class WindowSelf(nn.Module):
    """Attention inside windows of 8 x 8 pixels beside gated convolutions (`window_self_atten`).

    Args:
        dim: width C, a multiple of `num_heads`.
        num_heads: heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input_norm, self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        narrow = max(1, dim // 3)
        self.convs = nn.Sequential(nn.Conv2d(dim, narrow, 3, padding=1), nn.GELU(), nn.Conv2d(narrow, dim, 3, padding=1),
                                   ChannelGate(dim))
        self.mlp = Mlp(dim, 4 * dim)
        self.tail = Tail(dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, C, h, w) for `maps` (n, C, h, w), whose sides are multiples of 8."""
        size = maps.shape[-2:]
        tokens = self.input_norm(rows_of(maps))                                 # (n, h*w, C)
        normed = self.norm1(tokens)
        query, key, value = windows_of(maps_of(self.qkv(normed), size)).chunk(3, dim=-1)    # (n, windows, 64, C) each
        mixed = self.proj(rows_of(from_windows(attend(query, key, value, self.num_heads), size)))
        tokens = tokens + mixed + CHANNEL_SHARE * rows_of(self.convs(maps_of(normed, size)))
        return self.tail(tokens + self.mlp(self.norm2(tokens)), maps)


class ChannelGate(nn.Module):
    """Multiplies each channel of a map by what its mean, and those of the others, say: squeeze and excite.

    Args:
        dim: width C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow = max(1, dim // 30)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, narrow, 1), nn.ReLU(),
                                       nn.Conv2d(narrow, dim, 1), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, C, h, w) for `maps` (n, C, h, w)."""
        return maps * self.attention(maps)


class Tail(nn.Module):
    """What both windowed attentions end with: a norm, three convolutions, and the raw input added in between.

    Args:
        dim: width C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_before_upsample = nn.Conv2d(dim, UPSAMPLE_WIDTH, 3, padding=1)
        self.conv_last = nn.Conv2d(UPSAMPLE_WIDTH, dim, 3, padding=1)

    def forward(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Return (n, C, h, w) for what came of the attention, `tokens` (n, h*w, C), and the input `maps` (n, C, h, w)."""
        body = self.conv_after_body(maps_of(self.norm(tokens), maps.shape[-2:])) + maps
        return self.conv_last(F.leaky_relu(self.conv_before_upsample(body), 0.01))


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Return softmax attention (..., N, C) of `query` (..., N, C) over `key` and `value` (..., M, C), in heads.

    `bias` (heads, N, M) is added to the logits.
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(-3, -2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(-3, -2).flatten(-2)


def rows_of(maps: Tensor) -> Tensor:
    """Return the pixels (n, h*w, C) of maps (n, C, h, w), row by row."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps (n, C, h, w) of pixels (n, h*w, C); `size` is (h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def windows_of(maps: Tensor) -> Tensor:
    """Return the windows of maps (n, C, h, w), row by row, (n, windows, 64, C)."""
    tiles = maps.unflatten(3, (-1, WINDOW)).unflatten(2, (-1, WINDOW))          # (n, C, rows, 8, columns, 8)
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def from_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps (n, C, h, w) whose windows (n, windows, 64, C) stand row by row; `size` is (h, w)."""
    rows, columns = size[0] // WINDOW, size[1] // WINDOW
    tiles = windows.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (rows, columns))        # (n, rows, columns, 8, 8, C)
    return tiles.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def scrambled_windows(maps: Tensor) -> Tensor:
    """Return the windows that the queries of maps (n, C, h, w) stand in upstream, (n, windows, 64, C).

    The plane of channels and rows is cut, not that of rows and columns: values in the order (c // 8, y // 8, c % 8, y % 8,
    x) are read on as windows of 64 rows of C numbers. The released weights were presumably trained so.
    """
    count, channels, height, width = maps.shape
    tiles = maps.view(count, channels // WINDOW, WINDOW, height // WINDOW, WINDOW, width)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(count, -1, WINDOW ** 2, channels)


def overlapping_windows(maps: Tensor) -> Tensor:
    """Return windows of 12 x 12 around each of 8 x 8, 0 beyond the map, of maps (n, C, h, w): (n, windows, 144, C)."""
    margin = (OVERLAPPING - WINDOW) // 2
    patches = F.unfold(maps, OVERLAPPING, padding=margin, stride=WINDOW)        # (n, C * 144, windows)
    return patches.unflatten(1, (maps.shape[1], -1)).permute(0, 3, 2, 1)


def position_index(device: torch.device) -> Tensor:
    """Return the row of the position table of each query and key, (64, 144) int64; those below 0 count from its end."""
    query = torch.cartesian_prod(*[torch.arange(WINDOW, device=device)] * 2)    # (64, 2)
    key = torch.cartesian_prod(*[torch.arange(OVERLAPPING, device=device)] * 2)             # (144, 2)
    down, across = (key - query[:, None] + WINDOW - OVERLAPPING + 1).unbind(-1)             # (64, 144) each
    return (down * SPAN + across) % SPAN ** 2
