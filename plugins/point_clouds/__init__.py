"""Methods that see points: sparse U-Nets, superpoint pooling, mask decoders over superpoints."""

from jrs_plugins.point_clouds import (  # noqa: F401
    dataset,
    decoder,
    losses,
    model,
    pooling,
    reference_points,
    res16unet,
    sparse_unet,
    suppression,
    transfer,
)
from jrs_plugins.point_clouds.weights import in_our_layout, our_key, unused_keys
from torch import Tensor

from jrs.plugins import hook


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a published SPFormer, OneFormer3D or MAFT (baselines.md section 3.10)."""
    unused = unused_keys(keys)
    return None if unused is None else {key: our_key(key, unused) for key in keys}


@hook
def jrs_weight_values(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of these files with the kernels of sparse convolutions as (out, k, k, k, in) (section 3.1)."""
    return None if unused_keys(state) is None else in_our_layout(state)
