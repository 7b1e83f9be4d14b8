"""The mmengine metrics on a synthetic scene: perfect, oracle, duplicates, several processes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError, DataError, NonFiniteError
from jrs.evaluation.metrics import best_row_per_query
from jrs.registry import METRICS, build
from jrs.structures import Instances
from tests.postprocess.box_scene import INPUT_SIZE, _intrinsics, make_batch, make_reconstruction, true_instances

BENCHMARK = get_benchmark('scannet20')


def _metric(**options):
    return build(METRICS, {'type': 'InstanceAPMetric', 'benchmark': 'scannet20', **options}, 'metric')


def _repeat(instances, labels):
    """Each instance under its own label and, with half the score, under each of `labels`: a top-k over classes."""
    rows = torch.arange(len(instances.scores)).repeat(1 + len(labels))
    count = len(instances.scores)
    extra = torch.tensor(labels).repeat_interleave(count)
    scores = torch.cat([instances.scores, instances.scores.repeat(len(labels)) / 2])
    order = scores.argsort(descending=True, stable=True)
    every = Instances(instances.masks[rows], torch.cat([instances.labels, extra]), scores, instances.queries[rows])
    return Instances(*(getattr(every, name)[order] for name in ('masks', 'labels', 'scores', 'queries')))


def _noisy(batch, index, seed):
    """True instances, two of them cut and one with a wrong label, with random scores."""
    instances = true_instances(batch, index, torch.rand(4, generator=torch.Generator().manual_seed(seed)))
    masks = instances.masks
    masks[seed % 4, : batch.images.shape[1] * 2 // 3] = False
    instances.masks = masks
    instances.labels[(seed + 1) % 4] = 0
    return instances


def _process(metric, batch, make):
    metric.process(batch, [make_reconstruction(batch, index, make(batch, index)) for index in
                           range(len(batch.scene_names))])


def test_perfect_masks_score_what_the_oracle_scores():
    metric = _metric()
    _process(metric, make_batch(BENCHMARK), true_instances)
    numbers = metric.evaluate(1)
    for name in ('AP', 'AP50', 'AP25'):
        assert numbers[f'instance/{name}'] == numbers[f'instance/oracle_{name}'] >= 0.95
        assert numbers[f'instance/agnostic_{name}'] == numbers[f'instance/oracle_agnostic_{name}'] >= 0.95
    assert numbers['instance/finite_classes'] == 3 and numbers['instance/scenes'] == 1
    assert {key for key in numbers if key.startswith('instance/class/') and key.endswith('/AP')} == \
        {f'instance/class/{BENCHMARK.class_names[index]}/AP' for index in (2, 4, 7)}
    assert all(isinstance(value, float) for value in numbers.values())


def test_excluded_vertices_do_not_count():
    """An object of which fewer than 100 vertices stay is none; masks on excluded vertices are no false positives."""
    batch = make_batch(BENCHMARK)
    truth = batch.ground_truth[0]
    gone = np.flatnonzero(truth.vertex_ids // 1000 == BENCHMARK.class_ids[2])
    assert len(gone) > 150
    truth.excluded = gone[50:]
    metric = _metric()
    _process(metric, batch, true_instances)
    numbers = metric.evaluate(1)
    assert numbers['instance/finite_classes'] == 2
    assert numbers['instance/AP50'] == numbers['instance/oracle_AP50'] == 1.0


def test_repeating_a_query_under_other_classes_leaves_the_agnostic_score():
    batch = make_batch(BENCHMARK)
    metric = _metric(oracle=False)
    _process(metric, batch, lambda batch, index: _repeat(true_instances(batch, index), labels=[2, 4, 9]))
    numbers = metric.evaluate(1)
    assert numbers['instance/agnostic_AP50'] == 1.0
    assert numbers['instance/AP50'] == 1.0                     # repeats score less: false positives after all are found
    assert not any('oracle' in name for name in numbers)


def _score_shard(rank, folder, shards):
    """Score the scenes (seeds) of one process; the first one writes what all of them found."""
    os.chdir(folder)                                                         # mmengine exchanges results in the cwd
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=len(shards))
    numbers = _noisy_score(shards[rank])
    if rank == 0:
        (Path(folder) / 'numbers.json').write_text(json.dumps(numbers))
    dist.destroy_process_group()


def _noisy_score(seeds):
    metric = _metric()
    for seed in seeds:
        _process(metric, make_batch(BENCHMARK, num_views=4, names=[f'scene{seed}']),
                 lambda batch, index, seed=seed: _noisy(batch, index, seed))
    return metric.evaluate(len(seeds))


SHARDS = [[2, 0], [0, 1, 2]]                                                # uneven, and two scenes scored twice


def test_shards_of_scenes_score_as_one_whoever_has_which(monkeypatch):
    expected = _noisy_score([0, 1, 2])
    assert 0 < expected['instance/AP'] < expected['instance/oracle_AP']
    assert _noisy_score([2, 0, 1, 0]) == expected                            # order and repeats in one process
    collected = []
    monkeypatch.setattr('mmengine.evaluator.metric.collect_results',
                        lambda results, *_, **__: collected.extend(results) or list(collected))
    assert [_noisy_score(seeds) for seeds in SHARDS][-1] == expected


@pytest.mark.parametrize('transfer', [dict(type='PosedTransfer'), dict(type='UnposedTransfer', icp_points=10000)],
                         ids=['posed', 'unposed'])
def test_scenes_score_alike_in_one_batch_and_alone_in_any_order(transfer):
    """All metrics, every digit."""
    configs = [dict(type='InstanceAPMetric', benchmark='scannet20', transfer=transfer), dict(type='DepthMetric'),
               dict(type='CameraMetric')]
    names, found = ['scene0', 'scene1', 'scene2'], []
    for groups in [names], [['scene2'], ['scene0'], ['scene1']], [['scene1', 'scene2'], ['scene0']]:
        metrics = [build(METRICS, config, 'metric') for config in configs]
        for group in groups:
            batch = make_batch(BENCHMARK, num_views=3, names=group)
            for metric in metrics:
                scenes = [_noisy_geometry(batch, index, names.index(name)) for index, name in enumerate(group)]
                metric.process(batch, scenes)
        found.append([metric.evaluate(3) for metric in metrics])
    assert found[0] == found[1] == found[2]
    assert 0 < found[0][0]['instance/AP'] < 1 and found[0][1]['depth/abs_rel'] > 0 and found[0][2]['camera/auc5'] < 1


def _noisy_geometry(batch, index, seed):
    """The scene with instances of `_noisy`, and with depth and cameras that are a little off."""
    generator = torch.Generator().manual_seed(seed)
    scene = make_reconstruction(batch, index, _noisy(batch, index, seed))
    scene.intrinsics = torch.from_numpy(_intrinsics(INPUT_SIZE)).float().repeat(len(scene.depth), 1, 1)
    scene.depth = scene.depth * (1 + 0.01 * torch.randn(scene.depth.shape, generator=generator))
    scene.cam_from_world[:, :3, 3] += 0.05 * torch.randn(len(scene.depth), 3, generator=generator)
    return scene


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    torch.multiprocessing.spawn(_score_shard, (str(tmp_path), SHARDS), nprocs=len(SHARDS))
    assert json.loads((tmp_path / 'numbers.json').read_text()) == _noisy_score([0, 1, 2])


def test_what_is_kept_of_a_scene_does_not_grow_with_it():
    def kept_bytes(batch):
        metric = _metric()
        _process(metric, batch, true_instances)
        return sum(value.nbytes for _, scored in metric.results for record in scored.values()
                   if not isinstance(record, (int, str)) for value in vars(record).values())
    small, large = make_batch(BENCHMARK, num_views=4), make_batch(BENCHMARK, num_views=4)
    truth = large.ground_truth[0]
    for name in ('vertices', 'vertex_ids', 'superpoints'):
        setattr(truth, name, np.repeat(getattr(truth, name), 10, axis=0))
    assert kept_bytes(large) == kept_bytes(small) < 10_000


def test_scene_without_predictions_counts_its_objects():
    batch = make_batch(BENCHMARK, num_views=2)
    none = Instances(true_instances(batch, 0).masks[:0], *[torch.zeros(0, dtype=torch.long)] * 3)
    metric = _metric()
    _process(metric, batch, lambda *_: none)
    numbers = metric.evaluate(1)
    assert numbers['instance/AP'] == numbers['instance/agnostic_AP'] == 0.0


def test_foreign_classes_are_refused_unless_labels_are_ignored():
    batch = make_batch(BENCHMARK, num_views=2)

    def foreign(batch, index):
        instances = true_instances(batch, index)
        instances.labels[0] = 150
        return instances
    with pytest.raises(DataError, match='box: class indices 2 .. 150 do not fit scannet20'):
        _process(_metric(), batch, foreign)
    metric = _metric(class_aware=False)
    _process(metric, batch, foreign)
    numbers = metric.evaluate(1)
    assert 'instance/AP' not in numbers and numbers['instance/agnostic_AP50'] > 0


def test_metrics_say_their_rules():
    metric = _metric(transfer={'type': 'PosedTransfer', 'vote': 'any'})
    _process(metric, make_batch(BENCHMARK, num_views=3), true_instances)
    metric.evaluate(1)
    rules = metric.describe()
    assert rules['vote'] == 'any' and rules['depth_tolerance'] == '0.1 m' and rules['overlaps'] == '0.50:0.05:0.90'
    assert rules['views_per_scene'].startswith('3-3')


def test_wrong_configs_and_data_are_explained():
    with pytest.raises(ConfigError, match="no benchmark 'scanet20'. Did you mean 'scannet20'"):
        _metric(benchmark='scanet20')
    with pytest.raises(ConfigError, match='InstanceAPMetric.transfer'):
        _metric(transfer={'type': 'PosedTransfer', 'tolerance': 1})
    with pytest.raises(ConfigError, match='both are off'):
        _metric(class_aware=False, class_agnostic=False)
    with pytest.raises(ConfigError, match="no depth scale 'medain'. Did you mean 'median'"):
        build(METRICS, {'type': 'DepthMetric', 'scale': 'medain'}, 'metric')
    batch = make_batch(BENCHMARK, num_views=2)
    batch.ground_truth = None
    with pytest.raises(DataError, match='box: this metric needs ground_truth'):
        _process(_metric(), batch, true_instances)


@pytest.mark.parametrize('name', ['DepthMetric', 'CameraMetric'])
def test_geometry_of_another_scale_is_perfect(name):
    metric = build(METRICS, {'type': name}, 'metric')
    batch = make_batch(BENCHMARK, num_views=5, names=['a', 'b'])
    metric.process(batch, [make_reconstruction(batch, index, None) for index in range(2)])
    numbers = metric.evaluate(2)
    expected = {'DepthMetric': {'depth/abs_rel': 0, 'depth/delta_1.25': 1, 'depth/scale': 2, 'depth/scenes': 2,
                                'depth/irls_l1/abs_rel': 0, 'depth/metric/abs_rel': 0.5},
                'CameraMetric': {'camera/auc30': 1, 'camera/rra3': 1, 'camera/pairs': 10, 'camera/scenes': 2}}[name]
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert metric.describe()


def test_single_view_has_no_pair_of_cameras():
    metric = build(METRICS, {'type': 'CameraMetric'}, 'metric')
    batch = make_batch(BENCHMARK, num_views=1)
    metric.process(batch, [make_reconstruction(batch, 0, None)])
    assert metric.evaluate(1) == {'camera/scenes': 0.0}


def test_best_row_of_each_query_is_its_first_highest():
    queries, scores = torch.tensor([3, 1, 3, 1, 7]), torch.tensor([0.5, 0.2, 0.9, 0.2, 0.1])
    assert best_row_per_query(queries, scores).tolist() == [1, 2, 4]


def test_a_data_set_of_another_benchmark_is_refused_before_anything_is_scored():
    metric = _metric()
    metric.dataset_meta = dict(benchmark='scannet20', classes=())
    with pytest.raises(ConfigError, match="scores the 18 classes of 'scannet20', .* those of 'scannet200'"):
        metric.dataset_meta = dict(benchmark='scannet200', classes=())


@pytest.mark.parametrize(('metric', 'name'), [('DepthMetric', 'depth'), ('CameraMetric', 'cam_from_world')])
def test_geometry_that_is_not_finite_is_refused_and_no_error_of_0(metric, name):
    batch = make_batch(BENCHMARK)
    scene = make_reconstruction(batch, 0, true_instances(batch, 0))
    getattr(scene, name).view(-1)[:3] = float('nan')
    with pytest.raises(NonFiniteError, match=rf'not finite: {name} 3 of \d+ values \(3 NaN\)'):
        build(METRICS, {'type': metric}, 'metric').process(batch, [scene])


def test_scores_that_are_not_finite_are_refused_and_no_average_precision_of_0():
    batch = make_batch(BENCHMARK)
    instances = true_instances(batch, 0)
    instances.scores[1] = float('nan')
    with pytest.raises(DataError, match='1 of 4 scores are not finite, the first nan of prediction 1'):
        _process(_metric(), batch, lambda batch, index: instances)


def test_other_rankings_of_the_same_masks_are_scored_too_and_the_ranking_is_said():
    batch = make_batch(BENCHMARK)
    right = true_instances(batch, 0)
    halved, count = right.masks, len(right)
    halved[:, :len(batch.images[0]) // 2] = False                           # seen in half of the views: small overlaps
    both = Instances(torch.cat([right.masks, halved]), torch.zeros(2 * count, dtype=torch.int64),
                     torch.linspace(1, 0.5, 2 * count), torch.arange(2 * count), ranking='cohesion: mean cosine',
                     rankings={'size': torch.linspace(0.5, 1, 2 * count)})
    metric = _metric(class_aware=False)
    assert 'ranking' not in metric.describe()
    metric.process(batch, [make_reconstruction(batch, 0, both)])
    numbers = metric.evaluate(1)
    assert numbers['instance/agnostic_AP'] > numbers['instance/by_size_agnostic_AP'] > 0
    assert metric.describe()['ranking'] == 'cohesion: mean cosine'
