"""SIGTERM and Ctrl-C: the step is finished and saved before the process ends; how to go on is said."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Sequence

from jrs.launch import find_place

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME = 1.0                                     # seconds: a launcher passes on what the whole group has got already


class StopRequest:
    """Inside the block, the first SIGTERM or SIGINT is kept for the end of the step; a second one ends the process at once.

    Attributes:
        number: of the signal, 0 while none has come.
    """

    def __init__(self) -> None:
        self.number, self.since, self.before = 0, 0.0, {}
        self.launched = find_place().launcher != 'none'        # by one who passes on what all get already

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._keep) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame) -> None:
        if not self.number:
            self.number, self.since = number, time.monotonic()
        elif not self.launched or time.monotonic() - self.since > SAME:
            os._exit(128 + number)


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


def resume_command(words: Sequence[str]) -> str:
    """Return the command line that goes on with the run that `words` (sys.argv) started."""
    own = shlex.join([*words, *([] if '--resume' in words else ['--resume'])])
    place = find_place()
    if place.launcher == 'slurm':
        return f'srun --ntasks {place.size} python {own}'
    if place.launcher == 'none':
        return f'python {own}'
    machines = int(os.environ.get('GROUP_WORLD_SIZE', 1))
    where = f'--nnodes {machines} ...' if machines > 1 else '--standalone'
    return f'torchrun {where} --nproc_per_node {os.environ.get("LOCAL_WORLD_SIZE", 1)} {own}'
