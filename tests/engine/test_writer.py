"""A folder has one writer; a second one is told who it is, and one that died is taken over from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jrs.engine import writer
from jrs.engine.hooks import TERMS_FILE, read_lines
from jrs.engine.writer import WRITER_FILE, one_writer, refuse_second_writer
from jrs.errors import DataError
from tests._data import command
from tests.engine._ranks import start_ranks, until, wait
from tests.engine.test_processes import words

COMMAND = ['tools/train.py', 'a config.py']


@pytest.fixture
def held(tmp_path):
    """A folder with the record of another writer, which the test changes."""
    def make(**changes) -> dict:
        record = writer._own_record(COMMAND) | changes
        (tmp_path / WRITER_FILE).write_text(json.dumps(record))
        return record
    return make


@pytest.fixture
def process():
    """A process that sleeps."""
    with subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']) as process:
        yield process
        process.kill()


def test_a_folder_is_held_in_the_block_and_free_after_it(tmp_path):
    with one_writer(tmp_path / 'run', COMMAND):
        record = json.loads((tmp_path / 'run' / WRITER_FILE).read_text())
        assert record['pid'] == os.getpid() and record['host'] and record['process_start']
        with pytest.raises(DataError) as error:
            refuse_second_writer(tmp_path / 'run')
        assert all(part in str(error.value) for part in (str(os.getpid()), record['host'], "'a config.py'", WRITER_FILE))
        (tmp_path / 'run' / 'a file').touch()
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['a file']


def test_an_exception_frees_the_folder_and_one_that_stays_empty_goes(tmp_path):
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / 'run', COMMAND):
        1 / 0  # noqa: B018
    assert not (tmp_path / 'run').exists()


def test_a_living_process_of_this_machine_holds_the_folder_however_long_it_is_silent(held, process, tmp_path):
    held(pid=process.pid, process_start=writer._process_start(process.pid))
    os.utime(tmp_path / WRITER_FILE, (0, 0))
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match=f'process {process.pid} on'), one_writer(tmp_path, COMMAND):
        pass
    assert (tmp_path / WRITER_FILE).exists()


def test_a_killed_process_is_taken_over_from_even_before_its_parent_has_noticed(held, process, tmp_path, capsys):
    held(pid=process.pid, process_start=writer._process_start(process.pid))
    process.kill()
    until(lambda: writer._process_start(process.pid) == '')
    with one_writer(tmp_path, COMMAND):
        pass
    assert f'taking over from process {process.pid} on' in capsys.readouterr().err


def test_a_number_that_another_process_has_now_is_not_the_writer(held, process, tmp_path):
    held(pid=process.pid, process_start='12')
    with one_writer(tmp_path, COMMAND):
        pass


def test_a_silent_writer_elsewhere_is_waited_for_and_taken_over_from(held, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer, 'PAUSE', 0.02)
    held(machine='another boot', host='far', pid=1)
    monkeypatch.setattr(writer, 'SILENT', 0.3)
    with pytest.raises(DataError, match='on far'):
        refuse_second_writer(tmp_path)
    begun = time.monotonic()
    with one_writer(tmp_path, COMMAND):
        assert time.monotonic() - begun > 0.2
    said = capsys.readouterr().err
    assert 'waiting' in said and 'taking over from process 1 on far' in said
    held(machine='another boot', host='far', pid=1)
    os.utime(tmp_path / WRITER_FILE, (0, time.time() - 1000))
    refuse_second_writer(tmp_path)


def test_a_writer_elsewhere_that_gives_signs_of_life_holds_the_folder(tmp_path, monkeypatch):
    """With the thread that gives them."""
    monkeypatch.setattr(writer, 'PAUSE', 0.02)
    monkeypatch.setattr(writer, 'BEAT', 0.1)
    with one_writer(tmp_path, COMMAND):
        monkeypatch.setattr(writer, '_machine', lambda: 'another machine')
        begun = time.monotonic()
        with pytest.raises(DataError, match='belongs to process'), one_writer(tmp_path, COMMAND):
            pass
        assert time.monotonic() - begun < 10
    assert not (tmp_path / WRITER_FILE).exists()


def test_a_job_that_slurm_started_again_takes_over_at_once(held, tmp_path, monkeypatch):
    held(machine='another boot', host='far', slurm_job='41', slurm_restart='0')
    monkeypatch.setenv('SLURM_JOB_ID', '41')
    monkeypatch.setattr(writer, '_shows_life', lambda path, record: True)
    with pytest.raises(DataError, match='Slurm job 41'), one_writer(tmp_path, COMMAND):
        pass
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    with one_writer(tmp_path, COMMAND):
        pass


def test_of_many_that_find_a_dead_writer_one_takes_over(held, process, tmp_path):
    held(pid=process.pid, process_start='12')
    def child() -> int:
        until((tmp_path / 'go').exists)
        try:
            writer._Held(tmp_path / WRITER_FILE, ['x'])
            time.sleep(1)
        except DataError:
            return 1
        return 0
    children = []
    for _ in range(8):
        children.append(os.fork())
        if children[-1] == 0:
            code = 99
            try:
                code = child()
            finally:
                os._exit(code)
    (tmp_path / 'go').touch()
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children) == [0] + [1] * 7


@pytest.mark.parametrize('content', ['', '{', '[]', '{}', 'null'])
def test_a_file_that_says_nothing_counts_by_its_age(content, tmp_path, monkeypatch):
    (tmp_path / WRITER_FILE).write_text(content)
    monkeypatch.setattr(writer, 'PAUSE', 0.02)
    with pytest.raises(DataError, match='does not say who it is'):
        refuse_second_writer(tmp_path)
    os.utime(tmp_path / WRITER_FILE, (0, time.time() - 1000))
    with one_writer(tmp_path, COMMAND):
        pass


def test_a_second_training_is_refused_and_one_that_was_killed_is_taken_over_from(debug_data, tmp_path, capsys):
    """And the ranks of one job do not hold the folder against each other (test_processes)."""
    given = words(debug_data, tmp_path / 'run', 'train.iterations=5000', 'train.save_every=2')
    first = start_ranks(tmp_path, 'train', *given, count=1, launch=None)
    until(lambda: len(read_lines(tmp_path / 'run' / TERMS_FILE)) >= 3)
    resumed = [*given[:5], '--resume', *given[5:]]
    assert command('train', *resumed) == 2
    said = capsys.readouterr().err
    assert f'belongs to process {first[0].pid} on' in said and 'tools/train.py' in said
    first[0].kill(signal.SIGKILL)
    wait(first)
    assert (tmp_path / 'run' / WRITER_FILE).exists()
    short = [word.replace('=5000', '=6') if 'iterations' in word else word for word in resumed]
    assert command('train', *short) == 0
    assert f'taking over from process {first[0].pid}' in capsys.readouterr().err
    assert not (tmp_path / 'run' / WRITER_FILE).exists()
