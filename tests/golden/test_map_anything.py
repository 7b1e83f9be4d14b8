"""MapAnything V1.1 against golden files; what to build is read from each file's meta (README_backbones_more.md)."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs.geometry.camera import decode_cameras, invert_rigid, pinhole_of_rays, quaternion_from_rotation
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

load_plugins(['map_anything'])
INTRINSICS = 'backbone_mapanything_*intrinsics*.npz'
RAYS = [case.values[0].stem for case in golden_files(INTRINSICS) if case.values[0] is not None]
# Ours, the alphabetically first name of the released file, by which a tensor is seeded.
RELEASED = (
    (r'backbone\.encoder\.(.*)', r'encoder.model.\1'),
    (r'backbone\.(scale_token|fusion_norm_layer\..*)', r'\1'),
    (r'backbone\.(.*)', r'info_sharing.\1'),
    (r'geometry_head\.projects\.(.*?)\.(.*)', r'dense_head.0.input_process.\1.0.0.\2'),
    (r'geometry_head\.resize_layers\.(.*?)\.(.*)', r'dense_head.0.input_process.\1.0.1.\2'),
    (r'geometry_head\.scratch\.output_conv1\.(.*)', r'dense_head.1.conv1.\1'),
    (r'geometry_head\.scratch\.output_conv2\.(.*)', r'dense_head.1.conv2.\1'),
    (r'geometry_head\.((?:pose|scale)_head\..*)', r'\1'),
    (r'geometry_head\.(scratch\..*)', r'dense_head.0.\1'),
)


def released(name: str) -> str:
    level = re.fullmatch(r'geometry_head\.scratch\.layer(\d)_rn\.weight', name)
    if level:
        return f'dense_head.0.input_process.{int(level[1]) - 1}.1.weight'
    return next(re.sub(ours, theirs, name) for ours, theirs in RELEASED if re.fullmatch(ours, name))


@torch.no_grad()
def fill(part: nn.Module, prefix: str, meta: dict) -> None:
    for name, tensor in part.state_dict().items():
        key = released(f'{prefix}.{name}')
        if key not in meta['not_seeded']:
            tensor.copy_(torch.from_numpy(seeded_array(key, tensor.shape, meta['seed'])))
            tensor.mul_(next((factor for suffix, factor in meta['scale'] if key.endswith(suffix)), 1))


def parts(meta: dict) -> tuple[nn.Module, nn.Module]:
    """Return backbone and head of what the file's `config` describes; all layers are taps."""
    config = meta['config']
    encoder, layers, head = config['encoder'], config['info_sharing'], config['head']
    assert (encoder['embed_dim'], encoder['num_heads']) == (layers['dim'], layers['num_heads'])
    backbone = BACKBONES.get('MapAnything')(
        img_size=encoder['img_size'], patch_size=encoder['patch_size'], embed_dim=layers['dim'], depth=layers['depth'],
        num_heads=layers['num_heads'], patch_embed='vit', encoder_depth=encoder['depth'],
        feature_layers=(-1, *layers['indices'], layers['depth'] - 1))
    geometry = HEADS.get('MapAnythingGeometry')(
        dim_in=layers['dim'], features=head['feature_dim'], out_channels=head['layer_dims'], pose_dim=head['pose_hidden'],
        scale_dim=head['scale_hidden'])
    assert 2 * head['regressor_hidden'] == head['feature_dim'] and head['outputs'] == 6
    for part, prefix in ((backbone, 'backbone'), (geometry, 'geometry_head')):
        fill(part, prefix, meta)
    return backbone.eval(), geometry.eval()


