"""What a training's loader ships: packed, and no map that nothing reads."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

from jrs.config import load_config
from jrs.engine.build import build_dataset, build_evaluator, build_model, build_runner, maps_of_run, training_loader
from jrs.engine.pictures import SceneImages
from jrs.models.teacher import GroundTruthTeacher
from jrs.registry import HOOKS, TEACHERS
from tests._data import ROOT, forget_runs

CONFIG = ROOT / 'configs' / 'segvggt' / 'all24_fada.py'
GEOMETRY = ROOT / 'configs' / 'geometry' / 'segvggt_geometry_only.py'
PRETRAINED = dict(_delete_=True, type='PretrainedTeacher', model=dict(type='SegVGGT'), checkpoint='none')


class Own(GroundTruthTeacher):
    """A plugin's teacher that says nothing of what it reads."""

    @property
    def reads_maps(self):
        raise AttributeError




@pytest.mark.parametrize(('config', 'teacher', 'maps'), [
    (CONFIG, dict(type='GroundTruthTeacher'), {'depth_m', 'instance_ids'}), (CONFIG, PRETRAINED, {'instance_ids'}),
    (CONFIG, dict(PRETRAINED, truth='cameras'), {'depth_m', 'instance_ids'}), (GEOMETRY, PRETRAINED, set()),
    (GEOMETRY, dict(type='GroundTruthTeacher'), {'depth_m'}), (CONFIG, None, {'instance_ids'}),
    (GEOMETRY, dict(type='Own'), {'depth_m', 'instance_ids'})])
def test_a_loader_ships_what_the_teacher_and_the_queries_read(config, teacher, maps, debug_data, monkeypatch):
    TEACHERS.names()
    monkeypatch.setitem(TEACHERS._module_dict, 'Own', Own)
    cfg = load_config(config, 'debug', {'data_root': str(debug_data), 'batches.max_images': 4})
    cfg.model.teacher = None if teacher is None else {key: value for key, value in teacher.items() if key != '_delete_'}
    found = maps_of_run(build_model(cfg))
    batch = next(iter(training_loader(cfg, build_dataset(cfg, 'train_dataset', found))))
    assert {name for name in ('depth_m', 'instance_ids') if getattr(batch, name) is not None} == found == maps
    assert batch.images.dtype == torch.uint8 and batch.cam_from_world is not None


def test_metrics_keep_what_they_read_and_foreign_hooks_everything():
    cfg = load_config(CONFIG, 'debug')
    nothing = type('Model', (), dict(reads_maps=()))()
    assert maps_of_run(nothing, build_evaluator(cfg.metrics).metrics) == {'depth_m', 'instance_ids'}
    metrics = {'cameras': cfg.metrics.cameras, 'instances': dict(cfg.metrics.instances, oracle=False)}
    assert maps_of_run(nothing, build_evaluator(metrics).metrics) == set()
    plain = dict(metrics, dump=dict(type='DumpResults', out_file_path='x.pkl'))
    assert maps_of_run(nothing, build_evaluator(plain).metrics) == {'depth_m', 'instance_ids'}
    assert maps_of_run(nothing, hooks=[SceneImages(5), EMAHook()]) == set()
    assert maps_of_run(nothing, hooks=[type('Foreign', (Hook,), {})()]) == {'depth_m', 'instance_ids'}
    assert maps_of_run(nothing, hooks=[type('Frugal', (Hook,), dict(reads_maps=()))()]) == set()


def test_nothing_sees_float_images_before_the_device(debug_data, tmp_path, monkeypatch):
    """From the loader to the hooks of a run, with its numbers on the device in [0, 1]."""
    seen = {}

    class Watch(Hook):
        reads_maps = ('depth_m',)

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.update(before=data_batch[-1])

    monkeypatch.setitem(HOOKS._module_dict, 'Watch', Watch)
    forget_runs()
    cfg = load_config(CONFIG, 'debug', {'data_root': str(debug_data), 'train.iterations': 1, 'hooks.pictures': None,
                                        'batches.max_images': 2, 'batches.views': (2, 2), 'hooks.watch.type': 'Watch'})
    runner = build_runner(cfg, tmp_path)
    runner.model.register_forward_pre_hook(lambda _, words, options: seen.update(inside=options['batch']), with_kwargs=True)
    runner.train()
    before, inside = seen['before'], seen['inside']
    assert before.images.dtype == torch.uint8 and before.instance_ids.dtype == torch.int16
    assert torch.equal(inside.images, before.images.float() / 255) and torch.equal(inside.instance_ids,
                                                                                  before.instance_ids.long())
