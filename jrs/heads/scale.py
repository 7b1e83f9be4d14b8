"""The scale head: metres per unit of a scene's geometry, one number per scene."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.registry import HEADS
from jrs.structures import FeatureTaps

SMALLEST = 1e-8                                # metres per unit


@HEADS.register_module()
class ScaleHead(nn.Module):
    """One positive number per scene, from a token of no view, or without one from the tokens that cameras are read from.

    MapAnything's (backbones.md section 3, "Pose and scale heads"), and `model.scale_head` of others. Runs in float32.

    Args:
        dim_in: width of the token.
        dim: width of the layers.
    """

    def __init__(self, dim_in: int, dim: int = 196) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim)
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim)) for _ in range(2))      # names as released: mlp.0.0
        self.output_proj = nn.Linear(dim, 1)

    def forward(self, features: FeatureTaps) -> Tensor:
        """Return metres per unit (B,), of the first scene token (B, E, dim_in), else of the mean camera token (B, dim_in).

        Raises:
            ValueError: the backbone leaves neither.
        """
        if features.scene_tokens is None and features.geometry_tokens is None:
            raise ValueError('ScaleHead reads scene_tokens or geometry_tokens, and the backbone leaves neither')
        token = features.geometry_tokens.mean(dim=1) if features.scene_tokens is None else features.scene_tokens[:, 0]
        with torch.autocast(token.device.type, enabled=False):
            return self.read(token.float()).exp().clamp_min(SMALLEST)

    def read(self, token: Tensor) -> Tensor:
        """Return the logarithm (B,) for `token` (B, dim_in)."""
        hidden = self.proj(token)
        for layer in self.mlp:
            hidden = F.relu(layer(hidden))
        return self.output_proj(hidden)[:, 0]
