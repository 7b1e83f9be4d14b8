"""Jobs of several processes: one lost process ends all, numbers do not depend on how many there are or what is sharded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jrs.engine import processes
from jrs.engine.checkpoint import checkpoints
from jrs.engine.hooks import TERMS_FILE, TermLog, read_lines
from tests._data import MAIN, command
from tests.engine._ranks import start_ranks, until, wait

ITERATIONS = 8
# Instance terms only: their mean over two scenes is the mean of two processes with one scene each.
TERMS = ('model.losses.depth=None', 'model.losses.camera=None', 'model.camera_head=None', 'model.depth_head=None',
         'model.teacher=None')
TOLERANCE = 1e-5                               # of a loss, relative; documented in tools/train.py --help


def words(data: Path, work_dir: Path, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
    return [str(MAIN), '--profile', 'debug', '--work-dir', str(work_dir), *flags, '--cfg-options', f'data_root={data}',
            f'train.iterations={ITERATIONS}', 'train.save_every=4', 'batches.views=(2,2)', 'batches.max_images=2',
            'batches.aspect_ratio=(0.75,0.75)', 'hooks.pictures=None', *TERMS, *options]


def losses(work_dir: Path) -> list[float]:
    return [json.loads(line)['loss'] for line in read_lines(work_dir / TERMS_FILE)]


def after_iteration(number: int, action: Callable[[], None]) -> None:
    """In this process, do something when the terms of iteration `number` are written."""
    write = TermLog.after_train_iter

    def and_act(self, runner, *arguments, **named):
        write(self, runner, *arguments, **named)
        if runner.iter == number:
            action()
    TermLog.after_train_iter = and_act


@pytest.fixture(scope='module')
def pair(debug_data, tmp_path_factory):
    """A run of two processes that share gradients (DDP)."""
    folder = tmp_path_factory.mktemp('pair')
    ranks = start_ranks(folder, 'train', *words(debug_data, folder / 'run'))
    assert wait(ranks) == [0, 0], ranks[0].text + ranks[1].text
    return folder / 'run'


def test_a_run_goes_on_sharded_and_then_in_one_process_with_the_same_losses(pair, debug_data, tmp_path):
    """From DDP to `fully_shard`, where SIGTERM to one process stops both, to one process with the whole batch."""
    run = shutil.copytree(pair, tmp_path / 'run')
    (run / f'iter_{ITERATIONS}.pth').unlink()
    (run / 'weights.safetensors').unlink()

    def stop_one(rank: int) -> None:
        after_iteration(4, lambda: os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else None)
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, run, 'train.sharding=fully_shard', flags=('--resume',)),
                        before=stop_one)
    assert wait(ranks) == [143, 143], ranks[0].text + ranks[1].text
    assert 'stopped by SIGTERM after iteration 6 of 8' in ranks[0].text and '--resume' in ranks[0].text
    assert not (run / 'weights.safetensors').exists()
    saved, before = (torch.load(run / name, weights_only=True) for name in ('iter_6.pth', 'iter_4.pth'))
    assert layout(saved['state_dict']) == layout(before['state_dict'])
    assert layout(saved['optimizer']) == layout(before['optimizer'])
    assert command('train', *words(debug_data, run, 'batches.max_images=4', flags=('--resume',))) == 0
    assert losses(run) == pytest.approx(losses(pair), rel=TOLERANCE)
    assert len(set(losses(pair))) == ITERATIONS


def layout(state) -> object:
    """Return nested containers with the shape and dtype of each tensor."""
    if isinstance(state, torch.Tensor):
        return tuple(state.shape), state.dtype, type(state)
    if isinstance(state, dict):
        return {key: layout(value) for key, value in state.items()}
    return [layout(value) for value in state] if isinstance(state, (list, tuple)) else type(state)


def test_one_process_with_the_whole_batch_has_the_losses_of_two(pair, debug_data, tmp_path):
    assert command('train', *words(debug_data, tmp_path / 'one', 'batches.max_images=4')) == 0
    assert losses(tmp_path / 'one') == pytest.approx(losses(pair), rel=TOLERANCE)
    assert command('train', *words(debug_data, tmp_path / 'half', 'train.iterations=4')) == 0
    assert losses(tmp_path / 'half') != pytest.approx(losses(pair)[:4], rel=100 * TOLERANCE)


def test_scores_of_two_processes_are_those_of_one(debug_data, tmp_path):
    given = [MAIN, 'untrained', '--profile', 'debug']
    options = ['--cfg-options', f'data_root={debug_data}', 'test_dataset.split=train']
    ranks = start_ranks(tmp_path, 'test', *given, '--out', tmp_path / 'two', *options)
    assert wait(ranks) == [0, 0], ranks[0].text + ranks[1].text
    assert command('test', *given, '--out', tmp_path / 'one', *options) == 0
    one, two = (json.loads((tmp_path / name / 'results.json').read_text()) for name in ('one', 'two'))
    assert one['metrics'] == two['metrics'] and len(one['metrics']) > 5 and len(one['scenes']) == 2


def quick_report(rank: int) -> None:
    processes.PATIENCE = 1.0


def test_a_killed_process_ends_the_job_and_is_named(debug_data, tmp_path):
    run = tmp_path / 'run'
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, run, 'train.iterations=5000', 'train.save_every=2'),
                        before=quick_report)
    until(lambda: len(read_lines(run / TERMS_FILE)) >= 3)
    ranks[1].kill(signal.SIGKILL)
    killed = time.monotonic()
    assert wait(ranks) == [2, -signal.SIGKILL], ranks[0].text
    assert time.monotonic() - killed < 30
    assert 'process 1: says nothing' in ranks[0].text and '--resume' in ranks[0].text and checkpoints(run)
    assert 'Traceback' not in ranks[0].text, ranks[0].text


def test_a_process_that_hangs_ends_the_job_within_the_timeout_and_is_named(debug_data, tmp_path):
    def hang(rank: int) -> None:
        quick_report(rank)
        if rank == 1:
            after_iteration(2, sleep_for_ever)
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, tmp_path / 'run', 'train.iterations=5000', 'train.timeout=5'),
                        before=hang)
    until(lambda: len(read_lines(tmp_path / 'run' / TERMS_FILE)) >= 3)
    begun = time.monotonic()
    assert wait(ranks) == [2, 2], ranks[0].text + ranks[1].text
    assert 3 < time.monotonic() - begun < 30
    for rank in ranks:
        assert 'process 0: waits for the others' in rank.text or 'process 0: lost the others' in rank.text, rank.text
        assert 'process 1: stuck for 5 s at' in rank.text and 'sleep_for_ever' in rank.text, rank.text


def sleep_for_ever() -> None:
    """Sleep as long as there is a parent, in naps: a signal that comes just before a long sleep is handled only after it."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.05)
