"""Mask3D against the published definitions: its decoder, and its way from predictions to scored masks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from jrs.plugins import load_plugins
from jrs.registry import MODELS, POSTPROCESSORS, build
from tests.golden._golden import golden_files, load_npz
from tests.golden._points import assert_close, load_published

load_plugins(['point_clouds'])
decoder, weights, scene_voxels, pooling = (
    sys.modules[f'jrs_plugins.point_clouds.{name}'] for name in ('decoder', 'weights', 'scene_voxels', 'pooling'))


def decoder_of(arrays: dict, meta: dict):
    """Return the decoder that a file's `config` describes, filled."""
    config = meta['config']
    part = build(MODELS, dict(
        type='LevelDecoder', dim_in=arrays['level4'].shape[1], level_dims=[arrays[f'level{number}'].shape[1]
                                                                           for number in range(5)],
        num_classes=config['num_classes'] - 1, num_queries=config['num_queries'], train_queries=config['num_queries'],
        rounds=config['num_decoders'], width=config['hidden_dim'], num_heads=config['num_heads'],
        hidden=config['dim_feedforward'], train_voxels=config['sample_sizes'][:len(config['hlevels'])]), 'model.decoder')
    return load_published(part, meta, lambda key: weights.our_key(key).removeprefix('decoder.'))


def scene_of(arrays: dict, scene: int):
    """Return one scene of a file: its voxels in the order of the file, and the coarser ones as they are listed there."""
    places = [arrays[f'level{number}_coords'][arrays[f'level{number}_coords'][:, 0] == scene, 1:] for number in range(5)]
    levels = [torch.from_numpy(arrays[f'level{number}'][arrays[f'level{number}_coords'][:, 0] == scene])
              for number in range(5)]
    parents = []
    for number, (coarser, finer) in enumerate(zip(places[:-1], places[1:], strict=True)):
        row, stride = {tuple(place): index for index, place in enumerate(coarser.tolist())}, 16 >> number
        parents.append(torch.tensor([row[tuple(place)] for place in (finer // stride * stride).tolist()]))
    own = arrays['coords'][:, 0] == scene
    segments = torch.from_numpy(arrays[f'segment{scene}']) if f'segment{scene}' in arrays else torch.arange(int(own.sum()))
    voxels = scene_voxels.SceneVoxels(
        levels[-1], torch.from_numpy(arrays['raw_coords'][own]), torch.from_numpy(arrays['coords'][own, 1:]).long(),
        segments, torch.arange(int(own.sum())), segments, levels, parents)
    count = torch.bincount(segments)
    return decoder.Superpoints(torch.zeros(len(count), 1), torch.zeros(len(count), 3), count, voxels)


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_decoder_mask3d*.npz'))
def test_the_decoder_of_voxels_at_several_strides(path):
    arrays, meta = load_npz(path)
    part = decoder_of(arrays, meta).train()                      # no dropout: only so are all levels kept
    for index in range(sum(name.startswith('labels') for name in arrays)):
        scene = scene_of(arrays, index)
        starts = part.starts(scene.voxels.cells)
        assert_close(scene.voxels.positions[starts], arrays['query_points'][index], 'starts')
        assert_close(part.places(scene.voxels.positions, starts), arrays['query_pos'][index], 'places')
        found = part(scene).levels
        assert_close(torch.stack([level.class_logits for level in found]), arrays[f'labels{index}'], 'classes')
        assert_close(torch.stack([level.mask_logits.flatten(1) for level in found]), arrays[f'masks{index}'], 'masks')
        for step in range(len(part.layers)):
            blocked = part.logits_at(step, found[step], scene.voxels).sigmoid() < part.mask_threshold
            np.testing.assert_array_equal(blocked.T, arrays[f'attn_step{step}_{index}'])


@pytest.mark.parametrize('path', golden_files('baseline_postprocess_mask3d*.npz'))
def test_predictions_become_scored_parts(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        given = {name.removeprefix(f'c{number}_'): torch.from_numpy(value) for name, value in arrays.items()
                 if name.startswith(f'c{number}_')}
        segments = given['segment_of_point'] if case['eval_on_segments'] else torch.arange(len(given['inverse']))
        # The last superpoints have no voxel, and their logits are read by nobody: masks are of all superpoints there are.
        logits = torch.zeros(len(given['masks']), max(int(segments.max()) + 1, given['masks'].shape[1]))
        logits[:, :given['masks'].shape[1]] = given['masks']
        positions = given['raw_coords']
        voxels = scene_voxels.SceneVoxels(positions, positions, positions.long(), given['segment_of_voxel'],
                                          given['inverse'], segments)
        queries = decoder.PointPredictions(given['labels'], given['labels'], logits[:, None, None])
        part = build(POSTPROCESSORS, dict(
            type='SplitMasks', distance_m=case['eps'] if case['dbscan'] else None, min_points=case['min_points'],
            top_pairs=None if case['topk'] == -1 else case['topk'],
            **(dict(filter_score=case['scores_threshold'], filter_overlap=case['iou_threshold']) if case['filter'] else {})),
            'model.postprocessor')
        assert len(part._parts(logits[:, voxels.superpoints], positions)[0]) == case['after_split']
        found = part(scene_voxels.PointContext(queries, voxels=voxels))
        assert len(found) == case['kept']
        assert_close(found.scores, given['out_scores'], f'scores {number}')
        masks = np.packbits(found.masks.flatten(1)[:, segments].numpy(), axis=1)
        sure = given['out_scores'] > 0                           # among empty masks order and labels are arbitrary
        theirs, ours = (
            sorted(zip(labels[sure].tolist(), map(bytes, np.asarray(bits)[sure]), scores[sure].tolist(), strict=True))
            for labels, bits, scores in ((given['out_labels'], given['out_masks'], given['out_scores']),
                                         (found.labels, masks, found.scores)))
        assert [row[:2] for row in ours] == [row[:2] for row in theirs], f'case {number}'
        assert_close(np.array([row[2] for row in ours]), np.array([row[2] for row in theirs]), f'scores of masks {number}')
        assert not masks[~sure].any()
