"""Sparse convolutions, points as batches, superpoint targets, and whole runs of the methods on points."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jrs.config import load_config
from jrs.datasets.sampling import SampleRequest
from jrs.engine.build import build_dataset
from jrs.engine.loading import collation_of
from jrs.errors import ConfigError, DataError, WeightsError
from jrs.io.weights import load_weights, our_names, read_state
from jrs.plugins import load_plugins
from jrs.registry import DATASETS, LOSSES, MODELS, POSTPROCESSORS, build
from jrs.structures import Instances, Match, Predictions
from tests._data import ROOT, command

load_plugins(['point_clouds'])
voxels, convolution, batches, dataset, losses, decoder, weights = (
    sys.modules[f'jrs_plugins.point_clouds.{name}']
    for name in ('voxels', 'convolution', 'batch', 'dataset', 'losses', 'decoder', 'weights'))
CONFIGS = ROOT / 'configs' / 'baselines'
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'baselines_keys'


def cloud(count: int = 60, scenes: int = 2, side: int = 6, seed: int = 0) -> torch.Tensor:
    """Return different voxels (n, 4), in random order."""
    every = torch.tensor(list(itertools.product(range(scenes), *[range(side)] * 3)))
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:count]]


def kernels(size: int, dim_in: int, dim_out: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(size ** 3, dim_in, dim_out, dtype=dtype, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize('size', [3, 5])
def test_where_all_voxels_are_occupied_it_is_a_dense_convolution(size):
    level, order = voxels.sorted_level(cloud(2 * 125, side=5), (5, 5, 5))
    features, weight = torch.randn(250, 2, dtype=torch.float64), kernels(size, 2, 3)
    found = convolution.sparse_convolution(features, weight, level.neighbours(size))
    dense = features.view(2, 5, 5, 5, 2).permute(0, 4, 1, 2, 3)
    kernel = weight.view(size, size, size, 2, 3).permute(4, 3, 0, 1, 2)
    torch.testing.assert_close(found, F.conv3d(dense, kernel, padding=size // 2).permute(0, 2, 3, 4, 1).reshape(250, 3))


@pytest.mark.parametrize('kind', ['submanifold', 'strided', 'inverse'])
@pytest.mark.parametrize('rows', [2 ** 17, 15])
def test_its_backward_is_its_gradient(kind, rows, monkeypatch):
    """Also where products are made a few places at a time."""
    monkeypatch.setattr(voxels, 'GROUP_ROWS', rows)
    level, _ = voxels.sorted_level(cloud(24, side=4), (4, 4, 4))
    pairs = {'submanifold': level.neighbours(3), 'strided': level.coarser()[1], 'inverse': level.coarser()[1].back}[kind]
    features = torch.randn(pairs.num_inputs, 2, dtype=torch.float64, requires_grad=True)
    weight = kernels(3 if kind == 'submanifold' else 2, 2, 3).requires_grad_()
    assert (len(pairs.groups) > 1) == (rows == 15)
    assert torch.autograd.gradcheck(lambda *given: convolution.sparse_convolution(*given, pairs), (features, weight))


def test_an_odd_extent_loses_its_last_layer_only_where_that_is_asked_for():
    level, _ = voxels.sorted_level(cloud(2 * 125, side=5), (5, 5, 5))
    coarser, pairs = level.coarser()
    assert coarser.extent == (2, 2, 2) and sum(map(len, pairs.inputs)) == 2 * 64
    assert voxels.padded_extent(level.coordinates, 3) == (8, 8, 8)
    assert sum(map(len, voxels.VoxelLevel(level.coordinates, (8, 8, 8)).coarser()[1].inputs)) == 2 * 125


@pytest.mark.parametrize(('wrong', 'words'), [([[0, 1, 2, 3]] * 2, r'\[0, 1, 2, 3\] twice'),
                                              ([[1, -1, 0, 0]], 'in scene 1')])
def test_voxels_that_are_none_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        voxels.sorted_level(torch.tensor(wrong), (9, 9, 9))


@pytest.mark.parametrize('name', ['SparseUNet', 'Res16UNet34C'])
def test_the_order_of_voxels_means_nothing_and_a_batch_is_its_scenes(name):
    small = dict(width=4, levels=3) if name == 'SparseUNet' else dict(stem=4, planes=(4,) * 8, blocks=(1,) * 8, dim_out=4)
    network = build(MODELS, dict(type=name, dim_in=2, **small), 'model.network').eval().double()
    coordinates, features = cloud(90, side=9), torch.randn(90, 2, dtype=torch.float64)
    found = network(features, coordinates)
    order = torch.randperm(90)
    torch.testing.assert_close(network(features[order], coordinates[order]), found[order])
    for scene in range(2):
        own = coordinates[:, 0] == scene
        alone = torch.cat([torch.zeros(int(own.sum()), 1, dtype=torch.int64), coordinates[own, 1:]], dim=1)
        torch.testing.assert_close(network(features[own], alone), found[own])
    assert network.train()(features[:1], coordinates[:1]).isfinite().all()                  # one voxel has no deviation


@pytest.mark.parametrize('trim', [True, False])
def test_spconv_computes_the_same_where_it_is_installed(trim):
    """All four kinds of convolution, at odd extents: those that lose voxels, and those that are rounded up."""
    pytest.importorskip('spconv.pytorch')
    options = dict(dim_in=4, width=8, levels=3, trim_odd_extents=trim, least_extent=7)
    ours, theirs = (build(MODELS, dict(type='SparseUNet', engine=engine, **options), 'model.network').eval()
                    for engine in ('torch', 'spconv'))
    theirs.load_state_dict(ours.state_dict())
    coordinates, features = cloud(200, side=7), torch.randn(200, 4)
    with torch.no_grad():
        torch.testing.assert_close(theirs(features, coordinates), ours(features, coordinates))
    assert set(theirs.state_dict()) == set(ours.state_dict())


def test_without_spconv_its_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'spconv', None)
    network = build(MODELS, dict(type='SparseUNet', dim_in=2, width=4, levels=1, engine='spconv'), 'model.network')
    with pytest.raises(ConfigError, match='install spconv'):
        network(torch.randn(60, 2), cloud())
    with pytest.raises(ConfigError, match="engine must be one of 'torch', 'spconv'"):
        build(MODELS, dict(type='SparseUNet', engine='cuda'), 'model.network')


def points(debug_data, name: str = 'spformer', section: str = 'train_dataset', **options):
    cfg = load_config(CONFIGS / f'{name}.py', 'debug', {f'{section}.{key}': value for key, value in options.items()} | {
        'data_root': str(debug_data)})
    return build_dataset(cfg, section)


def request(index: int = 0, draw: int = 0) -> SampleRequest:
    return SampleRequest(index, draw, 1, 1.0)


def test_a_draw_gives_the_same_points_again_and_another_draw_others(debug_data):
    data = points(debug_data)
    first, again, other = data[request()], data[request()], data[request(draw=1)]
    assert first.positions.equal(again.positions) and first.voxel_features.equal(again.voxel_features)
    assert first.voxels.equal(again.voxels) and first.point_ids.equal(other.point_ids)
    assert not first.positions.equal(other.positions)


def test_joined_scenes_keep_their_points_voxels_and_superpoints(debug_data):
    data = points(debug_data)
    alone = [data[request(index)] for index in (0, 1, 0)]
    batch = collation_of(data)(alone)
    assert batch.scene_names == [scene.scene_names[0] for scene in alone] and batch.unpacked() is batch
    assert batch.voxels[batch.point_voxel, 0].equal(torch.arange(3).repeat_interleave(torch.tensor(batch.num_points)))
    for index, scene in enumerate(alone):
        first = sum(batch.num_points[:index])
        own = slice(first, first + scene.num_points[0])
        assert batch.voxel_features[batch.point_voxel[own]].equal(scene.voxel_features[scene.point_voxel])
        assert (batch.superpoints[own] - sum(batch.num_superpoints[:index])).equal(scene.superpoints)
        assert batch.instance_ids[index].equal(scene.instance_ids[0])
        target, expected = batches.superpoint_targets(batch)[index], batches.superpoint_targets(scene)[0]
        assert target.masks.equal(expected.masks) and target.labels.equal(expected.labels)
        assert target.semantic.equal(expected.semantic)
        torch.testing.assert_close(target.centres, expected.centres)


def test_a_scene_is_cut_to_its_most_points_and_superpoints_are_numbered_again(debug_data):
    whole = points(debug_data)[request()]
    cut = points(debug_data, max_points=whole.num_points[0] // 2)[request()]
    assert cut.num_points == [whole.num_points[0] // 2] and cut.num_superpoints[0] < whole.num_superpoints[0]
    assert cut.superpoints.unique().equal(torch.arange(cut.num_superpoints[0]))


def test_features_are_means_over_the_points_of_a_voxel(debug_data):
    data = points(debug_data, 'spformer', 'test_dataset')
    scene = data[0]
    mesh = data.scenes[0].mesh()
    given = np.concatenate([mesh.colors / 127.5 - 1, mesh.vertices], axis=1)
    assert len(scene.voxels) < len(given)
    for voxel in (0, 7, int(scene.point_voxel.mode().values)):
        own = given[scene.point_voxel.numpy() == voxel]
        np.testing.assert_allclose(scene.voxel_features[voxel], own.mean(axis=0), atol=1e-5)
        places = np.floor(mesh.vertices / 0.1 - (mesh.vertices / 0.1).min(axis=0))[scene.point_voxel.numpy() == voxel]
        assert (places == scene.voxels[voxel, 1:].numpy()).all()


def test_superpoints_go_to_whom_more_than_half_of_their_points_are():
    superpoints = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    ids = torch.tensor([5, 5, 0, 5, 0, 7, 8, 9, 0])
    assert batches.superpoint_majority(ids, superpoints, 5).tolist() == [5, 0, 0, 0, 0]
    classes = torch.tensor([5, 5, 0, 5, -1, 7, 7, 9, -1])
    assert batches.superpoint_mode(classes, superpoints, 5).tolist() == [5, -1, 7, -1, -1]


def test_true_superpoint_masks_score_as_far_as_superpoints_are_pure(debug_data):
    """The oracle of the metric and what a perfect model gives are the same: nothing else is lost on the way."""
    from jrs.engine.build import build_evaluator
    from jrs.structures import Reconstruction
    cfg = load_config(CONFIGS / 'spformer.py', 'debug', {'data_root': str(debug_data)})
    data = points(debug_data, 'spformer', 'test_dataset')
    batch, metric = data[0], build_evaluator(cfg.metrics).metrics[0]
    target = batches.superpoint_targets(batch)[0]
    found = Instances(target.masks, target.labels, torch.ones(len(target.labels)), torch.arange(len(target.labels)))
    metric.process(batch, [Reconstruction(instances=found)])
    numbers = metric.evaluate(1)
    assert numbers['instance/agnostic_AP50'] == numbers['instance/oracle_agnostic_AP50'] > 0.9
    assert metric.rules()['views_per_scene'] == 'none: points' and 'superpoints' in metric.rules()['transfer']


def test_masks_of_other_superpoints_than_the_ground_truth_are_refused(debug_data):
    truth = points(debug_data, 'spformer', 'test_dataset')[0].ground_truth[0]
    transfer = build(POSTPROCESSORS, dict(type='SuperpointTransfer'), 'metrics.instances.transfer')
    with pytest.raises(DataError, match='superpoints of the ground truth'):
        transfer.visible_pixels(truth, (1, 3), (1, 3))


def test_a_mesh_without_superpoints_says_what_to_do(debug_data):
    data = points(debug_data, 'spformer', 'test_dataset')
    mesh = data.scenes[0].mesh()
    mesh.superpoints = None
    data.scenes[0].mesh = lambda: mesh
    with pytest.raises(DataError, match='superpoints of its mesh.*tools/prepare.py'):
        data[0]


@pytest.mark.parametrize(('options', 'words'), [
    (dict(features=('colour',)), "features must be of 'color', 'position', 'normal'"),
    (dict(voxel_origin='room'), "'scene', 'world'"), (dict(voxel_m=0), 'voxel_m must be above 0'),
    (dict(augmentation=dict(flips=2)), 'dataset.augmentation.*flips')])
def test_what_the_data_set_does_not_know_is_told(options, words):
    with pytest.raises(ConfigError, match=words):
        DATASETS.get('PointSceneDataset')(folder='x', split='y', benchmark='scannet200', **options)


@pytest.mark.parametrize('name', ['oneformer3d', 'mask3d', 'relation3d', 'sgiformer_l'])
def test_a_method_is_trained_saved_loaded_and_scored(name, debug_data, tmp_path):
    words = ('--profile', 'debug', '--cfg-options', f'data_root={debug_data}')
    assert command('train', CONFIGS / f'{name}.py', *words, 'train.iterations=2', 'batches.slots=1',
                   '--work-dir', tmp_path) == 0
    steps = [json.loads(line) for line in (tmp_path / 'terms.jsonl').read_text().splitlines()]
    assert len(steps) == 2 and all(np.isfinite(value) for step in steps for value in step.values())
    assert not command('test', CONFIGS / f'{name}.py', tmp_path / 'weights.safetensors', *words)
    results = json.loads((tmp_path / 'test' / 'results.json').read_text())
    assert {'instance/AP50', 'instance/agnostic_AP50', 'instance/oracle_agnostic_AP50'} <= set(results['metrics'])


UNUSED = dict(spformer=r'decoder\.cross_attn_layers\.\d\.norm\..*|criterion\..*',
              sgiformer=r'backbone\.final\..*|decoder\.feat_(query|self)_attn_layers\.2\..*',
              relation3d=r'coords_linear\..*|decoder\.x_mask\..*|decoder\.decoder\.layers_cross\.1\..*|'
                         r'decoder\.decoder\.layers_cross\.0\.(ca_qpos_proj|norm1)\..*|criterion\..*',
              mask3d=r'model\.backbone\.final\..*|criterion\..*')


def listed(name: str) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a list of published weights; braces stand for numbers (README_points.txt)."""
    found = {}
    for line in (KEYS / f'{name}.txt').read_text().splitlines():
        if line.strip() and not line.startswith('#'):
            pattern, shape = re.match(r'(\S+)\s+(\[.*?\])', line).groups()
            parts = re.split(r'(\{[^}]*\})', pattern)
            choices = [_numbers(part) if part.startswith('{') else [part] for part in parts]
            found |= {''.join(chosen): tuple(json.loads(shape)) for chosen in itertools.product(*choices)}
    return found


