"""What an update is made of: slots that processes share equally; what counts otherwise is refused before work is lost."""

from __future__ import annotations

import pytest
import torch

from jrs.config import load_config
from jrs.engine.build import build_runner
from jrs.engine.update import Update, split_of, update_of
from jrs.errors import ConfigError
from jrs.registry import SAMPLERS
from tests._data import MAIN, command
from tests.engine.test_processes import losses, words

EIGHT = Update(8, 48)


@pytest.mark.parametrize(('profile', 'slots', 'images'), [('paper', 8, 48), ('rooms_small', 1, 192), ('rooms', 1, 24),
                                                          ('debug', 2, 4)])
def test_every_scale_says_of_what_its_updates_are_made(profile, slots, images):
    cfg = load_config(MAIN, profile)
    assert update_of(cfg) == Update(slots, images) and cfg.batches.slots == slots and cfg.train.accumulate is None


@pytest.mark.parametrize(('processes', 'accumulation'), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_processes_times_accumulation_are_the_slots(processes, accumulation):
    assert EIGHT.accumulation(processes) == EIGHT.accumulation(processes, accumulation) == accumulation
    assert f'= {processes} process' in EIGHT.shared_by(processes) and f'x {accumulation} acc' in EIGHT.shared_by(processes)
    facts = split_of(load_config(MAIN), processes)
    assert facts == dict(update='8 slots of at most 48 images', slots=8, processes=processes, accumulation=accumulation)


@pytest.mark.parametrize(('update', 'processes', 'words'), [
    (EIGHT, 3, ['3 processes', '8 slots of at most 48 images', '1, 2, 4 or 8 processes', 'batches.slots=3']),
    (EIGHT, 16, ['16 processes', '1, 2, 4 or 8 processes']), (Update(1, None), 2, ['2 processes', 'start 1 process '])])
def test_a_number_of_processes_that_does_not_divide_is_refused_with_those_that_do(update, processes, words):
    with pytest.raises(ConfigError) as error:
        update.accumulation(processes)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(('slots', 'most', 'processes'), [(8, 1, 1), (8, 3, 2), (8, 7, 4), (8, 64, 8), (6, 5, 3), (1, 8, 1),
                                                          (7, 6, 1)])
def test_as_many_processes_as_share_an_update_are_started(slots, most, processes):
    assert Update(slots, 4).processes_within(most) == processes


def test_an_accumulation_that_makes_another_update_is_refused_before_data_are_looked_for(tmp_path, capsys):
    assert command('train', *words(tmp_path / 'nowhere', tmp_path / 'run', 'train.accumulate=3')) == 2
    said = capsys.readouterr().err
    assert 'train.accumulate=3 with 1 process makes updates of 3 slots' in said and 'train.accumulate=None (it is 2' in said
    assert 'batches.slots=3' in said and 'nowhere' not in said and not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('option', 'value'), [('batches.slots', 0), ('batches.slots', True), ('batches.slots', 2.0),
                                               ('train.accumulate', 0), ('train.accumulate', 1.5)])
def test_what_is_no_whole_number_is_refused(option, value, tmp_path):
    with pytest.raises(ConfigError, match=f'{option} must be a whole number of at least 1'):
        build_runner(load_config(MAIN, 'debug', {'data_root': str(tmp_path), option: value}), tmp_path / 'run')


def test_a_sampler_of_ones_own_has_the_update_that_it_says():
    parts = {}
    for name, lines in dict(Fixed='', Own='slots: int = 3', Passing='**options').items():
        base = SAMPLERS.get('ViewBatchSampler') if name == 'Passing' else object
        scope: dict = dict(base=base)
        exec(f'class {name}(base):\n    def __init__(self{", " + lines if lines else ""}): pass', scope)
        parts[name] = SAMPLERS.register_module(module=scope[name], name=f'_{name}', force=True) or scope[name]
    try:
        sizes = {name: update_of(dict(batches=dict(type=f'_{name}'))) for name in parts}
        assert sizes == dict(Fixed=Update(1, None), Own=Update(3, None), Passing=Update(1, 48))
        assert update_of(dict(batches=dict(type='_Passing', slots=5))) == Update(5, 48)
    finally:
        for name in parts:
            SAMPLERS.module_dict.pop(f'_{name}')


def test_a_checkpoint_that_counts_batches_of_one_process_is_not_gone_on_with(debug_data, tmp_path, capsys):
    """What is refused leaves the run as it was."""
    assert command('train', *words(debug_data, tmp_path, 'train.iterations=1')) == 0
    first, state = losses(tmp_path), torch.load(tmp_path / 'iter_1.pth', weights_only=True)
    assert state['engine'].pop('update') == '2 slots of at most 2 images' and len(first) == 1
    assert state['optimizer']['state'][0]['step'] == 1                         # one update, of two slots
    torch.save(state, tmp_path / 'iter_1.pth')
    before = (tmp_path / 'run.json').read_text()
    capsys.readouterr()
    assert command('train', *words(debug_data, tmp_path, flags=('--resume',))) == 2
    said = capsys.readouterr().err
    assert 'iter_1.pth is from before batches.slots' in said and 'weights=FILE' in said
    assert losses(tmp_path) == first and (tmp_path / 'run.json').read_text() == before
