"""MapAnything V1.1 and V1, image only: metric backbones whose layers see all views first, and their own heads."""

import re

from jrs_plugins.map_anything import backbone, geometry  # noqa: F401

from jrs.plugins import hook

MARKS = {'scale_token', 'info_sharing.view_pos_table'}
OF_A_VERSION = {'info_sharing.self_attention_blocks.0.mlp.w12.weight', 'info_sharing.proj_embed.weight'}       # V1.1, V1
# Released, ours; the first that fits decides. A dense head stands in a file twice, and parts of it under three names.
NAMES = tuple((re.compile(released), ours) for released, ours in (
    (r'scale_token', r'backbone.scale_token'),
    (r'encoder\.model\.(.*)', r'backbone.encoder.\1'),
    (r'fusion_norm_layer\.(.*)', r'backbone.fusion_norm_layer.\1'),
    (r'info_sharing\.(view_pos_table|(?:proj_embed|self_attention_blocks|norm)\..*)', r'backbone.\1'),
    (r'(?:dense_head\.0|dpt_feature_head)\.input_process\.(\d)\.0\.0\.(.*)', r'geometry_head.projects.\1.\2'),
    (r'(?:dense_head\.0|dpt_feature_head)\.input_process\.(\d)\.0\.1\.(.*)', r'geometry_head.resize_layers.\1.\2'),
    (r'(?:dense_head\.0|dpt_feature_head)\.(?:input_process\.(\d)\.1|scratch\.layer_rn\.(\d))\.weight', None),
    (r'(?:dense_head\.0|dpt_feature_head)\.scratch\.(.*)', r'geometry_head.scratch.\1'),
    (r'(?:dense_head\.1|dpt_regressor_head)\.conv1\.(.*)', r'geometry_head.scratch.output_conv1.\1'),
    (r'(?:dense_head\.1|dpt_regressor_head)\.conv2\.(.*)', r'geometry_head.scratch.output_conv2.\1'),
    (r'((?:pose|scale)_head\..*)', r'geometry_head.\1'),
))


def our_name(key: str) -> str | None:
    """Return our name of the key of a released file; None for the encoders of known rays, depth and poses."""
    for pattern, ours in NAMES:
        found = pattern.fullmatch(key)
        if found and ours is None:                                              # numbered from 0 there, from 1 here
            return f'geometry_head.scratch.layer{int(found[1] or found[2]) + 1}_rn.weight'
        if found:
            return found.expand(ours)
    return None


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released MapAnything, V1.1 or V1 (backbones.md section 3)."""
    return {key: our_name(key) for key in keys} if MARKS <= set(keys) and OF_A_VERSION & set(keys) else None
