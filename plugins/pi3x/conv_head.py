"""The convolution head of Pi3X: patch features to maps at the size of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_WIDTH = 32                                # channels of a group of the second norm
SAVED_STAGE = 20                               # maps of a stage that its backward pass needs
ALIVE_PIXEL = 16                               # values of a pixel beside the widest maps, without one


def convolution(dim_in: int, dim: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that repeats the border."""
    return nn.Conv2d(dim_in, dim, 3, padding=1, padding_mode='replicate')


class ResidualConvolutions(nn.Module):
    """Two normalised convolutions through twice the width, added to their input of width `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, dim), nn.ReLU(), convolution(dim, 2 * dim),
            nn.GroupNorm(max(1, 2 * dim // NORM_WIDTH), 2 * dim), nn.ReLU(), convolution(2 * dim, dim))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, dim, h, w) for maps of that shape."""
        return maps + self.layers(maps)


class ConvHead(nn.Module):
    """Three stages that double the resolution, a resize to the image, one pair of convolutions per branch.

    Args:
        dim: width of the patch tokens.
        widths: of the stages; twice each is a multiple of 32, or less than that.
        last_width: before the last convolution.
        branches: channels of each branch.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, widths: Sequence[int], last_width: int, branches: Sequence[int], patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.ConvTranspose2d(dim_in + 2, width, 2, stride=2), convolution(width, width)),
                          ResidualConvolutions(width), ResidualConvolutions(width))
            for dim_in, width in zip((dim, *widths), widths, strict=False))
        self.output_block = nn.ModuleList(
            nn.Sequential(convolution(widths[-1] + 2, last_width), nn.ReLU(), nn.Conv2d(last_width, channels, 1))
            for channels in branches)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return maps (n, channels of all branches, H, W) for `patches` (n, h_p * w_p, dim)."""
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        maps = patches.transpose(1, 2).unflatten(2, grid)                       # (n, dim, h_p, w_p)
        for stage in self.upsample_blocks:
            maps = stage(with_places(maps, size))
        maps = with_places(F.interpolate(maps, size, mode='bilinear', align_corners=False), size)
        return torch.cat([branch(maps) for branch in self.output_block], dim=1)

    def values(self, grid: tuple[int, int]) -> tuple[float, float]:
        """Return the values of a view that its backward pass needs, and those alive at a time without one."""
        positions, saved = grid[0] * grid[1], 0.0
        pixels = positions * self.patch_size ** 2
        for stage in self.upsample_blocks:
            enlarge = stage[0][0]                                               # doubles the resolution
            saved += positions * (enlarge.in_channels + 4 * SAVED_STAGE * enlarge.out_channels)
            positions *= 4
        first, last = self.output_block[0][0], len(self.output_block) * self.output_block[0][0].out_channels
        channels = sum(branch[-1].out_channels for branch in self.output_block)
        saved += pixels * (first.in_channels * (1 + len(self.output_block)) + 2 * last + channels)
        return saved, pixels * (3 * first.in_channels + first.out_channels + ALIVE_PIXEL)


def with_places(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return maps (n, c, h, w) with two more channels: u and v of the place, with length 1 from the middle to a corner.

    Args:
        maps: (n, c, h, w), of an image of any size.
        image_size: (H, W), of which the aspect counts.
    """
    diagonal = math.hypot(*image_size)
    v, u = (torch.linspace(-1, 1, count, device=maps.device, dtype=maps.dtype) * (side / diagonal * (count - 1) / count)
            for side, count in zip(image_size, maps.shape[2:], strict=True))
    places = torch.stack([u.expand(len(v), -1), v[:, None].expand(-1, len(u))])             # (2, h, w)
    return torch.cat([maps, places.expand(len(maps), -1, -1, -1)], dim=1)
