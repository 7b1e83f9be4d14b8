"""At which layers of the backbone queries read image tokens (Table 4). Each maps the number of layers to a tuple."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from mmengine.logging import print_log

from jrs.errors import ConfigError, PluginError
from jrs.registry import INSERTIONS, owner_of


def chosen_layers(insertion: Callable[[int], Sequence[int]], num_layers: int, path: str) -> tuple[int, ...]:
    """Return the layers that an insertion chooses; every part that uses an insertion asks for them here.

    Args:
        insertion: a part of ``INSERTIONS``.
        num_layers: of the backbone.
        path: where the insertion stands in the config, for messages.

    Raises:
        ConfigError: it does not return distinct whole numbers of 0 .. num_layers - 1 in ascending order, at least one.
        PluginError: the same of a plugin's insertion.
    """
    found = insertion(num_layers)
    layers = _whole_numbers(found)
    if layers and layers == tuple(sorted(set(layers))) and 0 <= layers[0] and layers[-1] < num_layers:
        return layers
    owner = owner_of(type(insertion))
    whose = '' if owner in ('jrs', 'mmengine') else f' of plugin {owner!r}'
    kind = PluginError if whose else ConfigError
    raise kind(f'{path}: {type(insertion).__name__}{whose} returned {found!r} for a backbone of {num_layers} layers. '
               f'Allowed are distinct whole numbers of 0 .. {num_layers - 1} in ascending order, at least one: the '
               'layers after which queries read.')


def mixed_layers(layers: tuple[int, ...], layer_kinds: Sequence[str] | None, include_special: bool,
                 path: str) -> tuple[int, ...]:
    """Return those of `layers` at which patches of all views were mixed since the layer before, and say which are left out.

    Args:
        layers: what an insertion chose.
        layer_kinds: of the backbone's query layers, 'scene' or 'special'; None = all are 'scene'.
        include_special: keep the others too: there patches are as they were in the layer before.
        path: where the insertion stands in the config, for messages.

    Raises:
        ConfigError: none is left.
    """
    special = [layer for layer in layers if layer_kinds is not None and layer_kinds[layer] == 'special']
    if include_special or not special:
        return layers
    kept = tuple(layer for layer in layers if layer not in special)
    if not kept:
        raise ConfigError(f'{path} chooses the layers {list(layers)}, and at all of them only special tokens see other '
                          'views. Choose others, or set model.queries.special_layers=True.')
    print_log(f'{path}: queries pass over the layers {special}, where only special tokens see other views; '
              'model.queries.special_layers=True includes them', 'current')
    return kept


def _whole_numbers(found: object) -> tuple[int, ...]:
    """Return what an insertion returned as plain integers; empty where it is anything else."""
    try:
        return () if any(isinstance(layer, bool) for layer in found) else tuple(map(operator.index, found))
    except TypeError:
        return ()


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
        layers: layer numbers of the backbone, in any order, without repetition.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(sorted(layers))

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return the listed layers in ascending order."""
        return self.layers


def _half(num_layers: int) -> int:
    if num_layers < 2:
        raise ConfigError(f'half of the layers needs a backbone of at least 2 layers, this one has {num_layers}; '
                          f'use AllLayers')
    return num_layers // 2
