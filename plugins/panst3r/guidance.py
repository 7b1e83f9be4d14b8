"""What version 2 of PanSt3R makes mask features with: a mixer of patches, and pixels that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.layers.attention import ReadingAttention
from jrs.layers.block import Block, Mlp
from jrs.layers.rope import GridRotation

FIRST_OCTAVE, LAST_OCTAVE = -2.0, 10.0         # natural logarithms of the frequencies
PLACES, COLOURS = 2, 3
SMALLEST_RANGE = 1e-4                          # of colours, on the scale -1 .. 1
GROUPS = 8                                     # of the norms after convolutions


class PatchMixer(nn.Module):
    """A linear layer, transformer blocks inside each view with rotary positions, a norm.

    Args:
        dim_in: width of the patches.
        width: of the result.
        num_heads, layers: heads and number of the blocks.
        rope_base: base of their rotary position embedding.
    """

    def __init__(self, dim_in: int, width: int, num_heads: int, layers: int, rope_base: float = 100.0) -> None:
        super().__init__()
        self.head_width, self.rope_base = width // num_heads, rope_base
        self.in_proj = nn.Linear(dim_in, width)
        self.mixer_blk = nn.ModuleList(Block(width, num_heads, init_values=None) for _ in range(layers))
        self.mixer_norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (n, h_p * w_p, width) for `patches` (n, h_p * w_p, C) of n views on a `grid` (h_p, w_p); C is `dim_in`."""
        places = torch.cartesian_prod(*(torch.arange(side, device=patches.device) for side in grid)).reshape(-1, 2)
        rope = GridRotation(places, self.head_width, self.rope_base)
        tokens = self.in_proj(patches)
        for block in self.mixer_blk:
            tokens = block(tokens, rope)
        return self.mixer_norm(tokens)


