"""VGGT-Omega: a backbone in some of whose layers views meet in special tokens only, and its own heads."""

from jrs_plugins.vggt_omega import backbone, geometry  # noqa: F401

from jrs.io.released_keys import renamed
from jrs.plugins import hook

BACKBONE, HEADS = 'aggregator.', ('camera_head.', 'dense_head.', 'text_alignment_head.')
MARKS = {'aggregator.inter_frame_blocks.0.attn.qkv.weight', 'aggregator.camera_token', 'camera_head.camera_branch.0.weight'}
DROPPED = ('.attn.qkv.bias_mask', '.mask_token')       # keys have no bias here; nothing reads the other


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released VGGT-Omega, which have no prefix (backbones.md section 2)."""
    return renamed(keys, MARKS, _our_name)


def _our_name(key: str) -> str | None:
    if key.endswith(DROPPED):
        return None
    if key.startswith(HEADS):
        return f'geometry_head.{key}'
    return f'backbone.{key[len(BACKBONE):]}' if key.startswith(BACKBONE) else key
