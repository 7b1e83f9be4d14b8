"""VGGT-Omega against golden files; what to build is read from each file's meta (README_backbones_pi3_omega.md)."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jrs.geometry.camera import decode_cameras
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
from tests.golden._equal_views import STATISTICS, cases, errors, recording, report
from tests.golden._golden import load_npz
from tests.seeded_weights import seeded_array

load_plugins(['vggt_omega'])
UNRECORDED = {'images', 'is_patch'}


def build(config: dict) -> tuple[nn.Module, nn.Module]:
    encoder, camera, dense = config['encoder'], config['camera_head'], config['dense_head']
    options = {key: config[key] for key in ('patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio',
                                            'num_register_tokens', 'register_layers', 'rope_base')}
    backbone = BACKBONES.get('VGGTOmega')(
        **options, patch_embed='vit', encoder_depth=encoder['depth'], encoder_heads=encoder['num_heads'],
        num_storage_tokens=encoder['num_storage_tokens'], feature_layers=range(config['depth']))
    head = HEADS.get('VGGTOmegaGeometry')(dim_in=2 * config['embed_dim'], patch_size=config['patch_size'], **camera, **dense,
                                          text=config['text_head'])
    return backbone.eval(), head.eval()


@torch.no_grad()
def fill(module: nn.Module, prefix: str, meta: dict) -> int:
    """Give every entry its seeded values under its released name, key biases too; return how many entries a file has."""
    state = module.state_dict()
    for name, tensor in state.items():
        if not name.endswith('rope_embed.periods'):
            tensor.copy_(torch.from_numpy(seeded_array(prefix + name, tensor.shape, meta['seed'])))
            for pattern, factor in meta['scales']:
                tensor.mul_(factor if re.fullmatch(pattern, prefix + name) else 1)
    return len(state) + sum(name.endswith('.attn.qkv.bias') for name in state)              # each beside its mask


def recorded_parts(backbone: nn.Module, head: nn.Module) -> dict[str, nn.Module]:
    camera, dense = head.camera_head, head.dense_head
    parts = dict(patch_tokens=backbone.patch_embed, camera_normed=camera.token_norm, camera_trunk=camera.trunk[-1],
                 pose_raw=camera.camera_branch, dense_proj=dense.proj, dense_proj_conf=dense.proj_conf)
    parts |= {f'dense_project{k}': dense.projects[k] for k in range(4)}
    parts |= {f'dense_resize{k}': dense.resize_layers[k] for k in range(4)}
    return parts | {f'dense_refine{k}': dense.scratch.get_submodule(f'refinenet{k}') for k in range(1, 5)}


@torch.inference_mode()
@pytest.mark.parametrize('path', cases('backbone_vggt_omega_*.npz'))
def test_layers_cameras_depth_and_words_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    config = meta['config']
    backbone, head = build(config)
    mask_token = 1                                                              # in the files, never read
    assert fill(backbone, 'aggregator.', meta) + fill(head, '', meta) + mask_token == meta['num_keys']
    kinds = {'global': 'scene', 'register': 'special'}
    assert list(backbone.layer_kinds) == [kinds[kind] for kind in meta['layer_kinds']]
    images = torch.from_numpy(arrays['images'])
    with recording(recorded_parts(backbone, head)) as recorded:
        states = list(backbone.layers(images))
        features = backbone.features()
        read = replace(features, taps=[features.taps[layer] for layer in config['feature_layers']])
        found = head(read)
    outputs = {name: values[0][:1] if name.startswith('dense') else values[0] for name, values in recorded.items()}
    encoding, size = found.pose_encodings[0], images.shape[-2:]
    cam_from_world, intrinsics = decode_cameras(encoding, size)
    rotation = backbone.rope_embed(features.patch_grid)
    cos, sin = (one.expand(-1, -1, 2, -1).flatten(1) for one in (rotation.cos[..., :1, :], rotation.sin[..., 1:, :]))
    outputs |= dict(layers=torch.stack(features.taps), pose_enc=encoding, fov=encoding[..., 7:], intrinsics=intrinsics,
                    cam_from_world=cam_from_world, z_depth=found.depth, depth=found.depth[..., None],
                    depth_conf=found.depth_conf, rope_sin=sin, rope_cos=cos, **found.extras)
    stored = {name.removesuffix(STATISTICS) for name in arrays} - UNRECORDED
    assert set(outputs) == stored
    is_patch = states[-1].is_patch.view(images.shape[1], -1)[0]
    np.testing.assert_array_equal(is_patch, arrays['is_patch'])
    width = config['embed_dim']
    for state, tap in zip(states, features.taps, strict=True):                  # queries read the second half
        assert torch.equal(state.tokens, tap[..., width:].flatten(1, 2))
        if backbone.layer_kinds[state.index] == 'special':
            assert torch.equal(tap[:, :, is_patch, :width], tap[:, :, is_patch, width:])
    assert torch.equal(features.special, features.taps[-1][:, :, ~is_patch])
    report(path, errors(outputs, arrays, meta))
