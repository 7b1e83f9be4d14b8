"""Methods that read the voxels below superpoints: levels, targets by voxels, ignored classes, and masks that are split."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from jrs.config import load_config
from jrs.datasets.sampling import SampleRequest
from jrs.engine.build import build_dataset
from jrs.errors import ConfigError, DataError
from jrs.plugins import load_plugins
from jrs.registry import COSTS, LOSSES, MODELS, POSTPROCESSORS, build
from jrs.structures import InstanceTable, Match, QueryPredictions, SceneContext
from tests._data import ROOT

load_plugins(['point_clouds'])
batches, decoder, losses, scene_voxels, splitting = (
    sys.modules[f'jrs_plugins.point_clouds.{name}']
    for name in ('batch', 'decoder', 'losses', 'scene_voxels', 'splitting'))
CONFIGS = ROOT / 'configs' / 'baselines'


def config(debug_data, name: str, **options):
    return load_config(CONFIGS / f'{name}.py', 'debug', options | {'data_root': str(debug_data)})


def sample(cfg, index: int = 0, section: str = 'train_dataset'):
    return build_dataset(cfg, section)[SampleRequest(index, 0, 1, 1.0)]


def test_voxels_and_levels_of_a_scene_are_the_same_alone_and_in_a_batch(debug_data):
    cfg = config(debug_data, 'mask3d')
    model = build(MODELS, cfg.model, 'model').eval()
    alone = [sample(cfg, index) for index in (0, 1)]
    with torch.no_grad():
        of_batch = model.scenes(batches.collate_points(alone))
        for batch, scene in zip(alone, of_batch, strict=True):
            own = model.scenes(batch)[0].voxels
            for name in ('positions', 'cells', 'superpoints', 'point_voxel', 'point_superpoint'):
                assert getattr(own, name).equal(getattr(scene.voxels, name)), name
            assert all(map(torch.equal, own.parents, scene.voxels.parents)) and len(own.levels) == 5
            torch.testing.assert_close(own.levels, scene.voxels.levels)
            first = batch.positions[batch.voxel_points]
            assert own.positions.equal(first) and own.at_level(first, 4).equal(first)
            cells = own.cells - own.cells.amin(dim=0).div(16, rounding_mode='floor') * 16
            by_hand = {tuple(cell) for cell in (cells // 16).tolist()}
            assert len(own.levels[0]) == len(by_hand)
            child = torch.arange(len(cells))
            for parents in reversed(own.parents):
                child = parents[child]
            assert len(torch.cat([cells // 16, child[:, None]], dim=1).unique(dim=0)) == len(by_hand)


def test_a_coarser_voxel_has_the_mean_of_its_children_step_by_step():
    values = torch.tensor([[1.0], [3], [8]])
    empty = torch.zeros(0, dtype=torch.int64)
    voxels = scene_voxels.SceneVoxels(values, values, empty, empty, empty, empty, [torch.zeros(1), torch.zeros(2), values],
                                      [torch.tensor([0, 0]), torch.tensor([0, 0, 1])])
    assert voxels.at_level(values, 1).tolist() == [[2], [8]] and voxels.at_level(values, 0).tolist() == [[5]]


def test_where_a_voxel_has_its_first_point_features_are_that_points(debug_data):
    batch = sample(config(debug_data, 'mask3d', **{'train_dataset.augmentation': None}))
    points = batch.voxel_points
    assert batch.point_voxel[points].equal(torch.arange(len(batch.voxels))) and points.unique().equal(points.sort().values)
    mesh = build_dataset(config(debug_data, 'mask3d'), 'train_dataset').scenes[0].mesh()
    middle, deviation = sys.modules['jrs_plugins.point_clouds.inputs'].COLORS['normalised']
    np.testing.assert_allclose(batch.voxel_features, (mesh.colors[points] - middle) / deviation, atol=1e-5)


def test_an_instance_has_a_superpoint_as_soon_as_one_of_its_voxels(debug_data):
    batch = sample(config(debug_data, 'mask3d'))
    batch.superpoints = torch.zeros_like(batch.superpoints)             # one superpoint, in which everything lies
    batch.num_superpoints = [2]                                         # and one without points
    target = batches.superpoint_targets(batch, 'any_voxel')[0]
    assert set(target.ids.tolist()) == set(batch.point_ids[batch.voxel_points].unique().tolist()) - {0}
    assert target.flat_masks.tolist() == [[True, False]] * len(target.ids) and target.flat_valid.tolist() == [True, False]
    with pytest.raises(ConfigError, match="membership must be one of 'majority', 'any_voxel', got 'all'"):
        batches.superpoint_targets(batch, 'all')


def test_instances_of_no_class_of_the_benchmark_are_there_for_losses_that_ignore_their_class(debug_data):
    cfg = config(debug_data, 'mask3d')
    data = build_dataset(cfg, 'train_dataset')
    item = next(item for item in data.scenes[0].instances if item.id in data.class_index(data.scenes[0]))
    item.classes.clear()
    object.__setattr__(item, 'label', 'a thing of no list')
    table = data[SampleRequest(0, 0, 1, 1.0)].instances[0]
    assert table.labels[table.ids == item.id].tolist() == [253] and (table.labels < 198).sum() >= 1
    data.ignored_label = None
    assert item.id not in data[SampleRequest(0, 0, 1, 1.0)].instances[0].ids


def test_voxels_know_the_class_and_the_centre_of_their_instance(debug_data):
    alone = [sample(config(debug_data, 'sgiformer_l'), index) for index in (0, 1)]
    batch = batches.collate_points(alone)
    for scene, target in zip(alone, batches.superpoint_targets(batch, voxels=True), strict=True):
        ids, table = scene.point_ids[scene.voxel_points], scene.instances[0]
        assert target.voxel_inside.equal(ids > 0) and target.voxel_labels[ids == 0].eq(-1).all()
        for number, label in zip(table.ids.tolist(), table.labels.tolist(), strict=True):
            assert target.voxel_labels[ids == number].eq(label).all()
            seen = (target.voxel_offsets + scene.positions[scene.voxel_points])[ids == number]
            centre = scene.positions[scene.point_ids == number].mean(dim=0)
            torch.testing.assert_close(seen, centre.expand_as(seen), atol=1e-4, rtol=0)


def test_losses_of_voxels_count_each_voxel_of_the_batch_once_and_say_what_they_lack():
    empty = torch.zeros(0)
    targets = [losses.PointTargets(
        empty, empty, empty, voxel_labels=torch.tensor(labels), voxel_inside=torch.tensor(labels) >= 0,
        voxel_offsets=torch.zeros(len(labels), 3)) for labels in ([0, -1], [-1])]
    preds = [decoder.PointPredictions(empty, voxel_logits=torch.randn(count, 3), voxel_offsets=torch.full((count, 3), 2.0))
             for count in (2, 1)]
    scenes = [(pred, target, None) for pred, target in zip(preds, targets, strict=True)]
    each = -torch.cat([pred.voxel_logits for pred in preds]).log_softmax(dim=1)
    expected = (each[0, 0] + 0.1 * each[1, 2] + 0.1 * each[2, 2]) / 1.2
    torch.testing.assert_close(losses.VoxelClassLoss().pooled(scenes), expected)
    assert losses.VoxelOffsetLoss().pooled(scenes) == 6.0 and losses.VoxelOffsetLoss().pooled(scenes[1:]) == 0
    with pytest.raises(ConfigError, match='VoxelOffsetLoss reads .*GuidedDecoder'):
        losses.VoxelOffsetLoss().pooled([(preds[0], replace(targets[0], voxel_labels=None), None)])


def guided(**options):
    return build(MODELS, dict(type='GuidedDecoder', num_guided=2, num_learned=1, width=8, num_heads=2, hidden=8, **options),
                 'model.decoder', dim_in=4, num_classes=3)


def test_guided_queries_come_from_the_likely_voxels_and_one_voxel_is_enough():
    part, rows = guided(), torch.arange(5)
    features = torch.randn(5, 4)
    logits = torch.tensor([[0.0, 0, 0, 9], [9, 0, 0, 0], [0, 0, 0, 9], [0, 9, 0, 0], [0, 0, 0, 9]])
    voxels = scene_voxels.SceneVoxels(features, torch.randn(5, 3), torch.zeros(5, 3), rows, rows, rows, class_logits=logits,
                                      offsets=torch.zeros(5, 3))
    same = replace(voxels, features=torch.where(logits[:, 3:] > 0, 7.0, features))
    assert part.starts(voxels).equal(part.starts(same)) and not part.starts(voxels).equal(
        part.starts(replace(voxels, features=features + 1)))
    first = torch.zeros(1, dtype=torch.int64)
    one = scene_voxels.SceneVoxels(features[:1], torch.ones(1, 3), torch.zeros(1, 3), first, first, first,
                                   class_logits=logits[:1], offsets=torch.zeros(1, 3))
    found = part(decoder.Superpoints(features[:1], torch.ones(1, 3), first + 1, one))
    assert all(level.mask_logits.isfinite().all() for level in found.levels) and len(found.levels) == 4
    assert len(guided(superpoint_attention=False).state_dict()) == len(part.state_dict()) - 2 * 6
    with pytest.raises(ConfigError, match='one query of either kind'):
        guided(layers=0)


def test_norms_of_the_voxel_heads_see_all_scenes_of_a_batch(debug_data):
    cfg = config(debug_data, 'sgiformer_l')
    model = build(MODELS, cfg.model, 'model').train()
    batch = batches.collate_points([sample(cfg, index) for index in (0, 1)])
    sizes = []
    model.decoder.voxel_classes.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    found = model(batch)
    assert sizes == [sum(batch.num_voxels)] and list(map(len, found.voxel_logits)) == batch.num_voxels


def test_a_scene_may_be_turned_for_the_network_and_is_scored_as_it_stands(debug_data):
    plain, turned = (build_dataset(config(debug_data, 'sgiformer_l', **{'test_dataset.turn': turn}), 'test_dataset')[0]
                     for turn in (0.0, np.pi / 2))
    x, y, z = plain.positions.T
    torch.testing.assert_close(turned.positions, torch.stack([-y, x, z], dim=1), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(turned.ground_truth[0].vertices, plain.ground_truth[0].vertices)


def test_ignored_classes_cost_nothing_and_teach_nothing():
    logits = torch.randn(3, 5, requires_grad=True)
    pred = QueryPredictions(torch.zeros(3, 2), logits)
    target = losses.PointTargets(torch.tensor([2, 253]), torch.zeros(2, 1, 1, 4, dtype=torch.bool), torch.ones(2, 1))
    cost = build(COSTS, dict(type='ClassCost', ignored_label=253), 'cost', weight=2.0)(pred, target)
    assert cost[:, 1].tolist() == [-2.0] * 3 and cost[:, 0].equal(-2 * logits.softmax(1)[:, 2])
    part = build(LOSSES, dict(type='ClassLoss', ignored_label=253), 'loss')
    part(pred, target, Match(torch.tensor([0, 1]), torch.tensor([0, 1]))).backward()
    assert not logits.grad[1].any() and logits.grad[0].any() and logits.grad[2].any()
    logits.grad = None
    value = part(QueryPredictions(torch.zeros(1, 2), logits[:1]), target, Match(torch.tensor([0]), torch.tensor([1])))
    value.backward()
    assert value == 0 and not logits.grad.any()                         # nobody is left


def slow_clusters(points: np.ndarray, distance: float, least: int) -> np.ndarray:
    """Return DBSCAN's labels, cluster by cluster as it is defined."""
    near = np.linalg.norm(points[:, None] - points, axis=2) <= distance
    dense, labels, number = near.sum(axis=1) >= least, np.full(len(points), -1), 0
    for start in range(len(points)):
        if not dense[start] or labels[start] >= 0:
            continue
        reached = [start]
        labels[start] = number
        while reached:
            point = reached.pop()
            for other in np.flatnonzero(near[point] & (labels < 0)) if dense[point] else ():
                labels[other] = number
                reached.append(other)
        number += 1
    return labels


