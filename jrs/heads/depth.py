"""The depth head: one depth map and its confidence per view."""

from __future__ import annotations

from torch import Tensor

from jrs.heads.maps import ConfidentMaps
from jrs.registry import HEADS


@HEADS.register_module()
class DepthHead(ConfidentMaps):
    """Depth along the optical axis, and a confidence; arguments and `forward` are those of `ConfidentMaps`."""

    channels = 1

    def quantity(self, maps: Tensor) -> Tensor:
        """Return z-depth > 0 (B, V, H, W), in the unit of the predicted cameras, for `maps` (B, V, 1, H, W)."""
        return maps.squeeze(2).exp()
