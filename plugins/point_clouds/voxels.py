"""Occupied voxels of a batch at one level, and which of them meet in a convolution.

Coordinates are (scene, c0, c1, c2). Voxels are sorted once; what meets at each place of a kernel is found once per level and
shared by all layers that use it (baselines.md section 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import torch
from torch import Tensor, nn

GROUP_ROWS = 2 ** 17                           # products in memory at a time: 16 MiB at width 32, which malloc keeps


@dataclass
class KernelPairs:
    """Which input row meets which output row at each of the K places of a kernel.

    Attributes:
        outputs, inputs: K tensors (n,) int64, equal in length at each place; no row is twice at one place.
        num_outputs, num_inputs: rows of the result, and of what it is made of.
        centre: the place at which every row meets itself, None without one; its pairs are not listed. Such a kernel is
            its own mirror image: the pairs of place k are those of K - 1 - k, their roles exchanged.
    """

    outputs: list[Tensor]
    inputs: list[Tensor]
    num_outputs: int
    num_inputs: int
    centre: int | None = None

    @cached_property
    def back(self) -> KernelPairs:
        """The pairs of the way back, from outputs to inputs; of a mirror image these ones, place K - 1 - k for place k."""
        if self.centre is not None:
            return self
        back = KernelPairs(self.inputs, self.outputs, self.num_inputs, self.num_outputs)
        back.back = self
        return back

    @cached_property
    def groups(self) -> list[PlaceGroup]:
        """The places that have pairs, a few at a time."""
        groups, places, rows = [], [], 0
        for place, outputs in enumerate(self.outputs):
            if places and rows + len(outputs) > GROUP_ROWS:
                groups.append(self._group(places))
                places, rows = [], 0
            if len(outputs):
                places.append(place)
                rows += len(outputs)
        return [*groups, self._group(places)] if places else groups

    def _group(self, places: list[int]) -> PlaceGroup:
        outputs = torch.cat([self.outputs[place] for place in places])
        if outputs.is_cuda:
            return PlaceGroup(places, outputs, None)
        starts = torch.bincount(outputs, minlength=self.num_outputs).cumsum(0)              # (Y,)
        return PlaceGroup(places, outputs.argsort(stable=True), torch.cat([starts.new_zeros(1), starts]))


@dataclass
class PlaceGroup:
    """Some places of a kernel whose products are made together, and how these are summed.

    Attributes:
        places: their numbers.
        order: (n,) int64: the products in the order of the outputs, where `starts` is given; else the output of each.
        starts: (Y + 1,) int64, where the products of each output begin in that order.
    """

    places: list[int]
    order: Tensor
    starts: Tensor | None

    def add_to(self, result: Tensor, products: Tensor) -> None:
        """Add the products (n, C) of these places to `result` (Y, C)."""
        if self.starts is None:
            result.index_add_(0, self.order, products)
        else:                                  # on a CPU a quarter of the time of index_add_
            result += nn.functional.embedding_bag(self.order, products, self.starts, mode='sum', include_last_offset=True)


class VoxelLevel:
    """The X occupied voxels of B scenes at one level, sorted by scene, c0, c1, c2.

    Args:
        coordinates: (X, 4) int64, all different, in that order; c0 .. c2 >= 0.
        extent: voxels along each axis; every coordinate is below.
    """

    def __init__(self, coordinates: Tensor, extent: Sequence[int]) -> None:
        self.coordinates, self.extent = coordinates, tuple(extent)
        self.neighbours = cache(self._neighbours)
        self.coarser = cache(self._coarser)

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def parents(self) -> Tensor:
        """(X,) int64: the row of each voxel in the coarser level, -1 where that has none."""
        pairs = self.coarser()[1]
        parents = self.coordinates.new_full((len(self),), -1)
        return parents.index_copy_(0, torch.cat(pairs.inputs), torch.cat(pairs.outputs))

    def _neighbours(self, size: int) -> KernelPairs:
        """Return the pairs of a kernel of odd `size`³ at the same voxels; its places run along c2 fastest.

        Offsets d and -d have the same pairs with their roles exchanged: one search serves both.
        """
        reach, places = size // 2, size ** 3
        keys, steps = linear_keys(self.coordinates, self.extent, reach)
        none = keys[:0]
        outputs, inputs = [none] * places, [none] * places
        offsets = list(product(range(-reach, reach + 1), repeat=3))
        for place, offset in enumerate(offsets[places // 2 + 1:], places // 2 + 1):
            shift = sum(step * along for step, along in zip(steps, offset, strict=True))
            found, there = look_up(keys, keys + shift)
            met = there.nonzero()[:, 0]                                                     # (n,)
            outputs[place] = inputs[places - 1 - place] = met
            inputs[place] = outputs[places - 1 - place] = found[met]
        return KernelPairs(outputs, inputs, len(keys), len(keys), centre=places // 2)

    def _coarser(self) -> tuple[VoxelLevel, KernelPairs]:
        """Return the level of cells of 2³ voxels, and the pairs of a strided kernel of 2³ (inputs: these voxels).

        A cell beyond half of the extent, rounded down, does not exist: its voxels meet nothing.
        """
        extent = tuple(side // 2 for side in self.extent)
        scene, places = self.coordinates[:, :1], self.coordinates[:, 1:]
        cells = torch.cat([scene, places // 2], dim=1)                                      # (X, 4)
        kept = (~beyond(cells, extent)).nonzero()[:, 0]                                     # (n,)
        keys, _ = linear_keys(cells[kept], extent)
        distinct, parent = keys.unique(return_inverse=True)                                 # sorted
        coordinates = cells.new_empty(len(distinct), 4)
        coordinates[parent] = cells[kept]
        first, second, third = (places[kept] % 2).unbind(dim=1)
        place = 4 * first + 2 * second + third                                              # (n,)
        members = [(place == number).nonzero()[:, 0] for number in range(8)]
        pairs = KernelPairs([parent[rows] for rows in members], [kept[rows] for rows in members], len(distinct), len(self))
        return VoxelLevel(coordinates, extent), pairs


def sorted_level(coordinates: Tensor, extent: Sequence[int]) -> tuple[VoxelLevel, Tensor]:
    """Return the level of voxels `coordinates` (X, 4) in any order, and the row (X,) of each voxel of the level there.

    Raises:
        ValueError: a coordinate is negative or not below `extent`, or two voxels are the same.
    """
    outside = ((coordinates < 0).any(dim=1) | beyond(coordinates, extent)).nonzero()
    if len(outside):
        scene, *place = coordinates[outside[0, 0]].tolist()
        raise ValueError(f'voxels must be in 0 .. {tuple(extent)} - 1, got {place} in scene {scene}')
    keys, order = linear_keys(coordinates.long(), extent)[0].sort()
    twice = (keys.diff() == 0).nonzero()
    if len(twice):
        raise ValueError(f'voxels must be different, got {coordinates[order[twice[0, 0]]].tolist()} twice')
    return VoxelLevel(coordinates.long()[order], extent), order


def beyond(coordinates: Tensor, extent: Sequence[int]) -> Tensor:
    """Return which voxels (X, 4) do not lie below `extent` along each axis, (X,) bool."""
    first, second, third = (coordinates[:, axis] >= side for axis, side in enumerate(extent, start=1))
    return first | second | third


def padded_extent(coordinates: Tensor, levels: int) -> tuple[int, int, int]:
    """Return extents for voxels (X, 4) that `levels` levels halve without losing any: multiples of 2^(levels - 1)."""
    unit = 2 ** (levels - 1)
    largest = coordinates[:, 1:].amax(dim=0).tolist() if len(coordinates) else [0, 0, 0]
    return tuple(math.ceil((side + 1) / unit) * unit for side in largest)


def linear_keys(coordinates: Tensor, extent: Sequence[int], margin: int = 0) -> tuple[Tensor, list[int]]:
    """Return one number (X,) int64 per voxel (X, 4), in the order of scene, c0, c1, c2, and a step's worth along each axis.

    `margin` voxels around each scene are free, so that a neighbour outside of it has the number of no voxel.
    """
    sides = [side + 2 * margin for side in extent]
    keys = coordinates[:, 0]
    for axis, side in enumerate(sides):
        keys = keys * side + coordinates[:, axis + 1] + margin
    return keys, [sides[1] * sides[2], sides[2], 1]


def look_up(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in sorted `keys` (X,) each of `wanted` (n,) stands, and whether it is there, both (n,)."""
    found = torch.searchsorted(keys, wanted).clamp_max(max(len(keys) - 1, 0))
    return found, keys[found] == wanted
