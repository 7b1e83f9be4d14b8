"""IGGT: an instance embedding of each pixel on VGGT, trained by pulling and pushing; instances are its clusters."""

import re

from jrs_plugins.iggt import clusters, heads, loss  # noqa: F401

from jrs.io.released_keys import our_key, renamed
from jrs.plugins import hook

MARKS = {'part_head.window_self_atten.norm.weight', 'part_adaptor.norm.weight', 'aggregator.camera_token'}
UNUSED = re.compile(r'part_head\.(norm|projects|resize_layers)\.|.*\.relative_position_index_\w+$')
# Released, ours; all that fit are replaced.
NAMES = (('part_adaptor.', 'feature_head.'), ('part_head.', 'feature_head.'), ('.patch_embed.norm.', '.input_norm.'),
         ('.atten_block.attn.', '.'), ('.atten_block.conv_block.cab.', '.convs.'), ('.atten_block.', '.'),
         ('.conv_before_upsample.0.', '.conv_before_upsample.'))
TAIL = re.compile(r'(feature_head\.window_\w+)\.(norm|conv_\w+)\.')


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released IGGT; None for those that nothing reads (baselines.md section 4.4)."""
    return renamed(keys, MARKS, _our_name)


def _our_name(key: str) -> str | None:
    if not key.startswith(('part_adaptor.', 'part_head.')):
        return our_key(key)
    if UNUSED.match(key):
        return None
    for released, ours in NAMES:
        key = key.replace(released, ours)
    return TAIL.sub(r'\1.tail.\2.', key)
