"""PanSt3R: masks and words for classes from the patches of several encoders, and one set of masks that fits together."""

from __future__ import annotations

from jrs_plugins.panst3r import classes, features, selection  # noqa: F401
from jrs_plugins.panst3r.weights import in_our_layout, is_released, our_name
from torch import Tensor

from jrs.plugins import hook


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released PanSt3R, version 1 or 2 (baselines.md section 4.5)."""
    return {key: our_name(key) for key in keys} if is_released(keys) else None


@hook
def jrs_weight_values(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of such a file with attention as ours is: (3C, C) in DINOv2, three of (C, C) in the decoder."""
    return in_our_layout(state) if is_released(state) else None
