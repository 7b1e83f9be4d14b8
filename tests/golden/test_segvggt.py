"""The SegVGGT model and its post-processing against the released definition (golden/README_segvggt.md)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from jrs.io.released_keys import released_key
from jrs.models.segvggt import SegVGGT
from jrs.postprocess.instances import QueryMasks
from jrs.structures import QueryPredictions, SceneBatch, SceneContext
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

TOLERANCE = {'conv': 1e-5, 'dinov2_vits14_reg': 5e-5, 'dinov2_vitl14_reg': 1e-4}      # by patch embedding: README
SCORED = ('class_logits', 'mask_logits', 'queries', 'labels', 'scores', 'masks')


def _cases(kind: str) -> list:
    """Return the golden files whose meta says `kind`; those of full size are marked slow."""
    cases = golden_files('segvggt_*.npz')
    if cases[0].values[0] is None:
        return cases
    metas = {case.id: _meta(case.values[0]) for case in cases}
    return [pytest.param(*case.values, id=case.id, marks=pytest.mark.slow if _is_full(metas[case.id]) else ())
            for case in cases if metas[case.id]['kind'] == kind]


def _meta(path) -> dict:
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file['meta']))


def _is_full(meta: dict) -> bool:
    return meta.get('config', {}).get('embed_dim', 0) >= 1024


def _build(config: dict) -> SegVGGT:
    depth_head, semantic = config['depth_head'], config['semantic_head']
    assert depth_head['layers'] == semantic['layers']
    queries = dict(type='InsertedQueries', num_queries=config['queries'], num_heads=config['heads'],
                   insertion=dict(type='ListedLayers', layers=config['cross_layers']),
                   self_insertion=dict(type='ListedLayers', layers=config['self_layers']),
                   self_mlp_ratio=config['self_mlp_ratio'],
                   mask_attention=dict(threshold=config['mask_threshold']) if config['mask_attention'] else None)
    return SegVGGT(
        backbone=dict(type='VGGT', img_size=config['img_size'], embed_dim=config['embed_dim'], depth=config['depth'],
                      num_heads=config['heads'], patch_embed=config['patch_embed'],
                      feature_layers=semantic['layers'], lora=config['lora']),
        queries=queries, num_classes=config['logits'] - 1,
        camera_head=dict(type='CameraHead', trunk_depth=config['camera_head']['trunk_depth'],
                         num_heads=config['camera_head']['heads']),
        depth_head=dict(type='DepthHead', features=depth_head['features'], out_channels=depth_head['out_channels']),
        feature_head=dict(type='InstanceFeatureHead', features=semantic['features'],
                          out_channels=semantic['out_channels'], down_ratio=semantic['down_ratio']),
        class_head=dict(type='QueryClassHead', hidden=semantic['class_hidden']))


@torch.no_grad()
def _fill(model: SegVGGT, meta: dict) -> None:
    for key, tensor in model.state_dict().items():
        name = meta['prefix'] + released_key(key, lora=True)
        tensor.copy_(torch.from_numpy(seeded_array(name, tensor.shape, meta['seed'])))
    model.queries.tokens *= meta['token_scale']


class _Record:
    """Collects what passes inside a model during one forward pass."""

    def __init__(self, model: SegVGGT, num_views: int) -> None:
        self.after_cross, self.after_layer, self.frame, self.globals = [], [], [], []
        self.num_views = num_views
        model.backbone.patch_embed.register_forward_hook(self._keep_patches)
        for block in model.queries.cross_blocks.values():
            block.register_forward_hook(lambda module, inputs, output: self.after_cross.append(output[0]))
        for block in model.backbone.frame_blocks:
            block.register_forward_hook(lambda module, inputs, output: self.frame.append(output))
        for block in model.backbone.global_blocks:
            block.register_forward_hook(lambda module, inputs, output: self.globals.append(output))
        read = model.queries.read
        model.queries.read = lambda state, layer: self._read(read(state, layer))

    def _keep_patches(self, module, inputs, output):
        self.patches = output

    def _read(self, state):
        self.after_layer.append(state.queries.detach())
        return state

    def layer(self, index: int) -> torch.Tensor:
        """Return the output of a pair, (B, V, P, 2C)."""
        width = self.globals[index].shape[-1]
        tokens = self.globals[index].unflatten(1, (self.num_views, -1))         # (B, V, P, C)
        return torch.cat([self.frame[index].reshape(-1, *tokens.shape[1:3], width), tokens], dim=-1)


def _run(meta: dict, images: np.ndarray) -> dict[str, torch.Tensor]:
    """Return every array of the README, all channels."""
    model = _build(meta['config'])
    _fill(model, meta)
    record = _Record(model.eval(), meta['frames'])
    names = [[str(view) for view in range(meta['frames'])]] * meta['batch']
    batch = SceneBatch(torch.from_numpy(images), [''] * meta['batch'], names)
    with torch.no_grad():
        predictions = model.predict_all(batch, track_views=True)
    stored = meta['queries_stored']
    cross, after = record.after_cross, record.after_layer
    if stored != 'all':
        cross = [cross[meta['config']['cross_layers'].index(layer)] for layer in stored['query_after_cross']]
        after = [after[layer] for layer in stored['query_after_layer']]
    tokens_per_view = record.globals[0].shape[1] // meta['frames']
    return {
        'patch_tokens': record.patches, 'layers': torch.stack([record.layer(i) for i in meta['layers_stored']]),
        'query_after_cross': torch.stack(cross), 'query_after_layer': torch.stack(after),
        'queries_last': record.after_layer[-1], 'attn_frame_mean': predictions.queries.view_attention / tokens_per_view,
        'mask_embed': predictions.queries.embedding,
        'semantic_feature_maps': predictions.features.permute(0, 1, 3, 4, 2),   # (B, V, h, w, D)
        'instance_maps': predictions.queries.mask_logits, 'instance_labels': predictions.queries.class_logits,
        'pose_enc_list': torch.stack(predictions.pose_encodings),
        'depth': predictions.depth[..., None], 'depth_conf': predictions.depth_conf}


STRIDES = {'patch_tokens': 'patch_channel', 'layers': 'layer_channel', 'query_after_cross': 'query_channel',
           'query_after_layer': 'query_channel', 'semantic_feature_maps': 'feature_channel'}


@pytest.mark.parametrize('path', _cases('model'))
def test_model_equals_the_released_definition(path):
    arrays, meta = load_npz(path)
    tolerance = TOLERANCE[meta['config']['patch_embed']]
    outputs = _run(meta, arrays.pop('images'))
    errors = {}
    for name, expected in arrays.items():
        if name.endswith('_stat'):
            values = outputs[name.removesuffix('_stat')].double()
            actual = torch.stack([values.mean(), values.std(), values.min(), values.max()])
        else:
            stride = meta['strides'][STRIDES[name]] if name in STRIDES else 1
            actual = outputs[name][..., ::stride]
        errors[name] = relative_error(actual, expected)
    print(path.stem, f'largest error {max(errors.values()):.1e} ({max(errors, key=errors.get)})')
    assert not {name: error for name, error in errors.items() if error > tolerance}


@pytest.mark.parametrize('views_at_a_time', [1, 2, None], ids=lambda views: f'views={views or "all"}')
@pytest.mark.parametrize('path', _cases('postprocess'))
def test_scored_masks_equal_the_released_evaluation(path, views_at_a_time):
    arrays, meta = load_npz(path)
    for index, case in enumerate(meta['cases']):
        _check_scored_masks({name: arrays[f'{name}{index}'] for name in SCORED}, case, views_at_a_time)


def _check_scored_masks(arrays: dict, case: dict, views_at_a_time: int | None) -> None:
    size = case['height'] * case['width'] * case['queries']
    options = {key: case[key] for key in ('mode', 'top_pairs', 'mask_threshold', 'min_score', 'min_pixels')}
    postprocess = QueryMasks(**options, max_logits=size * (views_at_a_time or case['views']))
    class_logits, mask_logits = torch.from_numpy(arrays['class_logits']), torch.from_numpy(arrays['mask_logits'])
    instances = postprocess(SceneContext(QueryPredictions(torch.zeros(case['queries'], 0), class_logits, mask_logits)))
    np.testing.assert_array_equal(instances.queries, arrays['queries'])
    np.testing.assert_array_equal(instances.labels, arrays['labels'])
    np.testing.assert_allclose(instances.scores, arrays['scores'], atol=1e-6, rtol=0)
    packed = np.packbits(instances.masks.flatten(1).numpy(), axis=1)
    np.testing.assert_array_equal(packed, arrays['masks'])
