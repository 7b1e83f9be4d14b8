"""IGGT against golden data of the published definition (README_baselines_images.md, baselines.md section 4.4)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.io.released_keys import released_key
from jrs.plugins import load_plugins
from jrs.registry import HEADS, MODELS, build
from jrs.structures import FeatureTaps
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.golden.test_vggt import statistics
from tests.seeded_weights import seeded_array

load_plugins(['iggt'])
from jrs_plugins.iggt import jrs_weight_names  # noqa: E402
from jrs_plugins.iggt.clusters import assigned, neighbour_averages  # noqa: E402
from jrs_plugins.iggt.hdbscan import hdbscan  # noqa: E402

PATCH = 14
KEYS = Path(os.environ.get('JRS_SPEC', Path(__file__).resolve().parents[3] / 'shared' / 'spec')) / 'backbones_keys/iggt.txt'
KINDS = ('iggt_head', 'iggt_e2e', 'iggt_cluster', 'iggt_epsilon')
needs_keys = pytest.mark.skipif(not KEYS.exists(), reason=f'no key list {KEYS}; set JRS_SPEC to the specification')


def files(kind: str) -> list:
    """Return the files of a kind, as their `meta` says, whatever they are called."""
    return [one for one in golden_files('baseline_iggt_*.npz')
            if one.values[0] is None or load_npz(one.values[0])[1]['kind'] == kind]


@pytest.mark.parametrize('path', golden_files('baseline_iggt_*.npz'))
def test_every_file_is_of_a_kind_that_is_tested_here(path):
    assert load_npz(path)[1]['kind'] in KINDS


@cache
def released_names() -> dict[str, str]:
    """Return our name -> name in the released file."""
    lines = [line.split()[0] for line in KEYS.read_text().splitlines() if line and not line.startswith('#')]
    return {ours: key for key, ours in jrs_weight_names([key for line in lines for key in expand(line)]).items()}


def value_of(ours: str, value: Tensor, meta: dict) -> Tensor:
    """Return what our entry `ours` has in the golden model."""
    key = released_names().get(ours) or released_key(ours, lora=False)
    if key.endswith('num_batches_tracked'):
        return torch.zeros_like(value)
    array = seeded_array(key, value.shape, meta['seed'])
    for last, offset, factor in (('running_var', 1.0, 0.2), ('running_mean', 0.0, 0.1)):
        if key.endswith(last):
            assert last in meta['overrides']
            array = (offset + factor * array.astype(np.float64)).astype(np.float32)
    return torch.from_numpy(array)


@torch.no_grad()
def filled(module: nn.Module, prefix: str, meta: dict) -> nn.Module:
    """Give a part, called `prefix` in our model, the values of the golden model."""
    for name, value in module.state_dict().items():
        value.copy_(value_of(prefix + name, value, meta))
    return module.eval()


def check(arrays: dict, actual: dict[str, Tensor], tolerance: float) -> None:
    assert actual
    errors = {name: relative_error(value, arrays[name]) for name, value in actual.items()}
    assert max(errors.values()) <= tolerance, errors


def watched(head: nn.Module, stages: dict[str, Tensor]) -> None:
    """Note what the parts of a head put out, under golden names; of blocks before a norm what goes into it."""
    def output(name):
        return lambda module, inputs, result: stages.__setitem__(name, result)

    def entering(name, size):
        return lambda module, inputs: stages.__setitem__(name, inputs[0].transpose(1, 2).unflatten(2, size(inputs[0])))
    for level in range(4):
        head.resize_layers[level].register_forward_hook(output(f'adapt{level}'))
        getattr(head.scratch, f'refinenet{level + 1}').register_forward_hook(output(f'fused{level + 1}'))
    head.cross_attention_2.register_forward_hook(output('attn4'))
    head.window_cross_attention.register_forward_hook(output('win_cross'))
    head.scratch.output_conv1.register_forward_hook(output('out_conv1'))
    head.window_self_atten.register_forward_hook(output('win_self'))
    head.window_cross_attention.tail.norm.register_forward_pre_hook(
        entering('cross_block', lambda _: stages['fused2'].shape[-2:]))
    head.window_self_atten.tail.norm.register_forward_pre_hook(
        entering('self_block', lambda _: stages['out_conv1'].shape[-2:]))


@needs_keys
@torch.no_grad()
@pytest.mark.parametrize('path', files('iggt_head'))
def test_the_heads_return_the_reference_points_and_embeddings_stage_by_stage(path):
    arrays, meta = load_npz(path)
    config, tokens = meta['config'], torch.from_numpy(arrays['tokens'])
    grid = tuple(side // PATCH for side in config['image_hw'])
    points = filled(build(HEADS, dict(type='IGGTPointHead', dim_in=config['dim_in'], features=config['features'],
                                      out_channels=config['point_out_channels']), 'model.point_head'), 'point_head.', meta)
    head = filled(build(HEADS, dict(type='IGGTFeatures', dim_in=config['dim_in'], features=config['features'],
                                    channels=config['part_channels'], cross_heads=config['cross_heads'],
                                    window_heads=config['window_heads']), 'model.feature_head'), 'feature_head.', meta)
    patches = torch.arange(config['patch_start'], tokens.shape[3])
    taps = FeatureTaps([tokens[layer] for layer in config['layers']], patches, grid, tuple(config['image_hw']),
                       wanted=frozenset(head.reads))
    stages: dict[str, Tensor] = {}
    watched(head, stages)
    world, confidence = points(taps)
    raw = head.raw(taps)
    step, fine = meta['point_stride'], meta['fine_pixel_stride']
    actual = {'world_points': world[:, :, ::step, ::step], 'world_points_conf': confidence[:, :, ::step, ::step],
              'part_feat': raw, 'embedding': head(taps)[..., ::meta['embedding_stride'], ::meta['embedding_stride']]}
    whole = {**stages, 'point_feat4': taps.maps[head.reads[0]].flatten(0, 1),
             'point_feat2': taps.maps[head.reads[1]].flatten(0, 1)}
    whole['attn3_unused'] = head.cross_attention_1(stages['fused3'], point_feature_3(points, taps))
    for name, value in whole.items():
        strided = value[:, ::meta['channel_stride']]
        actual[name] = strided[..., ::fine, ::fine] if name in ('fused1', 'out_conv1', 'self_block', 'win_self') else strided
    assert set(actual) >= {name for name in arrays if not name.endswith('_stat')} - {'tokens', 'point_feat3'}
    check(arrays, actual, 1e-5)
    check(arrays, {f'{name}_stat': statistics(value) for name, value in whole.items()}, 1e-5)


def point_feature_3(points: nn.Module, taps: FeatureTaps) -> Tensor:
    """Return the fusion map of the point head that only the attention whose result is thrown away reads."""
    found = []
    handle = points.scratch.refinenet3.register_forward_hook(lambda module, inputs, result: found.append(result))
    points(taps)
    handle.remove()
    return found[0]


@needs_keys
@torch.no_grad()
@pytest.mark.parametrize('path', files('iggt_e2e'))
def test_the_whole_model_returns_the_reference_outputs(path):
    arrays, meta = load_npz(path)
    config = meta['config']
    dense = dict(features=config['depth_head']['features'], out_channels=config['depth_head']['out_channels'])
    camera = dict(trunk_depth=config['camera_head']['trunk_depth'], num_heads=config['camera_head']['heads'])
    part = config['part_head']
    model = filled(build(MODELS, dict(
        type='SegVGGT', backbone=dict(
            type='VGGT', img_size=config['img_size'], embed_dim=config['embed_dim'], depth=config['depth'],
            num_heads=config['heads'], patch_embed=config['patch_embed'], feature_layers=config['depth_head']['layers']),
        camera_head=dict(type='CameraHead', **camera), depth_head=dict(type='DepthHead', **dense),
        point_head=dict(type='IGGTPointHead', **dense),
        feature_head=dict(type='IGGTFeatures', features=part['features'], channels=part['channels'],
                          cross_heads=part['cross_heads'], window_heads=part['window_heads'])), 'model'), '', meta)
    raw, layers = [], []
    usual = model.feature_head.raw
    model.feature_head.raw = lambda features: raw.append(usual(features)) or raw[-1]
    images = torch.from_numpy(arrays['images'])
    found = model.forward_images(images)
    list(model.backbone.layers(images))
    layers = model.backbone.features().taps
    step, fine = meta['pixel_stride'], meta['embedding_stride']
    whole = {'pose_enc_list': torch.stack(found.pose_encodings), 'depth': found.depth[..., None],
             'depth_conf': found.depth_conf, 'world_points': found.points, 'world_points_conf': found.points_conf,
             'part_feat': raw[0], 'embedding': found.features}
    whole |= {f'layer{index}': tap for index, tap in zip(config['depth_head']['layers'], layers, strict=True)}
    assert set(whole) == {name for name in arrays if not name.endswith('_stat')} - {'images'}
    check(arrays, {f'{name}_stat': statistics(value) for name, value in whole.items()}, 1e-5)
    maps = ('depth', 'depth_conf', 'world_points', 'world_points_conf')
    strided = {name: whole[name][:, :, ::step, ::step] for name in maps}
    strided |= {name: value[..., ::meta['channel_stride']] for name, value in whole.items() if name.startswith('layer')}
    strided |= {'embedding': whole['embedding'][..., ::fine, ::fine]}
    check(arrays, whole | strided, 1e-5)


@pytest.mark.parametrize('path', files('iggt_cluster'))
def test_averages_and_the_reassignment_of_noise_are_those_of_the_reference(path):
    arrays, meta = load_npz(path)
    raw = arrays['raw'].reshape(-1, arrays['raw'].shape[-1])
    embedding = torch.nn.functional.normalize(torch.from_numpy(raw), dim=1, eps=1e-12)
    assert relative_error(embedding.view(arrays['embedding'].shape), arrays['embedding']) <= 1e-6
    points = arrays['points'].reshape(-1, 3).astype(np.float64)
    averages = neighbour_averages(embedding.double().numpy(), points, meta['knn_k'])
    clear, stored = arrays['knn_clear'].ravel(), arrays['averaged'].reshape(len(raw), -1)
    assert clear.any() and np.abs(averages - stored)[clear].max() <= 1e-6
    for case in range(len(meta['cases'])):
        final = assigned(stored, arrays[f'labels{case}'].astype(np.int64))
        np.testing.assert_array_equal(final, arrays[f'final{case}'].ravel())


@pytest.mark.parametrize('path', [*files('iggt_cluster'), *files('iggt_epsilon')])
def test_clusters_and_memberships_are_those_of_the_reference(path):
    """Up to the pixels whose equal edges other machines order otherwise: 0.1 % of them, or 0.3 % (README)."""
    arrays, meta = load_npz(path)
    points = arrays['averaged'].reshape(-1, arrays['averaged'].shape[-1])
    share, close = (0.001, 1e-7) if meta['kind'] == 'iggt_cluster' else (0.003, 1e-6)
    for number, case in enumerate(meta['cases']):
        label, probability = hdbscan(points, case['min_samples'], case['min_cluster_size'], case['eps'])
        assert label.max(initial=-1) + 1 == case['clusters']
        allowed = max(2, int(share * len(points)))
        moved = differing(label, arrays[f'labels{number}'])
        assert moved.sum() <= allowed
        errors = np.sort(np.abs(probability - arrays[f'prob{number}'])[~moved])
        assert errors[:len(errors) - allowed].max() <= close


def differing(label: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return which points (N,) have another cluster, after the numbers of clusters were matched; noise is noise."""
    counts = np.zeros((label.max(initial=-1) + 2, expected.max(initial=-1) + 2), dtype=np.int64)
    np.add.at(counts, (label + 1, expected + 1), 1)
    rows, columns = linear_sum_assignment(-counts[1:, 1:])
    renamed = np.full(len(counts), -2)
    renamed[0], renamed[rows + 1] = -1, columns
    return renamed[label + 1] != expected