def _numbers(braces: str) -> list[str]:
    inner = braces[1:-1]
    if '..' in inner:
        first, last = map(int, inner.split('..'))
        return [str(number) for number in range(first, last + 1)]
    return inner.split(',')


@pytest.mark.skipif(not KEYS.is_dir(), reason=f'no key lists in {KEYS}; set JRS_SPEC')
@pytest.mark.parametrize(('keys', 'config'), [('spformer_scannet', 'spformer_scannetv2'),
                                              ('maft_scannet', 'maft_scannetv2'),
                                              ('oneformer3d_scannet', 'oneformer3d_scannetv2'),
                                              ('oneformer3d_scannet200', 'oneformer3d'),
                                              ('mask3d_scannet', 'mask3d_scannetv2'), ('mask3d_scannet200', 'mask3d'),
                                              ('relation3d_scannet', 'relation3d_scannetv2'),
                                              ('relation3d_scannet200', 'relation3d'),
                                              ('sgiformer_l_scannet', 'sgiformer_l_scannetv2'),
                                              ('sgiformer_l_scannet200', 'sgiformer_l')])
def test_every_published_name_and_shape_is_ours(keys, config):
    with torch.device('meta'):
        model = build(MODELS, load_config(CONFIGS / f'{config}.py').model, 'model')
    own, published = {key: tuple(value.shape) for key, value in model.state_dict().items()}, listed(keys)
    names = our_names(published)
    assert {names[key]: shape for key, shape in published.items() if names[key] is not None} == own
    dropped = {key for key in published if names[key] is None}
    unused = UNUSED.get(keys.partition('_')[0], r'criterion\..*')
    assert all(re.fullmatch(unused, key) for key in dropped), sorted(dropped)


