"""Building a module whose parameters a file will give: they take neither memory nor time until then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from jrs.errors import WeightsError

Registrations = list[tuple[nn.Module, str]]     # (owner, own name) of every parameter, in the order of their making


def build_on_meta(make: Callable[[], nn.Module]) -> tuple[nn.Module, list[str]]:
    """Return what `make` builds, its parameters on the meta device, and their full names in the order of their making.

    Buffers are real: some are no part of the state and come from the constructor alone. A finished module that `make` only
    hands over is left as it is.
    """
    with _on_meta() as registrations:
        model = make()
    prefixes = {id(module): f'{name}.' if name else '' for name, module in model.named_modules()}
    return model, [f'{prefixes.get(id(owner), "?")}{name}' for owner, name in registrations]


def build_some(make: Callable[[], nn.Module], order: list[str], names: Collection[str]) -> nn.Module:
    """Return what `make` builds, with the parameters `names` as their constructors start them, the others on meta.

    Args:
        make: as given to `build_on_meta`; builds the same again.
        order: the names that `build_on_meta` returned.
        names: full names of the parameters that are wanted.

    Raises:
        WeightsError: a wanted parameter was made from the values of another one, which has none.
    """
    with _on_meta(frozenset(number for number, name in enumerate(order) if name in names)):
        model = make()
    without = [name for name, value in model.named_parameters() if name in names and value.isnan().any()]
    if without:
        raise WeightsError(f'{without[0]} starts from the values of another parameter, so that a file which lacks it '
                           'cannot be loaded into a new model: initialise it in place (nn.init), after it is registered.')
    return model


@contextmanager
def _on_meta(real: frozenset[int] = frozenset()) -> Iterator[Registrations]:
    """Parameters registered in the block have no memory, but for those whose number in the order is in `real`."""
    registrations: Registrations = []

    def place(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        registrations.append((module, name))
        value = parameter.detach()
        if len(registrations) - 1 not in real:
            value = value.to('meta')
        elif value.is_meta:                     # made like another one that has no values; NaN shows if nothing fills it
            value = torch.full_like(value, torch.nan, device='cpu')
        return nn.Parameter(value, parameter.requires_grad)

    handle = register_module_parameter_registration_hook(place)
    try:
        yield registrations
    finally:
        handle.remove()
