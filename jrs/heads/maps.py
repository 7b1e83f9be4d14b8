"""What the heads share that give one geometric quantity and its confidence per pixel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jrs.layers.dpt import DenseDecoder, output_convolutions
from jrs.structures import FeatureTaps


class ConfidentMaps(DenseDecoder):
    """Dense decoder whose last channel is a confidence (vggt.md section 8). Runs in float32.

    Base class of the depth and the point head: a head names its `channels` and turns them into its quantity.

    Args:
        dim_in: width of the taps, `feature_dim` of the backbone.
        features: width F of the fusion, a multiple of 8.
        out_channels: widths of the four branches, finest first, each a multiple of 4.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        skip: of the residual units: 'rectified' (VGGT) or 'plain' (Depth Anything 3).
    """

    example = dict(features=16, out_channels=(8, 8, 16, 16))
    channels: int                   # C, of the quantity alone, without the confidence

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, skip: str = 'rectified') -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip=skip)
        self.scratch.output_conv2 = output_convolutions(features, self.channels + 1)

    def forward(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return the quantity and its confidence > 1 (B, V, H, W), from four taps (B, V, P, dim_in)."""
        maps = self.decode(features, self.scratch.output_conv2)                 # (B, V, C + 1, H, W)
        return self.quantity(maps[:, :, :-1]), 1 + maps[:, :, -1].exp()

    def quantity(self, maps: Tensor) -> Tensor:
        """Return what the head is for, (B, V, H, W, ...), from the decoded maps (B, V, C, H, W), any sign."""
        raise NotImplementedError
