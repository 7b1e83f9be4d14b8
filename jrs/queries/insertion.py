"""At which layers of the backbone queries read image tokens (Table 4). Each maps the number of layers to a tuple."""

from __future__ import annotations

from collections.abc import Sequence

from jrs.errors import ConfigError
from jrs.registry import INSERTIONS


@INSERTIONS.register_module()
class AllLayers:
    """Every layer."""

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return 0 .. num_layers - 1."""
        return tuple(range(num_layers))


@INSERTIONS.register_module()
class EarlyLayers:
    """The first half of the layers (12 of 24)."""

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return 0 .. num_layers // 2 - 1."""
        return tuple(range(_half(num_layers)))


@INSERTIONS.register_module()
class LateLayers:
    """The last half of the layers (12 of 24)."""

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return the last num_layers // 2 layers."""
        return tuple(range(num_layers - _half(num_layers), num_layers))


@INSERTIONS.register_module()
class InterleavedLayers:
    """Every second layer: 1, 3, 5, ... (12 of 24; ours, the paper does not say which)."""

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return 1, 3, ... below num_layers."""
        return tuple(range(1, 2 * _half(num_layers), 2))


@INSERTIONS.register_module()
class ListedLayers:
    """The layers that the config lists.

    Args:
        layers: layer numbers, in any order, without repetition.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(sorted(layers))

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return the listed layers in ascending order."""
        distinct = set(self.layers)
        if not distinct or len(distinct) < len(self.layers) or not distinct <= set(range(num_layers)):
            raise ConfigError(f'ListedLayers.layers must be distinct numbers of 0 .. {num_layers - 1}, at least one; '
                              f'got {list(self.layers)}')
        return self.layers


def _half(num_layers: int) -> int:
    if num_layers < 2:
        raise ConfigError(f'half of the layers needs a backbone of at least 2 layers, this one has {num_layers}; '
                          f'use AllLayers')
    return num_layers // 2
