"""Token merging against golden files; what to build is read from each file's meta (README_backbones_more.md)."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from jrs.geometry.camera import decode_cameras
from jrs.layers.attention import fused_attention
from jrs.plugins import load_plugins
from jrs.registry import ATTENTIONS
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.golden.test_vggt import build_backbone, run_backbone, run_heads

load_plugins(['fast_vggt'])
TokenMerging = ATTENTIONS.get('TokenMerging')
merging = sys.modules[TokenMerging.__module__]
FILES = pytest.mark.parametrize('path', golden_files('backbone_fastvggt_*.npz'))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def run(arrays: dict, meta: dict, merge: bool = True) -> tuple:
    """Return the model that `meta` describes, its layers and its features; merging is told the stored draws."""
    options = meta['config']['merging']
    assert options['cell'] == [merging.CELL] * 2 and options['protected_fraction'] == merging.PROTECTED
    assert options['similarity'] == 'float32'
    part = dict(type='TokenMerging', ratio=options['ratio'], start=options['start'], seed=options['draw_seed'])
    config = dict(meta['config']['aggregator'], global_attention=part if merge else None)
    prefix = meta['weights_prefix'] + 'aggregator.'
    backbone = build_backbone(config, meta, prefix, meta['config']['dpt_head']['intermediate_layer_idx'])
    if merge:
        backbone.global_attention.draws = torch.from_numpy(arrays['draws'])
    collected, features = run_backbone(backbone, arrays['images'], list(range(config['depth'])))
    patches = collected.pop(-1)
    return backbone, patches, torch.stack([collected[index] for index in sorted(collected)]), features


def check(arrays: dict, actual: dict, meta: dict) -> None:
    """All of `actual` are in the file and equal; of some it has each n-th row and column."""
    errors = {}
    for name, value in actual.items():
        step = meta['strides'].get(name, 1)
        value = value[:, :, ::step, ::step] if step > 1 else value
        errors[name] = relative_error(value, arrays[name])
    print('errors:', {name: f'{error:.1e}' for name, error in errors.items()})
    assert not {name: error for name, error in errors.items() if error > meta['tolerance']}


@FILES
def test_layers_cameras_depth_and_points_equal_the_definition(path):
    arrays, meta = load_npz(path)
    _, patches, layers, features = run(arrays, meta)
    prefixes = [f'{meta["weights_prefix"]}{name}_head.' for name in ('camera', 'depth', 'point')]
    outputs, _ = run_heads({**meta, **meta['config']}, features, layers.shape[-1], prefixes, points=True)
    encoding = outputs['pose_enc_list'][-1]
    outputs |= dict(patch_tokens=patches, layers=layers, fov_hw=encoding[..., 7:],
                    cam_from_world=decode_cameras(encoding, (meta['H'], meta['W']))[0])
    check(arrays, outputs, meta)


@FILES
def test_who_merges_into_whom_and_what_is_attended_equal_the_definition(path):
    """All internals of one block: masks and places are equal, numbers within the tolerance."""
    arrays, meta = load_npz(path)
    backbone, _, _, _ = run(arrays, meta)
    found = seen_by(backbone, arrays, meta)
    query, key, value, tokens = found.pop('given')
    split = merging.Split.of(found.pop('layout'), torch.from_numpy(arrays['draws']).long())
    merge = merging.Merge.of(tokens, split, meta['config']['merging']['ratio'])
    scenes, total = tokens.shape[:2]
    is_destination = torch.zeros(total, dtype=torch.bool)
    is_destination[split.destinations] = True
    best, similarity = torch.full((scenes, total), -1), torch.full((scenes, total), -2.0)
    best[:, split.sources], similarity[:, split.sources] = split.destinations[merge.best], merge.similarity
    kinds = [merge.kept.shape[1], len(split.destinations), len(split.protected)]
    equal = dict(dst_mask=is_destination.expand(scenes, -1), best_dst=best,
                 protected_position=split.protected.expand(scenes, -1),
                 merged_src=split.sources[merge.merged], merged_dst=split.destinations[merge.target],
                 sequence_position=merge.positions(),
                 sequence_kind=torch.arange(3).repeat_interleave(torch.tensor(kinds)).expand(scenes, -1))
    for name, actual in equal.items():
        np.testing.assert_array_equal(actual, arrays[name], err_msg=name)
    reduced = [merge.reduce(heads) for heads in (query, key, value)]
    attended = fused_attention(*reduced, tokens)
    block = backbone.global_blocks[meta['config']['merging']['layer_stored']]

    def together(heads):
        return heads.transpose(1, 2).flatten(2)
    actual = dict(zip(('merged_q', 'merged_k', 'merged_v'), map(together, reduced), strict=True))
    actual |= dict(metric=tokens, best_similarity=similarity, attention_out=block.attn.proj(together(attended)),
                   unmerged_out=block.attn.proj(together(merge.restore(attended))))
    check(arrays, actual, meta)
    np.testing.assert_allclose(found['out'], actual['unmerged_out'], rtol=0, atol=1e-6)


def seen_by(backbone, arrays: dict, meta: dict) -> dict:
    """Return what the stored block hands to the door: heads and tokens, their layout, and what its attention returns."""
    found, part, block = {}, backbone.global_attention, meta['config']['merging']['layer_stored']
    usual = part.at

    def at(number, layout):
        mix = usual(number, layout)
        if number != block:
            return mix

        def noting(*given):
            found.update(given=given, layout=layout)
            return mix(*given)
        return noting
    part.at = at
    hook = backbone.global_blocks[block].attn.register_forward_hook(lambda *given: found.update(out=given[-1].clone()))
    list(backbone.layers(torch.from_numpy(arrays['images'])))
    hook.remove()
    return found


@FILES
def test_the_stored_draws_are_those_of_the_seed_and_no_merging_is_plain_vggt(path):
    arrays, meta = load_npz(path)
    backbone, _, layers, features = run(arrays, meta, merge=False)
    camera, _ = run_heads({**meta, **meta['config']}, features, layers.shape[-1],
                          [f'{meta["weights_prefix"]}{name}_head.' for name in ('camera', 'depth')], points=False)
    check(arrays, dict(layer_last_without_merging=layers[-1], pose_enc_without_merging=camera['pose_enc_list'][-1]), meta)
    _, layout = backbone.start(torch.from_numpy(arrays['images']))
    drawn = TokenMerging(seed=meta['config']['merging']['draw_seed'])._draw(layout)
    np.testing.assert_array_equal(drawn, arrays['draws'])


@FILES
def test_destinations_of_the_release_on_an_odd_grid_give_its_result(path, monkeypatch):
    """Sheared cells, which we do not have: all else is the same."""
    arrays, meta = load_npz(path)
    if 'dst_mask_as_released' not in arrays:
        mask = arrays['dst_mask'][0]                                            # an even grid: the release's cells are ours
        last, pose = arrays['layers'][-1], arrays['pose_enc_list'][-1]
    else:
        mask = arrays['dst_mask_as_released'][0]
        last, pose = arrays['layer_last_as_released'], arrays['pose_enc_as_released']
    of, positions = merging.Split.of, torch.arange(len(mask))
    monkeypatch.setattr(merging.Split, 'of', lambda *given: replace(
        of(*given), destinations=positions[torch.from_numpy(mask)], sources=positions[torch.from_numpy(~mask)]))
    _, _, layers, features = run(arrays, meta)
    camera, _ = run_heads({**meta, **meta['config']}, features, layers.shape[-1],
                          [f'{meta["weights_prefix"]}{name}_head.' for name in ('camera', 'depth')], points=False)
    check(dict(last=last, pose=pose), dict(last=layers[-1], pose=camera['pose_enc_list'][-1]), meta)
