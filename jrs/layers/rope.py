"""Rotary position embedding on a grid: queries and keys are turned by where their patch stands."""

from __future__ import annotations

import torch
from torch import Tensor


class GridRotation:
    """Turns heads by fixed grid positions (vggt.md section 5, RoPE 2D).

    The first half of a head turns with the row, the second with the column. Inside a half of width m, element j is
    paired with j + m/2. Position 0 leaves a vector unchanged. Angles are computed once, in float32.

    Args:
        positions: (N, 2) or (B, N, 2) rows and columns of the tokens.
        head_width: width of a head, a multiple of 4.
        base: ratio of the fastest to the slowest turning speed.
    """

    def __init__(self, positions: Tensor, head_width: int, base: float = 100.0) -> None:
        half = head_width // 2
        exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
        angles = positions[..., None].float() * base ** -exponents              # (..., N, 2, m/2)
        angles = torch.cat([angles, angles], dim=-1).flatten(-2).unsqueeze(-3)  # (..., 1, N, head width)
        self.cos = angles.cos()
        self.sin = angles.sin()

    def __call__(self, heads: Tensor) -> Tensor:
        """Return `heads` (B, heads, N, head width) turned, in their own dtype."""
        halves = heads.unflatten(-1, (2, 2, -1))                                # (B, heads, N, 2, 2, m/2)
        u, v = halves.unbind(-2)                                                # (B, heads, N, 2, m/2) each
        turned = torch.stack([-v, u], dim=-2).flatten(-3)                       # (B, heads, N, head width)
        return heads * self.cos.to(heads.dtype) + turned * self.sin.to(heads.dtype)


def patch_positions(patch_grid: tuple[int, int], num_special: int, device: torch.device) -> Tensor:
    """Return the positions (P, 2) of one view's tokens: special tokens at (0, 0), then patches row-major from (1, 1).

    Args:
        patch_grid: (h_p, w_p).
        num_special: tokens in front of the patches.
        device: where the positions are wanted.
    """
    rows = torch.arange(1, patch_grid[0] + 1, device=device)
    columns = torch.arange(1, patch_grid[1] + 1, device=device)
    patches = torch.cartesian_prod(rows, columns).reshape(-1, 2)                # (h_p * w_p, 2)
    return torch.cat([patches.new_zeros(num_special, 2), patches])              # (P, 2)
