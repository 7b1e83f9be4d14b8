"""Rotary position embedding on a grid: queries and keys are turned by where their patch stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        angles = (positions[..., None].float() * base ** -exponents).unsqueeze(-4)             # (..., 1, N, 2, m/2)
        self.cos, self.sin = _of_pairs(angles)                                  # (..., 1, N, 2, 2, m/2): half, u or v

    def __call__(self, heads: Tensor) -> Tensor:
        """Return `heads` (B, heads, N, head width) turned, in their own dtype."""
        return _turned(heads, self.cos.to(heads.dtype), self.sin.to(heads.dtype))


class HalfRotation:
    """Turns heads by given angles; element c of a head is paired with c + half its width (backbones.md section 2).

    Tokens in front that have no place are not turned. Turned heads are float32, whatever they were.

    Args:
        angles: (n, head width / 2) radians, of the tokens that have a place.
        num_special: tokens in front of them.
    """

    def __init__(self, angles: Tensor, num_special: int = 0) -> None:
        self.cos, self.sin = _of_pairs(F.pad(angles, (0, 0, num_special, 0))[:, None])      # (N, 1, 2, head width / 2)

    def __call__(self, heads: Tensor) -> Tensor:
        """Return `heads` (B, heads, N, head width) turned."""
        return _turned(heads.to(self.cos.dtype), self.cos, self.sin)


def _of_pairs(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_turned` wants of `angles` (..., N, k, m), (..., N, k, 2, m) each."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, cos], dim=-2), torch.stack([-sin, sin], dim=-2)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `heads` (B, heads, N, head width) with the pairs (u, v) in each of their k parts turned.

    Args:
        cos: (..., N, k, 2, m), the cosine for u and for v, of the m pairs of a part; k * 2 * m is the head's width.
        sin: the same, the sine of -angle for u, and of the angle for v.
    """
    return _Turn.apply(heads, cos, sin) if torch.is_grad_enabled() else _turn(heads, cos, sin)


class _Turn(torch.autograd.Function):
    """A rotation of heads; its gradient is turned back, so that nothing of them is kept for it."""

    @staticmethod
    def forward(ctx, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(heads, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = heads.unflatten(-1, cos.shape[-3:])                                 # (B, heads, N, k, 2, m)
    return pairs.flip(-2).mul_(sin).addcmul_(pairs, cos).flatten(-3)            # one new tensor: hundreds of views are large


class GridPeriods(nn.Module):
    """The periods of a `HalfRotation` on a grid of patches, kept with the weights, as released files have them.

    Rows and columns run from -1, both in steps by which the longer side ends at 1: the shorter one is not centred. The first
    half of the angles are the row's.

    Args:
        head_width: width of a head, a multiple of 4.
        base: period k is base ** (4 k / head width), k = 0 .. head width / 4 - 1.
    """

    def __init__(self, head_width: int, base: float = 100.0) -> None:
        super().__init__()
        exponents = 4 * torch.arange(head_width // 4, dtype=torch.float32) / head_width
        self.register_buffer('periods', base ** exponents)                      # (head width / 4,)

    def forward(self, grid: tuple[int, int], num_special: int = 0) -> HalfRotation:
        """Return the rotation of `num_special` tokens without a place, then the patches of `grid` (h_p, w_p), row-major."""
        rows, columns = (2 * (torch.arange(side, device=self.periods.device) + 0.5) / max(grid) - 1 for side in grid)
        places = torch.cartesian_prod(rows, columns).reshape(-1, 2)             # (h_p * w_p, 2)
        angles = 2 * math.pi * places[..., None] / self.periods                 # (h_p * w_p, 2, head width / 4)
        return HalfRotation(angles.flatten(1), num_special)


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
