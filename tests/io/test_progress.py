"""Lines of long work: counts, rates and what is left; a bar in a terminal only."""

import io
import subprocess
import sys

import pytest

from jrs.io import progress
from jrs.io.progress import Bar, Progress, clock, memory_gb


def test_a_line_says_count_rate_time_and_memory(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(progress, 'memory_gb', lambda: 0.5)
    pieces = Progress(10, 'scenes', done=4)                            # four were there already, and took no time
    now[0] = 30.0
    assert pieces.step('a') == '5/10 a (2.0 scenes/min, 2 min 30 s left, memory 0.50 GB)'
    now[0] = 40.0
    assert pieces.step() == '6/10 (3.0 scenes/min, 1 min 20 s left, memory 0.50 GB)'


@pytest.mark.parametrize(('seconds', 'words'), [(0.4, '0 min 00 s'), (61, '1 min 01 s'), (3700, '1 h 01 min')])
def test_durations(seconds, words):
    assert clock(seconds) == words


def test_memory_counts_the_processes_that_were_started():
    before = memory_gb()
    hungry = 'x = bytearray(120_000_000); print(1, flush=True); input()'
    with subprocess.Popen([sys.executable, '-c', hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert memory_gb() > before + 0.1
        child.stdin.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_bar_and_a_log_every_line():
    terminal, log = Terminal(), io.StringIO()
    for file in (terminal, log):
        bar = Bar(file)
        for line in ('begin', '1/2 a', 'a note', '2/2 b', 'end'):
            bar(line)
    assert log.getvalue() == 'begin\n1/2 a\na note\n2/2 b\nend\n'
    assert terminal.getvalue().split('\n') == ['begin', '\r\x1b[K[############............] 1/2 a', 'a note',
                                               '\r\x1b[K[########################] 2/2 b', 'end', '']
