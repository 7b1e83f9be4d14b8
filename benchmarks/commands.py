"""Trainings and tests that a benchmark runs: processes of one thread, stopped with it, gone on with by its next call.

A training is a run folder of tools/train.py: Ctrl-C and SIGTERM save it, and whoever asks for it again goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jrs.engine.checkpoint import checkpoints
from jrs.engine.record import read_record
from jrs.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
STOPPED = {code: 128 + number for number in (signal.SIGINT, signal.SIGTERM) for code in (-number, 128 + number)}


class StageError(DataError):
    """A training or a test ended with an error; the others go on."""


class Commands:
    """Runs the programs of this project as processes of one thread, and ends them when this one is ended."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def __call__(self, script: Path, words: list[str], log: Path) -> None:
        """Run to the end; output goes to `log`.

        Raises:
            StageError: the program failed; names the last line that it wrote.
            SystemExit: it was stopped by a signal, or all are.
        """
        if self.stopped:
            raise SystemExit(128 + signal.SIGTERM)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('a', encoding='utf-8') as file:
            process = subprocess.Popen([sys.executable, str(script), *words], stdout=file, stderr=subprocess.STDOUT,
                                       env=os.environ | dict(OMP_NUM_THREADS='1'))
            self.running.add(process)
            if self.stopped:                                           # while it started
                process.terminate()
            code = process.wait()
            self.running.discard(process)
        if self.stopped or code in STOPPED:
            raise SystemExit(STOPPED.get(code, code))
        if code:
            last = (log.read_text(encoding='utf-8').strip().splitlines() or ['no output'])[-1]
            raise StageError(f'{script.name} ended with {code}: {last} (all of it: {log})')

    def train(self, words: list[str], folder: Path) -> None:
        """Bring the run in `folder`, of these words of tools/train.py, to its end; a finished one stays.

        Raises:
            DataError: what is in the folder was trained by another command.
            StageError, SystemExit: as a call.
        """
        record = read_record(folder)
        before = [word for word in record.get('command', words)[1:] if word != '--resume'] if record else words
        if before != words:
            raise DataError(f'{folder} was trained by another command: {" ".join(before)}. Move it away, or name another '
                            '--work-dirs.')
        if not record.get('finished'):
            self(ROOT / 'tools' / 'train.py', [*words, *(['--resume'] if checkpoints(folder) else [])],
                 folder.with_suffix('.log'))

    def score(self, script: Path, words: list[str], result: Path) -> None:
        """Run a test of a config and weights, the first two words, unless its result is newer than the weights."""
        weights = Path(words[1])
        if not result.is_file() or result.stat().st_mtime < weights.stat().st_mtime:
            self(script, words, weights.parent.with_suffix('.log'))

    def stop(self) -> None:
        """Ask what runs to save and end, and wait for it; nothing starts any more."""
        self.stopped = True
        for process in [*self.running]:
            process.terminate()
        for process in [*self.running]:
            process.wait()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise in the main thread, as Ctrl-C does, so that what runs is stopped, too."""
    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
