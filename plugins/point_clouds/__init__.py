"""Methods that see points: sparse U-Nets, superpoint pooling, mask decoders over superpoints."""

from jrs_plugins.point_clouds import (  # noqa: F401
    dataset,
    decoder,
    guided_decoder,
    level_decoder,
    losses,
    model,
    point_quality,
    pooling,
    reconstructed,
    reference_points,
    res16unet,
    sparse_unet,
    splitting,
    suppression,
    transfer,
)
from jrs_plugins.point_clouds.weights import in_our_layout, our_key, unused_keys
from mmengine.logging import print_log
from torch import Tensor

from jrs.plugins import hook

UNPROVEN = ('weights of a published method on points: names and shapes were compared with lists of the published classes; '
            'no file was there to compare with. Not visible in a file: whether its 1x1x1 kernels of spconv are meant by '
            'memory order (read so here), and the order of its classes. Look at the result on a scene before trusting it.')


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a published method on points (baselines.md section 3.10)."""
    unused = unused_keys(keys)
    return None if unused is None else {key: our_key(key, unused) for key in keys}


@hook
def jrs_weight_values(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of these files with the kernels of sparse convolutions as (out, k, k, k, in) (section 3.1)."""
    if unused_keys(state) is None:
        return None
    print_log(UNPROVEN, 'current')
    return in_our_layout(state)
