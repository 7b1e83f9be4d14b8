"""SIGTERM and Ctrl-C: the step is finished and saved before the process ends; how to go on is said."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.dist import get_world_size

from jrs.launch import find_place

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST = 1.0                                     # seconds in which a batch that is on its way may still come
SAME = 1.0                                     # seconds: a launcher passes on what the whole group has got already


class Stopped(BaseException):
    """Ends a wait for data after a request to stop; like KeyboardInterrupt, no handler of errors keeps it."""


class StopRequest:
    """Inside the block, the first SIGTERM or SIGINT is kept for the end of the step; a second one ends the process at once.

    While a process that is alone waits for data (`waiting_for_data`), no step may end: `LAST` seconds after a signal
    `Stopped` is raised. Raised at once, it would cut through a batch that a worker is handing over.

    A handler runs between two steps of Python's interpreter: while the main thread is inside a collective that never ends it
    does not, and `number` stays 0. `arrived` knows of a signal also then.

    Attributes:
        number: of the signal, 0 while none has come.
        since: when it came, by the monotonic clock.
        waiting: for data, in this moment.
    """

    current: StopRequest | None = None         # the one whose block is running

    def __init__(self) -> None:
        self.number, self.since, self.before = 0, 0.0, {}
        self.waiting, self.alone = False, get_world_size() == 1
        self.launched = find_place().launcher != 'none'        # by one who passes on what all get already
        self.heard, self.heard_since = 0, 0.0
        self.ear: socket.socket | None = None

    def __enter__(self) -> StopRequest:
        StopRequest.current = self
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._keep) for number in SIGNALS}
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda number, frame: self.stop_a_wait())
            self.ear, self.mouth = socket.socketpair()
            for end in (self.ear, self.mouth):
                end.setblocking(False)
            self.wakeup = signal.set_wakeup_fd(self.mouth.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_) -> None:
        StopRequest.current = None
        if self.ear is not None:
            signal.set_wakeup_fd(self.wakeup)
            ear, self.ear = self.ear, None
            for end in (ear, self.mouth):
                end.close()
        if self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def arrived(self) -> tuple[int, float]:
        """Return the signal that asks to stop, 0 for none, and when it came; for another thread than the main one."""
        ear = self.ear
        try:
            for number in ear.recv(64) if ear is not None else b'':        # what the C part of a handler has written
                if number in SIGNALS and not self.heard:
                    self.heard, self.heard_since = number, time.monotonic()
        except OSError:
            pass                               # nothing is there, or the block has just ended
        return (self.number, self.since) if self.number else (self.heard, self.heard_since)

    def stop_a_wait(self) -> None:
        """Raise `Stopped` where a signal has come and only data are waited for; others would wait for this process."""
        if self.number and self.waiting and self.alone:
            raise Stopped

    def _keep(self, number: int, frame) -> None:
        if not self.number:
            self.number, self.since = number, time.monotonic()
            if self.waiting and self.alone:
                signal.setitimer(signal.ITIMER_REAL, LAST)
        elif not self.launched or time.monotonic() - self.since > SAME:
            os._exit(128 + number)


@contextmanager
def waiting_for_data() -> Iterator[None]:
    """Mark a block that may wait without end, and changes nothing that is kept.

    Raises:
        Stopped: this process is alone, and was or is asked to stop.
    """
    request = StopRequest.current
    if request is None:
        yield
        return
    try:
        request.waiting = True
        request.stop_a_wait()
        yield
    finally:
        request.waiting = False


def leave_stopping_to_the_parent() -> None:
    """In a loader's worker: ignore signals that the whole group gets, as training still needs data; obey the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):                         # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    """End this process when its parent sends SIGTERM, as multiprocessing does at its end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)                                # another code would be an error of the loader


def resume_command(words: Sequence[str], saved: bool = True) -> str:
    """Return the command line that goes on with the run that `words` (sys.argv) started; unless `saved`, begins it again."""
    own = shlex.join([*words, *([] if '--resume' in words or not saved else ['--resume'])])
    place = find_place()
    if place.launcher == 'slurm':
        return f'srun --ntasks {place.size} python {own}'
    if place.launcher == 'none':
        return f'python {own}'
    machines = int(os.environ.get('GROUP_WORLD_SIZE', 1))
    where = f'--nnodes {machines} ...' if machines > 1 else '--standalone'
    return f'torchrun {where} --nproc_per_node {os.environ.get("LOCAL_WORLD_SIZE", 1)} {own}'
