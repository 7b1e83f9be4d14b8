"""Names of parameters in jrs and in the released files of VGGT and SegVGGT (vggt.md 13, segvggt_release.md 11)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

# Ours, released; the first that fits decides.
PREFIXES = (
    ('backbone.', 'aggregator.'),
    ('queries.tokens', 'aggregator.instance_query_token'),
    ('queries.cross_blocks.', 'aggregator.instance_cross_blocks.'),
    ('queries.self_blocks.', 'aggregator.instance_query_self_attn.'),
    ('queries.projection.', 'aggregator.instance_queries_proj.'),
    ('class_head.', 'semantic_head.scratch.output_instance.'),
    ('feature_head.', 'semantic_head.'),
)
ADAPTED = re.compile(r'(aggregator\.(?:frame|global)_blocks\.\d+\.attn\.(?:qkv|proj))\.(\w+)')
WRAPPED = re.compile(r'(aggregator\.(?:frame|global)_blocks\.\d+\.attn\.(?:qkv|proj))\.(linear|lora)\.([\w.]+)')
LORA_NAMES = {'lora_a': 'lora.lora_A.weight', 'lora_b': 'lora.lora_B.weight',
              'weight': 'linear.weight', 'bias': 'linear.bias'}
OUR_NAMES = {released: ours for ours, released in LORA_NAMES.items()}


def released_key(our_key: str, lora: bool) -> str:
    """Return the name that the parameter `our_key` of our model has in a released file.

    Args:
        our_key: as in `SegVGGT.state_dict()`; heads other than the instance heads have one name in both.
        lora: the file holds separate low-rank factors (SegVGGT); False for plain VGGT and merged files.
    """
    key = next((released + our_key[len(ours):] for ours, released in PREFIXES if our_key.startswith(ours)), our_key)
    adapted = ADAPTED.fullmatch(key) if lora else None
    return f'{adapted[1]}.{LORA_NAMES[adapted[2]]}' if adapted else key


def our_key(released: str) -> str:
    """Return the name in our model of the parameter `released` of a file, with or without low-rank factors."""
    wrapped = WRAPPED.fullmatch(released)
    if wrapped:
        released = f'{wrapped[1]}.{OUR_NAMES[f"{wrapped[2]}.{wrapped[3]}"]}'
    fitting = [(ours, theirs) for ours, theirs in PREFIXES if released.startswith(theirs)]
    if not fitting:
        return released
    ours, theirs = max(fitting, key=lambda pair: len(pair[1]))           # `aggregator.` begins several
    return ours + released[len(theirs):]


def renamed(keys: Collection[str], marks: Collection[str],
            our_name: Callable[[str], str | None]) -> dict[str, str | None] | None:
    """Return `our_name` of each of the `keys` of a file; None for a file without one of `marks`, which is another's."""
    return {key: our_name(key) for key in keys} if set(marks) <= set(keys) else None


def names_without_prefix(keys: Collection[str], marks: Collection[str], heads: tuple[str, ...]) -> dict[str, str] | None:
    """Return our name of every key of a file of one backbone and its geometry head, None where one of `marks` is missing.

    Args:
        keys: of the file, which have no prefix.
        marks: keys that tell the file from others.
        heads: beginnings of the keys of the head; all others are the backbone's.
    """
    if not set(marks) <= set(keys):
        return None
    return {key: f'{"geometry_head" if key.startswith(heads) else "backbone"}.{key}' for key in keys}
