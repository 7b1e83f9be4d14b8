"""Heads that are None are left out: in training, prediction, scores, pictures and files; what needs one says so."""

from __future__ import annotations

import pytest
import torch

from jrs.config import load_config
from jrs.engine.build import build_evaluator, build_model
from jrs.engine.inference import Reconstructor
from jrs.engine.pictures import scene_pictures
from jrs.errors import ConfigError, NotMeasured
from jrs.evaluation.evaluator import SceneEvaluator
from jrs.evaluation.metrics import InstanceAPMetric
from jrs.geometry.cloud import point_cloud
from jrs.io.images import LoadedPhotos
from jrs.io.weights import save_weights
from jrs.structures import SceneGroundTruth
from tests._data import MAIN, random_batch

NO_CAMERA = {'model.camera_head': None, 'model.losses.camera': None}
NO_DEPTH = {'model.depth_head': None, 'model.losses.depth': None}
NO_QUERIES = {f'model.{name}': None for name in ('queries', 'class_head', 'matcher', 'alignment', 'postprocessor')} | {
    f'model.losses.{name}': None for name in ('classification', 'mask_bce', 'mask_dice', 'fada')}
NO_FEATURES = {'model.feature_head': None}
CASES = {'no camera head': NO_CAMERA, 'no depth head': NO_DEPTH,
         'only instances': NO_CAMERA | NO_DEPTH | {'model.teacher': None},
         'only geometry': NO_QUERIES | NO_FEATURES, 'only cameras': NO_QUERIES | NO_DEPTH | NO_FEATURES,
         'no postprocessor': {'model.postprocessor': None}}


def model_of(case: dict) -> tuple:
    torch.manual_seed(0)
    cfg = load_config(MAIN, 'debug', case)
    return build_model(cfg), cfg


def with_truth(batch):
    """The batch with something to score against."""
    views, size = batch.depth_m.shape[1], batch.depth_m.shape[-2:]
    batch.ground_truth = [SceneGroundTruth(
        name, torch.rand(50, 3).double().numpy(), torch.zeros(50, dtype=torch.int64).numpy(), None, batch.depth_m[0].numpy(),
        batch.intrinsics[0].double().numpy(), batch.cam_from_world[0].double().numpy(),
        torch.eye(3).double().expand(views, 3, 3).numpy()) for name in batch.scene_names]
    assert size == (56, 56)
    return batch


@pytest.mark.parametrize('case', CASES)
def test_what_is_left_out_trains_predicts_and_scores(case):
    model, cfg = model_of(CASES[case])
    terms = model.train()(random_batch(), mode='loss')
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    batch = with_truth(random_batch())
    scene = model.eval()(batch, mode='predict')[0]
    absent = {name for name in ('cam_from_world', 'intrinsics', 'depth', 'depth_conf', 'instances', 'features')
              if getattr(scene, name) is None}
    cameras, depth, instances = ({'cam_from_world', 'intrinsics'}, {'depth', 'depth_conf'}, {'instances', 'features'})
    assert absent == {'no camera head': cameras, 'no depth head': depth, 'only instances': cameras | depth,
                      'only geometry': instances, 'only cameras': instances | depth, 'no postprocessor': {'instances'}}[case]
    assert ('depth' in scene_pictures(scene, 2)) == (scene.depth is not None)
    evaluator = build_evaluator(dict(cfg.metrics, attention=None))
    evaluator.process(data_samples=[scene.to('cpu')], data_batch=batch)
    numbers, rules = evaluator.evaluate(1), evaluator.describe()
    for prefix, lacks in (('camera', cameras & absent), ('depth', depth & absent), ('instance', {'instances'} & absent)):
        assert any(name.startswith(f'{prefix}/') for name in numbers) == (not lacks)
        assert rules.get(prefix, '').startswith('not measured: the model has no') == bool(lacks), (prefix, rules)


def test_own_geometry_cannot_carry_masks_where_there_is_none_and_true_geometry_can():
    model, _ = model_of(NO_CAMERA)
    batch = with_truth(random_batch())
    scene = model.eval()(batch, mode='predict')[0]
    metrics = [InstanceAPMetric('scannet20', dict(type=name), class_aware=False, prefix=name)
               for name in ('PosedTransfer', 'UnposedTransfer')]
    evaluator = SceneEvaluator(metrics)
    evaluator.process([scene], batch)
    numbers = evaluator.evaluate(1)
    assert 'PosedTransfer/agnostic_AP' in numbers and not any(name.startswith('UnposedTransfer') for name in numbers)
    assert 'no camera head' in evaluator.describe()['UnposedTransfer']
    with pytest.raises(NotMeasured, match='no camera head'):
        point_cloud(scene)


@pytest.mark.parametrize('case', ['no depth head', 'only instances', 'only geometry'])
def test_infer_writes_what_there_is_and_says_what_is_left_out(tmp_path, case):
    model, cfg = model_of(CASES[case])
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    save_weights(model, tmp_path / 'weights.safetensors', dict(benchmark='scannet200'))
    reconstruct = Reconstructor(checkpoint=tmp_path / 'weights.safetensors', device='cpu', min_score=0.0)
    scene = reconstruct(LoadedPhotos.of_input(torch.rand(2, 3, 42, 56), ['a', 'b']))
    written = {path.name for path in scene.save(tmp_path / 'out', glb=True, colmap=True)}
    expected = {'report.html', 'views'} | ({'masks', 'instances.json'} if case != 'only geometry' else set()) | (
        {'cameras.json'} if case in ('no depth head', 'only geometry') else set())
    if case == 'only geometry':
        expected |= {'cloud.ply', 'scene.glb', 'colmap'}
    assert written == expected
    lacks = [head for head in ('camera head', 'depth head') if case in (f'no {head}', 'only instances')]
    report = (tmp_path / 'out/report.html').read_text()
    assert all(f'no {head}' in scene.left_out and f'no {head}' in report for head in lacks)
    assert bool(scene.left_out) == bool(lacks)


@pytest.mark.parametrize('options', [{'model.feature_head': None}, {'model.class_head': None}])
def test_a_head_that_queries_need_is_named(options):
    with pytest.raises(ConfigError, match=f'model.queries needs {next(iter(options))}'):
        model_of(options)


def test_losses_of_matched_queries_say_that_they_need_a_matcher():
    model, _ = model_of({'model.matcher': None})
    with pytest.raises(ConfigError, match='model.matcher'):
        model(random_batch(), mode='loss')
    assert model.eval()(random_batch(), mode='predict')[0].instances is not None


def test_geometry_alone_trains_on_data_without_instances_though_there_are_queries():
    model, _ = model_of({f'model.losses.{name}': None for name in ('classification', 'mask_bce', 'mask_dice', 'fada')})
    batch = random_batch()
    batch.instance_ids = batch.instances = None
    assert set(model(batch, mode='loss')) >= {'loss_camera', 'loss_depth'}
