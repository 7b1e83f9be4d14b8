"""Depth Anything 3 against golden files; what to build is read from each file's meta (README_backbones_more.md)."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs.geometry.camera import decode_cameras, invert_rigid
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

load_plugins(['depth_anything_3'])
reference = sys.modules['jrs_plugins.depth_anything_3.reference']
rays = sys.modules['jrs_plugins.depth_anything_3.rays']
MLPS = {'mlp': 'gelu', 'swiglufused': 'swiglu'}
VISIBLE = 1e-3                                 # radians; below it the released focal lengths are of the order 1e7, ours 1e5


def cases(kind: str) -> list:
    """Return the golden files of one kind; the large ones are marked slow."""
    found = []
    for case in golden_files('backbone_da3_*.npz'):
        path = case.values[0]
        if path is None or json.loads(str(np.load(path, allow_pickle=False)['meta']))['kind'] == kind:
            found.append(pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
                         if case.id.endswith('_full') else case)
    return found


def build(meta: dict) -> tuple[nn.Module, nn.Module]:
    """Return backbone and head, with seeded weights under their released names, in evaluation mode."""
    sizes, head = meta['config']['backbone'], meta['config']['head']
    assert sizes['alt_start'] == sizes['qknorm_start'] == sizes['rope_start']
    backbone = BACKBONES.get('DepthAnything3')(
        **{name: sizes[name] for name in ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'alt_start')},
        mlp=MLPS[sizes['ffn']], feature_layers=sizes['out_layers'], reference_view=meta['ref_view_strategy'])
    heads = HEADS.get('DepthAnything3Rays')(dim_in=2 * sizes['embed_dim'], **head)
    fill(backbone, meta, 'backbone.pretrained.')
    fill(heads, meta, '')
    return backbone.eval(), heads.eval()


@torch.no_grad()
def fill(module: nn.Module, meta: dict, prefix: str) -> None:
    for name, tensor in module.state_dict().items():
        key = meta['weights_prefix'] + prefix + re.sub(r'(output_conv\d_aux)\.', r'\1.3.', name)
        tensor.copy_(torch.from_numpy(seeded_array(key, tensor.shape, meta['seed'])))
        tensor.mul_(next((factor for suffix, factor in meta['scale'] if key.endswith(suffix)), 1))


def record(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return a mapping that will hold what each of `parts` gives first."""
    found = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: found.setdefault(name, output))
    return found


def thinned(values: Tensor, name: str, strides: dict) -> Tensor:
    """Return what a golden file keeps of an array."""
    step, channels = strides.get(name, 1), strides.get(f'{name}_channels', 1)
    if name == 'ray':
        return values[:, :, ::step, ::step]
    return values[..., ::step, ::step] if step > 1 else values[..., ::channels]