def run(backbone: nn.Module, geometry: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return everything that a file may store, by its names."""
    inside, steps = {}, []
    hooks = [module.register_forward_hook(lambda part, given, out, name=name: inside.update({name: out}))
             for name, module in (('encoder', backbone.encoder), ('pose', geometry.pose_head.more_mlps),
                                  ('dense_raw', geometry.scratch.output_conv2), ('fused', geometry.scratch.refinenet1))]
    hooks += [block.register_forward_hook(lambda part, given, out: steps.append((given[0], out)))
              for block in backbone.self_attention_blocks]
    states = list(backbone.layers(images))
    features = backbone.features()
    found = geometry(features)
    for hook in hooks:
        hook.remove()
    num_scenes, num_views = images.shape[:2]
    layers, extra = [], None
    for index, (_, out) in enumerate(steps):                                    # views end to end, then the scale token
        if index % 2:
            out = torch.cat([out.unflatten(0, (num_scenes, num_views)).flatten(1, 2), extra], dim=1)
        layers.append(out)
        extra = out[:, -1:]
    for state in states:
        assert torch.equal(state.tokens, layers[2 * state.index])
    assert len(states) == (len(layers) + 1) // 2
    num_tokens = features.taps[0].shape[2]
    assert states[0].view_index.tolist() == [*(view for view in range(num_views) for _ in range(num_tokens)), -1]
    encoded = inside['encoder'].unflatten(0, (num_scenes, num_views))
    scale, rays, logits = found.extras['metric_scale'], found.extras['rays'], found.extras['validity_logits']
    cam_from_world = decode_cameras(found.pose_encodings[-1], images.shape[-2:])[0]
    world_from_cam = invert_rigid(cam_from_world)
    along = (found.depth / rays[..., 2])
    local = rays * along[..., None]
    view = inside['pose']
    return {'encoder_features': encoded[:, :, 1:], 'encoder_cls': encoded[:, :, 0], 'input_tokens': steps[0][0],
            'layers': torch.stack(layers), 'dense_inputs': torch.stack(features.taps)[..., features.patch_index, :],
            'feature_8x': inside['fused'][:1, None].flatten(0, 1)[None], 'scale_raw': scale.log(), 'metric_scale': scale,
            'dense_raw': inside['dense_raw'].unflatten(0, (num_scenes, num_views)),
            'pose_raw': torch.cat([geometry.pose_head.fc_t(view), geometry.pose_head.fc_rot(view)], -1).unflatten(
                0, (num_scenes, num_views)),
            'ray_directions': rays, 'depth_along_ray': along, 'z_depth': found.depth, 'confidence': found.depth_conf,
            'mask_logits': logits, 'mask': logits.sigmoid() > 0.5, 'cam_from_world': cam_from_world,
            'cam_trans': world_from_cam[..., :3, 3], 'cam_quats': quaternion_from_rotation(world_from_cam[..., :3, :3]),
            'world_points': torch.einsum('bvij,bvhwj->bvhwi', world_from_cam[..., :3, :3], local)
            + world_from_cam[..., None, None, :3, 3]}


def thinned(name: str, value: Tensor, meta: dict) -> Tensor:
    """Return the rows and columns, or the channels, that the file stores."""
    step, channels = meta['strides'].get(name, 1), meta['strides'].get(f'{name}_channels', 1)
    if step > 1:
        axis = 3 if name in ('dense_raw', 'feature_8x') else 2                  # channels before or behind the picture
        rows = [slice(None)] * axis + 2 * [slice(None, None, step)]
        value = value[tuple(rows)]
    return value[..., ::channels]


@torch.inference_mode()
@pytest.mark.parametrize('path', golden_files('backbone_mapanything_*.npz', exclude=tuple(RAYS)))
def test_everything_equals_the_released_definition(path):
    arrays, meta = load_npz(path)
    found = run(*parts(meta), torch.from_numpy(arrays.pop('images')))
    assert not set(arrays) - set(found)
    errors = {}
    for name, expected in arrays.items():
        actual = thinned(name, found[name], meta).numpy()
        if name == 'mask':
            sure = np.abs(arrays['mask_logits']) >= meta['mask_ambiguous']
            np.testing.assert_array_equal(actual[sure], expected[sure])
            continue
        if name == 'cam_quats':                                                 # q and -q are one rotation
            actual = actual * np.sign((actual * expected).sum(-1, keepdims=True))
        errors[name] = relative_error(actual, expected) / meta['tolerance_by_array'].get(name, meta['tolerance'])
    print(path.stem, 'in units of the tolerance:', {name: round(error, 3) for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if not error <= 1}


@pytest.mark.parametrize('path', golden_files(INTRINSICS))
def test_a_pinhole_is_fitted_to_rays_as_in_the_release(path):
    arrays, meta = load_npz(path)
    for index in range(meta['count']):
        found = pinhole_of_rays(torch.from_numpy(arrays[f'ray_directions{index}']))
        assert relative_error(found, arrays[f'intrinsics{index}']) <= meta['tolerance']


def test_the_names_of_the_test_are_those_of_the_plugin():
    plugin = sys.modules['jrs_plugins.map_anything']
    backbone = BACKBONES.get('MapAnything')(img_size=28, embed_dim=16, depth=2, num_heads=2, patch_embed='vit',
                                            encoder_depth=1, feature_layers=(-1, 0, 1, 1))
    head = HEADS.get('MapAnythingGeometry')(dim_in=16, features=8, out_channels=(4, 4, 4, 4), pose_dim=8, scale_dim=4)
    names = [f'backbone.{name}' for name in backbone.state_dict()] + [f'geometry_head.{name}' for name in head.state_dict()]
    assert [plugin.our_name(released(name)) for name in names] == names
