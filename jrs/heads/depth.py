"""The depth head: one depth map and its confidence per view."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jrs.layers.dpt import DenseDecoder, output_convolutions
from jrs.registry import HEADS
from jrs.structures import FeatureTaps


@HEADS.register_module()
class DepthHead(DenseDecoder):
    """Dense decoder with two output channels: depth and confidence (vggt.md section 8). Runs in float32.

    Args:
        dim_in: width of the taps, `feature_dim` of the backbone.
        features: width of the fusion.
        out_channels: widths of the four branches, finest first.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8,
                 activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing)
        self.scratch.output_conv2 = output_convolutions(features, 2)

    def forward(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return z-depth > 0 and confidence > 1, (B, V, H, W) each, from four taps (B, V, P, dim_in)."""
        depth, confidence = self.decode(features, self.scratch.output_conv2).unbind(2)      # (B, V, H, W) each
        return depth.exp(), 1 + confidence.exp()