@torch.inference_mode()
@pytest.mark.parametrize('path', cases('da3'))
def test_tokens_taps_cameras_depth_and_rays_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    backbone, head = build(meta)
    images = torch.from_numpy(arrays['images'])
    shape, size, start = images.shape[:2], tuple(images.shape[-2:]), backbone.alt_start
    scratch = head.head.scratch
    blocks = record(dict(enumerate(backbone.blocks)))
    parts = record(dict(patch_tokens=backbone.patch_embed, pose_enc=head.cam_dec, main_conv1=scratch.output_conv1,
                        aux_conv1=scratch.output_conv1_aux))
    states = list(backbone.layers(images))
    features = backbone.features()
    found, (ray, ray_conf) = head(features), head.head.rays(features)
    layers = torch.stack([blocks[i].view(*shape, -1, backbone.embed_dim) for i in range(len(blocks))])
    order = torch.from_numpy(arrays['frame_order']).long()                      # (B, V)
    back = order.argsort(dim=1)[..., None, None]
    globally = [index for index, kind in enumerate(meta['layer_kinds']) if kind == 'global']
    cam_from_world, intrinsics = decode_cameras(found.pose_encodings[-1], size)
    outputs = dict(
        patch_tokens=parts['patch_tokens'], layers=layers, features=torch.stack(features.taps)[..., features.patch_index, :],
        camera_token=features.geometry_tokens, pose_enc=parts['pose_enc'], depth=found.depth, depth_conf=found.depth_conf,
        ray=ray, ray_conf=ray_conf, cam_from_world=cam_from_world, extrinsics=cam_from_world[..., :3, :],
        fov_hw=found.pose_encodings[-1][..., 7:], main_conv1=parts['main_conv1'][:1], aux_conv1=parts['aux_conv1'][:1])
    outputs = {name: thinned(value, name, meta['strides']) for name, value in outputs.items()}
    read = torch.stack([state.tokens.view(*shape, -1, backbone.embed_dim) for state in states])
    outputs['read'] = thinned(read, 'layers', meta['strides'])                  # by queries, in the order of the images
    arrays['read'] = torch.from_numpy(arrays['layers'])[globally].take_along_dim(back[None], dim=2)
    seen = arrays['fov_hw'][..., ::-1] > VISIBLE                                # across, down
    focal = intrinsics[..., [0, 1], [0, 1]]                                     # narrow views round it
    outputs['1 / focal'], arrays['1 / focal'] = 1 / focal[seen.copy()], 1 / arrays['intrinsics'][..., [0, 1], [0, 1]][seen]
    outputs['centre'], arrays['centre'] = intrinsics[..., :2, 2], arrays['intrinsics'][..., :2, 2]
    first = (backbone.cls_token + backbone.pos_embed[:, :1]).expand(*shape, -1)
    before = layers[start - 2, :, :, 0] if start > 1 else first                 # class tokens that the choice is made by
    if 'selection_score' in arrays:
        outputs['selection_score'] = reference.balance_score(before.double())
    assert {*arrays} - {*outputs} == {'images', 'frame_order', 'reference_view', 'intrinsics'}
    errors = {name: relative_error(value, arrays[name]) / meta.get('tolerance_by_array', {}).get(name, meta['tolerance'])
              for name, value in outputs.items()}
    print(path.stem, 'in units of the tolerance:', {name: round(error, 3) for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if error > 1}
    chosen = reference.order_of_views(before, meta['ref_view_strategy'])
    assert torch.equal(torch.arange(shape[1]).expand(shape) if chosen is None else chosen, order)
    assert torch.equal(order[:, 0], torch.from_numpy(arrays['reference_view']).long())
    assert (states[0].is_patch.view(shape[1], -1)[0] == (torch.arange(layers.shape[3]) > 0)).all()
    assert not found.pose_encodings[-1][..., 7:][torch.from_numpy(arrays['fov_hw']) == 0].any()


@pytest.mark.parametrize('path', cases('da3_rays'))
def test_cameras_from_rays_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    given = {name: torch.from_numpy(values) for name, values in arrays.items()}
    shape = given['ray'].shape[:2]
    ransac = meta['ransac']
    assert (rays.DRAWS, rays.POINTS) == tuple(given['ransac_draws'].shape) == (ransac['iterations'], ransac['points'])
    assert (rays.CANDIDATES, rays.LARGEST_DISTANCE) == (ransac['sample_ratio'], ransac['threshold'])
    found = rays.cameras_from_rays(given['ray'].flatten(0, 1), given['ray_conf'].flatten(0, 1), given['ransac_draws'].long())
    cam_from_world = invert_rigid(found.world_from_cam)
    outputs = dict(rotation=found.world_from_cam[:, :3, :3], translation=found.world_from_cam[:, :3, 3], focal=found.focal,
                   principal=found.principal, extrinsics=cam_from_world[:, :3], cam_from_world=cam_from_world,
                   intrinsics=found.intrinsics((meta['H'], meta['W'])))
    errors = {name: relative_error(value.unflatten(0, shape), arrays[name]) / meta['tolerance']
              for name, value in outputs.items()}
    print(path.stem, 'in units of the tolerance:', {name: round(error, 4) for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if error > 1}
    decoded = decode_cameras(found.encoding(), (meta['H'], meta['W']))
    torch.testing.assert_close(decoded[0].double(), cam_from_world, rtol=0, atol=1e-5)
    focal = decoded[1][:, [0, 1], [0, 1]].double()
    torch.testing.assert_close(focal, outputs['intrinsics'][:, [0, 1], [0, 1]], rtol=1e-4, atol=0)
