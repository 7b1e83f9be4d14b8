"""What a plugin sees of a run: a metric that knows mmengine only, every step, every evaluation."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric

from jrs.engine.hooks import step_facts
from jrs.evaluation.evaluator import SceneEvaluator
from jrs.evaluation.metrics import CameraMetric
from jrs.plugins import NAMESPACE, manager
from jrs.registry import METRICS
from tests._data import MAIN, command
from tests.engine.test_train import SMALL

PLUGIN = '''"""A metric on mmengine's base class, and an observer."""
from mmengine.evaluator import BaseMetric
from jrs.plugins import hook
from jrs.registry import METRICS
steps, evaluations = [], []


@METRICS.register_module()
class ViewCount(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [len(scene.view_names) for scene in data_samples for _ in range(3)]

    def compute_metrics(self, results):
        return {'views': sum(results) / 3, 'scenes_seen': len(results) / 3, 'rule': 'all views', 'table': {'a': 1}}


@hook
def jrs_training_step(iteration, total, terms, parts):
    steps.append((iteration, total, terms, parts))


@hook
def jrs_evaluation(iteration, metrics):
    evaluations.append((iteration, metrics))
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The config of an experiment with `PLUGIN`; what it registers is forgotten afterwards."""
    METRICS.names()
    monkeypatch.setattr(METRICS, '_module_dict', dict(METRICS._module_dict))
    (tmp_path / 'watcher.py').write_text(PLUGIN)
    config = tmp_path / 'watched.py'
    config.write_text(f"_base_ = {str(MAIN)!r}\nplugins = ['./watcher.py']\nmetrics = dict(views=dict(type='ViewCount'))\n")
    yield config
    manager().unregister(name='watcher')
    sys.modules.pop(f'{NAMESPACE}.watcher', None)


NO_CAMERA = ('model.camera_head=None', 'model.losses.camera=None', 'hooks.pictures.type=SceneImages',
             'hooks.pictures.interval=1')


def test_a_plain_metric_and_the_hooks_serve_training_and_scoring_of_a_model_without_cameras(plugin, debug_data, tmp_path,
                                                                                            capsys):
    options = ['--cfg-options', f'data_root={debug_data}', 'test_dataset.max_views=2', *SMALL, *NO_CAMERA]
    assert command('train', plugin, '--profile', 'debug', '--work-dir', tmp_path / 'run', *options, 'train.iterations=2',
                   'train.validate_every=2', 'val_dataset.max_views=2') == 0
    assert command('test', plugin, tmp_path / 'run/weights.safetensors', '--profile', 'debug', *options) == 0
    watcher = sys.modules[f'{NAMESPACE}.watcher']
    assert [step[0] for step in watcher.steps] == [0, 1]
    for _, total, terms, parts in watcher.steps:
        assert sum(terms.values()) == pytest.approx(total, rel=1e-5) and 'loss_depth' in terms and 'loss' not in terms
        assert 'depth/regression' in parts and not parts.keys() & terms.keys()
    assert [iteration for iteration, _ in watcher.evaluations] == [2, None]
    results = json.loads((tmp_path / 'run/test/results.json').read_text())
    scenes = len(results['scenes'])
    for metrics in (*(metrics for _, metrics in watcher.evaluations), results['metrics']):
        assert metrics['scenes_seen'] == scenes and metrics['views'] == 2 * scenes
        assert 'instance/AP' in metrics and all(value is None or type(value) is float for value in metrics.values())
    assert results['facts']['rule'] == 'all views' and results['facts']['table'] == "{'a': 1}"
    assert results['facts']['scale']                                            # the rules of our metrics stay
    shown = capsys.readouterr().out
    assert 'camera: not measured: the model has no camera head' in shown and 'camera/auc' not in shown


def test_a_step_is_told_as_total_weighted_terms_and_parts():
    facts = step_facts({'loss': 3.0, 'loss_a': 1.0, 'loss_b': 2.0, 'a/part': 7.0})
    assert facts == dict(total=3.0, terms={'loss_a': 1.0, 'loss_b': 2.0}, parts={'a/part': 7.0})
    left_out = step_facts({})
    assert math.isnan(left_out['total']) and left_out['terms'] == left_out['parts'] == {}


class Names(BaseMetric):
    """Keeps two results per scene, and returns numbers of many kinds."""

    default_prefix = 'plain'

    def process(self, data_batch, data_samples):
        for name in data_batch.scene_names:
            self.results += [name, name]

    def compute_metrics(self, results):
        return {'count': len(results), 'order': ' '.join(results), 'array': np.float32(2), 'tensor': torch.tensor([3.0]),
                'nothing': None, 'nan': float('nan'), 'true': True}


class Batch:
    def __init__(self, *names):
        self.scene_names = list(names)


def test_a_plain_metric_counts_each_scene_once_and_gives_plain_numbers():
    evaluator = SceneEvaluator([Names()])
    evaluator.dataset_meta = {'classes': ('a',)}
    assert evaluator.metrics[0].metric.dataset_meta == {'classes': ('a',)}
    for name in ('b', 'a', 'b'):
        evaluator.process([None], Batch(name))
    found = evaluator.evaluate(1)
    assert found.pop('plain/nan') != 0 and found == {
        'plain/count': 4.0, 'plain/array': 2.0, 'plain/tensor': 3.0, 'plain/true': 1.0}
    assert evaluator.describe() == {'plain/order': 'a a b b', 'plain/nothing': 'None'}


def test_a_metric_without_a_prefix_is_told_so_by_its_own_name_only(monkeypatch):
    class Bare(Names):
        default_prefix = None
    said = []
    monkeypatch.setattr('mmengine.evaluator.metric.print_log', lambda text, *_, **__: said.append(text))
    evaluator = SceneEvaluator([Bare()])
    evaluator.process([None], Batch('a'))
    assert 'count' in evaluator.evaluate(1) and said == ['The prefix is not set in metric class Bare.']


def test_shards_of_several_processes_are_joined_for_a_plain_metric(monkeypatch):
    collected = []
    monkeypatch.setattr('mmengine.evaluator.metric.collect_results',
                        lambda results, *_, **__: collected.extend(results) or list(collected))
    for shard in (['c', 'a'], ['b', 'a', 'd']):
        evaluator = SceneEvaluator([Names()])
        for name in shard:
            evaluator.process([None], Batch(name))
        evaluator.evaluate(4)
    assert evaluator.describe()['plain/order'] == 'a a b b c c d d'


def test_our_metrics_and_those_with_their_own_evaluation_stay_as_they_are():
    class Own(Names):
        def evaluate(self, size):
            return {'own': size}
    metrics = [CameraMetric(), Own()]
    evaluator = SceneEvaluator(metrics)
    assert evaluator.metrics == metrics and evaluator.describe()['pairs']
