"""Attention evidence from whole runs: as a metric of validation and test, and as a study of one checkpoint."""

import json

import numpy as np
import pytest
import torch

from jrs.cli.attention import chosen
from jrs.config import load_config, parse_override
from jrs.engine.attention import paper_layers, study, telling_instance
from jrs.engine.build import build_dataset, build_model, build_runner
from jrs.errors import ConfigError, DataError, NonFiniteError
from jrs.models.attention import best_scored
from jrs.structures import Instances, InstanceTargets
from tests._data import MAIN, command, forget_runs, random_batch

OFF = ('hooks.pictures=None', 'metrics.instances=None', 'metrics.depth=None', 'metrics.cameras=None')


def test_validation_and_test_log_it_when_the_config_names_the_metric(debug_data, tmp_path):
    options = (f'data_root={debug_data}', *OFF, 'metrics.attention.type=AttentionMetric', 'train.validate_every=2')
    assert command('test', MAIN, 'untrained', '--profile', 'debug', '--out', tmp_path, '--cfg-options', *options) == 0
    results = json.loads((tmp_path / 'results.json').read_text())
    numbers = results['metrics']
    assert 'training matcher' in results['facts']['attention']
    for name in ('view_mass', 'entropy', 'js'):
        assert {f'attention/{name}/layer_{layer:02}' for layer in range(4)} < set(numbers)
    assert 0 < numbers['attention/view_mass/layer_00'] <= 1 + 1e-6 and numbers['attention/instances'] > 0
    forget_runs()
    runner = build_runner(load_config(MAIN, 'debug', dict(map(parse_override, options))), tmp_path / 'run')
    assert runner.val() == pytest.approx(numbers)                   # the same scene and the same untrained model
    assert not runner.model.reports_matches                         # asked for while it is scored, not in training


@pytest.fixture(scope='module')
def cfg(debug_data):
    return load_config(MAIN, 'debug', {'data_root': str(debug_data), 'model.teacher': None})


@pytest.fixture(scope='module')
def scene(cfg):
    return build_dataset(cfg, 'test_dataset')[0]


@pytest.fixture(scope='module')
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


def test_a_study_has_the_numbers_of_the_metric_and_maps_that_add_up(model, scene):
    number = telling_instance(scene)
    sums, (shown,) = study(model, [scene], {scene.scene_names[0]: [number]}, (1, 3), per_head=True)
    model.reports_matches = True
    matched = model(scene, mode='predict')[0].matched
    model.reports_matches = False
    row = matched.target.ids.tolist().index(number)
    visible = matched.target.view_visibility > 0
    np.testing.assert_allclose(sums.per_layer['view_mass'], (matched.view_attention * visible).sum((1, 2)), rtol=1e-5)
    assert shown.query == matched.queries[row] and shown.mask.equal(matched.target.masks[row])
    assert tuple(shown.maps) == tuple(shown.view_attention) == (1, 3)
    views, grid = scene.images.shape[1], tuple(size // 14 for size in scene.images.shape[-2:])
    for layer, maps in shown.maps.items():
        assert maps.shape == (2, views, *grid)                                      # two heads
        on_patches, share = maps.mean(0).sum((-1, -2)), shown.view_attention[layer]
        assert (on_patches > 0).all() and (on_patches < share).all()                # the rest lies on special tokens
    assert (sums.per_layer['special_mass'] > 0).all()
    _, every = study(model, [scene], {scene.scene_names[0]: matched.target.ids.tolist()}, (1, 3), per_head=True)
    assert len(every) == sums.instances
    for layer in (1, 3):
        special = sum(1 - one.maps[layer].mean(0).sum().item() for one in every)
        assert sums.per_layer['special_mass'][layer] == pytest.approx(special, rel=1e-4)
    tokens = grid[0] * grid[1]
    assert sums.uniform['special_mass'] == pytest.approx(sums.instances * 5 / (5 + tokens))


def test_a_study_may_take_the_queries_of_the_best_scored_predictions(model, scene):
    model.reports_matches = True
    found = model(scene, mode='predict')[0]
    model.reports_matches = False
    match = best_scored(found.instances, found.matched.target)       # all instances have a query of the matcher
    number = int(found.matched.target.ids[match.instances[0]])
    sums, (shown,) = study(model, [scene], {scene.scene_names[0]: [number]}, (1,), by='score')
    assert sums.instances == len(match.queries) and shown.query == match.queries[0]
    _, (matched,) = study(model, [scene], {scene.scene_names[0]: [number]}, (1,))
    assert matched.query != shown.query


def test_the_query_by_score_is_the_best_one_whose_mask_is_most_of_that_instance():
    masks = torch.zeros(3, 1, 2, 4, dtype=torch.bool)               # instances: left half, right half, one that nobody finds
    masks[0, ..., :2], masks[1, 0, :, 2:] = True, True
    masks[2, 0, 0, 0] = True
    target = InstanceTargets(torch.zeros(3, dtype=torch.int64), masks, torch.ones(3, 1))
    predicted = torch.zeros(4, 1, 2, 4, dtype=torch.bool)
    predicted[0, ..., :3], predicted[1, ..., :2], predicted[2, ..., 1:] = True, True, True         # the last is empty
    found = Instances(predicted, torch.zeros(4, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7, 0.6]),
                      torch.tensor([7, 5, 2, 1]))
    match = best_scored(found, target)
    assert (match.queries.tolist(), match.instances.tolist()) == ([2, 7], [1, 0])
    assert best_scored(found, target.select(torch.zeros(0, dtype=torch.int64))).queries.numel() == 0


