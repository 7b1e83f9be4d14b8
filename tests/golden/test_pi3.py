"""Pi3 against golden files; what to build is read from each file's meta (README_backbones_pi3_omega.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS
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
from tests.golden._golden import load_npz

load_plugins(['pi3'])


@torch.inference_mode()
@pytest.mark.parametrize('path', cases('backbone_pi3_*.npz'))
def test_layers_cameras_depth_and_confidence_equal_the_released_definition(path):
    arrays, meta = load_npz(path)
    backbone = BACKBONES.get('Pi3')(**backbone_options(meta['config'])).eval()
    head = HEADS.get('Pi3Geometry')(**head_options(meta['config'])).eval()
    assert sum(fill(part, meta) for part in (backbone, head)) == meta['num_keys']
    images = torch.from_numpy(arrays.pop('images'))
    with recording({**head_parts(head), 'patch_tokens': backbone.encoder}) as recorded:
        states = list(backbone.layers(images))
        features = backbone.features()
        found = head(features)
    shape = images.shape[:2]
    outputs = {name: torch.cat(values) for name, values in recorded.items()}
    outputs |= {name: outputs[name].unflatten(0, shape) for name in head_parts(head)}
    outputs |= {'layers': torch.stack(features.taps), 'tap': features.taps[-1]}
    outputs |= geometry_arrays(found, images.shape[-2:])
    arrays['conf'] = 1 + np.exp(arrays['conf'])
    np.testing.assert_array_equal(states[-1].is_patch.view(shape[1], -1)[0], arrays['is_patch'])
    width = meta['config']['embed_dim']
    for state, tap in zip(states, features.taps, strict=True):                  # queries read the second half
        assert torch.equal(state.tokens, tap[..., width:].flatten(1, 2))
    report(path, errors(outputs, arrays, meta))
