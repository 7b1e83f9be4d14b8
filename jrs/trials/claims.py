"""What all trials ask of values: shapes, finite numbers, gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in a value: a tensor, or any nest of sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors(item)


def wrong_tensor(value: object, what: str, shape: tuple[int | None, ...], letters: str) -> Iterator[str]:
    """Yield why `value` is not a finite tensor of `shape`, whose None are any number.

    Args:
        what: what the value is, for the message.
        letters: the shape as the contract writes it, '(Q, G)'.
    """
    if not isinstance(value, Tensor):
        yield f'{what} is a {type(value).__name__}, not a tensor {letters}'
        return
    found = tuple(value.shape)
    if len(found) != len(shape) or any(want is not None and have != want for have, want in zip(found, shape, strict=True)):
        words = ', '.join('any' if want is None else str(want) for want in shape)
        yield f'{what} has shape {found}, not {letters} = ({words})'
    elif value.is_floating_point() and not value.isfinite().all():
        yield f'{what} holds numbers that are not finite'


def wrong_gradients(part: nn.Module, outputs: object) -> Iterator[str]:
    """Yield which parameters that learn get no gradient, or one that is not finite, from all `outputs` together."""
    learning = {name: value for name, value in part.named_parameters() if value.requires_grad}
    connected = [value for value in tensors(outputs) if value.requires_grad]
    if not learning:
        return
    if not connected:
        yield 'its outputs have no gradient, and it has parameters that learn'
        return
    part.zero_grad(set_to_none=True)
    total = sum((value * torch.linspace(0.5, 1, value.numel()).view(value.shape)).sum() for value in connected)
    total.backward(retain_graph=True)
    lacking = [name for name, value in learning.items() if value.grad is None]
    if lacking:
        yield f'no gradient reaches {", ".join(lacking[:5])}{" and more" if len(lacking) > 5 else ""}'
    broken = [name for name, value in learning.items() if value.grad is not None and not value.grad.isfinite().all()]
    if broken:
        yield f'the gradient of {", ".join(broken[:5])} is not finite'


def wrong_leaf_gradients(value: Tensor, leaves: Mapping[str, Tensor | None]) -> Iterator[str]:
    """Yield that a scalar `value` depends on no prediction, or which of `leaves` (...) get gradients that are not finite."""
    if not value.requires_grad:
        yield 'the term has no gradient: it does not depend on the predictions'
        return
    value.backward(retain_graph=True)
    for name, leaf in leaves.items():
        if leaf is not None and leaf.grad is not None and not leaf.grad.isfinite().all():
            yield f'the gradient of {name} is not finite'
