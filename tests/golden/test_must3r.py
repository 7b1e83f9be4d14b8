"""MUSt3R against golden data of the published definition (README_baselines_images.md, backbones.md section 5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs.layers.rope import GridRotation
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, HEADS, build
from jrs.structures import FeatureTaps
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

load_plugins(['must3r'])
FILES = pytest.mark.parametrize('path', golden_files('baseline_must3r_*.npz'))
TOLERANCE = 1e-5


def released(ours: str) -> str:
    """Return the name behind `must3r_` in a released PanSt3R of our name."""
    return ours.removeprefix('backbone.') if ours.startswith('backbone.encoder.') else \
        f'decoder.{ours.partition(".")[2]}'


@torch.no_grad()
def filled(part: nn.Module, prefix: str, seed: int) -> nn.Module:
    """Give a part, called `prefix` in our model, the values of the golden model."""
    for name, value in part.state_dict().items():
        value.copy_(torch.from_numpy(seeded_array(f'must3r_{released(prefix + name)}', value.shape, seed)))
    return part.eval()


def backbone_of(config: dict, seed: int, decoder: str = 'decoder', **options) -> nn.Module:
    encoder, decoder = config['encoder'], config[decoder]
    backbone = build(BACKBONES, dict(
        type='MUSt3R', embed_dim=decoder['dim'], depth=decoder['depth'], num_heads=decoder['heads'],
        feedback=decoder['feedback'], encoder_dim=encoder['dim'], encoder_depth=encoder['depth'],
        encoder_heads=encoder['heads'], feature_layers=(-1, *range(decoder['depth'])), **options), 'model.backbone')
    filled(backbone, 'backbone.', seed)
    with torch.no_grad():
        backbone.image2_embed.mul_(config.get('image2_scale', 1.0))
    return backbone


def head_of(backbone: nn.Module, seed: int) -> nn.Module:
    head = build(HEADS, dict(type='MUSt3RGeometry', dim_in=backbone.embed_dim, patch_size=16), 'model.geometry_head')
    return filled(head, 'geometry_head.', seed)


def check(arrays: dict[str, np.ndarray], found: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    errors = {name: relative_error(value, arrays[name]) for name, value in found.items()}
    print({name: f'{error:.1e}' for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if not error <= tolerance}


@FILES
def test_the_kind_is_the_one_that_is_tested_here(path):
    assert load_npz(path)[1]['kind'] == 'must3r'


@FILES
@torch.inference_mode()
def test_memory_features_and_points_equal_the_reference(path):
    arrays, meta = load_npz(path)
    backbone = backbone_of(meta['config'], meta['seed'])
    head = head_of(backbone, meta['seed'])
    images = (torch.from_numpy(arrays['images']) + 1) / 2
    groups, step, pixels = meta['memory_batches'], meta['channel_stride'], meta['raw_pixel_stride']
    remember, members = backbone.remember, sum(groups)                         # views that make the memory
    backbone.remember = lambda tokens, rope: remember(tokens[:, :members], rope, groups)
    states = list(backbone.layers(images))
    features = backbone.features()
    found = head(features)
    encoded, *layers = features.taps
    for state, tap in zip(states, layers, strict=True):
        assert state.tokens.equal(tap.flatten(1, 2))                            # queries read what heads do
    actual = {'encoder': encoded[..., ::step], 'features': torch.stack(layers)[..., ::step],
              'raw_pointmaps': head.raw(features)[:, :, ::pixels, ::pixels]}
    every = meta['pixel_stride']
    for name, value in (('pts3d', found.points), ('pts3d_local', found.extras['points_local']), ('conf', found.points_conf)):
        actual[name] = value[:, :, ::every, ::every]
    actual |= update_pass(backbone, head, encoded, features, meta)
    check(arrays, actual)
    assert set(actual) == set(arrays) - {'images', 'memory_labels'}
    labels = np.arange(members).repeat(encoded.shape[2])                        # views, all tokens of each
    np.testing.assert_array_equal(labels[None].repeat(len(images), 0), arrays['memory_labels'])


def update_pass(backbone: nn.Module, head: nn.Module, encoded: Tensor, features: FeatureTaps,
                meta: dict) -> dict[str, Tensor]:
    """Return the memory and what the decoder says while it is built, under golden names."""
    grid = features.patch_grid
    positions = torch.cartesian_prod(*(torch.arange(side) for side in grid))
    rope = GridRotation(positions, backbone.head_widths[0])
    groups, memory, memories, outputs = meta['memory_batches'], [], [], []
    tokens = backbone.feat_embed_enc_to_dec(encoded[:, :sum(groups)])
    for group in tokens.split(groups, dim=1):
        memory, output = backbone._update(group, memory, rope)
        memories.append(torch.stack(memory)[:, :, ::meta['memory_token_stride'], ::meta['channel_stride']])
        outputs.append(output)
    assert all(one.equal(other) for one, other in zip(memory, backbone.remember(tokens, rope), strict=True))
    first = torch.cat(outputs, dim=1)                                           # (B, V, P, C)
    pixels = meta['raw_pixel_stride']
    raw = head.raw(FeatureTaps([first], features.patch_index, grid, features.image_size))
    return {'memory_first': memories[0], 'memory': memories[-1], 'first_features': first[..., ::meta['channel_stride']],
            'first_pointmaps': raw[:, :, ::pixels, ::pixels]}
