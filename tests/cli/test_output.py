"""A reader that leaves early, and a full disk, are no traceback in any command."""

import importlib
import logging
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout

import pytest

from jrs.cli import COMMANDS, main, run
from jrs.cli.output import READER_LEFT, while_read
from tests._data import MAIN


@contextmanager
def unread():
    """Let `sys.stdout` be a pipe whose reader has left, closed as the end of the process does."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, 'w') as stream, redirect_stdout(stream):
        yield stream


def test_the_code_is_that_of_other_programs():
    assert READER_LEFT == 141
    assert subprocess.run(['bash', '-c', 'seq 1000000 | head -1 >/dev/null; echo ${PIPESTATUS[0]}'], capture_output=True,
                          text=True).stdout == '141\n'


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_ends_in_silence(name, capfd):
    with unread():
        try:
            code = run(importlib.import_module(f'jrs.cli.{name}').main, ['--help'])
        except SystemExit as stop:                                              # argparse drops what it cannot print
            code = stop.code
    assert code in (0, READER_LEFT) and capfd.readouterr() == ('', '')


@pytest.mark.parametrize('words', [['print_config', str(MAIN)], ['--help'], ['plugins', 'list']])
def test_lines_that_nobody_reads_end_the_command(words, capfd):
    with unread():
        assert main(words) == READER_LEFT
    assert capfd.readouterr() == ('', '')


def test_a_process_of_its_own_says_nothing_at_its_end():
    process = subprocess.Popen([sys.executable, '-c', 'import sys; from jrs.cli import main; sys.exit(main(["--help"]))'],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait() == READER_LEFT


def test_a_logger_ends_the_work_too(capfd):
    logger, done = logging.getLogger('unread'), []

    def work():
        for number in range(3):
            logger.warning('line')
            done.append(number)
        return 0
    with unread() as stream:
        logger.addHandler(handler := logging.StreamHandler(stream))
        assert while_read(work) == READER_LEFT and done == []
    logger.removeHandler(handler)
    assert capfd.readouterr() == ('', '')


def test_a_broken_pipe_of_the_work_itself_is_not_taken_for_a_reader():
    def work():
        ours, theirs = os.pipe()
        os.close(ours)
        try:
            os.write(theirs, b'x')
        finally:
            os.close(theirs)
    with pytest.raises(BrokenPipeError):
        while_read(work)


def test_what_a_command_returns_is_returned_and_what_it_raises_raised(capsys):
    assert while_read(lambda: print('said') or 3) == 3 and capsys.readouterr().out == 'said\n'
    with pytest.raises(SystemExit) as stop:
        while_read(lambda: sys.exit(2))
    assert stop.value.code == 2


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_a_full_disk_is_said(capfd):
    with open('/dev/full', 'w') as stream, redirect_stdout(stream):
        assert while_read(lambda: print('x') or 0) == 2
    assert capfd.readouterr().err == 'The output cannot be written: No space left on device.\n'
