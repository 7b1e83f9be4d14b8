"""spconv in the place of the plain convolutions: the same weights, layout and results, quicker on a GPU. Imported on use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError


def spconv_level(coordinates: Tensor, extent: Sequence[int]) -> SpconvLevel:
    """Return the level of voxels `coordinates` (X, 4), which stay in their order.

    Raises:
        ConfigError: spconv is not installed.
    """
    try:
        import spconv.pytorch as library
    except ImportError as error:
        raise ConfigError(f'model.network.engine is "spconv", which cannot be imported here ({error}): install spconv 2.3 '
                          'for your CUDA (pip install spconv-cu120), or set engine="torch".') from error
    scenes = int(coordinates[:, 0].max()) + 1
    empty = torch.zeros(len(coordinates), 1, device=coordinates.device)
    return SpconvLevel(library, library.SparseConvTensor(empty, coordinates.int(), list(extent), scenes), 0)


class SpconvLevel:
    """The occupied voxels of one level, as `VoxelLevel` is used.

    Args:
        library: the module spconv.pytorch.
        tensor: its sparse tensor of these voxels; None until a strided convolution has made it.
        depth: halvings of the resolution.
    """

    def __init__(self, library, tensor, depth: int) -> None:
        self.library, self.tensor, self.depth, self.below = library, tensor, depth, None

    def neighbours(self, size: int) -> SpconvPairs:
        """Return what a submanifold convolution of `size`³ runs with."""
        return SpconvPairs(self, self, 'SubMConv3d', f'same{self.depth}_{size}')

    def coarser(self) -> tuple[SpconvLevel, SpconvPairs]:
        """Return the level below, and what the strided convolution that makes it runs with."""
        if self.below is None:
            self.below = SpconvLevel(self.library, None, self.depth + 1)
        return self.below, SpconvPairs(self, self.below, 'SparseConv3d', f'down{self.depth}')


class SpconvPairs:
    """What a convolution runs with, as `KernelPairs` is used.

    Args:
        source, target: levels of the input and of the output.
        kind: spconv's class.
        key: under which spconv keeps the pairs.
    """

    def __init__(self, source: SpconvLevel, target: SpconvLevel, kind: str, key: str) -> None:
        self.source, self.target, self.kind, self.key = source, target, kind, key

    @property
    def back(self) -> SpconvPairs:
        """The way back of a strided convolution."""
        return SpconvPairs(self.target, self.source, 'SparseInverseConv3d', self.key)

    def convolved(self, convolution: nn.Module, features: Tensor) -> Tensor:
        """Return rows (Y, C_out) of `features` (X, C) by the weight of a `SparseConvolution`."""
        result = self._module(convolution)(self.source.tensor.replace_feature(features))
        if self.target.tensor is None:
            self.target.tensor = result
        return result.features

    def _module(self, convolution: nn.Module) -> nn.Module:
        """Return spconv's module with this weight; it is made once and no part of the model's state."""
        made = convolution.__dict__.get('_spconv')
        if made is None:
            dim_out, size, *_, dim_in = convolution.weight.shape
            stride = dict(stride=2) if self.kind == 'SparseConv3d' else {}
            made = getattr(self.source.library, self.kind)(dim_in, dim_out, size, bias=False, indice_key=self.key, **stride)
            del made.weight
            convolution.__dict__['_spconv'] = made
        made.__dict__['weight'] = convolution.weight
        return made