def test_instances_are_chosen_by_the_name_of_their_class(cfg, scene):
    dataset = build_dataset(cfg, 'test_dataset')
    names = [str(index) for index in range(198)]
    number = telling_instance(scene)
    label = int(scene.instances[0].labels[scene.instances[0].ids == number])
    assert chosen(dataset, None, None, [names[label]], names) == {scene.scene_names[0]: [number]}
    assert chosen(dataset, scene.scene_names[0], [number], [names[label]], names) == {scene.scene_names[0]: [number]}
    absent = next(name for index, name in enumerate(names) if index not in scene.instances[0].labels)
    with pytest.raises(DataError, match=f'--class {absent}: no view of {scene.scene_names[0]} shows one'):
        chosen(dataset, scene.scene_names[0], None, [absent], names)
    with pytest.raises(ConfigError, match="no class 'chiar'.*'chair'"):
        chosen(dataset, None, None, ['chiar'], ['chair'])


def test_even_attention_has_the_uniform_pixel_mass(model, scene):
    for block in model.queries.cross_blocks.values():
        torch.nn.init.zeros_(block.attn.q_norm.weight), torch.nn.init.zeros_(block.attn.q_norm.bias)
    sums, _ = study(model, [scene], {}, ())
    for name, uniform in sums.uniform.items():
        np.testing.assert_allclose(sums.per_layer[name], uniform, rtol=1e-5)


def test_an_instance_without_a_query_is_named_with_those_that_have_one(model, scene):
    with pytest.raises(DataError, match=r'no query is matched to an instance 999. Matched are \['):
        study(model, [scene], {scene.scene_names[0]: [999]}, ())


def test_the_telling_instance_is_large_and_not_everywhere():
    batch = random_batch(4, 3)
    batch.instance_ids[:] = 0
    batch.instance_ids[0, :, :9] = 1                                # in all views
    batch.instance_ids[0, :3, 20:25], batch.instance_ids[0, 1, 30:34] = 2, 3
    assert telling_instance(batch) == 3
    batch.instance_ids[0, 1, 30:34] = 0
    assert telling_instance(batch) == 2
    batch.instance_ids[0, :3, 20:25] = 0
    assert telling_instance(batch) == 1
    with pytest.raises(DataError, match='no view shows an instance'):
        telling_instance(random_batch(2, 0))


@pytest.mark.parametrize(('inserted', 'depth', 'expected'), [
    (range(24), 24, (14, 22, 23)), (range(12), 12, (7, 10, 11)), (range(1, 24, 2), 24, (15, 21, 23)),
    (range(12), 24, (9, 10, 11)), ([1], 2, (1,))])
def test_the_papers_layers_scale_with_the_backbone(inserted, depth, expected):
    assert paper_layers(tuple(inserted), depth) == expected


def test_a_network_whose_numbers_are_not_finite_is_not_looked_at(model, scene, monkeypatch):
    monkeypatch.setattr(model.class_head, 'forward', lambda embedding: torch.full((*embedding.shape[:2], 199), torch.nan))
    monkeypatch.setattr(model, 'postprocessor', None)
    with pytest.raises(NonFiniteError, match=r'class_logits 2388 of 2388 values \(2388 NaN\)'):
        study(model, [scene.unpacked()], {}, ())
