"""How Pi3X lets patch tokens know where their cameras stand: attention whose heads are moved by relative poses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jrs.geometry.camera import invert_rigid
from jrs.layers.attention import fused_attention
from jrs.layers.block import Block

ROTARY_BASE = 100.0


class PoseInjection(Block):
    """Attention over the patches of all views with known cameras, and an MLP beside it (backbones.md section 1).

    Parameters are those of a `Block`. Both branches read the same tokens, and their sum holds no residual.
    """

    def change(self, patches: Tensor, cam_from_reference: Tensor, places: Tensor) -> Tensor:
        """Return what is added to the `patches` (n, N, C) of n views.

        Args:
            patches: (n, N, C), row-major over the grid.
            cam_from_reference: (n, 4, 4).
            places: (N, 2) rows and columns.
        """
        tokens = patches.flatten(0, 1)[None]                                    # (1, n * N, C)
        attended = self.attn(self.norm1(tokens), mix=RelativePoses(cam_from_reference, places))
        return (self.ls1(attended) + self.ls2(self.mlp(self.norm2(tokens)))).view(patches.shape)


class RelativePoses:
    """The `mix` of `PoseInjection`: turns heads by camera and place, attends, and turns the result back; in float32.

    Of a head of width d, a multiple of 8, the first d/2 channels are groups of four that the camera transforms; the next d/4
    turn with the column, the last d/4 with the row.

    Args:
        cam_from_reference: (n, 4, 4) of n views.
        places: (N, 2) rows and columns of their patches.
    """

    def __init__(self, cam_from_reference: Tensor, places: Tensor) -> None:
        self.cam_from_reference = cam_from_reference.float()
        self.places = places

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
        """Return attended heads (1, heads, n * N, d); `tokens` are not read."""
        with torch.autocast(query.device.type, enabled=False):
            forward, back = self.cam_from_reference, invert_rigid(self.cam_from_reference)
            turn = self._turning(query.shape[-1], 1.0)
            query = self._moved(query, forward.mT, turn)
            key, value = self._moved(key, back, turn), self._moved(value, back, turn)
            attended = fused_attention(query, key, value, tokens)
            return self._moved(attended, forward, self._turning(query.shape[-1], -1.0))

    def _moved(self, heads: Tensor, transforms: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `heads` (1, heads, n * N, d): the first half moved by `transforms` (n, 4, 4), the rest turned."""
        views = heads.float().unflatten(2, (len(transforms), -1))               # (1, heads, n, N, d)
        posed, placed = views.chunk(2, dim=-1)
        groups = posed.unflatten(-1, (-1, 4))                                   # (1, heads, n, N, d/8, 4)
        posed = torch.einsum('nij,bhnpgj->bhnpgi', transforms, groups).flatten(-2)
        return torch.cat([posed, turn(placed)], dim=-1).flatten(2, 3).to(heads.dtype)

    def _turning(self, head_width: int, sense: float) -> Callable[[Tensor], Tensor]:
        """Return what turns the second half of heads, (1, heads, n, N, d/2), the other way for `sense` -1."""
        count = head_width // 8
        speeds = ROTARY_BASE ** -(torch.arange(count, device=self.places.device) / count)           # (d/8,)
        angles = self.places.flip(1)[:, :, None] * speeds                       # (N, 2, d/8): columns, rows
        cos, sin = angles.cos(), sense * angles.sin()

        def turn(placed: Tensor) -> Tensor:
            u, v = placed.unflatten(-1, (2, 2, count)).unbind(-2)               # (1, heads, n, N, 2, d/8) each
            return torch.stack([u * cos + v * sin, v * cos - u * sin], dim=-2).flatten(-3)
        return turn
