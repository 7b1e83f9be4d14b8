"""Class logits of the queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.registry import HEADS


@HEADS.register_module()
class QueryClassHead(nn.Sequential):
    """Two linear layers on the projected queries (segvggt_release.md section 3).

    Args:
        num_classes: K.
        embedding_dim: D.
        hidden: width in between.
    """

    def __init__(self, num_classes: int, embedding_dim: int = 128, hidden: int = 32) -> None:
        super().__init__(nn.Linear(embedding_dim, hidden), nn.ReLU(), nn.Linear(hidden, num_classes + 1))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits (B, Q, K + 1), the last one "no object", for `embedding` (B, Q, D); autocast is off."""
        with torch.autocast(embedding.device.type, enabled=False):
            return super().forward(embedding.to(self[0].weight.dtype))