class FourierFeatures(nn.Module):
    """Sines and cosines of several channels at several frequencies, with learned phases; float32 throughout.

    The largest frequency is 22026: rounding it changes these by 1e-3, so that the order of operations is upstream's. The
    phases are kept as (2, channels, frequencies) and read flat as (2, frequencies, channels), as upstream does.

    Args:
        channels: of what is described.
        frequencies: spread evenly on a logarithmic scale.
    """

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.randn(2, channels, frequencies))
        self.register_buffer('frequencies', torch.linspace(FIRST_OCTAVE, LAST_OCTAVE, frequencies, dtype=torch.float32,
                                                           device='cpu').exp(), persistent=False)

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return self.biases.numel()

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, 2 * frequencies * channels, h, w) of `values` (n, channels, h, w): sines, then cosines."""
        channels = values.shape[1]
        phase = self.frequencies[:, None, None, None] * values[:, None]         # (n, frequencies, channels, h, w)
        first, second = (bias.reshape(-1, channels, 1, 1) for bias in self.biases)
        return torch.cat([(phase + first).sin().flatten(1, 2), (phase + second).cos().flatten(1, 2)], dim=1)


class ReadingBlock(nn.Module):
    """Pixels read patches, then an MLP as wide as they are; both added to them. No positions.

    Args:
        dim: width of pixels and patches.
        num_heads: divides `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.cross_attn = ReadingAttention(dim, num_heads, bias=False)
        self.norm2, self.norm_y, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim)

    def forward(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Return `pixels` (n, N, C) after the block; `patches` (n, M, C)."""
        pixels = pixels + self.cross_attn(self.norm2(pixels), self.norm_y(patches))
        return pixels + self.mlp(self.norm3(pixels))


class GuidedUpsampler(nn.Module):
    """Features at half the size of a picture, from its colours and places and from patches.

    Args:
        width: of the patches, and channels of the map for the decoder.
        dim: D, channels of the features; a multiple of 8 and of `num_heads`.
        num_heads, layers: of the blocks in which pixels read patches.
        frequencies: that colours and places of pixels are described by.
        patch_frequencies: that places of patches are described by.
    """

    def __init__(self, width: int, dim: int = 384, num_heads: int = 4, layers: int = 2, frequencies: int = 20,
                 patch_frequencies: int = 5) -> None:
        super().__init__()
        self.dim = dim
        self.patch_embed = nn.Conv2d(width, width, 1)
        self.lr_pe = FourierFeatures(PLACES, patch_frequencies)
        self.lr_input_proj = nn.Sequential(nn.Linear(width + self.lr_pe.out_channels, dim), nn.LayerNorm(dim))
        self.fourier_feat = FourierFeatures(PLACES + COLOURS, frequencies)
        self.fourier_channels = self.fourier_feat.out_channels + COLOURS
        self.first_conv = nn.Sequential(
            nn.GroupNorm(1, self.fourier_channels), nn.Conv2d(self.fourier_channels, dim, 3, padding=1),
            nn.GroupNorm(GROUPS, dim), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(GROUPS, dim), nn.ReLU())
        self.ca_transformer_blocks = nn.ModuleList(ReadingBlock(dim, num_heads) for _ in range(layers))
        self.ca_transformer_norm = nn.LayerNorm(dim)

    def forward(self, mixed: Tensor, grid: tuple[int, int], images: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map for the decoder (n, width, h_p, w_p) and features (n, dim, H / 2, W / 2).

        Args:
            mixed: (n, h_p * w_p, width).
            grid: (h_p, w_p).
            images: (n, 3, H, W) in [-1, 1].
            ranges: (n, 2, 3), of `colour_range`.
        """
        pixels = self.first_conv(self.describe(scaled_colours(images, ranges)))             # (n, dim, H/2, W/2)
        size = pixels.shape[-2:]
        patches = self.keys(mixed, grid)
        tokens = pixels.flatten(2).transpose(1, 2)                              # (n, H/2 * W/2, dim)
        for block in self.ca_transformer_blocks:
            tokens = block(tokens, patches)
        features = self.ca_transformer_norm(tokens).transpose(1, 2).unflatten(2, size)
        return self.patch_embed(mixed.transpose(1, 2).unflatten(2, grid)), features

    def describe(self, colours: Tensor) -> Tensor:
        """Return what convolutions see of pictures (n, 3, h, w): Fourier features of places and colours, then colours."""
        places = grid_places(colours.shape[-2:], colours.device).expand(len(colours), -1, -1, -1)
        return torch.cat([self.fourier_feat(torch.cat([places, colours], dim=1)), colours], dim=1)

    def keys(self, mixed: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what pixels read, (n, h_p * w_p, D), of patches `mixed` (n, h_p * w_p, width) on a `grid` (h_p, w_p)."""
        places = self.lr_pe(grid_places(grid, mixed.device)).flatten(2).transpose(1, 2)     # (1, h_p * w_p, channels)
        return self.lr_input_proj(torch.cat([mixed, places.expand(len(mixed), -1, -1)], dim=-1))


def grid_places(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return rows and columns (1, 2, h, w) of a picture of `size` (h, w), from -1 to 1, both ends included."""
    rows, columns = (torch.linspace(-1, 1, side, device=device) for side in size)
    return torch.stack(torch.meshgrid(rows, columns, indexing='ij'))[None]


def halved(images: Tensor) -> Tensor:
    """Return pictures (n, 3, H, W) at half their size, (n, 3, H // 2, W // 2)."""
    return F.interpolate(images, scale_factor=0.5, mode='bilinear', align_corners=False)


def colour_range(images: Tensor, joint: bool) -> Tensor:
    """Return the least and the largest of each colour of the halved pictures (n, 3, H, W), (n, 2, 3); `joint`: of all n."""
    small = halved(images).flatten(2)                                           # (n, 3, h * w)
    ranges = torch.stack([small.amin(dim=2), small.amax(dim=2)], dim=1)         # (n, 2, 3)
    if not joint:
        return ranges
    return torch.stack([ranges[:, 0].amin(dim=0), ranges[:, 1].amax(dim=0)]).expand(len(images), -1, -1)


def scaled_colours(images: Tensor, ranges: Tensor) -> Tensor:
    """Return halved pictures (n, 3, H // 2, W // 2) of which `ranges` (n, 2, 3) become -0.5 and 0.5."""
    least, largest = ranges[..., None, None].unbind(1)                          # (n, 3, 1, 1) each
    return (halved(images) - least) / (largest - least).clamp_min(SMALLEST_RANGE) - 0.5
