"""MUSt3R: views are rendered against a memory that is built of them one after the other; and its own point maps."""

from jrs_plugins.must3r import backbone, geometry, loss  # noqa: F401

from jrs.io.released_keys import renamed
from jrs.plugins import hook

MARKS = {'encoder.norm_enc.weight', 'decoder.image2_embed', 'decoder.blocks_dec.0.norm_y.weight'}


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released MUSt3R, a dictionary of encoder and decoder (backbones.md section 5)."""
    return renamed(keys, MARKS, _our_name)


def _our_name(key: str) -> str:
    if key.startswith('decoder.head_dec.'):
        return f'geometry_head.{key.removeprefix("decoder.")}'
    return f'backbone.{key.removeprefix("decoder.")}'
