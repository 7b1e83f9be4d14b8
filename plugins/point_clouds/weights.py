"""Names of the published weights, and the layouts in which files hold the kernels (baselines.md sections 3.1 and 3.10)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from jrs.errors import WeightsError

NETWORKS = (('input_conv.', 'network.input_conv.'), ('unet.', 'network.unet.'), ('output_layer.', 'network.output_layer.'),
            ('backbone.', 'network.'), ('model.backbone.', 'network.'))
DECODER = (
    (r'decoder\.input_proj\.(.*)', r'decoder.key_projection.\1'),
    (r'decoder\.x_mask\.(.*)', r'decoder.mask_projection.\1'),
    (r'decoder\.query\.weight', 'decoder.start.embedding'),
    (r'decoder\.query_proj\.(.*)', r'decoder.start.projection.\1'),
    (r'decoder\.cross_attn_layers\.(\d+)\.attn\.(.*)', r'decoder.layers.\1.cross_attention.\2'),
    (r'decoder\.cross_attn_layers\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.cross_norm.\2'),
    (r'decoder\.self_attn_layers\.(\d+)\.attn\.(.*)', r'decoder.layers.\1.self_attention.\2'),
    (r'decoder\.self_attn_layers\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.self_norm.\2'),
    (r'decoder\.ffn_layers\.(\d+)\.net\.0\.(.*)', r'decoder.layers.\1.feed_forward.0.\2'),
    (r'decoder\.ffn_layers\.(\d+)\.net\.3\.(.*)', r'decoder.layers.\1.feed_forward.2.\2'),
    (r'decoder\.ffn_layers\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.norm.\2'),
    (r'decoder\.out_norm\.(.*)', r'decoder.norm.\1'),
    (r'decoder\.out_cls\.(.*)', r'decoder.heads.classes.\1'),
    (r'decoder\.out_score\.(.*)', r'decoder.heads.score.\1'),
    (r'decoder\.out_bbox\.(.*)', r'decoder.centre.\1'),
    (r'decoder\.refpoint_embed\.weight', 'decoder.reference'),
    (r'decoder\.key_position_embedding\.(.*)', r'decoder.key_positions.\1'),
    (r'decoder\.decoder\.position_embedding\.(.*)', r'decoder.query_positions.\1'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.relative_pos_(\w+)', r'decoder.\1.tables.\2'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.([sc]a_\w+)_proj\.(.*)', r'decoder.\1.\2.\3'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.self_attn\.out_proj\.(.*)', r'decoder.\1.sa_out.\2'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.cross_attn\.out_proj\.(.*)', r'decoder.\1.ca_out.\2'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.linear1\.(.*)', r'decoder.\1.feed_forward.0.\2'),
    (r'decoder\.decoder\.(layers\.\d+|layers_cross\.0)\.linear2\.(.*)', r'decoder.\1.feed_forward.2.\2'),
    (r'decoder\.decoder\.((?:layers\.\d+|layers_cross\.0)\.norm\d\..*|norm\..*)', r'decoder.\1'),
    (r'decoder\.decoder\.ref_point_head\.layers\.0\.(.*)', r'decoder.place.0.\1'),
    (r'decoder\.decoder\.ref_point_head\.layers\.1\.(.*)', r'decoder.place.2.\1'),
    (r'decoder\.decoder\.bbox_embed\.layers\.0\.(.*)', r'decoder.move.0.\1'),
    (r'decoder\.decoder\.bbox_embed\.layers\.1\.(.*)', r'decoder.move.2.\1'),
    (r'decoder\.decoder\.bbox_embed\.layers\.2\.(.*)', r'decoder.move.4.\1'),
    (r'decoder\.out_sem\.(.*)', r'decoder.heads.semantic.\1'),
    (r'(mlp|pooling_linear1?)\.(.*)', r'pooling.\1.\2'),                                  # Relation3D
    (r'decoder\.decoder\.position_relation_embedding\.pos_proj\.0\.(.*)', r'decoder.relations.heads.\1'),
    (r'decoder\.decoder\.position_relation_embedding\.pos_func\.(.*)', r'decoder.relations.positions.\1'),
    (r'decoder\.vx_seg_head\.(.*)', r'decoder.voxel_classes.\1'),                          # SGIFormer
    (r'decoder\.vx_bias_head\.(.*)', r'decoder.voxel_offsets.\1'),
    (r'decoder\.vx_feat_proj\.(.*)', r'decoder.voxel_projection.\1'),
    (r'decoder\.rep_layer\.(.*)', r'decoder.guide.\1'),
    (r'decoder\.query_learn\.weight', 'decoder.learned'),
    (r'decoder\.sp_feat_proj\.(.*)', r'decoder.key_projection.\1'),
    (r'decoder\.sp_pos\.(.*)', r'decoder.key_positions.\1'),
    (r'decoder\.feat_query_attn_layers\.(\d+)\.attn\.(.*)', r'decoder.updates.\1.cross_attention.\2'),
    (r'decoder\.feat_query_attn_layers\.(\d+)\.norm\.(.*)', r'decoder.updates.\1.cross_norm.\2'),
    (r'decoder\.feat_self_attn_layers\.(\d+)\.attn\.(.*)', r'decoder.updates.\1.self_attention.\2'),
    (r'decoder\.feat_self_attn_layers\.(\d+)\.norm\.(.*)', r'decoder.updates.\1.self_norm.\2'),
    (r'(?:model\.)?mask_features_head\.(.*)', r'decoder.mask_features.\1'),               # Mask3D from here on
    (r'(?:model\.)?query_projection\.layers\.(.*)', r'decoder.place.\1'),
    (r'(?:model\.)?mask_embed_head\.(.*)', r'decoder.embedding.\1'),
    (r'(?:model\.)?class_embed_head\.(.*)', r'decoder.classes.\1'),
    (r'(?:model\.)?pos_enc\.(.*)', r'decoder.positions.\1'),
    (r'(?:model\.)?cross_attention\.0\.(\d+)\.multihead_attn\.(.*)', r'decoder.layers.\1.cross_attention.\2'),
    (r'(?:model\.)?cross_attention\.0\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.cross_norm.\2'),
    (r'(?:model\.)?self_attention\.0\.(\d+)\.self_attn\.(.*)', r'decoder.layers.\1.self_attention.\2'),
    (r'(?:model\.)?self_attention\.0\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.self_norm.\2'),
    (r'(?:model\.)?ffn_attention\.0\.(\d+)\.linear1\.(.*)', r'decoder.layers.\1.feed_forward.0.\2'),
    (r'(?:model\.)?ffn_attention\.0\.(\d+)\.linear2\.(.*)', r'decoder.layers.\1.feed_forward.2.\2'),
    (r'(?:model\.)?ffn_attention\.0\.(\d+)\.norm\.(.*)', r'decoder.layers.\1.norm.\2'),
    (r'(?:model\.)?lin_squeeze\.0\.(.*)', r'decoder.squeeze.\1'),
    (r'(?:model\.)?decoder_norm\.(.*)', r'decoder.norm.\1'),
)


MARKS = ('decoder.input_proj.0.weight', 'decoder.x_mask.0.weight', 'decoder.out_cls.0.weight')
STARTS = ('decoder.query.weight', 'decoder.query_proj.0.weight', 'decoder.refpoint_embed.weight')   # one per method
RELATION3D_MARK = 'mlp.0.weight'
UNUSED_OF_RELATION3D = (r'coords_linear\..*', r'decoder\.x_mask\..*', r'decoder\.decoder\.layers_cross\.1\..*',
                        r'decoder\.decoder\.layers_cross\.0\.(ca_qpos_proj|norm1)\..*')
UNUSED_NORM = (r'decoder\.cross_attn_layers\.\d+\.norm\..*',)      # of SPFormer: trained beside, never applied
SGIFORMER_MARKS = ('decoder.vx_seg_head.0.weight', 'decoder.rep_layer.0.weight', 'decoder.query_learn.weight')
MASK3D_MARKS = ('mask_features_head.kernel', 'mask_embed_head.0.weight', 'lin_squeeze.0.0.weight')
UNUSED_FINAL = (r'(?:model\.)?backbone\.final\..*',)                # of Mask3D, SGIFormer: they read what is before


def unused_keys(keys: Collection[str]) -> tuple[str, ...] | None:
    """Return patterns of the keys of a published file that its method does not use; None for another file."""
    if set(MASK3D_MARKS) <= {key.removeprefix('model.') for key in keys}:
        return UNUSED_FINAL
    if set(SGIFORMER_MARKS) <= set(keys):
        layer = re.compile(r'decoder\.feat_query_attn_layers\.(\d+)\.')
        last = max((int(found[1]) for found in map(layer.match, keys) if found), default=0)
        return (*UNUSED_FINAL, rf'decoder\.feat_(query|self)_attn_layers\.{last}\..*')     # nobody reads its result
    if not set(MARKS) <= set(keys) or not set(STARTS) & set(keys):
        return None
    if RELATION3D_MARK in keys:
        return UNUSED_OF_RELATION3D
    return UNUSED_NORM if STARTS[0] in keys else ()


def our_key(key: str, unused: tuple[str, ...] = ()) -> str | None:
    """Return our name of a published key; None where it is known and no part of ours.

    `unused` are patterns of keys whose modules the published program has and does not use.
    """
    if key.startswith('criterion.') or any(re.fullmatch(pattern, key) for pattern in unused):
        return None
    for published, ours in NETWORKS:
        if key.startswith(published):
            return ours + key[len(published):]
    for pattern, ours in DECODER:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, ours, key).replace('decoder.layers_cross.0.', 'decoder.update.')
    return key


def in_our_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published file with kernels as spconv 2 has them, (out, k, k, k, in).

    Files that were converted have (k, k, k, in, out): the last axis moves to the front. Both are told apart by where the
    three equal sides stand, in all kernels of the file together. A 1³ kernel is read by memory order afterwards, as by
    spconv 2 (`SparseConvolution`).

    Raises:
        WeightsError: kernels of both layouts, or none that tells.
    """
    kernels = {key: value for key, value in state.items() if value.ndim == 5}
    first = [key for key, value in kernels.items() if len(set(value.shape[:3])) == 1 and len(set(value.shape[1:4])) > 1]
    second = [key for key, value in kernels.items() if len(set(value.shape[1:4])) == 1 and len(set(value.shape[:3])) > 1]
    if kernels and bool(first) == bool(second):
        raise WeightsError(f'The kernels of sparse convolutions must all be (out, k, k, k, in) or all (k, k, k, in, out); '
                           f'{len(second)} are the former, {len(first)} the latter of {len(kernels)}.')
    if not first:
        return dict(state)
    return {key: value.permute(4, 0, 1, 2, 3).contiguous() if key in kernels else value for key, value in state.items()}