@pytest.mark.parametrize('least', [1, 2, 5])
@pytest.mark.parametrize('distance', [0.05, 0.12, 0.3])
def test_parts_are_those_of_dbscan(distance, least):
    rng = np.random.default_rng(int(100 * distance) + least)
    points = rng.random((150, 3)) * [2, 1, 0.2] - 1
    np.testing.assert_array_equal(splitting.clusters(points, distance, least), slow_clusters(points, distance, least))
    assert splitting.clusters(points[:0], distance, least).tolist() == []


def test_two_chairs_in_one_mask_become_two_instances_and_a_mask_of_nothing_none():
    positions = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [3, 0, 0], [9, 9, 9]])
    rows = torch.arange(4)
    voxels = scene_voxels.SceneVoxels(positions, positions, rows, rows, rows, rows)
    masks = torch.tensor([[2.0, 2, 2, -1], [-1, -1, -1, -1]])[:, None, None]
    queries = decoder.PointPredictions(masks[:, 0, 0, :2], torch.tensor([[3.0, 0, 0, 0]] * 2), masks)
    part = build(POSTPROCESSORS, dict(type='SplitMasks', top_pairs=2), 'model.postprocessor')
    found = part(scene_voxels.PointContext(queries, voxels=voxels))
    assert sorted(map(tuple, found.masks.flatten(1).tolist())) == [(False, False, True, False), (True, True, False, False)]
    assert found.labels.tolist() == [0, 0] and found.queries.tolist() == [0, 0]
    queries.mask_logits = -masks.abs()
    assert len(part(scene_voxels.PointContext(queries, voxels=voxels))) == 0


