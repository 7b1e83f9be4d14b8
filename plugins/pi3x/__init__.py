"""Pi3X: Pi3 with dense heads, an approximate metric scale, and known depth, intrinsics or cameras as further input."""

from jrs_plugins.pi3x import backbone, geometry  # noqa: F401

from jrs.io.released_keys import names_without_prefix
from jrs.plugins import hook

HEADS = ('point_decoder.', 'point_head.', 'conf_decoder.', 'conf_head.', 'camera_decoder.', 'camera_head.', 'metric_token',
         'metric_decoder.', 'metric_head.')
MARKS = {'register_token', 'decoder.0.attn.qkv.weight', 'metric_token', 'point_head.output_block.0.0.weight'}


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str] | None:
    """Return our names of the keys of a released Pi3X, which have no prefix (backbones.md section 1).

    A backbone that reads images alone leaves those of the conditioning modules over, and the load says so.
    """
    return names_without_prefix(keys, MARKS, HEADS)
