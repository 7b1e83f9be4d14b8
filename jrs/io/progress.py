"""How far long work is: one line per piece, with rate, time that is left and memory; a bar in a terminal."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from typing import TextIO

BAR = 24                                       # characters
LINE = re.compile(r'(\d+)/(\d+) ')             # how a line of progress begins


class Progress:
    """Counts pieces of work and says how it goes.

    Args:
        total: pieces; those that were done before count from `done` on.
        unit: what a piece is called, in the plural.
        done: pieces that were there at the start.
    """

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done, self.before = total, unit, done, done
        self.start = time.monotonic()

    def step(self, what: str = '') -> str:
        """Return the line for one more piece: ``3/60 scene0002_00 (12.1 scenes/min, 4 min 42 s left, memory 0.61 GB)``."""
        self.done += 1
        rate = (self.done - self.before) / max(time.monotonic() - self.start, 1e-3)
        left = clock((self.total - self.done) / rate)
        return (f'{self.done}/{self.total} {what}{" " if what else ""}({60 * rate:.1f} {self.unit}/min, {left} left, '
                f'memory {memory_gb():.2f} GB)')


def clock(seconds: float) -> str:
    """Return a duration in words: 0 min 12 s, 1 h 05 min."""
    minutes = int(seconds // 60)
    return f'{minutes // 60} h {minutes % 60:02d} min' if minutes >= 60 else f'{minutes} min {int(seconds % 60):02d} s'


def memory_gb() -> float:
    """Return the resident memory of this process and of those that it started, in GB = 1e9 bytes.

    Where a system has no ``/proc``: the peak of this process alone.
    """
    try:
        own, page = Path('/proc/self').resolve().name, resource.getpagesize()
        parents = {path.name: (path / 'stat').read_text().rpartition(')')[2].split()[1]
                   for path in Path('/proc').iterdir() if path.name.isdigit() and (path / 'stat').exists()}
        family = {own}
        while more := {name for name, parent in parents.items() if parent in family} - family:
            family |= more
        return page * sum(int((Path('/proc') / name / 'statm').read_text().split()[1]) for name in family) / 1e9
    except (OSError, IndexError, ValueError):                          # no /proc, or a process that has just ended
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9


class Bar:
    """Writes lines of work; in a terminal those of `Progress` one over the other behind a bar, elsewhere each as a line."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file, self.open = file, False

    def __call__(self, line: str) -> None:
        """Write a line."""
        file = self.file or sys.stderr
        found = LINE.match(line) if file.isatty() else None
        if found is None:
            self._write(file, f'\n{line}\n' if self.open else f'{line}\n')
            self.open = False
            return
        done, total = int(found[1]), max(int(found[2]), 1)
        filled = min(BAR * done // total, BAR)
        self.open = done < total
        end = '' if self.open else '\n'
        self._write(file, f'\r\x1b[K[{"#" * filled}{"." * (BAR - filled)}] {line}{end}')

    @staticmethod
    def _write(file: TextIO, text: str) -> None:
        file.write(text)
        file.flush()
