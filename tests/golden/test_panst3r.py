"""PanSt3R against golden data of the published definition (README_baselines_images.md, baselines.md section 4.5).

Weights go the way of a released file: values under released names in the released layout, read by the plugin's hooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs.plugins import load_plugins
from jrs.registry import HEADS, MODELS, QUERIES, build
from jrs.structures import FeatureTaps, QueryPredictions, SceneContext
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

load_plugins(['must3r', 'mask_decoder', 'panst3r'])
from jrs_plugins.must3r import backbone as must3r_backbone  # noqa: E402
from jrs_plugins.panst3r import qubo  # noqa: E402
from jrs_plugins.panst3r.encoder import DinoBranch  # noqa: E402
from jrs_plugins.panst3r.guidance import colour_range, grid_places, scaled_colours  # noqa: E402
from jrs_plugins.panst3r.selection import (  # noqa: E402
    MergedMasks,
    Probabilities,
    Segments,
    overlap_weights,
    owned,
)
from jrs_plugins.panst3r.weights import in_our_layout, our_name  # noqa: E402

KINDS = ('panst3r_decoder', 'panst3r_dino', 'panst3r_e2e', 'panst3r_post')
TOLERANCES = dict(panst3r_decoder=1e-5, panst3r_dino=1e-5, panst3r_e2e=2e-5)
FROM_PICTURES = dict(fourier=2e-3, guide=5e-4, low_pe=2e-3, low=5e-4, up0=5e-4, up1=5e-4, mask_features=5e-4,
                     mask_logits_first=5e-4, mask_logits_last=5e-4, mask_logits_all_strided=5e-4, fixed_mask_logits=5e-4,
                     mask_logits=5e-4)          # version 2, where frequencies are rounded otherwise
TEXT_DIM = 768


def files(kind: str) -> list:
    """Return the files of a kind, as their `meta` says, whatever they are called."""
    return [one for one in golden_files('baseline_panst3r_*.npz')
            if one.values[0] is None or load_npz(one.values[0])[1]['kind'] == kind]


@pytest.mark.parametrize('path', golden_files('baseline_panst3r_*.npz'))
def test_every_file_is_of_a_kind_that_is_tested_here(path):
    assert load_npz(path)[1]['kind'] in KINDS


# Weights

MASKS = 'panoptic_decoder.mask_transformer.'
DINO = 'dino_encoder.dinov2.'
RELEASED = tuple((re.compile(ours), released) for ours, released in (       # ours -> released, packing aside
    (r'backbone\.encoder\.(.*)', r'must3r_encoder.\1'), (r'(?:backbone|geometry_head)\.(.*)', r'must3r_decoder.\1'),
    (r'feature_head\.dino\.vit\.(cls_token|mask_token)', DINO + r'embeddings.\1'),
    (r'feature_head\.dino\.vit\.pos_embed', DINO + 'embeddings.position_embeddings'),
    (r'feature_head\.dino\.vit\.patch_embed\.proj\.(.*)', DINO + r'embeddings.patch_embeddings.projection.\1'),
    (r'feature_head\.dino\.vit\.blocks\.(\d+)\.attn\.qkv\.(.*)', DINO + r'encoder.layer.\1.attention.attention.PART.\2'),
    (r'feature_head\.dino\.vit\.blocks\.(\d+)\.attn\.proj\.(.*)', DINO + r'encoder.layer.\1.attention.output.dense.\2'),
    (r'feature_head\.dino\.vit\.blocks\.(\d+)\.ls(\d)\.gamma', DINO + r'encoder.layer.\1.layer_scale\2.lambda1'),
    (r'feature_head\.dino\.vit\.blocks\.(.*)', DINO + r'encoder.layer.\1'),
    (r'feature_head\.dino\.vit\.norm\.(.*)', DINO + r'layernorm.\1'),
    (r'feature_head\.(proj_.*)', r'panoptic_decoder.upscaler.\1'),
    (r'feature_head\.upscaler\.fourier_feat\.(.*)', r'panoptic_decoder.upscaler.fourier_feat.1.\1'),
    (r'feature_head\.(.*)', r'panoptic_decoder.\1'), (r'class_head\.no_object', 'panoptic_decoder.nocls_token'),
    (r'class_head\.logit_scale', MASKS + 'cls_logit_scale'), (r'class_head\.projection\.(.*)', MASKS + r'lang_embed.\1'),
    (r'queries\.content', MASKS + 'query_feat.weight'), (r'queries\.position', MASKS + 'query_embed.weight'),
    (r'queries\.level_embedding', MASKS + 'level_embed.weight'), (r'queries\.norm\.(.*)', MASKS + r'decoder_norm.\1'),
    (r'queries\.projection\.0\.(.*)', MASKS + r'mask_embed.layers.0.\1'),
    (r'queries\.projection\.2\.(.*)', MASKS + r'mask_embed.layers.1.\1'),
    (r'queries\.projection\.4\.(.*)', MASKS + r'mask_embed.layers.2.\1'),
    (r'queries\.layers\.(\d+)\.cross_attention\.q_proj\.(.*)', MASKS + r'cross_attn_layers.\1.multihead_attn.in_proj_\2'),
    (r'queries\.layers\.(\d+)\.self_attention\.q_proj\.(.*)', MASKS + r'self_attn_layers.\1.self_attn.in_proj_\2'),
    (r'queries\.layers\.\d+\.\w+\.[kv]_proj\..*', ''),                      # in the packed one
    (r'queries\.layers\.(\d+)\.cross_attention\.proj\.(.*)', MASKS + r'cross_attn_layers.\1.multihead_attn.out_proj.\2'),
    (r'queries\.layers\.(\d+)\.self_attention\.proj\.(.*)', MASKS + r'self_attn_layers.\1.self_attn.out_proj.\2'),
    (r'queries\.layers\.(\d+)\.(cross|self)_norm\.(.*)', MASKS + r'\2_attn_layers.\1.norm.\3'),
    (r'queries\.layers\.(\d+)\.feed_forward\.0\.(.*)', MASKS + r'ffn_layers.\1.linear1.\2'),
    (r'queries\.layers\.(\d+)\.feed_forward\.2\.(.*)', MASKS + r'ffn_layers.\1.linear2.\2'),
    (r'queries\.layers\.(\d+)\.norm\.(.*)', MASKS + r'ffn_layers.\1.norm.\2')))


def released_shapes(own: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return released name -> shape of what a file of the model `own` would hold."""
    found = {}
    for ours, value in own.items():
        key = next(match.expand(released) for pattern, released in RELEASED if (match := pattern.fullmatch(ours)))
        shape = tuple(value.shape)
        if 'in_proj_' in key:
            shape = (3 * shape[0], *shape[1:])
        elif key.endswith(('query_feat.weight', 'query_embed.weight')):
            shape = shape[1:]
        if '.PART.' in key:
            found |= {key.replace('PART', part): (shape[0] // 3, *shape[1:]) for part in ('query', 'key', 'value')}
        elif key:
            found[key] = shape
    return found


def seeded(key: str, shape: tuple[int, ...], meta: dict) -> Tensor:
    array = seeded_array(key, shape, meta['seed'])
    rule = meta.get('overrides', {}).get(key.rpartition('.')[2])
    if rule is not None:                                                    # 'a' is the seeded array, in float64
        offset, factor = (float(number) for number in {'16 a': ('0', '16'), '0.2 + 0.05 a': ('0.2', '0.05')}[rule])
        array = (offset + factor * array.astype(np.float64)).astype(np.float32)
    return torch.from_numpy(array)


@torch.no_grad()
def filled(parts: dict[str, nn.Module], meta: dict) -> None:
    """Give the parts, by their names in our model, the values of the golden model; all of them, and nothing else."""
    own = {f'{part}.{name}': value for part, module in parts.items() for name, value in module.state_dict().items()}
    state = {key: seeded(key, shape, meta) for key, shape in released_shapes(own).items()}
    given = {our_name(key): value for key, value in in_our_layout(state).items()}
    assert set(given) == set(own)
    for name, value in own.items():
        assert value.shape == given[name].shape, name
        value.copy_(given[name])
    for module in parts.values():
        module.eval()


# Parts

def features_config(config: dict, taps: int, dino: bool, joint: bool = False) -> dict:
    """Return the config of the feature head that `config` describes; `taps` are joined, and DINOv2's patches where asked."""
    own = dict(taps=range(taps), dino=dict(embed_dim=config['dino']['dim'], depth=config['dino']['depth'],
                                           num_heads=config['dino']['heads'], img_size=config['dino']['img_size']
                                           ) if dino else None)
    if config['version'] == 1:
        memory, *widths = config['fp_dim']
        assert memory == config['fpn_dim']
        return dict(own, type='PanSt3RFeatures', memory_dim=memory, widths=widths)
    mixer, up = config['mixer'], config['upscaler']
    assert mixer['dim'] == config['fpn_dim'] and up['dim'] == config['decoder']['mask_dim']
    return dict(own, type='PanSt3RGuidedFeatures', width=mixer['dim'], num_heads=mixer['heads'], layers=mixer['layers'],
                joint_range=joint, upsampler=dict(dim=up['dim'], num_heads=up['heads'], layers=up['layers'],
                                                  frequencies=up['n_freqs'], patch_frequencies=up['low_freqs']))


def queries_config(config: dict) -> dict:
    decoder = config['decoder']
    return dict(type='MaskDecoder', num_queries=decoder['queries'], num_heads=decoder['heads'], layers=decoder['layers'],
                width=decoder['dim'], hidden=decoder['ff'], embedding_dim=decoder['mask_dim'], memory='mask_memory',
                memory_dim=config['fpn_dim'], mask_resize='bilinear', positions='ends', mask_layers=3)


def class_config(config: dict) -> dict:
    return dict(type='TextClassHead', text_dim=TEXT_DIM, embedding_dim=config['decoder']['dim'],
                classes=config['label_mode'])


def check(arrays: dict, actual: dict[str, Tensor], tolerance: float, loose: dict[str, float] | None = None) -> None:
    errors = {name: relative_error(value, arrays[name]) for name, value in actual.items()}
    print({name: f'{error:.1e}' for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if not error <= (loose or {}).get(name, tolerance)}


def strided(value: Tensor, name: str, meta: dict) -> Tensor:
    """Return `value` with the stride in its channels, and of maps in rows and columns, with which a file has it."""
    axis, step = meta['strides'].get(name, (0, 1))
    index = [slice(None)] * value.ndim
    index[axis] = slice(None, None, step)
    pixels = meta['pixel_stride'].get(name, 1)
    if pixels > 1:
        index[-2:] = [slice(None, None, pixels)] * 2
    return value[tuple(index)]


@contextmanager
def stages(queries: nn.Module) -> Iterator[SimpleNamespace]:
    """Note queries after each step of each layer, and what was hidden, (L, B, Q, T) bool."""
    noted = SimpleNamespace(cross=[], within=[], out=[], allowed=[], tokens=None)
    handles = [handle for layer in queries.layers for handle in (
        layer.cross_norm.register_forward_hook(lambda module, inputs, output: noted.cross.append(output)),
        layer.self_norm.register_forward_hook(lambda module, inputs, output: noted.within.append(output)),
        layer.register_forward_hook(lambda module, inputs, output: noted.out.append(output)),
        layer.register_forward_pre_hook(lambda module, inputs: noted.allowed.append(inputs[4])),
        layer.register_forward_pre_hook(lambda module, inputs: setattr(noted, 'tokens', inputs[2:4])))]
    yield noted
    for handle in handles:
        handle.remove()


@torch.inference_mode()
@pytest.mark.parametrize('path', files('panst3r_decoder'))
def test_features_queries_classes_and_masks_equal_the_reference_stage_by_stage(path):
    arrays, meta = load_npz(path)
    config, images = meta['config'], torch.from_numpy(arrays['images'])
    shape, grid = images.shape[:2], tuple(side // 16 for side in meta['image_hw'])
    taps = [torch.from_numpy(arrays[name]) for name in ('encoder', 'decoder', 'dino')]
    head = build(HEADS, features_config(config, 3, False, meta['views_per_call'] is None), 'model.feature_head', dim_in=0,
                 tap_dims=config['parts'])
    queries = build(QUERIES, queries_config(config), 'model.queries', dim_in=0)
    classes = build(HEADS, class_config(config), 'model.class_head')
    assert head.joined_dim == config['in_dim']
    filled(dict(feature_head=head, queries=queries, class_head=classes), meta)
    classes.use_vocabulary(torch.from_numpy(arrays['text']))
    features = FeatureTaps(taps, torch.arange(grid[0] * grid[1]), grid, tuple(meta['image_hw']),
                           wanted=frozenset({'mask_memory'}), maps={'images': (images.double() + 1) / 2})      # exactly
    actual, loose = {}, {}
    if config['version'] == 2:
        actual |= guided_stages(head, torch.cat(taps, dim=-1).flatten(0, 1), grid, images.flatten(0, 1), meta)
        loose = FROM_PICTURES
    maps = head(features)                                                       # (B, V, D, h, w)
    actual |= {'stride16': strided(features.maps['mask_memory'].flatten(0, 1), 'stride16', meta),
               'mask_features': strided(maps.flatten(0, 1), 'mask_features', meta)}
    queries.train()                                                             # which keeps all levels
    with stages(queries) as noted:
        levels = queries.finish(None, features, maps).levels
    masks = torch.stack([torch.einsum('bqd,bvdhw->bvqhw', level.embedding, maps) for level in levels])
    every = meta['pixel_stride']['all_strided']
    tokens, places = noted.tokens
    visible = torch.stack(noted.allowed)                                        # (L, B, Q, T)
    actual |= {
        'class_logits': torch.stack([classes(level.class_embedding) for level in levels]), 'mask_logits_first': masks[0],
        'mask_logits_last': masks[-1], 'mask_logits_all_strided': masks[..., ::every, ::every],
        'queries_cross': torch.stack(noted.cross), 'queries_self': torch.stack(noted.within),
        'queries': torch.stack(noted.out), 'memory': strided(tokens, 'memory', meta),
        'memory_pos': strided(places.expand(len(tokens), -1, -1), 'memory_pos', meta)}
    actual |= fixed_masks(queries, classes, noted.out[-1], maps, meta)
    check(arrays, actual, TOLERANCES['panst3r_decoder'], loose)
    np.testing.assert_array_equal(np.packbits(~visible.numpy(), axis=-1), arrays['attn_mask'])
    hidden = torch.stack([nn.functional.interpolate(one.flatten(0, 1), grid, mode='bilinear').lt(0).unflatten(
        0, shape).movedim(2, 1).flatten(2).all(dim=2) for one in masks[:-1]])   # (L, B, Q)
    np.testing.assert_array_equal(hidden, arrays['raw_masked'])
    assert set(actual) == set(arrays) - {'images', 'text', 'encoder', 'decoder', 'dino', 'attn_mask', 'raw_masked'}


def fixed_masks(queries: nn.Module, classes: nn.Module, last: Tensor, maps: Tensor, meta: dict) -> dict[str, Tensor]:
    """Return masks of the first view again and classes, from the queries (B, Q, C) after the last layer."""
    level, step = queries._embed(last), meta['pixel_stride'].get('fixed_mask_logits', 1)
    masks = torch.einsum('bqd,bvdhw->bvqhw', level.embedding, maps[:, :1])
    return {'fixed_mask_logits': masks[..., ::step, ::step], 'fixed_class_logits': classes(level.class_embedding)}


def guided_stages(head: nn.Module, patches: Tensor, grid: tuple[int, int], images: Tensor, meta: dict) -> dict[str, Tensor]:
    """Return what version 2 makes on the way, under golden names; from the stored Fourier features it is held to 1e-5."""
    up, found = head.upscaler, {}
    mixed = head.input_mixer(patches, grid)
    colours = scaled_colours(images, colour_range(images, head.joint_range))
    described = up.describe(colours)
    guide = up.first_conv(described)
    places = up.lr_pe(grid_places(grid, images.device))
    tokens, keys = guide.flatten(2).transpose(1, 2), up.keys(mixed, grid)
    for index, block in enumerate(up.ca_transformer_blocks):
        tokens = block(tokens, keys)
        found[f'up{index}'] = strided(tokens[:, ::meta['pixel_stride']['up_tokens']], f'up{index}', meta)
    return found | {'mixed': strided(mixed, 'mixed', meta), 'scaled': strided(colours, 'scaled', meta), 'fourier': described,
                    'guide': strided(guide, 'guide', meta), 'low_pe': places, 'low': strided(keys, 'low', meta)}


@torch.inference_mode()
@pytest.mark.parametrize('path', files('panst3r_decoder'))
def test_pixels_of_version_2_are_the_reference_s_from_its_fourier_features(path):
    arrays, meta = load_npz(path)
    if meta['config']['version'] != 2:
        assert 'fourier' not in arrays
        return
    config, grid = meta['config'], tuple(side // 16 for side in meta['image_hw'])
    head = build(HEADS, features_config(config, 3, False), 'model.feature_head', dim_in=0, tap_dims=config['parts'])
    filled(dict(feature_head=head), meta)
    up, parts = head.upscaler, [torch.from_numpy(arrays[name]) for name in ('encoder', 'decoder', 'dino')]
    keys = up.keys(head.input_mixer(torch.cat(parts, dim=-1).flatten(0, 1), grid), grid)
    guide = up.first_conv(torch.from_numpy(arrays['fourier']))
    tokens, actual = guide.flatten(2).transpose(1, 2), {'guide': strided(guide, 'guide', meta)}
    for index, block in enumerate(up.ca_transformer_blocks):
        tokens = block(tokens, keys)
        actual[f'up{index}'] = strided(tokens[:, ::meta['pixel_stride']['up_tokens']], f'up{index}', meta)
    maps = up.ca_transformer_norm(tokens).transpose(1, 2).unflatten(2, guide.shape[-2:])
    check(arrays, actual | {'mask_features': strided(maps, 'mask_features', meta)}, TOLERANCES['panst3r_decoder'])


@torch.inference_mode()
@pytest.mark.parametrize('path', files('panst3r_dino'))
def test_the_second_encoder_equals_the_reference_on_any_grid(path):
    arrays, meta = load_npz(path)
    config = meta['config']
    branch = DinoBranch(config['dim'], config['depth'], config['heads'], config['img_size'])
    filled({'feature_head.dino': branch}, meta)
    for index, size in enumerate(meta['sizes']):
        grid, images = tuple(side // 16 for side in size), torch.from_numpy(arrays[f'x{index}'])
        check(arrays, {f'out{index}': branch(images, grid), f'pos{index}': branch.vit.position_table(*grid)},
              TOLERANCES['panst3r_dino'])


def whole_model(meta: dict) -> nn.Module:
    config = meta['config']
    encoder, decoder = config['encoder'], config['must3r_decoder']
    model = build(MODELS, dict(
        type='SegVGGT', key_views=max(2, len(meta['keyframes'])), feature_head=features_config(config, 2, True),
        queries=queries_config(config), class_head=class_config(config), geometry_head=dict(type='MUSt3RGeometry'),
        backbone=dict(type='MUSt3R', embed_dim=decoder['dim'], depth=decoder['depth'], num_heads=decoder['heads'],
                      feedback=decoder['feedback'], encoder_dim=encoder['dim'], encoder_depth=encoder['depth'],
                      encoder_heads=encoder['heads'], feature_layers=(-1, decoder['depth'] - 1),
                      key_views=max(2, len(meta['keyframes'])))), 'model')
    filled({name: part for name, part in model.named_children() if name != 'data_preprocessor'}, meta)
    return model


@torch.inference_mode()
@pytest.mark.parametrize('path', files('panst3r_e2e'))
def test_the_whole_model_equals_the_reference_from_pictures_to_masks(path, monkeypatch):
    arrays, meta = load_npz(path)
    keys = torch.tensor(meta['keyframes'])
    model = whole_model(meta)                                                   # a retrieval may have chosen others:
    monkeypatch.setattr(must3r_backbone, 'evenly_spaced', lambda views, count, device=None: keys)
    monkeypatch.setattr(model, '_keys', lambda views, device: keys)
    model.eval().class_head.use_vocabulary(torch.from_numpy(arrays['text']))
    signed = torch.from_numpy(arrays['images'])                                 # (V, 3, H, W) in [-1, 1]
    images = (signed[None].double() + 1) / 2                                    # exactly
    joined = []
    model.feature_head.register_forward_hook(lambda head, inputs, output: joined.append(inputs[0]))
    with stages(model.queries) as noted:
        state = model.read_layers(images)
        taps = model.backbone.features()
        found = model.run_heads(taps, images)
        queries = model.finish_queries(state, taps, found.features)
    patches = torch.cat([*joined[0].taps, model.feature_head.dino(signed, taps.patch_grid)[None]], dim=-1)
    pixels = meta['pixel_stride']
    actual = {
        'features': patches[0, keys][..., ::meta['feature_stride']], 'queries': noted.out[-1],
        'class_logits': queries.class_logits, 'mask_logits': torch.einsum(
            'qd,vdhw->vqhw', queries.embedding[0], found.features[0]),
        'raw_pointmaps': model.geometry_head.raw(taps)[0, :, ::pixels, ::pixels],
        'pts3d': found.points[0, :, ::pixels, ::pixels], 'conf': found.points_conf[0, :, ::pixels, ::pixels]}
    assert set(actual) == set(arrays) - {'images', 'text'}
    check(arrays, actual, TOLERANCES['panst3r_e2e'], FROM_PICTURES if meta['config']['version'] == 2 else None)


# Post-processing

def scene_of(arrays: dict, index: int, case: dict, image_hw: list[int] | None = None) -> SceneContext:
    queries = QueryPredictions(torch.zeros(case['Q'], 1), torch.from_numpy(arrays[f'class_logits{index}']),
                               torch.from_numpy(arrays[f'mask_logits{index}']).movedim(0, 1), classes=case['label_mode'])
    return SceneContext(queries, image_size=tuple(image_hw or case['image_hw']))


def cases(path: Path) -> Iterator[tuple[int, dict, dict, dict]]:
    arrays, meta = load_npz(path)
    for index, case in enumerate(meta['cases']):
        yield index, case, arrays, meta


def check_segments(found: Segments, labels: Tensor, arrays: dict, names: tuple[str, str, str], step: int,
                   columns: list[Tensor]) -> None:
    """Compare owners, confidence and the table of segments with the arrays called `names`."""
    owner, confidence, table = names
    np.testing.assert_array_equal(found.owner.numpy() + 1, arrays[owner])
    np.testing.assert_allclose(found.confidence[:, ::step, ::step], arrays[confidence], atol=1e-6)
    rows = [torch.arange(1, len(found.queries) + 1), *columns, labels[found.queries]]
    stored = arrays[table]
    np.testing.assert_array_equal(torch.stack(rows, dim=1).numpy().reshape(len(found.queries), 3), stored[:, :3])


@pytest.mark.parametrize('path', files('panst3r_post'))
def test_weights_energies_and_choices_equal_the_reference(path):
    tried = 0
    for index, case, arrays, meta in cases(path):
        if case['label_mode'] != 'sigmoid':
            continue
        weights = overlap_weights(Probabilities(scene_of(arrays, index, case)), case['Q'], meta['penalty']).numpy()
        assert relative_error(weights, arrays[f'W{index}']) <= 1e-6
        stored = arrays[f'W{index}'].astype(np.float64)
        assert meta['lambda_reg'] == qubo.REGULARISER
        np.testing.assert_allclose(qubo.energies(stored, arrays[f'states{index}']), arrays[f'energies{index}'], rtol=1e-6)
        tried += 1
        if f'optimum{index}' in arrays:
            for options in ({}, dict(exhaustive=0)):                            # and annealing finds it too
                found = qubo.choose(stored, **options)
                np.testing.assert_array_equal(found, arrays[f'optimum{index}'].astype(bool))
            assert qubo.energies(stored, found[None])[0] == pytest.approx(case['optimum_energy'], rel=1e-6)
        else:
            assert qubo.energies(stored, qubo.choose(stored)[None])[0] <= case['annealing_energy'] + 1e-6
    assert tried


@pytest.mark.parametrize('path', files('panst3r_post'))
def test_segments_of_a_selection_equal_the_reference(path):
    for index, case, arrays, meta in cases(path):
        for which in 'ab' if f'selection{index}a' in arrays else '':
            scene = scene_of(arrays, index, case)
            best, labels = scene.queries.class_probabilities()[0].max(dim=1)
            chosen = torch.from_numpy(arrays[f'selection{index}{which}']).nonzero()[:, 0]
            found = owned(Probabilities(scene), chosen, best, case[f'threshold_{which}'])
            place = {query: number for number, query in enumerate(chosen.tolist())}
            check_segments(found, labels, arrays, tuple(f'{name}{index}{which}' for name in ('pan', 'conf', 'segments')),
                           meta['conf_stride'], [torch.tensor([place[query] for query in found.queries.tolist()]).long()])
            areas = torch.bincount(found.owner[found.owner >= 0].long(), minlength=len(found.queries))
            numbers = torch.stack([found.class_probability, found.mask_probability, areas.float()], dim=1)
            np.testing.assert_allclose(numbers, arrays[f'segments{index}{which}'][:, 3:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('path', files('panst3r_post'))
@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_merged_masks_equal_the_reference(path, version):
    for index, case, arrays, meta in cases(path):
        scene = scene_of(arrays, index, case)
        best, labels = scene.queries.class_probabilities()[0].max(dim=1)
        part = MergedMasks(**meta[version], min_class=meta['class_threshold'], void_confidence=meta['void_confidence'])
        found = part.segments(Probabilities(scene), scene.queries, best)
        names = tuple(f'{version}_{name}{index}' for name in ('pan', 'conf', 'segments'))
        check_segments(found, labels, arrays, names, meta['conf_stride'], [found.queries])
        instances = part(scene)
        np.testing.assert_array_equal(instances.masks.any(dim=0), arrays[names[0]] > 0)
        assert sorted(instances.queries.tolist()) == found.queries.tolist()
