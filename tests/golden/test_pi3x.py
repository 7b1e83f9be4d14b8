"""Pi3X against golden files, with and without priors (README_backbones_pi3_omega.md); meta says what to build."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from jrs.geometry.camera import invert_rigid
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
from jrs.structures import Priors
from tests.golden._equal_views import (
    backbone_options,
    cases,
    errors,
    fill,
    geometry_arrays,
    head_options,
    head_parts,
    recording,
    report,
)
from tests.golden._golden import load_npz, relative_error

load_plugins(['pi3x'])
Pi3X, Pi3XGeometry = BACKBONES.get('Pi3X'), HEADS.get('Pi3XGeometry')


def build(config: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    convolutions, metric = config['conv_head'], config['metric_decoder']
    inject = config['pose_inject_after'] if config['multimodal'] else None
    assert metric['dim'] == 64 * metric['num_heads']
    head = Pi3XGeometry(**head_options(config), widths=convolutions['dim_upsample'], metric_dim=metric['dim'],
                        last_width=convolutions['last_channels'], metric_depth=metric['depth'])
    return Pi3X(**backbone_options(config), inject_after=inject).eval(), head.eval()


def given(arrays: dict[str, np.ndarray]) -> Priors | None:
    """Return the priors of a file in our conventions: pixel centres at integers, `cam_from_world`."""
    def read(name: str) -> torch.Tensor | None:
        return torch.from_numpy(arrays[f'cond_{name}']) if f'cond_{name}' in arrays else None
    if not any(name.startswith('cond_') for name in arrays):
        return None
    intrinsics, poses = read('intrinsics'), read('poses')
    if intrinsics is not None:
        intrinsics = intrinsics.clone()
        intrinsics[..., :2, 2] -= 0.5
    return Priors(read('depths'), intrinsics, None if poses is None else invert_rigid(poses), read('mask_add_depth'),
                  read('mask_add_ray'), read('mask_add_pose'))


@torch.inference_mode()
@pytest.mark.parametrize('path', cases('backbone_pi3x_*.npz'))
def test_layers_geometry_and_scale_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    backbone, head = build(meta['config'])
    assert sum(fill(part, meta) for part in (backbone, head)) == meta['num_keys']
    images, priors = torch.from_numpy(arrays.pop('images')), given(arrays)
    stages = {f'{name}_head_stage{stage}': block for name in ('point', 'conf')
              for stage, block in enumerate(getattr(head, f'{name}_head').upsample_blocks)}
    parts = {**head_parts(head), **stages, 'metric_decoder_out': head.metric_decoder, 'patch_tokens': backbone.encoder}
    with recording(parts) as recorded:
        states = list(backbone.layers(images, priors))
        features = backbone.features()
        found = head(features)
    shape, width = images.shape[:2], meta['config']['embed_dim']
    outputs = {name: torch.cat(values) for name, values in recorded.items()}
    outputs |= {name: outputs[name].unflatten(0, shape) for name in head_parts(head)}
    outputs |= {name: outputs[name][:1] for name in stages}                     # view 0 of scene 0
    outputs |= {'layers': torch.stack(features.taps), 'tap': features.taps[-1], 'metric': found.extras['metric_scale']}
    outputs |= geometry_arrays(found, images.shape[-2:])
    arrays['conf'] = 1 + np.exp(arrays['conf'])
    np.testing.assert_array_equal(states[-1].is_patch.view(shape[1], -1)[0], arrays['is_patch'])
    for state, tap in zip(states, features.taps, strict=True):                  # queries read the second half, injected
        assert torch.equal(state.tokens, tap[..., width:].flatten(1, 2))
    report(path, errors(outputs, arrays, meta))


@torch.inference_mode()
@pytest.mark.parametrize('path', cases('backbone_pi3x_*cond*.npz'))
def test_priors_are_normalised_as_the_released_model_does(path):
    arrays, meta = load_npz(path)
    backbone = build(meta['config'])[0]
    fill(backbone, meta)
    images = torch.from_numpy(arrays['images'])
    known = sys.modules[Pi3X.__module__].known_geometry(given(arrays), images)
    encoded = backbone.add_known(backbone.encode(images), known).flatten(0, 1)
    stride = meta['strides'].get('encoded', 1)
    found = {'encoded': encoded[..., ::stride], 'poses_normalised': invert_rigid(known.cam_from_reference),
             'norm_factor': known.factor}
    report(path, {name: relative_error(value, arrays[name]) / max(meta['tolerance'], meta['tolerances'].get(name, 0))
                  for name, value in found.items()})
    none = torch.zeros(images.shape[:2], dtype=torch.bool)
    np.testing.assert_array_equal(none if known.posed is None else known.posed, arrays['pose_mask'])
    np.testing.assert_array_equal(none if known.depth_views is None else known.depth_views, arrays['depth_mask'])
