"""Pi3: a backbone without a reference view, and its own head for cameras and depth."""

from jrs_plugins.pi3 import backbone, geometry  # noqa: F401

from jrs.io.released_keys import names_without_prefix
from jrs.plugins import hook

HEADS = ('point_decoder.', 'point_head.', 'conf_decoder.', 'conf_head.', 'camera_decoder.', 'camera_head.')
MARKS = {'register_token', 'decoder.0.attn.qkv.weight', 'point_head.proj.weight'}


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str] | None:
    """Return our names of the keys of a released Pi3, which have no prefix (backbones.md section 1)."""
    return names_without_prefix(keys, MARKS, HEADS)
