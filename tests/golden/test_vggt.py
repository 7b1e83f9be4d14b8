"""VGGT's arithmetic against golden files; what to build is read from each file's meta (README_vggt.md)."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from jrs.backbones.vggt import VGGT
from jrs.geometry.camera import (
    decode_cameras,
    encode_cameras,
    invert_rigid,
    quaternion_from_rotation,
    rigid_from_rotation_translation,
)
from jrs.geometry.projection import unproject_depth
from jrs.heads.camera import CameraHead
from jrs.heads.depth import DepthHead
from jrs.heads.points import PointHead
from jrs.layers.block import Block
from jrs.layers.rope import GridRotation
from jrs.layers.vit import VisionTransformer
from jrs.structures import FeatureTaps
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import fill_module_

PATCH_SIZE = 14                 # what meta leaves out is as in VGGT-1B


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def filled(module: torch.nn.Module, meta: dict, prefix: str) -> torch.nn.Module:
    fill_module_(module, meta['seed'], prefix)
    return module.eval()


def build_backbone(config: dict, meta: dict, prefix: str, feature_layers: list[int]) -> VGGT:
    config = dict(config)
    if not config.pop('qk_norm', True):
        pytest.fail('VGGT always normalises queries and keys, and this file asks for a model without that')
    config['rope_base'] = config.pop('rope_freq', 100)
    return filled(VGGT(**config, feature_layers=feature_layers), meta, prefix)


def check(expected: dict[str, np.ndarray], actual: dict[str, torch.Tensor], tolerance: float, **special: float) -> None:
    """Every array of `actual` is there and within `tolerance`, or within that of the name in `special`."""
    errors = {name: relative_error(value, expected[name]) for name, value in actual.items()}
    assert all(error <= special.get(name, tolerance) for name, error in errors.items()), errors


def run_backbone(backbone: VGGT, images: np.ndarray, layers: list[int]) -> tuple[dict[int, torch.Tensor], FeatureTaps]:
    """Return the patch tokens (key -1) and the outputs (B, V, P, 2C) of `layers`, and the features."""
    stages = {}

    def keep(name):
        return lambda module, inputs, output: stages.__setitem__(name, output)
    backbone.patch_embed.register_forward_hook(keep('patch'))
    for index in layers:
        backbone.frame_blocks[index].register_forward_hook(keep(('frame', index)))
    images = torch.from_numpy(images)
    collected = {}
    for state in backbone.layers(images):
        if state.index in layers:
            tokens = state.tokens.unflatten(1, (images.shape[1], -1))
            collected[state.index] = torch.cat([stages['frame', state.index].view_as(tokens), tokens], dim=-1)
    return {-1: stages['patch'], **collected}, backbone.features()


def run_heads(meta: dict, features: FeatureTaps, dim_in: int, prefixes: list[str],
              points: bool) -> tuple[dict[str, torch.Tensor], DepthHead]:
    """Build the heads that `meta` describes, run them, and return their outputs under golden names."""
    dpt = {key: value for key, value in meta['dpt_head'].items() if key != 'intermediate_layer_idx'}
    camera = filled(CameraHead(dim_in, **meta['camera_head']), meta, prefixes[0])
    depth = filled(DepthHead(dim_in, **dpt), meta, prefixes[1])
    outputs = {'pose_enc_list': torch.stack(camera(features))}
    outputs['depth'], outputs['depth_conf'] = depth(features)
    outputs['depth'] = outputs['depth'].unsqueeze(-1)
    if points:
        head = filled(PointHead(dim_in, **dpt), meta, prefixes[2])
        outputs['world_points'], outputs['world_points_conf'] = head(features)
    return outputs, depth


def stored_features(meta: dict, tokens: torch.Tensor) -> FeatureTaps:
    """Return what a backbone whose layers are the stored `tokens` (L, B, V, P, C) would hand over."""
    grid = (meta['H'] // PATCH_SIZE, meta['W'] // PATCH_SIZE)
    start = tokens.shape[3] - grid[0] * grid[1]
    taps = [tokens[layer] for layer in meta['dpt_head']['intermediate_layer_idx']]
    patch_index = torch.arange(start, tokens.shape[3])
    return FeatureTaps(taps, patch_index, grid, (meta['H'], meta['W']), tokens[-1][:, :, 0])


@pytest.mark.parametrize('path', golden_files('vggt_aggregator*.npz'))
def test_backbone_returns_the_reference_layers(path):
    arrays, meta = load_npz(path)
    layers = list(range(meta['config']['depth']))
    backbone = build_backbone(meta['config'], meta, meta['weights_prefix'], layers)
    turned = []
    first = backbone.frame_blocks[0].attn
    first.q_norm.register_forward_hook(lambda module, inputs, output: turned.append(output))
    collected, features = run_backbone(backbone, arrays['images'], layers)
    expected = {name: arrays[name] for name in ('patch_tokens', 'layers')}
    actual = {'patch_tokens': collected[-1], 'layers': torch.stack([collected[index] for index in layers])}
    if 'rope_in' in arrays:
        expected.update(rope_in=arrays['rope_in'], rope_out=arrays['rope_out'])
        positions = torch.from_numpy(arrays['rope_pos'])
        queries = turned[0][:len(positions)]
        rope = GridRotation(positions, queries.shape[-1], backbone.rope_base)
        actual.update(rope_in=queries, rope_out=rope(queries))
    check(expected, actual, 1e-5)
    check({'layers': arrays['layers']}, {'layers': torch.stack(features.taps)}, 1e-5)
    assert features.patch_index[0] == meta['patch_start_idx']


@pytest.mark.parametrize('path', golden_files('vggt_dino_small*.npz'))
def test_image_encoder_returns_the_reference_tokens_at_every_size(path):
    arrays, meta = load_npz(path)
    encoder = filled(VisionTransformer(**meta['config']), meta, meta['weights_prefix'])
    registers = meta['config']['num_register_tokens']
    for index, size in enumerate(meta['sizes']):
        tokens = encoder.encode(torch.from_numpy(arrays[f'x{index}']))
        grid = [side // meta['config']['patch_size'] for side in size]
        actual = {f'pos{index}': encoder.position_table(*grid), f'cls{index}': tokens[:, 0],
                  f'reg{index}': tokens[:, 1:1 + registers], f'patch{index}': tokens[:, 1 + registers:]}
        check(arrays, actual, 1e-5, **{f'pos{index}': 1e-6})


@pytest.mark.parametrize('path', golden_files('vggt_heads*.npz'))
def test_heads_return_the_reference_cameras_depth_and_points(path):
    arrays, meta = load_npz(path)
    tokens = torch.from_numpy(arrays['tokens'])
    features = stored_features(meta, tokens)
    outputs, depth_head = run_heads(meta, features, meta['dim_in'], meta['prefixes'], 'world_points' in arrays)
    check(arrays, outputs, 1e-5)
    check(arrays, depth_stages(depth_head, features, arrays), 1e-5)


def depth_stages(head: DepthHead, features: FeatureTaps, arrays: dict) -> dict[str, torch.Tensor]:
    """Return the internals of the depth head for view 0 of scene 0, under golden names."""
    modules = {'output_conv1': head.scratch.output_conv1, 'output_conv2': head.scratch.output_conv2}
    for branch in range(4):
        modules[f'project{branch}'] = head.projects[branch]
        modules[f'resize{branch}'] = head.resize_layers[branch]
        modules[f'refine{branch + 1}'] = getattr(head.scratch, f'refinenet{branch + 1}')
    stages = {}
    for name, module in modules.items():
        def keep(module, inputs, output, name=f'depth_stage_{name}'):
            stages.setdefault(name, output[0])
        module.register_forward_hook(keep)
    head(features)
    stages['depth_stage_refine1'] = stages['depth_stage_refine1'][:, ::2, ::2]
    return {name: value for name, value in stages.items() if name in arrays}


@pytest.mark.parametrize('path', golden_files('vggt_layernorm_eps*.npz'))
def test_layer_norm_epsilons_are_those_of_the_reference(path):
    arrays, meta = load_npz(path)
    tokens = torch.from_numpy(arrays['x'])
    rope = GridRotation(torch.from_numpy(arrays['pos']), meta['dim'] // meta['num_heads'])
    size, prefixes = (meta['dim'], meta['num_heads']), meta['prefixes']
    encoder_block = filled(Block(*size, norm_eps=1e-6, init_values=1.0), meta, prefixes['dino_block'])
    frame_block = filled(Block(*size, qk_norm=True), meta, prefixes['frame_block'])
    trunk_block = filled(Block(*size), meta, prefixes['trunk_block'])
    actual = {'dino_block': encoder_block(tokens), 'frame_block': frame_block(tokens, rope),
              'trunk_block': trunk_block(tokens)}
    frame_block.attn.qkv.weight.mul_(0.01)
    frame_block.attn.qkv.bias.mul_(0.01)
    actual['frame_block_small_qkv'] = frame_block(tokens, rope)
    features = stored_features(meta, torch.from_numpy(arrays['tokens']))
    heads, _ = run_heads(meta, features, meta['dim'], [prefixes['camera'], prefixes['depth']], points=False)
    check(arrays, {**actual, **heads}, 1e-5)


@pytest.mark.parametrize('path', golden_files('vggt_geometry*.npz'))
def test_cameras_and_unprojection_are_those_of_the_reference(path):
    arrays, meta = load_npz(path)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    size = (meta['H'], meta['W'])
    cam_from_world = rigid_from_rotation_translation(tensors['E'][..., :3], tensors['E'][..., 3])
    decoded, intrinsics = decode_cameras(tensors['dec_enc'], size)
    actual = {
        'enc': encode_cameras(cam_from_world, tensors['K'], size),
        'dec_E': decoded[..., :3, :],
        'dec_K': intrinsics,
        'inv': invert_rigid(cam_from_world)[0],
        'quat': quaternion_from_rotation(tensors['E'][..., :3]),
    }
    _, actual['world_points'] = unproject_depth(tensors['depth'][..., 0], intrinsics[0], decoded[0])
    check(arrays, actual, 1e-6, world_points=1e-5)


def full_size_meta(meta: dict) -> dict:
    """Return `meta` with the config of VGGT-1B spelt out when it is only named."""
    if isinstance(meta['config'], dict):
        return meta
    heads = dict(camera_head=dict(), dpt_head=dict(intermediate_layer_idx=[4, 11, 17, 23]))
    return {**meta, 'config': dict(aggregator=dict(), **heads)}


def check_model(path, tolerance: float) -> None:
    """Compare a whole model with a file: tokens at some layers, cameras, depth, points, and statistics of each."""
    arrays, meta = load_npz(path)
    meta = full_size_meta(meta)
    config, prefix = meta['config'], meta['weights_prefix']
    layers = config['dpt_head']['intermediate_layer_idx']
    backbone = build_backbone(config['aggregator'], meta, f'{prefix}aggregator.', layers)
    collected, features = run_backbone(backbone, arrays['images'], meta['layers'])
    parts = {**meta, 'camera_head': config['camera_head'], 'dpt_head': config['dpt_head']}
    prefixes = [f'{prefix}{name}_head.' for name in ('camera', 'depth', 'point')]
    outputs, _ = run_heads(parts, features, backbone.feature_dim, prefixes, 'world_points' in arrays)
    names = {'patch_tokens': collected.pop(-1), **{f'layer{index}': value for index, value in collected.items()}}
    actual = {name: value[..., ::meta['channel_stride']] for name, value in names.items()}
    for name, value in outputs.items():
        step = meta['pixel_stride'] if name != 'pose_enc_list' else 1
        actual[name] = value[:, :, ::step, ::step] if step > 1 else value
    check(arrays, actual, tolerance)
    check(arrays, {f'{name}_stat': statistics(value) for name, value in {**names, **outputs}.items()
                   if f'{name}_stat' in arrays}, tolerance)


def statistics(values: torch.Tensor) -> torch.Tensor:
    values = values.double()
    return torch.stack([values.mean(), values.std(), values.min(), values.max()])


@pytest.mark.parametrize('path', golden_files('vggt_e2e_small*.npz'))
def test_small_model_returns_the_reference_outputs(path):
    check_model(path, 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize('path', golden_files('vggt_full1b*.npz'))
def test_full_size_model_returns_the_reference_outputs(path):
    check_model(path, 1e-4)


def test_every_golden_file_of_vggt_has_a_test_here_or_is_left_to_another():
    elsewhere = r'vggt_(losses|preprocess)'
    here = r'vggt_(aggregator|dino_small|heads|layernorm_eps|geometry|e2e_small|full1b)'
    for parameter in golden_files('vggt_*.npz'):
        if parameter.values[0] is not None:
            assert re.match(f'{elsewhere}|{here}', parameter.values[0].name)
