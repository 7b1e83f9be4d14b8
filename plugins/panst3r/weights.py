"""Names of the released PanSt3R, versions 1 and 2, and what it packs otherwise than we do (baselines.md section 4.5)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

MARKS = {'panoptic_decoder.mask_transformer.query_feat.weight', 'panoptic_decoder.mask_transformer.lang_embed.weight'}
PARTS = ('query', 'key', 'value')              # in the order of rows of a packed layer
# transformers 4.x, then 5.x
APART = re.compile(r'(dino_encoder\..*\.attention)\.(?:attention\.(query|key|value)|([qkv])_proj)\.(weight|bias)')
OUTPUT = re.compile(r'(dino_encoder\..*\.attention)\.(?:output\.dense|o_proj)\.(weight|bias)')
PACKED = re.compile(r'(.*_attn|.*multihead_attn)\.in_proj_(weight|bias)')
WITHOUT_SCENES = tuple(f'panoptic_decoder.mask_transformer.query_{name}.weight' for name in ('feat', 'embed'))
DINO, VIT = r'dino_encoder\.dinov2\.', 'feature_head.dino.vit.'
TRANSFORMER = r'panoptic_decoder\.mask_transformer\.'
# Released, ours; the first that fits decides.
NAMES = tuple((re.compile(released), ours) for released, ours in (
    (r'must3r_encoder\.(.*)', r'backbone.encoder.\1'),
    (r'must3r_decoder\.(head_dec\..*)', r'geometry_head.\1'),
    (r'must3r_decoder\.(.*)', r'backbone.\1'),
    (DINO + r'embeddings\.(cls_token|mask_token)', VIT + r'\1'),
    (DINO + r'embeddings\.position_embeddings', VIT + r'pos_embed'),
    (DINO + r'embeddings\.patch_embeddings\.projection\.(.*)', VIT + r'patch_embed.proj.\1'),
    (DINO + r'encoder\.layer\.(\d+)\.attention\.packed\.(.*)', VIT + r'blocks.\1.attn.qkv.\2'),
    (DINO + r'encoder\.layer\.(\d+)\.attention\.joined\.(.*)', VIT + r'blocks.\1.attn.proj.\2'),
    (DINO + r'encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1', VIT + r'blocks.\1.ls\2.gamma'),
    (DINO + r'encoder\.layer\.(\d+)\.(.*)', VIT + r'blocks.\1.\2'),
    (DINO + r'layernorm\.(.*)', VIT + r'norm.\1'),
    (r'panoptic_decoder\.upscaler\.(proj_\d+\..*)', r'feature_head.\1'),
    (r'panoptic_decoder\.upscaler\.fourier_feat\.1\.(.*)', r'feature_head.upscaler.fourier_feat.\1'),
    (r'panoptic_decoder\.((?:upscaler|input_mixer)\..*)', r'feature_head.\1'),
    (r'panoptic_decoder\.nocls_token', r'class_head.no_object'),
    (TRANSFORMER + r'cls_logit_scale', r'class_head.logit_scale'),
    (TRANSFORMER + r'lang_embed\.(.*)', r'class_head.projection.\1'),
    (TRANSFORMER + r'query_feat\.weight', r'queries.content'),
    (TRANSFORMER + r'query_embed\.weight', r'queries.position'),
    (TRANSFORMER + r'level_embed\.weight', r'queries.level_embedding'),
    (TRANSFORMER + r'decoder_norm\.(.*)', r'queries.norm.\1'),
    (TRANSFORMER + r'(cross|self)_attn_layers\.(\d+)\.(?:multihead|self)_attn\.out_proj\.(.*)',
     r'queries.layers.\2.\1_attention.proj.\3'),
    (TRANSFORMER + r'(cross|self)_attn_layers\.(\d+)\.(?:multihead|self)_attn\.([qkv]_proj\..*)',
     r'queries.layers.\2.\1_attention.\3'),
    (TRANSFORMER + r'(cross|self)_attn_layers\.(\d+)\.norm\.(.*)', r'queries.layers.\2.\1_norm.\3'),
    (TRANSFORMER + r'ffn_layers\.(\d+)\.linear1\.(.*)', r'queries.layers.\1.feed_forward.0.\2'),
    (TRANSFORMER + r'ffn_layers\.(\d+)\.linear2\.(.*)', r'queries.layers.\1.feed_forward.2.\2'),
    (TRANSFORMER + r'ffn_layers\.(\d+)\.norm\.(.*)', r'queries.layers.\1.norm.\2')))
EMBEDDING = re.compile(TRANSFORMER + r'mask_embed\.layers\.(\d+)\.(.*)')


def is_released(keys: Collection[str]) -> bool:
    """Return whether these are keys of a released PanSt3R."""
    return set(keys) >= MARKS


def our_name(key: str) -> str | None:
    """Return our name of a key of a released PanSt3R in our layout; None for the retrieval of key views."""
    found = EMBEDDING.fullmatch(key)
    if found:                                                                   # ReLUs stand between these
        return f'queries.projection.{2 * int(found[1])}.{found[2]}'
    for pattern, ours in NAMES:
        found = pattern.fullmatch(key)
        if found:
            return found.expand(ours)
    return None if key.startswith('retrieval') else key


def in_our_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a released PanSt3R as ours are.

    Packed projections of the mask transformer (3C, C) are taken apart; those of DINOv2, three of (C, C), are packed; learned
    queries (Q, C) get an axis of scenes. Keys are those of the file, or `q_proj`, `packed` and `joined` in their place.
    """
    result: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        packed, piece, output = PACKED.fullmatch(key), APART.fullmatch(key), OUTPUT.fullmatch(key)
        if packed:
            for letter, part in zip('qkv', value.chunk(3), strict=True):
                result[f'{packed[1]}.{letter}_proj.{packed[2]}'] = part
        elif piece:
            name = piece[2] or next(part for part in PARTS if part[0] == piece[3])
            apart.setdefault(f'{piece[1]}.packed.{piece[4]}', {})[name] = value
        elif output:
            result[f'{output[1]}.joined.{output[2]}'] = value
        else:
            result[key] = value[None] if key in WITHOUT_SCENES else value
    whole = {key: torch.cat([parts[name] for name in PARTS]) for key, parts in apart.items() if set(parts) == set(PARTS)}
    return result | whole
