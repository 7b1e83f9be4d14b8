"""Where an instance is visible: the target that a query's attention over views is aligned with."""

from __future__ import annotations

from torch import Tensor


def view_visibility(masks: Tensor) -> Tensor:
    """Return the share of each instance's pixels that lies in each view (Sec. 3.4).

    Args:
        masks: (G, V, h, w) bool.

    Returns:
        (G, V) float32; rows sum to 1, a view without the instance has 0. The row of an instance without any pixel
        is all 0.
    """
    pixels = masks.flatten(2).sum(dim=2)                                # (G, V) int64
    return pixels.float() / pixels.sum(dim=1, keepdim=True).clamp_min(1)
