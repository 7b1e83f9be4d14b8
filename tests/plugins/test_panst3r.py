"""PanSt3R: released names and shapes, features of any backbone, classes, one set of masks that fits together, and a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from jrs.cli.convert import expand
from jrs.errors import ConfigError
from jrs.plugins import load_plugins, manager
from jrs.registry import HEADS, build
from jrs.structures import FeatureTaps
from tests._data import ROOT

load_plugins(['must3r', 'mask_decoder', 'panst3r'])
from jrs_plugins.panst3r.guidance import FourierFeatures, colour_range, scaled_colours  # noqa: E402
from jrs_plugins.panst3r.weights import in_our_layout  # noqa: E402

KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys'
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')


# Weights

def listed(version: int) -> dict[str, tuple[int, ...]]:
    lines = [line.split('  ') for line in (KEYS / f'panst3r_v{version}.txt').read_text().splitlines() if line[0] != '#']
    return {key: tuple(json.loads(shape)) for pattern, shape in lines for key in expand(pattern)}


def test_packed_attention_is_taken_apart_and_that_of_dino_is_packed_under_the_names_of_either_program():
    torch.manual_seed(0)
    mask, layer = 'panoptic_decoder.mask_transformer.', 'dino_encoder.dinov2.encoder.layer.0.attention'
    packed, parts, out = torch.randn(12, 4), torch.randn(3, 4, 4), torch.randn(4, 4)
    others = {f'{mask}query_feat.weight': torch.randn(5, 4), f'{mask}lang_embed.weight': out,
              f'{mask}self_attn_layers.2.self_attn.in_proj_weight': packed}
    old = {f'{layer}.attention.{name}.weight': part for name, part in zip(('query', 'key', 'value'), parts, strict=True)}
    new = {f'{layer}.{letter}_proj.weight': part for letter, part in zip('qkv', parts, strict=True)}
    for dino in (old | {f'{layer}.output.dense.weight': out}, new | {f'{layer}.o_proj.weight': out}):
        state = in_our_layout(others | dino)
        names = manager().hook.jrs_weight_names(keys=list(state))
        ours = {names[key]: value for key, value in state.items()}
        assert ours['queries.layers.2.self_attention.k_proj.weight'].equal(packed[4:8])
        assert ours['feature_head.dino.vit.blocks.0.attn.qkv.weight'].equal(parts.flatten(0, 1))
        assert ours['feature_head.dino.vit.blocks.0.attn.proj.weight'].equal(out)
        assert ours['queries.content'].shape == (1, 5, 4)


# Features

def taps(dims=(8, 12), grid=(2, 3), views=3) -> FeatureTaps:
    torch.manual_seed(0)
    patches = torch.arange(1, 1 + grid[0] * grid[1])                            # behind one special token
    maps = {'images': torch.rand(1, views, 3, 16 * grid[0], 16 * grid[1])}
    return FeatureTaps([torch.randn(1, views, 1 + len(patches), dim) for dim in dims], patches, grid,
                       (16 * grid[0], 16 * grid[1]), wanted=frozenset({'mask_memory'}), maps=maps)


DINO = dict(embed_dim=8, depth=1, num_heads=2, img_size=28)
SHUFFLED = dict(type='PanSt3RFeatures', memory_dim=6, widths=(8, 8, 5))
GUIDED = dict(type='PanSt3RGuidedFeatures', width=8, num_heads=2, layers=1,
              upsampler=dict(dim=8, num_heads=2, layers=1, frequencies=3, patch_frequencies=2))
each_head = pytest.mark.parametrize('config', [SHUFFLED, GUIDED], ids=['version 1', 'version 2'])


def head(config: dict, **options):
    torch.manual_seed(1)
    return build(HEADS, dict(config, **options), 'model.feature_head', dim_in=0, tap_dims=(8, 12))


@each_head
@pytest.mark.parametrize('dino', [None, DINO])
def test_patches_of_chosen_taps_become_a_memory_and_masks_of_half_the_size(config, dino):
    part, given = head(config, taps=(1,), dino=dino), taps()
    maps = part(given)
    assert maps.shape == (1, 3, part.embedding_dim, 16, 24) and given.maps['mask_memory'].shape[-2:] == (2, 3)
    assert part.joined_dim == 12 + (8 if dino else 0)
    changed = taps()
    changed.taps[0] += 1
    assert part(changed).equal(maps)                                            # the other tap is not read
    changed.taps[1][:, :, 0] += 1
    assert part(changed).equal(maps)                                            # nor are special tokens


@each_head
def test_views_in_chunks_and_recomputed_give_the_same_maps_and_gradients(config):
    whole = head(config, dino=DINO, views_per_chunk=3).train()
    chunked = head(config, dino=DINO, views_per_chunk=1, activation_checkpointing=True).train()
    for part in (whole, chunked):
        given = taps()
        found = [part(given), given.maps['mask_memory']]
        sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in found).backward()
    torch.testing.assert_close(whole(taps()), chunked(taps()), atol=1e-5, rtol=1e-4)
    for (name, value), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        assert value.requires_grad != name.startswith('dino.')                  # DINOv2 is frozen
        if value.requires_grad:
            torch.testing.assert_close(value.grad, other.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_patches_of_fourteen_pixels_make_masks_with_eight_pixels_to_a_patch():
    given = taps()
    given.image_size, given.maps['images'] = (28, 42), torch.rand(1, 3, 3, 28, 42)
    assert head(SHUFFLED)(given).shape[-2:] == (16, 24) and head(GUIDED)(given).shape[-2:] == (14, 21)


def test_phases_are_read_flat_and_frequencies_are_slow():
    features, values = FourierFeatures(2, 3), torch.randn(1, 2, 1, 1)
    found = features(values).flatten()
    flat = features.biases.flatten(1)                                           # (2, 6)
    for place in range(6):
        frequency, channel = divmod(place, 2)
        phase = torch.exp(torch.tensor(-2.0 + 6 * frequency)) * values[0, channel, 0, 0]
        torch.testing.assert_close(found[place], (phase + flat[0, place]).sin())
        torch.testing.assert_close(found[6 + place], (phase + flat[1, place]).cos())


def test_colours_are_scaled_by_each_picture_or_by_all():
    images = torch.rand(2, 3, 8, 8) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    own, all_ = (scaled_colours(images, colour_range(images, joint)) for joint in (False, True))
    torch.testing.assert_close(own.amax(dim=(2, 3)), torch.full((2, 3), 0.5))
    assert all_[1].max() < 0.3 and all_.amax(dim=(0, 2, 3)).allclose(torch.tensor(0.5))
    flat = scaled_colours(torch.ones(1, 3, 4, 4), colour_range(torch.ones(1, 3, 4, 4), False))
    assert flat.eq(-0.5).all()                                                  # one colour: nothing is divided by 0


def test_a_tap_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match='0 .. 1'):
        head(SHUFFLED, taps=(0, 2))
    with pytest.raises(ConfigError, match='widths are three'):
        head(SHUFFLED, widths=(8, 8))
