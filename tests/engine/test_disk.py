"""Disks: room is looked at before it is needed, a full one keeps the last good state, and files are closed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jrs.engine import disk
from jrs.engine.checkpoint import checkpoints
from jrs.engine.console import JrsRunner
from jrs.engine.disk import check_space, checkpoint_bytes
from jrs.engine.hooks import TermLog
from jrs.errors import DataError
from tests._data import command
from tests.engine.test_train import leftovers, words


def test_a_run_without_room_for_its_checkpoints_stops_before_its_first_step(debug_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(disk.shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert '3 checkpoints and the weights need about' in message and '0.0 MB are free' in message
    assert not checkpoints(tmp_path)


def test_the_disk_is_looked_at_before_each_save(debug_data, tmp_path, monkeypatch, capsys):
    def free(path):
        return SimpleNamespace(free=1000 if checkpoints(tmp_path) else 10**12)
    monkeypatch.setattr(disk.shutil, 'disk_usage', free)
    monkeypatch.setattr(JrsRunner, 'save_checkpoint', only_once(JrsRunner.save_checkpoint))
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert 'iter_4.pth and what comes after it need about' in message and '--resume' in message
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_2.pth'] and not leftovers(tmp_path)


def only_once(write):
    """Return `write`, which fails the test when it writes a second checkpoint."""
    seen = []

    def save(self, folder, name):
        seen.append(name)
        assert len(seen) < 2, 'it was written'
        write(self, folder, name)
    return save


def test_the_expected_size_of_a_checkpoint_is_near_the_real_one(debug_data, tmp_path):
    from jrs.config import load_config
    from jrs.engine.build import build_model
    from tests._data import MAIN
    assert command('train', *words(debug_data, tmp_path, 'train.iterations=2')) == 0
    real = (tmp_path / 'iter_2.pth').stat().st_size
    expected = checkpoint_bytes(build_model(load_config(MAIN, 'debug')))
    assert real <= expected < real + 2 * disk.FILL
    with pytest.raises(DataError, match=f'{tmp_path}: two files need about .* are free'):
        check_space(tmp_path, 10**18, 'two files')


def test_a_disk_that_fills_in_the_middle_of_a_write_keeps_the_last_good_state(debug_data, tmp_path, monkeypatch, capsys):
    """The kernel refuses the second half of the file, as it does on a full disk."""
    write = JrsRunner.save_checkpoint

    def save(self, folder, name):
        half = (tmp_path / 'iter_2.pth').stat().st_size // 2 if name == 'iter_4.pth' else resource.RLIM_INFINITY
        with file_limit(half):
            write(self, folder, name)
    monkeypatch.setattr(JrsRunner, 'save_checkpoint', save)
    assert command('train', *words(debug_data, tmp_path)) == 2
    assert os.strerror(errno.EFBIG) in capsys.readouterr().err
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_2.pth'] and not leftovers(tmp_path)
    assert torch.load(tmp_path / 'iter_2.pth')['meta']['iter'] == 2
    monkeypatch.undo()
    assert command('train', *words(debug_data, tmp_path, flags=('--resume',))) == 0


@contextmanager
def file_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(folder: Path, options: str):
    """Mount a disk in memory; skips the test where that is not allowed."""
    folder.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)], capture_output=True, text=True) \
        if shutil.which('mount') else SimpleNamespace(returncode=1, stderr='no mount')
    if made.returncode:
        pytest.skip(f'mounting is not allowed here: {made.stderr.strip()}')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def test_a_disk_that_others_fill_stops_the_run_with_its_last_checkpoint_whole(debug_data, tmp_path, monkeypatch, capsys):
    log = TermLog.after_train_iter
    with mounted(tmp_path / 'small', 'size=32m') as small:
        def fill(self, runner, *arguments, **named):
            log(self, runner, *arguments, **named)
            if runner.iter == 2:
                (small / 'other').write_bytes(bytes(disk.shutil.disk_usage(small).free))
        monkeypatch.setattr(TermLog, 'after_train_iter', fill)
        assert command('train', *words(debug_data, small / 'run')) == 2
        message = capsys.readouterr().err
        assert 'No space left' in message or 'are free' in message, message
        assert [path.name for path in checkpoints(small / 'run')] == ['iter_2.pth']
        (small / 'other').unlink()
        monkeypatch.undo()
        assert command('train', *words(debug_data, small / 'run', flags=('--resume',))) == 0


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_built(debug_data, tmp_path, capsys):
    with mounted(tmp_path / 'fixed', 'ro') as fixed:
        assert command('train', *words(debug_data, fixed / 'run')) == 2
    assert f'cannot write to the folder {tmp_path / "fixed" / "run"}' in capsys.readouterr().err


def test_a_file_in_place_of_the_folder_is_named(debug_data, tmp_path, capsys):
    (tmp_path / 'file').write_text('x')
    assert command('train', *words(debug_data, tmp_path / 'file' / 'run')) == 2
    assert 'cannot write to the folder' in capsys.readouterr().err


def test_a_run_keeps_no_more_files_open_than_after_its_first_steps(debug_data, tmp_path, monkeypatch):
    """With checkpoints, validations and a worker; afterwards only the log is open."""
    log, counts = TermLog.after_train_iter, []

    def count(self, runner, *arguments, **named):
        log(self, runner, *arguments, **named)
        counts.append(len(os.listdir('/proc/self/fd')))
    monkeypatch.setattr(TermLog, 'after_train_iter', count)
    assert command('train', *words(debug_data, tmp_path, 'train.validate_every=3', 'train.workers=1')) == 0
    assert len(counts) == 8 and min(counts[4:]) <= min(counts[1:4]), counts        # a batch on its way is open for a moment
    open_files = [os.readlink(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd')
                  if os.path.islink(f'/proc/self/fd/{name}')]
    own = [name for name in open_files if str(tmp_path) in name]
    assert all(name.endswith('.log') for name in own), own
