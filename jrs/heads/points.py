"""The point head: the 3D point that every pixel sees, in the frame of the first camera."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jrs.heads.maps import ConfidentMaps
from jrs.layers.dpt import HeadMemory
from jrs.registry import HEADS


@HEADS.register_module()
class PointHead(ConfidentMaps):
    """Points in the frame of the first camera, and a confidence; arguments and `forward` are those of `ConfidentMaps`."""

    channels = 3

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what `DenseDecoder.memory` does, with points and confidence, which stay; 9 values more make them."""
        found, values = super().memory(views, size, device), 4.0 * size[0] * size[1]
        return replace(found, outputs=4 * values, chunk=max(found.chunk, 9 * values * views))

    def quantity(self, maps: Tensor) -> Tensor:
        """Return points (B, V, H, W, 3), in the unit of the predicted cameras, for `maps` (B, V, 3, H, W)."""
        values = maps.permute(0, 1, 3, 4, 2)                                    # (B, V, H, W, 3)
        return values.sign() * values.abs().expm1()
