"""Instance features: one vector per pixel that the queries are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.layers.dpt import DenseDecoder, add_positions, resize_through
from jrs.registry import HEADS
from jrs.structures import FeatureTaps


@HEADS.register_module()
class InstanceFeatureHead(DenseDecoder):
    """Dense instance features at a fraction of the image size (segvggt_release.md section 6).

    They are those of a map that is made at full size, to which positions are added, and which is then reduced: that order
    is part of the definition. The map itself is never made.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        features: width F of the decoder.
        out_channels: widths of the four branches, finest first.
        embedding_dim: D, a multiple of 4; the released model's is features / 2.
        down_ratio: the maps have (H // down_ratio, W // down_ratio) pixels.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.

    Raises:
        ConfigError: a ratio below 1, or a width that positions cannot be added to.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 embedding_dim: int = 128, down_ratio: int = 2, views_per_chunk: int = 8,
                 activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing)
        if down_ratio < 1 or embedding_dim % 4:
            raise ConfigError(f'down_ratio must be at least 1 and embedding_dim a multiple of 4, got '
                              f'down_ratio={down_ratio}, embedding_dim={embedding_dim}')
        self.down_ratio, self.embedding_dim = down_ratio, embedding_dim
        if embedding_dim != features // 2:
            self.scratch.output_conv1 = nn.Conv2d(features, embedding_dim, 3, padding=1)

    def forward(self, features: FeatureTaps) -> Tensor:
        """Return instance features (B, V, D, H // down_ratio, W // down_ratio), float32, any sign."""
        return self.decode(features, lambda maps: maps)

    def enlarged(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the reduced maps (n, D, h', w') of fused maps (n, F, h, w) for images of (H, W) = `size`."""
        reduced = tuple(side // self.down_ratio for side in size)
        fused = self.scratch.output_conv1(fused)                                # (n, D, h, w); what came in may go
        maps = resize_through(fused, size, reduced)                             # (n, D, h', w')
        return add_positions(maps, size, overwrite=True, between=size)
