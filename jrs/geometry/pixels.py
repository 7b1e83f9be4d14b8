"""Which pixel of one grid shows what a pixel of another grid shows: one convention for targets, oracle, test and export.

Two grids of one picture share its corners; pixel centres are at half-integers from there (at integers in coordinates of
pixels). A pixel takes the one that holds its centre. Where the centre lies between two, as in a grid of half as many, it is
the later one: halves are rounded up, as in the transfer to vertices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_index(length: int, other: int, device: torch.device) -> Tensor:
    """Return for each of `length` pixels the one, of `other` along the same edge, that holds its centre; int64."""
    return (torch.arange(length, device=device) * 2 + 1) * other // (2 * length)


def at_centres(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `maps` (..., H, W), such as ids, at `size` (h, w): each pixel has the value at its centre, none are mixed."""
    rows, columns = (nearest_index(new, old, maps.device) for new, old in zip(size, maps.shape[-2:], strict=True))
    return maps[..., rows[:, None], columns]                                    # (..., h, w)
