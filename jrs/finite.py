"""Numbers that are NaN or infinite: found in one fast pass, counted where there are any, refused with name and count.

A comparison with NaN is False, so that without this a broken network looks like one that found nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jrs.errors import JrsError, NonFiniteError

SHOWN = 4                                      # tensors that a message names


@dataclass(frozen=True)
class Nonfinite:
    """How many of the `total` values of a tensor are NaN, and how many infinite."""

    nan: int
    infinite: int
    total: int

    @property
    def count(self) -> int:
        """All values that are not finite."""
        return self.nan + self.infinite

    def __str__(self) -> str:
        kinds = [f'{number} {word}' for number, word in ((self.nan, 'NaN'), (self.infinite, 'infinite')) if number]
        return f'{self.count} of {self.total} values ({", ".join(kinds)})'


def all_finite(values: Tensor) -> Tensor:
    """Return whether all of `values` (...) are finite: a bool scalar on their device, which nobody has waited for."""
    values = values.detach()
    if values.numel() == 0 or not values.is_floating_point():
        return torch.ones((), dtype=torch.bool, device=values.device)
    if values.element_size() == 1:                      # kinds of float8 have no such kernels
        values = values.float()
    low, high = torch.aminmax(values)                   # both are NaN where one value is; ten times as fast as isfinite
    return low.isfinite() & high.isfinite()


def nonfinite(tensors: Mapping[str, Tensor | Sequence[Tensor] | None]) -> dict[str, Nonfinite]:
    """Return which of the named tensors (...) hold values that are not finite, and how many; None has none."""
    given = {name: values for name, values in tensors.items() if isinstance(values, Tensor)}
    given |= {f'{name}[{number}]': values for name, several in tensors.items()
              if several is not None and not isinstance(several, Tensor) for number, values in enumerate(several)}
    if not given:
        return {}
    flags = [all_finite(values) for values in given.values()]
    sound = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()          # one wait for the device
    return {name: _count(values.detach()) for (name, values), fine in zip(given.items(), sound, strict=True) if not fine}


def in_words(found: Mapping[str, Nonfinite]) -> str:
    """Return which tensors hold how many such values, the first few by name."""
    shown = [f'{name} {count}' for name, count in list(found.items())[:SHOWN]]
    more = [f'and {len(found) - SHOWN} tensors more'] if len(found) > SHOWN else []
    total = [f'{sum(count.count for count in found.values())} values in all'] if len(found) > 1 else []
    return '; '.join([*shown, *more, *total])


def refuse_nonfinite(tensors: Mapping[str, Tensor | Sequence[Tensor] | None], where: str, advice: str,
                     error: type[JrsError] = NonFiniteError) -> None:
    """Raise `error` where one of the named tensors (...) holds a value that is not finite.

    Args:
        tensors: name -> values, several of them, or None.
        where: what they are of, the start of the message.
        advice: what to do, its end.
        error: what is raised.
    """
    found = nonfinite(tensors)
    if found:
        raise error(f'{where}: not finite: {in_words(found)}. {advice}')


def refuse_nonfinite_terms(terms: Mapping[str, Tensor], where: str) -> None:
    """Raise NonFiniteError for the first of the training `terms`, scalars (), that is NaN or infinite.

    That is before it reaches the weights; `where` says what the terms are of.
    """
    finite = torch.stack([value.detach() for value in terms.values()]).isfinite()           # one transfer for all terms
    if not finite.all():
        name = list(terms)[int(finite.long().argmin())]
        raise NonFiniteError(f'the term {name!r} is {terms[name].item()} for {where}. The weights are still those before '
                             'this step: resume from the last checkpoint with a lower learning rate, or look at these '
                             'scenes.')


def _count(values: Tensor) -> Nonfinite:
    values = values.float() if values.element_size() == 1 else values
    nan = int(values.isnan().sum())
    return Nonfinite(nan, int((~values.isfinite()).sum()) - nan, values.numel())