@pytest.mark.parametrize(('options', 'words'), [
    (dict(filter_score=0.1), 'go together'), (dict(distance_m=0), 'distance_m above 0'), (dict(top_pairs=0), 'at least 1')])
def test_a_split_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        build(POSTPROCESSORS, dict(type='SplitMasks', **options), 'model.postprocessor')


def test_who_needs_voxels_or_levels_says_so():
    queries = decoder.PointPredictions(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 1, 1, 4))
    with pytest.raises(DataError, match='room: SplitMasks reads the voxels'):
        build(POSTPROCESSORS, dict(type='SplitMasks'), 'model.postprocessor')(SceneContext(queries, scene_name='room'))
    with pytest.raises(ConfigError, match='has levels, such as Res16UNet34C'):
        build(MODELS, dict(type='PointSegmenter', num_classes=3, network=dict(type='SparseUNet', width=4, levels=1),
                           decoder=dict(type='LevelDecoder')), 'model')
    with pytest.raises(ConfigError, match='1 to 5 levels'):
        build(MODELS, dict(type='LevelDecoder', level_dims=(4,) * 5, train_voxels=(1,) * 6), 'd', dim_in=4, num_classes=3)
    network = build(MODELS, dict(type='Res16UNet34C', stem=4, planes=(4,) * 8, blocks=(1,) * 8), 'network')
    with pytest.raises(ValueError, match='in the order of scene'):
        network.with_levels(torch.zeros(2, 3), torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]))


