"""Averaged weights: the mean of those after the last updates, to the bit the same after a resume."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn

from jrs.engine.averaging import AveragedWeights
from jrs.errors import ConfigError
from jrs.io.weights import read_metadata
from jrs.places import AVERAGED_FILE
from tests._data import command
from tests.engine.test_train import words

HOOK = "hooks.averaged={'type':'AveragedWeights','share':0.25}"                # of 8 updates: the last two


@pytest.fixture(scope='module')
def finished(debug_data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('averaged')
    assert command('train', *words(debug_data, work_dir, 'train.save_every=1', HOOK)) == 0
    return work_dir


def test_a_run_leaves_the_mean_of_its_last_updates(finished):
    seventh, last = (torch.load(finished / f'iter_{number}.pth', weights_only=True)['state_dict'] for number in (7, 8))
    averaged, trained = load_file(finished / AVERAGED_FILE), load_file(finished / 'weights.safetensors')
    assert averaged.keys() == trained.keys()
    moved = [name for name in averaged if not seventh[name].equal(last[name])]
    assert len(moved) > 100
    for name, value in averaged.items():
        torch.testing.assert_close(value, (seventh[name] + last[name]) / 2, rtol=1e-6, atol=1e-8)
    assert read_metadata(finished / AVERAGED_FILE)['averaged'] == 'mean over the last 2 updates'


def test_their_scores_stand_beside_those_of_the_trained_weights(finished, debug_data):
    for name, folder in (('weights.safetensors', 'test'), (AVERAGED_FILE, 'test_averaged')):
        assert command('test', str(finished / 'config.py'), str(finished / name), '--cfg-options', f'data_root={debug_data}',
                       'test_dataset.limit_scenes=1') == 0
        assert (finished / folder / 'results.json').is_file()


def test_resumed_between_them_it_is_the_same_to_the_bit(finished, debug_data, tmp_path):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    for name in ('iter_8.pth', 'weights.safetensors', AVERAGED_FILE):
        (copy / name).unlink()
    assert command('train', *words(debug_data, copy, 'train.save_every=1', HOOK, flags=('--resume',))) == 0
    one, other = load_file(finished / AVERAGED_FILE), load_file(copy / AVERAGED_FILE)
    assert all(value.equal(other[name]) for name, value in one.items())


def test_a_run_that_began_without_it_is_refused_where_sums_lack(finished, debug_data, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    (copy / 'iter_8.pth').unlink()
    kept = torch.load(copy / 'iter_7.pth', weights_only=True)
    del kept['averaged_weights']
    torch.save(kept, copy / 'iter_7.pth')
    assert command('train', *words(debug_data, copy, 'train.save_every=1', HOOK, flags=('--resume',))) == 2
    assert 'the run began without it' in capsys.readouterr().err


def test_a_longer_run_forgets_what_was_averaged_too_early_another_share_is_refused(finished, debug_data, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    longer = (*words(debug_data, copy, 'train.save_every=1', HOOK, flags=('--resume',)), 'train.iterations=12')
    assert command('train', *longer) == 0                                      # the last three of 12: 10, 11, 12
    assert read_metadata(copy / AVERAGED_FILE)['averaged'] == 'mean over the last 3 updates'
    kept = torch.load(copy / 'iter_11.pth', weights_only=True)
    assert kept['averaged_weights']['count'] == 2
    (copy / 'iter_12.pth').unlink()
    assert command('train', *(word.replace('0.25', '0.5') for word in longer)) == 2
    assert 'has counted 5, and it holds the mean of 2' in capsys.readouterr().err


def test_the_mean_of_many_is_that_of_their_sum_and_integers_are_the_last():
    model, hook = nn.BatchNorm1d(3), AveragedWeights()
    assert hook.state(model) == {}
    seen = []
    for step in range(50):
        with torch.no_grad():
            model.weight.copy_(torch.randn(3, generator=torch.Generator().manual_seed(step)))
        model.num_batches_tracked += 1
        seen.append(model.weight.detach().double().clone())
        hook.add(model)
    torch.testing.assert_close(hook.state(model)['weight'], torch.stack(seen).mean(0).float(), rtol=1e-5, atol=1e-6)
    assert hook.state(model)['num_batches_tracked'] == 50
    half = nn.Linear(2, 2).bfloat16()
    half.bias.requires_grad_(False)
    hook = AveragedWeights()
    hook.add(half)
    assert hook.mean['weight'].dtype == torch.float32 and hook.state(half)['weight'].dtype == torch.bfloat16
    assert list(hook.mean) == ['weight'] and hook.state(half)['bias'].equal(half.bias)            # what does not learn


@pytest.mark.parametrize('share, updates, first', [(0.25, 400, 300), (1, 8, 0), (0.001, 8, 7)])
def test_which_updates_count(share, updates, first):
    assert AveragedWeights(share).first(updates) == first


@pytest.mark.parametrize('share', [0, 1.5, '0.25', None])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(ConfigError, match='above 0 and at most 1'):
        AveragedWeights(share)


def test_a_sharded_model_is_refused():
    runner = SimpleNamespace(cfg=Config(dict(train=dict(sharding='fully_shard'))))
    with pytest.raises(ConfigError, match='averages whole weights'):
        AveragedWeights().before_run(runner)
