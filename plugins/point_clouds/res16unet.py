"""Res16UNet34C, the network of Mask3D and of the ScanNet200 variants of others (baselines.md section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jrs_plugins.point_clouds.convolution import RowNorm, sparse_convolution
from jrs_plugins.point_clouds.voxels import KernelPairs, VoxelLevel, padded_extent, sorted_level
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.registry import MODELS

STEPS = 4                                      # halvings of the resolution
PLANES = (32, 64, 128, 256, 256, 128, 96, 96)
BLOCKS = (2, 3, 4, 6, 2, 2, 2, 2)
DOWN = ('conv1p1s2', 'conv2p2s2', 'conv3p4s2', 'conv4p8s2')
UP = ('convtr4p16s2', 'convtr5p8s2', 'convtr6p4s2', 'convtr7p2s2')


class Convolution(nn.Module):
    """A sparse convolution in MinkowskiEngine's layout: `kernel` (size³, in, out), first coordinate fastest.

    Args:
        dim_in, dim_out: channels.
        size: side of the kernel; of 1 it is (in, out).
        bias: whether there is one.
    """

    def __init__(self, dim_in: int, dim_out: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.size = size
        self.kernel = nn.Parameter(torch.empty(dim_in, dim_out) if size == 1 else torch.empty(size ** 3, dim_in, dim_out))
        nn.init.normal_(self.kernel, std=math.sqrt(2 / (size ** 3 * dim_out)))
        self.bias = nn.Parameter(torch.zeros(1, dim_out)) if bias else None

    def forward(self, features: Tensor, pairs: KernelPairs | None = None) -> Tensor:
        """Return (Y, C_out) for `features` (X, C); a kernel of 1³ needs no pairs."""
        if self.size == 1:
            result = features @ self.kernel
        else:                                                  # places of pairs run along the last coordinate fastest
            weight = self.kernel.unflatten(0, (self.size,) * 3).transpose(0, 2).flatten(0, 2)
            result = sparse_convolution(features, weight, pairs)
        return result if self.bias is None else result + self.bias


class Norm(nn.Module):
    """Batch norm over rows, under the name that the published files give it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = RowNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows (n, C)."""
        return self.bn(rows)


class BasicBlock(nn.Module):
    """Twice 3³ and norm, plus the input, through 1³ and norm where widths differ; ReLU after the first and the sum.

    Args:
        dim_in, dim_out: channels.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Convolution(dim_in, dim_out, 3), Norm(dim_out)
        self.conv2, self.norm2 = Convolution(dim_out, dim_out, 3), Norm(dim_out)
        self.downsample = nn.Identity() if dim_in == dim_out else \
            nn.Sequential(Convolution(dim_in, dim_out, 1), Norm(dim_out))

    def forward(self, features: Tensor, pairs: KernelPairs) -> Tensor:
        """Return (X, C_out) for `features` (X, C) and the neighbours of the X voxels."""
        inner = F.relu(self.norm1(self.conv1(features, pairs)))
        return F.relu(self.norm2(self.conv2(inner, pairs)) + self.downsample(features))


