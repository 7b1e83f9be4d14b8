"""A part that does not keep the contract of its slot is refused when it is built, with everything that it lacks."""

from __future__ import annotations

import re

import mmengine.evaluator
import mmengine.hooks
import pytest
import torch
from torch import nn

from jrs import registry
from jrs.contracts import CONTRACTS
from jrs.contracts.contract import is_kind
from jrs.errors import PluginError
from jrs.registry import SLOTS, build

ATTRIBUTES = dict(embed_dim=8, feature_dim=8, patch_size=8, num_query_layers=1, feature_layers=(0,), size_rule='any',
                  pose_convention='any', scale='arbitrary', has_reference_view=False, weights_licence='none')
PATHS = {'HEADS': 'model.camera_head', 'SAMPLERS': 'batches', 'POSTPROCESSORS': 'model.postprocessor'}


@pytest.fixture
def register(monkeypatch):
    """Register classes for one test: ``register('COSTS', class) -> its name``."""
    def add(slot: str, part: type) -> str:
        SLOTS[slot.lower()].names()
        monkeypatch.setitem(SLOTS[slot.lower()]._module_dict, part.__name__, part)
        return part.__name__
    return add


def backbone(**changes) -> type:
    """Return a class with everything that a backbone needs but the attributes that are None."""
    facts = {name: value for name, value in {**ATTRIBUTES, **changes}.items() if value is not None}
    calls = {} if 'layers' in changes else dict(layers=lambda self, images: iter(()))
    return type('Small', (nn.Module,), {'features': lambda self: None, **calls, **facts})


def refusal(slot: str, part: type, register, path: str | None = None) -> str:
    with pytest.raises(PluginError) as raised:
        build(SLOTS[slot.lower()], dict(type=register(slot, part)), path or PATHS.get(slot, f'model.{slot.lower()}'))
    return str(raised.value)


@pytest.mark.parametrize('name', ATTRIBUTES)
def test_a_backbone_without_one_attribute_is_refused_before_it_is_used(name, register):
    message = refusal('BACKBONES', backbone(**{name: None}), register)
    assert f'it lacks {name}.' in message and 'describe BACKBONES' in message and 'model.backbones: Small' in message


def test_every_missing_name_stands_in_one_error(register):
    message = refusal('BACKBONES', type('Bare', (nn.Module,), {}), register)
    lacking = re.search('it lacks (.*)\\. `python', message)[1]
    assert lacking == ', '.join([*ATTRIBUTES, 'layers(images)', 'features()'])


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('feature_layers', 4, 'feature_layers is 4, not a sequence of int'),
    ('feature_layers', ('a',), 'not a sequence of int'), ('patch_size', 8.0, 'patch_size is 8.0, not int'),
    ('patch_size', True, 'not int'), ('scale', 'meters', "'meters', not one of 'arbitrary', 'metric'"),
    ('has_reference_view', 'no', "has_reference_view is 'no', not bool"), ('full_precision', ['proj'], 'not a tuple of str'),
    ('layers', lambda self: None, r'it is called as layers\(images\), and its own is layers\(\): too many'),
    ('layers', 3, 'layers is 3, not a method'),
    ('features', lambda self, images: None, r'called as features\(\), and its own is features\(images\): missing')])
def test_what_is_of_another_kind_is_refused(name, value, words, register):
    assert re.search(words, refusal('BACKBONES', backbone(**{name: value}), register))


def test_several_faults_are_told_at_once(register):
    message = refusal('BACKBONES', backbone(scale=None, patch_size='8', layers=lambda self: None), register)
    assert all(words in message for words in ('lacks scale', "patch_size is '8'", 'layers(images)'))


@pytest.mark.parametrize('slot', sorted(CONTRACTS))
def test_an_object_with_nothing_is_refused_in_every_slot(slot, register):
    message = refusal(slot, type('Nothing', (), {}), register, f'somewhere.{slot.lower()}')
    assert 'lacks' in message or 'must derive from mmengine.hooks.Hook' in message


def test_a_loss_that_reads_something_unknown_is_told_what_there_is(register):
    part = type('Odd', (), {'reads': 'pixels', '__call__': lambda self, pred, target, match: None})
    message = refusal('LOSSES', part, register, 'model.losses.odd')
    assert "reads is 'pixels', not one of 'instances', 'features', 'geometry'" in message


@pytest.mark.parametrize(('reads', 'call'), [
    ('instances', lambda self, pred, target: None), ('features', lambda self, features, target, match: None),
    ('geometry', lambda self, predictions: None)])
def test_a_loss_is_checked_against_the_call_of_what_it_reads(reads, call, register):
    part = type('Odd', (), {'reads': reads, '__call__': call})
    assert f'LOSSES.{reads}: it is called as __call__(' in refusal('LOSSES', part, register, 'model.losses.odd')


def test_the_key_of_the_config_says_which_kind_of_part_is_asked_for(register):
    chooser = type('Chooser', (), {'choose': lambda self, scene, frames, num_views, rng: None})
    name = register('SAMPLERS', chooser)
    assert build(registry.SAMPLERS, dict(type=name), 'dataset.view_choice').choose
    with pytest.raises(PluginError, match=r'SAMPLERS.batches: it lacks set_position\(iteration\), __iter__\(\)'):
        build(registry.SAMPLERS, dict(type=name), 'batches')
    with pytest.raises(PluginError, match=r'transfer: it lacks describe\(\), visible_pixels'):
        build(registry.POSTPROCESSORS, dict(type='QueryMasks'), 'metrics.instances.transfer')


def test_a_module_without_forward_cannot_be_called(register):
    assert 'it lacks __call__(features)' in refusal('HEADS', type('Deaf', (nn.Module,), {}), register)


def test_functions_closures_and_finished_objects_may_be_parts():
    for part in (lambda attention, target: attention, torch.nn.functional.kl_div, lambda *anything: None):
        assert build(registry.ALIGNMENTS, part, 'model.alignment') is part
    with pytest.raises(PluginError, match='called as'):
        build(registry.ALIGNMENTS, lambda attention: attention, 'model.alignment')


def test_mmengine_s_own_parts_pass():
    class Plain(mmengine.evaluator.BaseMetric):
        def process(self, data_batch, data_samples):
            pass

        def compute_metrics(self, results):
            return {}
    assert build(registry.METRICS, Plain(), 'metrics.plain')
    for name in ('EMAHook', 'ParamSchedulerHook', 'EarlyStoppingHook'):
        options = dict(monitor='loss') if name == 'EarlyStoppingHook' else {}
        assert isinstance(build(registry.HOOKS, dict(type=name, **options), f'hooks.{name}'), mmengine.hooks.Hook)
    assert build(registry.METRICS, dict(type='DumpResults', out_file_path='x.pkl'), 'metrics.dump')


def test_a_hook_that_cannot_take_its_call_is_refused(register):
    part = type('Short', (mmengine.hooks.Hook,), {'after_train_iter': lambda self, runner: None})
    assert 'after_train_iter(runner, batch_idx=batch_idx' in refusal('HOOKS', part, register)


@pytest.mark.parametrize(('value', 'annotation', 'fits'), [
    (1, int, True), (True, int, False), (1, float, True), ('x', float, False), (None, int | None, True),
    ('x', int | None, False), ((1, 2), tuple[int, ...], True), ([1], tuple[int, ...], False), ('ab', tuple[str, ...], False),
    (object(), object, True)])
def test_kinds(value, annotation, fits):
    assert is_kind(value, annotation) is fits
