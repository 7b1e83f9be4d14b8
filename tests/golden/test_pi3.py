"""Pi3 against golden files; what to build is read from each file's meta (README_backbones_pi3_omega.md)."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from jrs.geometry.camera import decode_cameras, relative_to_first
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

load_plugins(['pi3'])
CONSTANTS = ('image_mean', 'image_std')


def cases() -> list:
    """Return the golden files; those whose meta says so are marked slow."""
    found = []
    for case in golden_files('backbone_pi3_*.npz'):
        path = case.values[0]
        slow = path is not None and json.loads(str(np.load(path, allow_pickle=False)['meta']))['slow']
        found.append(pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) if slow else case)
    return found


def build(config: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    encoder, heads = config['encoder'] or {}, config['head_decoder']
    options = {key: config[key] for key in ('patch_size', 'patch_embed', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio',
                                            'num_register_tokens', 'rope_base', 'img_size')}
    backbone = BACKBONES.get('Pi3')(**options, encoder_depth=encoder.get('depth', 4),
                                    encoder_heads=encoder.get('num_heads', 4), feature_layers=range(config['depth']))
    assert heads['dim'] == config['embed_dim'] == 2 * heads['camera_dim'] and heads['dim'] == 64 * heads['num_heads']
    return backbone, HEADS.get('Pi3Geometry')(dim_in=2 * config['embed_dim'], dim=heads['dim'], depth=heads['depth'],
                                              patch_size=config['patch_size'], rope_base=config['rope_base'])


@torch.no_grad()
def fill(module: torch.nn.Module, meta: dict) -> int:
    """Give every entry its seeded values under its released name; return how many entries there are."""
    for name, tensor in module.state_dict().items():
        if name not in CONSTANTS:
            tensor.copy_(torch.from_numpy(seeded_array(name, tensor.shape, meta['seed'])))
            for pattern, factor in meta['scales']:
                tensor.mul_(factor if re.fullmatch(pattern, name) else 1)
    return len(module.state_dict())


@torch.inference_mode()
@pytest.mark.parametrize('path', cases())
def test_layers_cameras_depth_and_confidence_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    backbone, head = build(meta['config'])
    assert sum(fill(part, meta) for part in (backbone, head)) == meta['num_keys']
    recorded = {}
    parts = dict(point_decoder_out=head.point_decoder, conf_decoder_out=head.conf_decoder,
                 camera_decoder_out=head.camera_decoder, camera_nine=head.camera_head.fc_rot, patch_tokens=backbone.encoder)
    for name, part in parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: recorded.setdefault(name, []).append(output))
    images = torch.from_numpy(arrays.pop('images'))
    states = list(backbone.eval().layers(images))
    features = backbone.features()
    found = head.eval()(features)
    (encoding,), depth, confidence = found.pose_encodings, found.depth, found.depth_conf
    shape = images.shape[:2]
    outputs = {name: torch.cat(values) for name, values in recorded.items()}
    outputs |= {name: outputs[name].unflatten(0, shape) for name in parts if name != 'patch_tokens'}
    outputs |= {'layers': torch.stack(features.taps), 'tap': features.taps[-1], 'z_depth': depth,
                'cam_from_world': decode_cameras(encoding, images.shape[-2:])[0], 'fov_tangent_zero': encoding[..., 7:],
                'cam_from_first': decode_cameras(relative_to_first(encoding), images.shape[-2:])[0],
                'conf': confidence[..., None]}
    arrays['conf'] = 1 + np.exp(arrays['conf'])
    np.testing.assert_array_equal(states[-1].is_patch.view(shape[1], -1)[0], arrays['is_patch'])
    errors = {}
    for name, actual in outputs.items():
        actual = actual[..., ::meta['strides'].get(name, 1)]
        if (step := meta.get('pixel_strides', {}).get(name, 1)) > 1:
            actual = actual[:, :, ::step, ::step]
        errors[name] = relative_error(actual, arrays[name]) / meta['tolerances'].get(name, meta['tolerance'])
    step = meta.get('pixel_strides', {}).get('z_depth', 1)
    log_z = np.abs(np.log(depth.numpy()[:, :, ::step, ::step]) - np.log(arrays['z_depth'])).max()
    errors['log_z_abs'] = log_z / meta['tolerances'].get('log_z_abs', 2e-5)
    angle = np.abs(outputs['fov_tangent_zero'].numpy() - arrays['fov_tangent_zero']).max()
    errors['fov_tangent_zero'] = angle / max(1e-5, meta['tolerances'].get('fov_tangent_zero', 0))
    print(path.stem, 'in units of the tolerance:', {name: round(float(error), 3) for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if error > 1}

