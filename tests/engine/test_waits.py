"""A wait for data always ends: with an error that says what to do, within train.timeout, or by a signal, which saves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from jrs.datasets.dataset import SceneDataset
from jrs.engine.checkpoint import checkpoints
from jrs.engine.hooks import TERMS_FILE, read_lines
from tests._data import MAIN, command
from tests.engine._ranks import start_ranks, until, wait
from tests.engine.test_processes import sleep_for_ever, words

READ = SceneDataset.__getitem__


def scoring(data: Path, out: Path, *options: str) -> list[str]:
    return [str(MAIN), 'untrained', '--profile', 'debug', '--out', str(out), '--cfg-options', f'data_root={data}',
            'test_dataset.split=train', *options]


def lines(name: str, data: Path, folder: Path, *options: str) -> list[str]:
    return (words if name == 'train' else scoring)(data, folder, *options)


@pytest.mark.parametrize('name', ['train', 'test'])
def test_a_batch_that_does_not_fit_into_shared_memory_is_an_error(name, debug_data, tmp_path, monkeypatch, capsys):
    def full(self):
        raise RuntimeError('unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)')
    monkeypatch.setattr(torch.Tensor, 'share_memory_', full)
    assert command(name, *lines(name, debug_data, tmp_path / 'run', 'train.workers=1')) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ('No space left', '/dev/shm has', 'MB', 'train.workers=0 (1 now)', '--shm-size'))
    assert 'Traceback' not in said


@pytest.mark.parametrize(('name', 'end'), [('train', lambda: os.kill(os.getpid(), signal.SIGKILL)),
                                           ('test', lambda: os.kill(os.getpid(), signal.SIGSEGV)),
                                           ('train', lambda: os._exit(3))], ids=['killed', 'segfault', 'exit'])
def test_a_worker_that_dies_ends_the_command(name, end, debug_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SceneDataset, '__getitem__', lambda self, index: end())
    assert command(name, *lines(name, debug_data, tmp_path / 'run', 'train.workers=1')) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ('a worker that loads data is gone', 'DataLoader worker', '/dev/shm'))
    assert 'train.workers=0' in said


@pytest.mark.parametrize(('name', 'workers'), [('train', 1), ('test', 1), ('test', 0)])
def test_one_process_that_gets_no_data_ends_within_the_timeout(name, workers, debug_data, tmp_path):
    def hang(rank: int) -> None:
        SceneDataset.__getitem__ = lambda self, index: sleep_for_ever()
    given = lines(name, debug_data, tmp_path / 'run', f'train.workers={workers}', 'train.timeout=2')
    ranks = start_ranks(tmp_path, name, *given, count=1, launch=None, before=hang)
    assert wait(ranks, seconds=30) == [2], ranks[0].text
    assert 'stuck for 2 s at' in ranks[0].text and 'while it waits for data' in ranks[0].text
    assert 'train.timeout' in ranks[0].text and 'train.workers=0' in ranks[0].text


def hang_behind(count: int):
    """Return what lets the data set of this process hang behind its first `count` batches."""
    def before(rank: int) -> None:
        given = []

        def read(self, index):
            given.append(index)
            return READ(self, index) if len(given) <= count else sleep_for_ever()
        SceneDataset.__getitem__ = read
    return before


@pytest.mark.parametrize(('number', 'workers'), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_a_signal_ends_a_wait_for_data_and_the_last_step_is_saved(number, workers, debug_data, tmp_path):
    given = words(debug_data, tmp_path / 'run', 'train.save_every=100', 'train.iterations=100', 'batches.slots=1',
                  f'train.workers={workers}')
    ranks = start_ranks(tmp_path, 'train', *given, count=1, launch=None, before=hang_behind(3))
    until(lambda: len(read_lines(tmp_path / 'run' / TERMS_FILE)) >= 3, 40)
    ranks[0].kill(number)
    assert wait(ranks, seconds=30) == [128 + number], ranks[0].text
    assert [path.name for path in checkpoints(tmp_path / 'run')] == ['iter_3.pth']
    assert f'stopped by {number.name} after iteration 3 of 100' in ranks[0].text and '--resume' in ranks[0].text
    state = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=True)
    assert state['meta']['iter'] == 3
    short = [word.replace('iterations=100', 'iterations=5') for word in given]
    assert command('train', *short[:5], '--resume', *short[5:]) == 0
    rows = [json.loads(line)['iteration'] for line in read_lines(tmp_path / 'run' / TERMS_FILE)]
    assert rows == [0, 1, 2, 3, 4]


def test_a_signal_before_the_first_step_ends_the_wait_and_says_that_nothing_is_saved(debug_data, tmp_path):
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, tmp_path / 'run'), count=1, launch=None, before=hang_behind(0))
    until((tmp_path / 'run' / TERMS_FILE).exists)
    ranks[0].kill(signal.SIGTERM)
    assert wait(ranks, seconds=30) == [143], ranks[0].text
    assert 'no state to go on from' in ranks[0].text and '--resume' not in ranks[0].text


def test_a_signal_while_a_validation_waits_for_data_ends_it_and_the_step_is_saved(debug_data, tmp_path):
    def hang(rank: int) -> None:
        SceneDataset.__getitem__ = lambda self, index: READ(self, index) if self.mode == 'train' else sleep_for_ever()
    given = words(debug_data, tmp_path / 'run', 'train.validate_every=2', 'train.iterations=100', 'train.save_every=100',
                  'batches.slots=1')
    ranks = start_ranks(tmp_path, 'train', *given, count=1, launch=None, before=hang)
    until(lambda: len(read_lines(tmp_path / 'run' / TERMS_FILE)) >= 2, 40)
    ranks[0].kill(signal.SIGTERM)
    assert wait(ranks, seconds=30) == [143], ranks[0].text
    assert [path.name for path in checkpoints(tmp_path / 'run')] == ['iter_2.pth']
