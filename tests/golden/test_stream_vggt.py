"""Causal and streamed VGGT against golden files; what to build is read from each file's meta (README_backbones_more.md)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from jrs.geometry.camera import decode_cameras
from jrs.heads.camera import CameraHead
from jrs.heads.depth import DepthHead
from jrs.heads.points import PointHead
from jrs.plugins import load_plugins
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.golden.test_vggt import build_backbone, filled, run_backbone

load_plugins(['stream_vggt'])
FILES = pytest.mark.parametrize('path', golden_files('backbone_streamvggt_*.npz'))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def build(meta: dict, trunk: dict | None = None) -> tuple:
    """Return backbone, camera, depth and point head that `meta` describes; `trunk` is the camera trunk's attention."""
    config, prefix = meta['config'], meta['weights_prefix']
    aggregator = dict(config['aggregator'], global_attention=dict(type='CausalViews'))
    backbone = build_backbone(aggregator, meta, prefix + 'aggregator.', config['dpt_head']['intermediate_layer_idx'])
    dim_in = backbone.feature_dim
    dpt = {key: value for key, value in config['dpt_head'].items() if key != 'intermediate_layer_idx'}
    trunk = trunk or dict(type='CausalViews')
    heads = dict(camera=CameraHead(dim_in, **config['camera_head'], trunk_attention=trunk), depth=DepthHead(dim_in, **dpt),
                 point=PointHead(dim_in, **dpt))
    return backbone, *(filled(head, meta, f'{prefix}{name}_head.') for name, head in heads.items())


def check(arrays: dict, actual: dict, meta: dict) -> None:
    """All of `actual` are in the file and equal; of some it has each n-th row and column."""
    errors = {}
    for name, value in actual.items():
        step = meta['strides'].get(name, 1)
        errors[name] = relative_error(value[:, :, ::step, ::step] if step > 1 else value, arrays[name])
    print('errors:', {name: f'{error:.1e}' for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if error > meta['tolerance']}


@FILES
def test_one_pass_with_causal_attention_equals_the_definition(path):
    arrays, meta = load_npz(path)
    backbone, camera, depth, points = build(meta)
    collected, features = run_backbone(backbone, arrays['images'], list(range(meta['config']['aggregator']['depth'])))
    outputs = dict(patch_tokens=collected.pop(-1), pose_enc_list=torch.stack(camera(features)))
    outputs['layers'] = torch.stack([collected[index] for index in sorted(collected)])
    outputs['depth'], outputs['depth_conf'] = depth(features)
    outputs['depth'] = outputs['depth'].unsqueeze(-1)
    outputs['world_points'], outputs['world_points_conf'] = points(features)
    encoding = outputs['pose_enc_list'][-1]
    outputs |= dict(cam_from_world=decode_cameras(encoding, (meta['H'], meta['W']))[0], fov_hw=encoding[..., 7:])
    check(arrays, outputs, meta)


def stream(arrays: dict, meta: dict, trunk: dict) -> tuple[dict, tuple]:
    """Return `stream_*` of all scenes, fed view by view; keys and values of the stored block after scene 0; the backbone."""
    backbone, camera, depth, _ = build(meta, trunk)
    last, cached, found = meta['config']['aggregator']['depth'] - 1, None, []
    for scene in torch.from_numpy(arrays['images']):
        with ExitStack() as stack:
            for part in (backbone.global_attention, camera.trunk_attention):
                stack.enter_context(part.streaming())
            for view in scene.split(1):
                collected, features = run_backbone(backbone, view[None].numpy(), [last])
                found.append((collected[last], torch.stack(camera(features)), depth(features)[0].unsqueeze(-1)))
            if cached is None:
                cached = backbone.global_attention._cache.kept(meta['cache_layer'])
        assert backbone.global_attention.held_bytes() == backbone.global_attention.seen == 0
    shape = arrays['images'].shape[:2]
    layers, encodings, depths = zip(*found, strict=True)                        # (1, 1, ...), the second (steps, 1, 1, 9)
    outputs = dict(stream_layer_last=torch.cat(layers), stream_depth=torch.cat(depths))
    outputs = {name: value.squeeze(1).unflatten(0, shape) for name, value in outputs.items()}
    outputs['stream_pose_enc_list'] = torch.cat(encodings, dim=1).squeeze(2).unflatten(1, shape)
    return outputs, (cached, backbone)


@FILES
def test_views_one_at_a_time_equal_one_pass_with_one_cache_per_refinement_step(path):
    arrays, meta = load_npz(path)
    found, _ = stream(arrays, meta, dict(type='CausalViews'))
    check(arrays, {name: found[name] for name in ('stream_layer_last', 'stream_depth')}, meta)
    check(dict(layer=arrays['layers'][-1], pose=arrays['pose_enc_list']),
          dict(layer=found['stream_layer_last'], pose=found['stream_pose_enc_list']), meta)


@FILES
def test_views_one_at_a_time_equal_the_released_stream_with_its_trunk(path):
    arrays, meta = load_npz(path)
    trunk = dict(type='ReleasedTrunk', trunk_depth=meta['config']['camera_head']['trunk_depth'])
    found, (cached, backbone) = stream(arrays, meta, trunk)
    found['stream_cam_from_world'] = decode_cameras(found['stream_pose_enc_list'][-1], (meta['H'], meta['W']))[0]
    check(arrays, found, meta)
    _, layout = backbone.start(torch.from_numpy(arrays['images'][:1]))
    keys, values = (torch.from_numpy(arrays[name]).flatten(2, 3) for name in ('cache_k', 'cache_v'))    # before the norm
    attention = backbone.global_blocks[meta['cache_layer']].attn
    check(dict(keys=layout.rotations['scene'](attention.k_norm(keys)).numpy(), values=values.numpy()),
          dict(zip(('keys', 'values'), cached, strict=True)), meta)

