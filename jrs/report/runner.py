"""Runs what is missing: one process per command, several chains side by side, one line when something happens."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import mean

from jrs.engine.usage import KIB
from jrs.engine.writer import refuse_second_writer
from jrs.errors import DataError, JrsError
from jrs.io.atomic import atomic_write
from jrs.io.names import distinct, plain_name, readable
from jrs.report.identity import write_identity
from jrs.report.work import OTHER, Scoring, Submission, Training, Work, command_line, shown

LOG = 'reproduce.log'
GRACE = 120                                    # seconds before its time is over in which a job saves
QUIET_SECONDS = 20                             # between two lines that show where a child is
ERROR = re.compile(r'^\w*(Error|Interrupt|Exit): .+')
NOTHING = 'it ended without a word'


@dataclass
class Runner:
    """Runs chains of work.

    Attributes:
        launcher: for trainings and scorings, as `--launcher` means it.
        processes: of one of them at most; a training takes as many as share its update equally.
        jobs: chains side by side.
        one_thread: give each process one thread; small networks on a busy CPU are many times slower with more.
        any_code: work by other code counts as done, or is gone on with.
        logs: folder for the output of commands that have no run folder.
        say: shows a line.
        failures: id of the work that failed -> the last line of its error.
    """

    launcher: str
    processes: int
    jobs: int
    one_thread: bool
    any_code: bool
    logs: Path
    say: Callable[[str], None]
    failures: dict[int, str] = field(default_factory=dict)

    def run(self, chains: list[list[Work]]) -> None:
        """Run what is not settled and can run; a failure ends its chain, not the others.

        SIGTERM is passed on to the commands that run, which save; Ctrl-C reaches them by the terminal.
        """
        todo = {id(chain): self.missing(chain) for chain in chains}
        self.progress = _Progress([type(work) for works in todo.values() for work in works], self.jobs)
        self.stop, self.children = threading.Event(), set()
        pool = ThreadPoolExecutor(self.jobs)
        try:
            with _exit_on_sigterm():
                for future in [pool.submit(self._chain, works) for works in todo.values() if works]:
                    future.result()
        except BaseException as error:
            self.stop.set()
            if isinstance(error, SystemExit):
                self.say(f'SIGTERM: passed on to {len(self.children)} running commands; the same command goes on later')
            if isinstance(error, (SystemExit, BrokenPipeError)):
                for process in list(self.children):
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    def missing(self, chain: list[Work]) -> list[Work]:
        """Return what of a chain is to be run: nothing behind a training that cannot run."""
        if isinstance(chain[0], Training) and chain[0].fault and not chain[0].settled(self.any_code):
            return []
        return [work for work in chain if not work.fault and not work.settled(self.any_code)]

    def _chain(self, works: list[Work]) -> None:
        for work in works:
            if self.stop.is_set() or isinstance(work, Scoring) and id(work.training) in self.failures:
                self.progress.skip(type(work))
                continue
            number = self.progress.begin()
            self.say(f'{number} {work.title}')
            start = time.monotonic()
            fault = self._attempt(work)
            left = self.progress.end(type(work), time.monotonic() - start)
            if fault:
                self.failures[id(work)] = fault
            self.say(f'{number} {work.title}: {fault or "done"} in {_clock(time.monotonic() - start)}{left}{_memory()}')

    def _attempt(self, work: Work) -> str:
        """Run one command; returns what went wrong, '' when nothing did."""
        run = work.training if isinstance(work, Scoring) and work.training else work
        try:
            if isinstance(run, Training):
                refuse_second_writer(run.folder)               # the command itself holds the folder while it runs
            if work.settled(self.any_code):
                return ''                                      # by another process, in the meantime
            if isinstance(work, Training):
                make_room(work, self.any_code, self.say)
            log = (work.folder if isinstance(work, (Training, Scoring)) else self.logs) / LOG
            code, last = self._stream(work, log)
        except JrsError as error:
            return f'{type(error).__name__}: {error}'
        if code != 0:
            return f'{last} (exit code {code}; {shown(log)})'
        if isinstance(work, Submission):
            write_identity(work.folder, work.identity)
        return ''

    def _stream(self, work: Work, log: Path) -> tuple[int, str]:
        """Run a command, its output into `log`; returns the exit code and the line that says why it failed."""
        command = command_line(work.words(self.any_code), self.launcher, work.processes_within(self.processes))
        log.parent.mkdir(parents=True, exist_ok=True)
        last, error, shown_at = '', '', time.monotonic()
        with log.open('a', encoding='utf-8') as file, subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                env=self._environment()) as process:
            self.children.add(process)
            if self.stop.is_set():
                process.terminate()
            file.write(f'$ {shlex.join(command)}\n')
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = line.strip() or last
                error = line.strip() if ERROR.match(line) else error
                if time.monotonic() - shown_at > QUIET_SECONDS:
                    self._show(f'      {work.title}: {last.rpartition("INFO - ")[2][:90]}', process)
                    shown_at = time.monotonic()
        self.children.discard(process)
        return process.returncode, error or last or NOTHING

    def _show(self, line: str, process: subprocess.Popen) -> None:
        """Show a line of a command that runs; where nobody reads on, it is ended."""
        try:
            self.say(line)
        except BrokenPipeError:
            process.terminate()
            raise

    def _environment(self) -> dict[str, str]:
        threads = {'OMP_NUM_THREADS': '1'} if self.one_thread else {}
        return {**os.environ, **threads, 'PYTHONWARNINGS': 'ignore', 'PYTHONUNBUFFERED': '1'}


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Inside the block, SIGTERM raises SystemExit(143) in the main thread, so that children are not left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """Counts commands and tells how long the rest will take, from those of the same kind that have ended."""

    def __init__(self, kinds: list[type], jobs: int) -> None:
        self.left, self.total, self.jobs, self.begun = list(kinds), len(kinds), jobs, 0
        self.seconds: dict[type, list[float]] = {}
        self.lock = threading.Lock()

    def begin(self) -> str:
        with self.lock:
            self.begun += 1
            return f'[{self.begun}/{self.total}]'

    def skip(self, kind: type) -> None:
        with self.lock:
            self.left.remove(kind)
            self.total -= 1

    def end(self, kind: type, seconds: float) -> str:
        """Return how much time is left, in words; '' at the end."""
        with self.lock:
            self.left.remove(kind)
            self.seconds.setdefault(kind, []).append(seconds)
            overall = mean(second for values in self.seconds.values() for second in values)
            rest = sum(mean(self.seconds.get(kind, [overall])) for kind in self.left) / self.jobs
            return f', about {_clock(rest)} left' if self.left else ''


def make_room(training: Training, any_code: bool, say: Callable[[str], None]) -> None:
    """Move a run of another identity aside, under a name that says so; nothing is deleted."""
    state, parts = training.state(any_code)
    if state != OTHER:
        return
    refuse_second_writer(training.folder)
    number = 1
    while (aside := training.folder.with_name(f'{training.folder.name}.other{number}')).exists():
        number += 1
    training.folder.rename(aside)
    say(f'      {shown(training.folder)} is by other {", ".join(parts)}: moved to {aside.name}')


def write_slurm_jobs(chains: list[list[Work]], runner: Runner, folder: Path, gpus: int) -> list[Path]:
    """Write one batch script per chain that is not settled; partition, account and time come from sbatch or SBATCH_*.

    A job that is requeued, or submitted again after it was cancelled or out of time, goes on where its training was saved.

    Args:
        chains: each a training and what follows it, or what stands alone.
        runner: how they are run.
        folder: for the scripts and the logs of the jobs.
        gpus: that a job asks for per task; a cluster without any refuses a job that asks.
    """
    if readable(folder.absolute()) != str(folder.absolute()):
        raise DataError(f'{str(folder.absolute())!r} has characters that no line of a script can hold: name another folder '
                        'for the scripts.')
    scripts = []
    for works in map(runner.missing, chains):
        if not works:
            continue
        first, lines = works[0], []
        processes = min(work.processes_within(runner.processes) for work in works)
        for work in works:
            if isinstance(work, Training):
                make_room(work, runner.any_code, runner.say)
            words = [word for word in work.words(runner.any_code) if word != '--resume']
            resume = f' $(ls {shlex.quote(str(work.folder))}/iter_*.pth > /dev/null 2>&1 && echo --resume)'
            line = shlex.join(command_line(words, 'slurm', processes))
            lines.append(line.replace(' --launcher', f'{resume} --launcher', 1) if isinstance(work, Training) else line)
        name = plain_name(first.folder.name if isinstance(first, Training) else first.title)
        names = [*(path.stem for path in scripts), name]
        name = distinct(names, names)[-1]
        path, output = folder / f'{name}.sh', str(folder.absolute() / name).replace('%', '%%')      # Slurm's %j is a number
        head = ['#!/bin/bash', f'#SBATCH --job-name={name}', f'#SBATCH --ntasks={processes}',
                *([f'#SBATCH --gpus-per-task={gpus}'] if gpus else []), '#SBATCH --requeue', '#SBATCH --open-mode=append',
                f'#SBATCH --signal=TERM@{GRACE}', f'#SBATCH --output={shlex.quote(output + "-%j.log")}',
                'set -e', 'export SLURM_KILL_BAD_EXIT=1',              # all tasks end with the first that fails
                f'cd {shlex.quote(str(Path.cwd()))}']
        with atomic_write(path, 'w') as file:
            file.write('\n'.join([*head, *lines, '']))
        scripts.append(path)
    return scripts


def gpus_of_cluster(say: Callable[[str], None]) -> int:
    """Return how many GPUs a task asks for: one where `sinfo` lists any, or cannot be asked."""
    try:
        listed = subprocess.run(['sinfo', '--noheader', '--format=%G'], capture_output=True, text=True, check=True,
                                timeout=60)
    except (OSError, subprocess.SubprocessError):
        say('no cluster answers here (sinfo): the jobs ask for one GPU per task; --slurm-gpus 0 leaves that out')
        return 1
    found = re.search(r'\bgpu\b', listed.stdout) is not None
    say(f'sinfo lists {"GPUs: the jobs ask for one per task" if found else "no GPU: the jobs ask for none"} (--slurm-gpus)')
    return int(found)


def _memory() -> str:
    """Return the memory of the largest command that has ended so far, in words."""
    return f', at most {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB / 1e9:.2f} GB a process'


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
