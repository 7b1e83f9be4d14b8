"""The sparse U-Net of SPFormer, OneFormer3D, MAFT, Relation3D and SGIFormer (baselines.md section 3.1)."""

from __future__ import annotations

import torch
from jrs_plugins.point_clouds.convolution import RowNorm, SparseConvolution, SparseSequential
from jrs_plugins.point_clouds.spconv_levels import spconv_level
from jrs_plugins.point_clouds.voxels import KernelPairs, VoxelLevel, padded_extent, sorted_level
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.registry import MODELS

ENGINES = ('torch', 'spconv')
EPS = 1e-4                                     # of every batch norm of this family


class ResidualBlock(nn.Module):
    """Twice norm, ReLU, submanifold 3³, plus the input, through a 1³ convolution where widths differ.

    Args:
        dim_in, dim_out: channels.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.i_branch = SparseSequential(SparseConvolution(dim_in, dim_out, 1)) if dim_in != dim_out else nn.Identity()
        self.conv_branch = SparseSequential(
            RowNorm(dim_in, eps=EPS), nn.ReLU(), SparseConvolution(dim_in, dim_out, 3),
            RowNorm(dim_out, eps=EPS), nn.ReLU(), SparseConvolution(dim_out, dim_out, 3))

    def forward(self, features: Tensor, pairs: KernelPairs) -> Tensor:
        """Return (X, C_out) for `features` (X, C) and the neighbours of the X voxels."""
        return self.conv_branch(features, pairs) + self.i_branch(features)


class UNetLevel(nn.Module):
    """Two blocks, the coarser level between a strided convolution and its inverse, and two blocks over both.

    The names of its parts are those of the published weights.

    Args:
        widths: channels of this level and of the coarser ones.
        blocks: residual blocks before and after.
    """

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        width = widths[0]
        self.blocks = _blocks([width] * blocks, width)
        if len(widths) == 1:
            self.u = None
            return
        self.conv = SparseSequential(RowNorm(width, eps=EPS), nn.ReLU(), SparseConvolution(width, widths[1], 2))
        self.u = UNetLevel(widths[1:], blocks)
        self.deconv = SparseSequential(RowNorm(widths[1], eps=EPS), nn.ReLU(), SparseConvolution(widths[1], width, 2))
        self.blocks_tail = _blocks([2 * width] + [width] * (blocks - 1), width)

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """Return (X, C) for `features` (X, C) of the X voxels of `level`."""
        neighbours = level.neighbours(3)
        for block in self.blocks.values():
            features = block(features, neighbours)
        if self.u is None:
            return features
        coarser, pairs = level.coarser()
        below = self.u(self.conv(features, pairs), coarser)                                 # (Y, C')
        above = self.deconv(below, pairs.back)                              # (X, C)
        features = torch.cat([features, above], dim=1)
        for block in self.blocks_tail.values():
            features = block(features, neighbours)
        return features


def _blocks(inputs: list[int], width: int) -> nn.ModuleDict:
    return nn.ModuleDict({f'block{number}': ResidualBlock(dim_in, width) for number, dim_in in enumerate(inputs)})


@MODELS.register_module()
class SparseUNet(nn.Module):
    """Features of occupied voxels -> features that have seen their surroundings, by submanifold convolutions.

    Level l has `width` * (l + 1) channels. Runs in float32, also inside an autocast region.

    Args:
        dim_in: channels of the input.
        width: channels of the finest level, and of the result.
        levels: each halves the resolution.
        blocks: residual blocks of a level before and after the coarser one.
        trim_odd_extents: lose the last layer of voxels where an extent is odd, as spconv does; else extents are rounded up
            and nothing is lost.
        least_extent: voxels along each axis at least; matters with `trim_odd_extents` only.
        engine: what convolves: 'torch', or 'spconv' (2.3, to be installed), with the same weights and results.

    Attributes:
        dim_out: channels of the result.
    """

    def __init__(self, dim_in: int = 6, width: int = 32, levels: int = 5, blocks: int = 2, trim_odd_extents: bool = False,
                 least_extent: int = 1, engine: str = 'torch') -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ConfigError(f'SparseUNet.engine must be one of {", ".join(map(repr, ENGINES))}, got {engine!r}.')
        self.engine = engine
        self.levels, self.trim_odd_extents, self.least_extent = levels, trim_odd_extents, least_extent
        self.dim_out = width
        self.input_conv = SparseSequential(SparseConvolution(dim_in, width, 3))
        self.unet = UNetLevel([width * (level + 1) for level in range(levels)], blocks)
        self.output_layer = nn.Sequential(RowNorm(width, eps=EPS), nn.ReLU())

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """Return (X, width) for `features` (X, C) of voxels `coordinates` (X, 4): scene, c0, c1, c2, in any order."""
        level, order = self._level(coordinates)
        with torch.autocast(features.device.type, enabled=False):
            rows = self.input_conv(features.to(self.input_conv[0].weight.dtype)[order], level.neighbours(3))
            rows = self.output_layer(self.unet(rows, level))
        return torch.empty_like(rows).index_copy(0, order, rows)

    def _level(self, coordinates: Tensor) -> tuple[VoxelLevel, Tensor]:
        if self.engine == 'spconv':
            level = spconv_level(coordinates, self.extent(coordinates))
            return level, torch.arange(len(coordinates), device=coordinates.device)
        return sorted_level(coordinates, self.extent(coordinates))

    def extent(self, coordinates: Tensor) -> tuple[int, int, int]:
        """Return the voxels along each axis of the space in which `coordinates` (X, 4) lie."""
        if not self.trim_odd_extents:
            return padded_extent(coordinates, self.levels)
        return tuple(max(side, self.least_extent) for side in padded_extent(coordinates, 1))
