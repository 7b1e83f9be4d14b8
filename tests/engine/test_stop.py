"""SIGTERM and Ctrl-C: the step is finished and saved, and the command that goes on is printed."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from jrs.engine.checkpoint import checkpoints
from jrs.engine.hooks import TERMS_FILE, read_lines
from jrs.engine.stop import resume_command
from jrs.losses.camera import CameraLoss
from tests._data import command
from tests.engine._ranks import Rank, start_ranks, torchrun, until, wait
from tests.engine.test_processes import after_iteration, losses, sleep_for_ever, words

ALL = 5000


def start(folder: Path, *given: str, before=lambda rank: None) -> list[Rank]:
    return start_ranks(folder, 'train', *given, count=1, launch=None, before=before)


def written(folder: Path) -> int:
    return len(read_lines(folder / 'run' / TERMS_FILE))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(number, debug_data, tmp_path):
    """With a worker of the loader, which gets the signal too: a terminal and a batch system send it to the whole group."""
    given = words(debug_data, tmp_path / 'run', f'train.iterations={ALL}', f'train.save_every={ALL}', 'train.workers=1')
    ranks = start(tmp_path, *given)
    until(lambda: written(tmp_path) >= 3)
    workers = Path(f'/proc/{ranks[0].pid}/task/{ranks[0].pid}/children').read_text().split()
    for pid in [*map(int, workers), ranks[0].pid]:
        os.kill(pid, number)
    assert wait(ranks) == [128 + number] and len(workers) == 1, ranks[0].text
    done, said = written(tmp_path), ranks[0].text
    assert [path.name for path in checkpoints(tmp_path / 'run')] == [f'iter_{done}.pth']
    assert f'stopped by {number.name} after iteration {done} of {ALL}' in said and 'Traceback' not in said
    assert said.splitlines()[-1] == f'  python {shlex.join(["tools/train.py", *given, "--resume"])}'
    assert not (tmp_path / 'run' / 'weights.safetensors').exists()


def test_a_run_that_ends_by_itself_ends_its_workers(debug_data, tmp_path):
    ranks = start(tmp_path, *words(debug_data, tmp_path / 'run', 'train.iterations=4', 'train.workers=1'))
    assert wait(ranks) == [0], ranks[0].text


def test_a_second_signal_ends_the_process_at_once(debug_data, tmp_path):
    ranks = start(tmp_path, *words(debug_data, tmp_path / 'run'), before=lambda rank: after_iteration(1, wait_for_two))
    until(lambda: 'listening' in ranks[0].text)
    ranks[0].kill(signal.SIGTERM)
    until(lambda: 'first' in ranks[0].text)
    ranks[0].kill(signal.SIGINT)
    assert wait(ranks, seconds=10) == [130], ranks[0].text
    assert not checkpoints(tmp_path / 'run')


def wait_for_two() -> None:
    """Sleep; say when the first signal has come, which does not end the sleep."""
    before = signal.getsignal(signal.SIGTERM)

    def say(number, frame):
        before(number, frame)
        print('first', flush=True)
    signal.signal(signal.SIGTERM, say)
    print('listening', flush=True)
    sleep_for_ever()


def test_a_stop_in_the_middle_of_an_update_waits_for_its_end_and_not_longer(debug_data, tmp_path):
    """And the run that goes on has the losses of one that was not stopped."""
    given = words(debug_data, tmp_path / 'run', 'batches.slots=3', 'train.iterations=3')
    whole = words(debug_data, tmp_path / 'whole', 'batches.slots=3', 'train.iterations=3')

    def stop_at_the_fifth_slot(rank: int) -> None:
        healthy, calls = CameraLoss.__call__, []

        def call(self, predictions, target):
            calls.append(1)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return healthy(self, predictions, target)
        CameraLoss.__call__ = call
    ranks = start(tmp_path, *given, before=stop_at_the_fifth_slot)
    assert wait(ranks) == [143], ranks[0].text
    assert written(tmp_path) == 2
    assert command('train', *given[:5], '--resume', *given[5:]) == 0 and command('train', *whole) == 0
    assert losses(tmp_path / 'run') == losses(tmp_path / 'whole')


def test_the_command_that_goes_on_names_the_launcher(monkeypatch):
    given = ['tools/train.py', 'a b.py', '--work-dir', 'x']
    assert resume_command(given) == "python tools/train.py 'a b.py' --work-dir x --resume"
    assert resume_command([*given, '--resume']) == resume_command(given)
    for name, value in torchrun(3, 4, 29500).items():
        monkeypatch.setenv(name, value)
    assert resume_command(given).startswith('torchrun --standalone --nproc_per_node 4 tools/train.py ')
