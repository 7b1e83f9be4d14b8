"""Runs a command in several processes that are forks of this one: no second start of Python, no launcher."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests._data import command

SECONDS = 120                                  # after which a test fails instead of hanging


@dataclass
class Rank:
    """A process of the job, and where its output goes."""

    pid: int
    output: Path
    code: int | None = None

    @property
    def text(self) -> str:
        return self.output.read_text()

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return probe.getsockname()[1]


def torchrun(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the variables of a process of torchrun."""
    return dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                MASTER_ADDR='localhost', MASTER_PORT=str(port))


# As Slurm 22.05 sets them, for a job of two tasks: in the shell of salloc, and in the batch script.
SHELL = dict(SLURM_JOB_ID='41', SLURM_JOBID='41', SLURM_NTASKS='2', SLURM_NPROCS='2', SLURM_NNODES='1',
             SLURM_JOB_NODELIST='vm', SLURM_NODELIST='vm', SLURM_TASKS_PER_NODE='2')
BATCH = dict(SHELL, ENVIRONMENT='BATCH', SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NODEID='0', SLURM_GTIDS='0')


def srun(rank: int, count: int, job: int) -> dict[str, str]:
    """Return the variables of a task in step 1 of a job on one machine."""
    return dict(BATCH, SLURM_JOB_ID=str(job), SLURM_STEP_ID='1', SLURM_STEPID='1', SLURM_STEP_NUM_TASKS=str(count),
                SLURM_STEP_NUM_NODES='1', SLURM_STEP_NODELIST='vm', SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))


def start_ranks(folder: Path, name: str, *words, count: int = 2, before: Callable[[int], None] = lambda rank: None,
                launch: Callable[[int, int, int], dict] | None = torchrun) -> list[Rank]:
    """Start ``jrs NAME WORDS`` as `count` processes; `before(rank)` runs in each of them first.

    `launch(rank, count, port)` returns the variables that a launcher sets; without one nothing tells a process that there
    are others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    ranks = []
    for rank in range(count):
        output = folder / f'output{rank}.txt'
        output.touch()                         # it may be read before the process has written
        pid = os.fork()
        if pid == 0:
            os.environ.update(launch(rank, count, port) if launch is not None else {})
            _child(output, name, list(words), lambda rank=rank: before(rank))
        ranks.append(Rank(pid, output))
    return ranks


def _child(output: Path, name: str, words: list, before: Callable[[], None]) -> None:
    """Never returns."""
    code, others = 99, set(multiprocessing.active_children())          # those of the process that was forked
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)
        before()
        code = command(name, *words)
        for worker in set(multiprocessing.active_children()) - others:         # as at the end of a program, which waits
            worker.terminate()
            worker.join(10)
            code = 98 if worker.is_alive() else code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(ranks: list[Rank], seconds: float = SECONDS) -> list[int]:
    """Return the exit codes, negative for a signal; a process that is not over in time is killed and fails the test."""
    end = time.monotonic() + seconds
    for rank in ranks:
        while rank.code is None:
            pid, status = os.waitpid(rank.pid, os.WNOHANG)
            if pid:
                rank.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                rank.kill(signal.SIGKILL)
                end = time.monotonic() + 5
            else:
                time.sleep(0.02)
    return [rank.code for rank in ranks]


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition(), 'waited in vain'
