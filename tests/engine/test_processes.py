"""Jobs of several processes: one lost process ends all, numbers do not depend on how many there are or what is sharded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from jrs.engine import processes
from jrs.engine.checkpoint import checkpoints
from jrs.engine.hooks import TERMS_FILE, TermLog, read_lines
from jrs.io.weights import read_metadata
from jrs.losses.camera import CameraLoss
from tests._data import MAIN, command
from tests.engine._ranks import srun, start_ranks, until, wait

ITERATIONS = 4
TOLERANCE = 1e-5                               # of a loss, relative; documented in tools/train.py --help

FOUR = 'batches.slots=4'
SPLITS = {1: '1 process x 8', 2: '2 processes x 4'}


def words(data: Path, work_dir: Path, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
    return [str(MAIN), '--profile', 'debug', '--work-dir', str(work_dir), *flags, '--cfg-options', f'data_root={data}',
            f'train.iterations={ITERATIONS}', 'train.save_every=2', 'batches.views=(2,2)', 'batches.max_images=2',
            'batches.aspect_ratio=(0.75,0.75)', 'hooks.pictures=None', *options]


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
    """A run of two processes that share gradients (DDP), each of which takes two of the four slots."""
    folder = tmp_path_factory.mktemp('pair')
    ranks = start_ranks(folder, 'train', *words(debug_data, folder / 'run', FOUR))
    assert wait(ranks) == [0, 0], ranks[0].text + ranks[1].text
    return folder / 'run'


def test_a_run_goes_on_sharded_and_then_in_one_process_with_the_same_losses(pair, debug_data, tmp_path):
    """From DDP to `fully_shard`, where SIGTERM to one process stops both, to one process that takes all slots."""
    run = shutil.copytree(pair, tmp_path / 'run')
    (run / f'iter_{ITERATIONS}.pth').unlink()
    (run / 'weights.safetensors').unlink()

    def stop_one(rank: int) -> None:
        begin = TermLog.before_train
        TermLog.before_train = lambda self, runner: [begin(self, runner), rank == 1 and os.kill(os.getpid(), signal.SIGTERM)]
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, run, FOUR, 'train.sharding=fully_shard', flags=('--resume',)),
                        before=stop_one)
    assert wait(ranks) == [143, 143], ranks[0].text + ranks[1].text
    assert 'stopped by SIGTERM after iteration 3 of 4' in ranks[0].text and '--resume' in ranks[0].text
    assert not (run / 'weights.safetensors').exists()
    saved, before = (torch.load(run / name, weights_only=True) for name in ('iter_3.pth', 'iter_2.pth'))
    assert layout(saved['state_dict']) == layout(before['state_dict'])
    assert layout(saved['optimizer']) == layout(before['optimizer'])
    assert command('train', *words(debug_data, run, FOUR, flags=('--resume',))) == 0
    assert losses(run) == pytest.approx(losses(pair), rel=TOLERANCE)
    assert len(set(losses(pair))) == ITERATIONS


def layout(state) -> object:
    """Return nested containers with the shape and dtype of each tensor."""
    if isinstance(state, torch.Tensor):
        return tuple(state.shape), state.dtype, type(state)
    if isinstance(state, dict):
        return {key: layout(value) for key, value in state.items()}
    return [layout(value) for value in state] if isinstance(state, (list, tuple)) else type(state)


def distance(one: Path, two: Path) -> tuple[float, float]:
    """Return the largest relative difference of two runs in a term, and the largest difference of their weights."""
    rows, others = ([json.loads(line) for line in read_lines(run / TERMS_FILE)] for run in (one, two))
    assert len(rows) == len(others) and all(row.keys() == other.keys() for row, other in zip(rows, others, strict=True))
    terms = max(abs(row[name] - other[name]) / max(abs(row[name]), 1e-3)
                for row, other in zip(rows, others, strict=True) for name in row)
    weights, same = (load_file(run / 'weights.safetensors') for run in (one, two))
    return terms, max(float((weights[name] - same[name]).abs().max()) for name in weights)


def noisy_loss(rank: int) -> None:
    """Let a loss depend on what a step draws at random, as dropout would."""
    healthy = CameraLoss.__call__

    def call(self, predictions, target):
        terms = healthy(self, predictions, target)
        return terms | dict(total=terms['total'] * (0.5 + torch.rand(())))
    CameraLoss.__call__ = call


def test_two_processes_with_four_slots_each_are_one_with_eight(debug_data, tmp_path):
    """Here for two updates; tests/soak/process_numbers.py: for as many as you like."""
    runs = {count: tmp_path / f'{count}' for count in (1, 2)}
    for count, run in runs.items():
        given = words(debug_data, run, 'batches.slots=8', 'train.iterations=2')
        ranks = start_ranks(tmp_path / f'out{count}', 'train', *given, count=count, before=noisy_loss)
        assert wait(ranks) == [0] * count, ''.join(rank.text for rank in ranks)
        assert f'update: 8 slots of at most 2 images = {SPLITS[count]} accumulated' in ranks[0].text
    assert max(distance(*runs.values())) < TOLERANCE
    identities, records = ([json.loads((run / name).read_text()) for run in runs.values()]
                           for name in ('identity.json', 'run.json'))
    assert identities[0] == identities[1]
    assert [(one['slots'], one['processes'], one['accumulation']) for one in records] == [(8, 1, 8), (8, 2, 4)]
    card = read_metadata(runs[2] / 'weights.safetensors')
    assert card['update'] == records[0]['update'] == '8 slots of at most 2 images'


def test_processes_that_cannot_share_an_update_are_refused_before_data_are_looked_for(tmp_path):
    ranks = start_ranks(tmp_path, 'train', *words(tmp_path / 'nowhere', tmp_path / 'run', FOUR), count=3)
    assert wait(ranks) == [2, 2, 2], ranks[0].text
    for said in ('3 processes', '4 slots of at most 2 images', 'start 1, 2 or 4 processes', 'batches.slots=3'):
        assert said in ranks[0].text, ranks[0].text
    assert 'nowhere' not in ranks[0].text and not (tmp_path / 'run').exists()


def test_tasks_of_slurm_train_together_as_processes_of_torchrun_do(pair, debug_data, tmp_path):
    """With Slurm's variables set by hand; the port comes from the job's number, here a free port."""
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, tmp_path / 'run', FOUR), launch=srun)
    assert wait(ranks) == [0, 0], ranks[0].text + ranks[1].text
    assert losses(tmp_path / 'run') == losses(pair)


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


def test_a_signal_during_a_collective_that_never_ends_is_obeyed_with_a_message(debug_data, tmp_path):
    """The main thread waits inside gloo for a process that hangs: Python's own handler never runs there."""
    def hang(rank: int) -> None:
        quick_report(rank)
        processes.GRACE = 2.0
        if rank == 1:
            after_iteration(2, sleep_for_ever)
    ranks = start_ranks(tmp_path, 'train', *words(debug_data, tmp_path / 'run', 'train.iterations=5000'), before=hang)
    until(lambda: len(read_lines(tmp_path / 'run' / TERMS_FILE)) >= 3)
    time.sleep(1)                              # until it waits
    asked = time.monotonic()
    ranks[0].kill(signal.SIGTERM)
    try:
        until(lambda: os.waitid(os.P_PID, ranks[0].pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, 30)
        assert 2 < time.monotonic() - asked < 15
    finally:
        ranks[1].kill(signal.SIGKILL)
    assert wait(ranks) == [128 + signal.SIGTERM, -signal.SIGKILL], ranks[0].text
    assert 'process 0: asked to stop, and still waits for the others after 2 s' in ranks[0].text
    assert 'process 1: says nothing' in ranks[0].text and '--resume' in ranks[0].text


class Pass(torch.autograd.Function):
    """Does something in the backward pass, where the collectives of DDP are."""

    @staticmethod
    def forward(ctx, values, action):
        ctx.action = action
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.action()
        return gradient, None


def test_after_a_signal_a_pass_that_computes_may_finish_and_one_that_waits_may_not(monkeypatch):
    watchdog, ended = processes.Watchdog(timeout=1000), []
    watchdog.world_size = 2
    monkeypatch.setattr(watchdog, '_end', lambda why, code: ended.append((why, code)))
    request = SimpleNamespace(waiting=False, arrived=lambda: (signal.SIGTERM, time.monotonic() - 2 * processes.GRACE))

    def look(computed: float) -> None:
        """Look as after a second in which so many seconds of a processor were used, and before it long nothing."""
        watchdog.last = watchdog.worked = time.monotonic() - 2 * processes.GRACE
        watchdog.used = time.process_time() - computed
        watchdog._notice_work(1.0)
        watchdog._look_for_a_stop(request)
    look(0.0)
    Pass.apply(torch.ones(1, requires_grad=True), lambda: look(0.5)).backward()
    assert not ended
    Pass.apply(torch.ones(1, requires_grad=True), lambda: look(0.0)).backward()
    assert ended == [('asked to stop, and still waits for the others after 20 s', 128 + signal.SIGTERM)]
    request.waiting = True                     # for the batch behind that pass, whose update is saved
    watchdog.beat()
    watchdog._look_for_a_stop(request)
    assert len(ended) == 1
    watchdog.last -= 2 * processes.GRACE
    watchdog._look_for_a_stop(request)
    assert 'still waits for data after 20 s' in ended[1][0]


def test_the_group_gives_up_after_the_watchdog_where_nccl_would_abort(monkeypatch):
    given = {}
    monkeypatch.setattr(processes, 'find_place', lambda launcher: processes.Place(launcher, size=2))
    monkeypatch.setattr(processes, '_place', processes._place)
    for name, value in dict(is_available=True, set_device=None, device_count=2, current_device=1).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda name, **options: given.update(options, on=name))
    processes.start_processes('pytorch', timeout=30)
    assert given['on'] == 'nccl' and given['timeout'].total_seconds() == 30 + processes.BEHIND
    assert given['device_id'] == torch.device('cuda', 1)
