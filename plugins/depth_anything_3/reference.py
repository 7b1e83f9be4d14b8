"""Which view of a scene is the reference of Depth Anything 3, and the order of views then (backbones.md section 6.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FEWEST_VIEWS = 3                               # with fewer, views keep their order
SMALLEST_SPAN = 1e-8


def similarities(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return class tokens (B, V, C) at length 1, and their inner products (B, V, V) less the diagonal."""
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    return unit, unit @ unit.mT - torch.eye(tokens.shape[1], dtype=tokens.dtype, device=tokens.device)


def balance_score(tokens: Tensor) -> Tensor:
    """Return how far the view is from the middle of three ranges (B, V), from class tokens (B, V, C).

    The ranges are those over the scene of the mean likeness to other views, of the length, and of the variance of the
    channels at length 1.
    """
    unit, alike = similarities(tokens)
    numbers = torch.stack([alike.sum(dim=2) / (tokens.shape[1] - 1), tokens.norm(dim=-1), unit.var(dim=-1)])    # (3, B, V)
    low, high = numbers.amin(dim=2, keepdim=True), numbers.amax(dim=2, keepdim=True)
    return ((numbers - low) / (high - low + SMALLEST_SPAN) - 0.5).abs().sum(dim=0)


def saddle_balanced(tokens: Tensor) -> Tensor:
    """Return the view (B,) with the smallest `balance_score`."""
    return balance_score(tokens).argmin(dim=1)


def saddle_sim_range(tokens: Tensor) -> Tensor:
    """Return the view (B,) whose likeness to the views of the scene varies most."""
    _, alike = similarities(tokens)
    return (alike.amax(dim=2) - alike.amin(dim=2)).argmax(dim=1)


def first(tokens: Tensor) -> Tensor:
    """Return view 0 of each scene, (B,)."""
    return torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)


def middle(tokens: Tensor) -> Tensor:
    """Return view V // 2 of each scene, (B,)."""
    return first(tokens) + tokens.shape[1] // 2


# Class tokens (B, V, C) in float64 -> the reference (B,), the first where several are as good.
STRATEGIES: dict[str, Callable[[Tensor], Tensor]] = {
    strategy.__name__: strategy for strategy in (saddle_balanced, saddle_sim_range, first, middle)}


@torch.no_grad()
def order_of_views(tokens: Tensor, strategy: str) -> Tensor | None:
    """Return the input view that stands at each place (B, V): the reference, then the others in their order.

    In float64: the numbers of `balance_score` can lie so close together that float32 is too coarse.

    Args:
        tokens: class tokens (B, V, C).
        strategy: one of `STRATEGIES`.

    Returns:
        None where the order stays for want of views.
    """
    num_views = tokens.shape[1]
    if num_views < FEWEST_VIEWS:
        return None
    exact = tokens.cpu() if tokens.device.type == 'mps' else tokens             # which has no float64
    reference = STRATEGIES[strategy](exact.double()).to(tokens.device)          # (B,)
    places = torch.arange(num_views, device=tokens.device)
    return torch.where(places == reference[:, None], -1, places).argsort(dim=1)         # (B, V)