@pytest.mark.parametrize('layout', [2, 1])
def test_published_weights_load_in_either_layout_of_their_kernels(layout, tmp_path, monkeypatch):
    small = dict(width=4, levels=2)
    model = build(MODELS, dict(
        type='PointSegmenter', num_classes=3, network=dict(type='SparseUNet', **small), decoder=dict(
            type='SuperpointDecoder', layers=1, width=8, num_heads=2, hidden=8, cross_norm=False, score_head=True,
            start=dict(type='LearnedQueries', num_queries=5))), 'model')
    state = {_published(key): value for key, value in model.state_dict().items()}
    state['decoder.cross_attn_layers.0.norm.weight'] = torch.ones(8)                        # there, and not used
    if layout == 1:
        state = {key: value if value.ndim < 5 else value.permute(1, 2, 3, 4, 0).contiguous() for key, value in state.items()}
    torch.save(dict(model=state), tmp_path / 'published.pth')
    other = build(MODELS, dict(
        type='PointSegmenter', num_classes=3, network=dict(type='SparseUNet', **small), decoder=dict(
            type='SuperpointDecoder', layers=1, width=8, num_heads=2, hidden=8, cross_norm=False, score_head=True,
            start=dict(type='LearnedQueries', num_queries=5))), 'model')
    said = []
    monkeypatch.setattr(sys.modules['jrs_plugins.point_clouds'], 'print_log', lambda words, logger: said.append(words))
    load_weights(other, tmp_path / 'published.pth')
    assert len(said) == 1 and 'no file was there to compare with' in said[0]
    assert all(value.equal(other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.skipif(not KEYS.is_dir(), reason=f'no key lists in {KEYS}; set JRS_SPEC')
@pytest.mark.parametrize(('keys', 'config', 'around', 'before'), [
    ('mask3d_scannet', 'mask3d_scannetv2', 'state_dict', ''), ('relation3d_scannet', 'relation3d_scannetv2', 'model', ''),
    ('sgiformer_l_scannet', 'sgiformer_l_scannetv2', 'state_dict', 'module.')])
def test_a_published_file_is_found_in_what_its_program_puts_around_it(keys, config, around, before, tmp_path):
    """Under published names at debug size, with what the program keeps beside and what it never uses."""
    model, other = (build(MODELS, load_config(CONFIGS / f'{config}.py', 'debug').model, 'model') for _ in range(2))
    names = our_names(listed(keys))
    published = {ours: key for key, ours in names.items() if ours is not None}
    state = {published[key]: torch.randn(value.shape) if value.is_floating_point() else value
             for key, value in model.state_dict().items()}
    state |= {key: torch.ones(1) for key, ours in names.items() if ours is None and not re.search(r'layers\.2\.', key)}
    if keys.startswith('sgiformer'):                                    # of two layers: what follows the second is not read
        state['decoder.feat_query_attn_layers.1.norm.weight'] = torch.ones(16)
    torch.save({around: {before + key: value for key, value in state.items()}, 'epoch': 7}, tmp_path / 'published.pth')
    load_weights(other, tmp_path / 'published.pth')
    assert all(value.equal(state[published[key]]) for key, value in other.state_dict().items())


def _published(key: str) -> str:
    """Return the published name of a small SPFormer's key, by trying all names that the lists have."""
    tries = [key.removeprefix('network.')] if key.startswith('network.') else [
        key.replace('layers.0.', f'{part}.0.').replace(ours, theirs) for part, ours, theirs in (
            ('cross_attn_layers', 'cross_attention.', 'attn.'), ('self_attn_layers', 'self_attention.', 'attn.'),
            ('self_attn_layers', 'self_norm.', 'norm.'), ('ffn_layers', 'feed_forward.0.', 'net.0.'),
            ('ffn_layers', 'feed_forward.2.', 'net.3.'), ('ffn_layers', 'x', 'x'))] + [
        key.replace(ours, theirs) for ours, theirs in (
            ('key_projection', 'input_proj'), ('mask_projection', 'x_mask'), ('start.embedding', 'query.weight'),
            ('decoder.norm', 'decoder.out_norm'), ('heads.classes', 'out_cls'), ('heads.score', 'out_score'))]
    return next(one for one in tries if one != key and weights.our_key(one) == key)


def test_kernels_of_both_layouts_in_one_file_are_refused(tmp_path):
    state = {'decoder.input_proj.0.weight': torch.ones(1), 'decoder.x_mask.0.weight': torch.ones(1),
             'decoder.out_cls.0.weight': torch.ones(1), 'decoder.query.weight': torch.ones(1),
             'unet.a': torch.ones(4, 3, 3, 3, 4), 'unet.b': torch.ones(3, 3, 3, 4, 4)}
    torch.save(state, tmp_path / 'mixed.pth')
    with pytest.raises(WeightsError, match='all be .out, k, k, k, in. or all'):
        read_state(tmp_path / 'mixed.pth')


def test_queries_of_far_superpoints_cover_the_scene_and_are_never_more_than_there_are():
    start = build(MODELS, dict(type='FarthestPointQueries', num_queries=3), 'start', dim_in=2, width=4)
    positions = torch.tensor([[5.0, 5, 5], [5, 5, 5.1], [9, 5, 5], [5.2, 5, 5], [5, 8, 5]])
    scene = decoder.Superpoints(torch.randn(5, 2), positions, torch.ones(5, dtype=torch.int64))
    queries, elements = start(scene)
    assert elements.tolist() == [0, 2, 4] and queries.shape == (3, 4)
    few = decoder.Superpoints(scene.features[:2], torch.zeros(2, 3), scene.num_points[:2])
    assert len(start(few)[1]) == 2


def test_a_scene_of_one_superpoint_and_a_batch_without_instances_give_numbers_where_places_are_read():
    part = build(MODELS, dict(type='PlacedDecoder', num_queries=3, layers=2, width=8, num_heads=2, hidden=8), 'decoder',
                 dim_in=2, num_classes=4)
    scene = decoder.Superpoints(torch.randn(1, 2), torch.ones(1, 3), torch.ones(1, dtype=torch.int64))
    found = decoder.side_by_side([part(scene)])
    target = losses.PointTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1, 1, dtype=torch.bool),
                                 torch.ones(0, 1), centres=torch.zeros(0, 3))
    nobody = torch.zeros(0, dtype=torch.int64)
    criterion = build(LOSSES, dict(type='Criterion', losses=dict(centre=dict(
        type='CentreLoss', scene_reduction='pooled'))), 'model', weights=dict(centre=0.5))
    terms = criterion(Predictions([], queries=found), [target], None, [Match(nobody, nobody, [Match(nobody, nobody)])])
    assert terms['loss_centre'] == 0 and terms['loss_centre'].requires_grad
    assert all(value.isfinite().all() for level in found.levels for value in (*level.class_logits, *level.centres))


def test_a_point_at_the_origin_is_taken_last():
    points = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1.5, 0, 0], [9, 0, 0]])
    assert sys.modules['jrs_plugins.point_clouds.sampling'].farthest_points(points, 3).tolist() == [0, 3, 2]


def test_without_a_head_its_terms_say_which_is_lacking():
    pred = decoder.PointPredictions(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2, 1, 1, 5))
    masks = torch.zeros(0, 1, 1, 5, dtype=torch.bool)
    target = losses.PointTargets(torch.zeros(0, dtype=torch.int64), masks, torch.ones(0, 1))
    for part, words in ((losses.ScoreLoss(), 'score_head'), (losses.SuperpointSemanticLoss(), 'semantic_classes')):
        with pytest.raises(ConfigError, match=words):
            part(pred, target, None)
