"""Positions as sines and cosines of random directions (baselines.md section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST_RANGE = 1e-6                             # metres: a scene of one superpoint, or flat, has no extent of its own


class FourierPositions(nn.Module):
    """Sines and cosines of 2 pi x B of positions x; B is a random draw that belongs to the weights.

    Args:
        width: C of the result, even.
        dim_in: coordinates of a position.
    """

    def __init__(self, width: int, dim_in: int = 3) -> None:
        super().__init__()
        self.register_buffer('gauss_B', torch.randn(dim_in, width // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """Return (..., C) for `positions` (..., dim_in)."""
        angle = 2 * math.pi * positions @ self.gauss_B
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def own_box(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least coordinates (3,) of `positions` (n, 3) and their extent (3,), at least 1e-6."""
    low, high = positions.amin(dim=0), positions.amax(dim=0)
    return low, (high - low).clamp_min(LEAST_RANGE)


def in_own_box(positions: Tensor) -> Tensor:
    """Return `positions` (n, 3) scaled to 0 .. 1 by their own least and largest coordinates."""
    low, extent = own_box(positions)
    return (positions - low) / extent