def test_training_looks_at_some_voxels_of_a_level_and_at_a_scene_of_fewer_voxels_than_queries():
    part = build(MODELS, dict(type='LevelDecoder', level_dims=(4,) * 5, train_voxels=(2, 3), width=8, num_heads=2, hidden=8,
                              num_queries=9, train_queries=9), 'decoder', dim_in=4, num_classes=3)
    rows, empty = torch.arange(5), torch.zeros(5, dtype=torch.int64)
    features = torch.randn(5, 4)
    voxels = scene_voxels.SceneVoxels(features, torch.randn(5, 3), torch.randn(5, 3), rows, rows, rows, [features] * 5,
                                      [rows] * 4)
    scene = decoder.Superpoints(features, torch.zeros(5, 3), empty + 1, voxels)
    read = []
    for layer in part.layers:
        layer.register_forward_pre_hook(lambda module, given: read.append(len(given[1])))
    found = part(scene)
    assert len(found.levels) == 7 and found.class_logits.shape == (5, 4) and read == [2, 3] * 3
    assert not part.eval()(scene).auxiliary and read[6:] == [5] * 6


@pytest.mark.parametrize('name', ['mask3d', 'relation3d', 'sgiformer_l'])
def test_one_point_alone_and_a_batch_without_instances_give_numbers_and_gradients(name, debug_data):
    """Upstream fails or gives NaN there."""
    torch.manual_seed(0)
    model = build(MODELS, config(debug_data, name).model, 'model').train()
    features = model.network.conv0p1s1.kernel.shape[1] if hasattr(model.network, 'conv0p1s1') else 9
    zero = torch.zeros(1, dtype=torch.int64)
    point = batches.PointBatch(['one'], [1], [1], [1], torch.zeros(1, 3), torch.zeros(1, 4, dtype=torch.int64),
                               torch.ones(1, features), zero, zero, point_ids=zero, point_classes=zero - 1,
                               instances=[InstanceTable(zero + 1, zero)])
    terms = model(batches.collate_points([point, point]), mode='loss')
    assert all(value.isfinite() for value in terms.values())
    sum(value for key, value in terms.items() if key.startswith('loss_')).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    found = model.eval()(point, mode='predict')[0].instances
    assert found.masks.shape[1:] == (1, 1, 1) and found.scores.isfinite().all()
