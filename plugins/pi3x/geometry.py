"""Pi3X's own head: dense convolution heads for points and confidence, and one metric factor per scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.pi3x.conv_head import ConvHead
from jrs_plugins.pi3x.metric import MetricDecoder
from torch import Tensor, nn

from jrs.heads.view_geometry import ViewGeometry, token_positions
from jrs.layers.dpt import HeadMemory
from jrs.registry import HEADS
from jrs.structures import FeatureTaps, Predictions

SAVED_METRIC, ALIVE_METRIC = 3.5, 4            # token maps of a block that its backward pass needs; alive without one


@HEADS.register_module()
class Pi3XGeometry(ViewGeometry):
    """Cameras, depth and confidence as Pi3X predicts them (backbones.md section 1), in our conventions (`ViewGeometry`).

    Depth and translations are in metres, approximately: they are multiplied by one predicted factor per scene, which is
    `extras['metric_scale']` (B,).

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        dim: width of the decoders, the backbone's `embed_dim`.
        patch_size: side of a patch in pixels, the backbone's.
        depth: blocks of each of the three decoders.
        widths: of the three stages of the convolution heads, each doubling the resolution.
        last_width: before their last convolution.
        metric_dim, metric_depth: width and blocks of the metric decoder; None = half of `dim`, and `depth`.
        rope_base: base of the rotary position embedding.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        num_special: special tokens of a view, the backbone's, for the estimate of memory.
    """

    largest_log_depth = 15.0
    example = dict(depth=1, widths=(16, 16, 16), last_width=16)

    def __init__(self, dim_in: int, dim: int, patch_size: int, depth: int = 5, widths: Sequence[int] = (256, 128, 64),
                 last_width: int = 32, metric_dim: int | None = None, metric_depth: int | None = None,
                 rope_base: float = 100.0, views_per_chunk: int = 4, activation_checkpointing: bool = False,
                 num_special: int = 5) -> None:
        super().__init__(dim_in, dim, patch_size, lambda *branches: ConvHead(dim, widths, last_width, branches, patch_size),
                         depth, rope_base, views_per_chunk, activation_checkpointing, num_special)
        metric_dim = metric_dim or dim // 2
        self.metric_token = nn.Parameter(1e-6 * torch.randn(1, 1, dim_in))
        self.metric_decoder = MetricDecoder(dim_in, metric_dim, metric_depth or depth, rope_base)
        self.metric_head = nn.Linear(metric_dim, 1)

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what `ViewGeometry.memory` does, with the metric decoder, which reads all views at once."""
        found, decoder = super().memory(views, size, device), self.metric_decoder
        tokens = size[0] // self.patch_size * (size[1] // self.patch_size) + self.num_special
        width = 4.0 * tokens * decoder.linear_out.in_features
        return replace(found, chunk=max(found.chunk, ALIVE_METRIC * width * views),
                       kept=(SAVED_METRIC * len(decoder.blocks) + 1) * width)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return what `ViewGeometry.forward` does, lengths multiplied by the metric factor, and that factor."""
        found, tap = super().forward(features), features.taps[-1]
        with torch.autocast(tap.device.type, enabled=False):
            factor = self._metric(tap.float(), token_positions(features))       # (B,)
        return replace(found.scaled(factor), extras={**found.extras, 'metric_scale': factor})

    def _metric(self, tap: Tensor, positions: Tensor) -> Tensor:
        token = self.metric_token.expand(len(tap), -1, -1)                      # (B, 1, 2C)
        token = self.metric_decoder(token, tap.flatten(1, 2), positions.repeat(tap.shape[1], 1))
        return self.metric_head(token)[:, 0, 0].exp()