@MODELS.register_module()
class Res16UNet34C(nn.Module):
    """Features of occupied voxels -> features that have seen their surroundings; strides 1 to 16 and back.

    Names of parts are those of the published weights. Runs in float32, also inside an autocast region.

    Args:
        dim_in: channels of the input.
        dim_out: channels of the result, after a last 1³ convolution; None = there is none, and 96 (the last of `planes`).
        stem: channels of the first convolution.
        stem_size: side of its kernel.
        planes, blocks: channels and basic blocks of the four stages down and the four up.

    Attributes:
        dim_out: channels of the result.
        level_dims: channels of the features at strides 16, 8, 4, 2, 1.
    """

    def __init__(self, dim_in: int = 3, dim_out: int | None = 96, stem: int = 32, stem_size: int = 5,
                 planes: Sequence[int] = PLANES, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        self.dim_out = planes[-1] if dim_out is None else dim_out
        self.level_dims = tuple(planes[STEPS - 1:])
        self.conv0p1s1, self.bn0 = Convolution(dim_in, stem, stem_size), Norm(stem)
        width, skips = stem, [stem]
        for step in range(STEPS):
            setattr(self, DOWN[step], Convolution(width, width, 2))
            setattr(self, f'bn{step + 1}', Norm(width))
            setattr(self, f'block{step + 1}', _stage(width, planes[step], blocks[step]))
            width = planes[step]
            skips.append(width)
        for step in range(STEPS, 2 * STEPS):
            setattr(self, UP[step - STEPS], Convolution(width, planes[step], 2))
            setattr(self, f'bntr{step}', Norm(planes[step]))
            width = planes[step]
            setattr(self, f'block{step + 1}', _stage(width + skips[2 * STEPS - 1 - step], width, blocks[step]))
        self.final = None if dim_out is None else Convolution(width, dim_out, 1, bias=True)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """Return (X, dim_out) for `features` (X, C) of voxels `coordinates` (X, 4): scene, c0, c1, c2, in any order."""
        levels, order = self.pyramid(features, coordinates)
        return self._last(levels, order)

    def with_levels(self, features: Tensor, coordinates: Tensor) -> tuple[Tensor, list[tuple[VoxelLevel, Tensor]]]:
        """Return what `forward` does for `features` (X, C), and level and features (X_l, C_l) at strides 16, 8, 4, 2, 1.

        Raises:
            ValueError: the voxels are not in the order of their coordinates, so that rows of the levels would not be theirs.
        """
        levels, order = self.pyramid(features, coordinates)
        if not order.equal(torch.arange(len(order), device=order.device)):
            raise ValueError('voxels must be in the order of scene, c0, c1, c2 where levels are read')
        return self._last(levels, order), levels

    def _last(self, levels: list[tuple[VoxelLevel, Tensor]], order: Tensor) -> Tensor:
        rows = levels[-1][1] if self.final is None else self.final(levels[-1][1])
        return torch.empty_like(rows).index_copy(0, order, rows)

    def pyramid(self, features: Tensor, coordinates: Tensor) -> tuple[list[tuple[VoxelLevel, Tensor]], Tensor]:
        """Return level and features (X_l, C_l) at strides 16, 8, 4, 2, 1, and the row (X,) of each voxel in the input.

        `features` are (X, C); coordinates (X, 4) may be negative: cells are floors.
        """
        unit = 2 ** STEPS
        base = coordinates[:, 1:].amin(dim=0).div(unit, rounding_mode='floor') * unit
        shifted = torch.cat([coordinates[:, :1], coordinates[:, 1:] - base], dim=1)
        level, order = sorted_level(shifted, padded_extent(shifted, STEPS + 1))
        with torch.autocast(features.device.type, enabled=False):
            return self._levels(features.to(self.conv0p1s1.kernel.dtype)[order], level), order

    def _levels(self, rows: Tensor, level: VoxelLevel) -> list[tuple[VoxelLevel, Tensor]]:
        rows = F.relu(self.bn0(self.conv0p1s1(rows, level.neighbours(self.conv0p1s1.size))))
        passed = [(level, rows)]
        for step in range(STEPS):
            level, pairs = passed[-1][0].coarser()
            rows = F.relu(getattr(self, f'bn{step + 1}')(getattr(self, DOWN[step])(rows, pairs)))
            rows = _through(getattr(self, f'block{step + 1}'), rows, level)
            passed.append((level, rows))
        found = [passed.pop()]
        for step in range(STEPS, 2 * STEPS):
            level, skip = passed.pop()
            rows = getattr(self, UP[step - STEPS])(rows, level.coarser()[1].back)
            rows = torch.cat([F.relu(getattr(self, f'bntr{step}')(rows)), skip], dim=1)
            rows = _through(getattr(self, f'block{step + 1}'), rows, level)
            found.append((level, rows))
        return found


def _stage(dim_in: int, dim_out: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(BasicBlock(dim_in if number == 0 else dim_out, dim_out) for number in range(count))


def _through(stage: nn.ModuleList, rows: Tensor, level: VoxelLevel) -> Tensor:
    for block in stage:
        rows = block(rows, level.neighbours(3))
    return rows
