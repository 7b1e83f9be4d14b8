"""Several processes as one job: they start together, agree at every step, and end together when one is lost."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_comm_device, get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch.distributed import DistError, TCPStore

from jrs.engine.stop import StopRequest
from jrs.errors import ConfigError, LostProcessError
from jrs.launch import Place, find_place
from jrs.registry import HOOKS

TIMEOUT = 900                                  # seconds, where no config says another one
LOST = re.compile(r'gloo|nccl|timed? ?out|connection (closed|reset|refused)|broken pipe|socket|store', re.IGNORECASE)
COLLECTIVES = ('torch/distributed/', 'mmengine/dist/')                 # where one waits for others …
AROUND_THEM = ('torch/autograd/', 'torch/nn/parallel/')                # … or works: DDP's are inside of a pass
BUSY = 0.05                                    # share of a core: a process that uses less waits
PATIENCE = 5.0                                 # seconds in which the others can say what they do
PAUSE = 0.1                                    # seconds between two looks
GRACE = 20.0                                   # seconds in which data or the others may still come; launchers kill after 30
BEHIND = 60.0                                  # seconds by which the group gives up later than the watchdog, which says more
DEBUGGERS = ('pdb.py', 'bdb.py', 'pydevd.py')
LOADER = 'torch/utils/data/'
LOADER_ADVICE = 'Its workers are dead, hang, or read very slowly: look at them, or read without (train.workers=0)'
LOST_EXIT = 2

_place = Place()                               # of this process, since `start_processes`


def start_processes(launcher: str | None = None, timeout: float = TIMEOUT) -> Place:
    """Join the process group.

    Args:
        launcher: 'none', 'pytorch' or 'slurm'; None takes what the environment says.
        timeout: seconds that a process waits for the others before the job ends.

    Returns:
        where this process stands.

    Raises:
        ConfigError: the launcher has not started this process, or there are more processes than devices.
        LostProcessError: the others have not come.
    """
    global _place
    _place = place = find_place(launcher)
    if place.launcher == 'none' or torch.distributed.is_initialized():
        return place
    if torch.cuda.is_available():
        torch.cuda.set_device(device_index(place, torch.cuda.device_count()))
    if place.launcher == 'slurm' and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(int(os.environ.get('SLURM_CPUS_PER_TASK') or 1))         # as torchrun: tasks share the cores
    wait = timedelta(seconds=timeout)
    try:
        if place.launcher == 'slurm':
            store = TCPStore(place.address, place.port, place.size, is_master=place.rank == 0, timeout=wait)
            joins = dict(store=store, rank=place.rank, world_size=place.size)
        else:
            joins = {}                         # torchrun may keep the store itself, as its own variables say
        if torch.cuda.is_available():          # NCCL would abort the process, with a trace of C++, before it is said why
            joins['device_id'] = torch.device('cuda', torch.cuda.current_device())
            torch.distributed.init_process_group('nccl', timeout=wait + timedelta(seconds=BEHIND), **joins)
        else:
            torch.distributed.init_process_group('gloo', timeout=wait, **joins)
    except DistError as error:
        where = f'{place.address}:{place.port} within {timeout:g} s (train.timeout)'
        raise LostProcessError(f'process {place.rank} of {place.size} did not meet the others at {where}: '
                               f'{str(error).splitlines()[0][:200]}') from error
    return place


def end_processes() -> None:
    """Leave the process group at the end of a command: threads that it keeps may abort a process that just exits."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def device_index(place: Place, visible: int) -> int:
    """Return the number of the GPU for this process among those that it sees.

    Slurm may bind one GPU to each task: all of them see a device 0 then. Processes of torchrun see the same devices.
    """
    if place.launcher == 'pytorch' and place.local_rank >= visible:
        raise ConfigError(f'torchrun started at least {place.local_rank + 1} processes on this machine, where {visible} '
                          f'GPUs are visible: start --nproc_per_node {visible}.')
    return place.local_rank % visible


def agree(*values: int) -> tuple[int, ...]:
    """Return the largest of what the processes say, for each of `values`: the same in all of them."""
    if get_dist_info()[1] == 1:
        return values
    together = torch.tensor(values, device=get_comm_device())
    all_reduce(together, 'max')
    return tuple(together.tolist())


def mean_over_processes(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean of each scalar over all processes, which have the same names."""
    if get_dist_info()[1] == 1 or not terms:
        return terms
    together = torch.stack([value.detach().float() for value in terms.values()])
    all_reduce(together, 'mean')
    return dict(zip(terms, together.unbind(), strict=True))


@contextmanager
def naming_lost_processes(watchdog: Watchdog) -> Iterator[None]:
    """Turn what gloo and NCCL raise inside the block into a LostProcessError that says which processes are silent."""
    try:
        yield
    except RuntimeError as error:
        if get_dist_info()[1] == 1 or not (isinstance(error, DistError) or LOST.search(str(error))):
            raise
        raise LostProcessError(watchdog.report(f'lost the others: {str(error).splitlines()[0][:200]}')) from error


class Watchdog:
    """Ends a job when one of its processes, or the only one, makes no progress.

    A thread of each process looks at the time since the last `beat`. When it is over, the processes tell each other where
    they stand, one message names those that are stuck and those that say nothing, and each process ends itself: this works
    where the main thread hangs, and where a collective of NCCL waits for ever. Time in which the process was stopped does
    not count, nor does a debugger.

    Where one of several processes is asked to stop while it waits for data, the others wait for it: it ends after `GRACE`.
    Where it waits for others that do not come, inside a collective in which no handler of a signal runs, it ends as early.
    A pass that still computes, however long, may finish: then it is saved.

    A process whose launcher is gone stops as after SIGTERM: nobody else would end it.

    Args:
        timeout: seconds without progress.
        launched: by torchrun, whose death is watched.
    """

    current: Watchdog | None = None            # the one whose block is running

    def __init__(self, timeout: float, launched: bool | None = None) -> None:
        self.timeout = timeout
        self.rank, self.world_size = get_dist_info()
        self.launched = 'TORCHELASTIC_RUN_ID' in os.environ if launched is None else launched
        self.parent, self.main_thread = os.getppid(), threading.get_ident()
        self.done = threading.Event()
        self.store: TCPStore | None = None
        self.said = ''
        self.beats = -1
        self.beat()
        self.worked, self.used = self.last, time.process_time()

    def __enter__(self) -> Watchdog:
        if self.world_size > 1:
            self.store = TCPStore(_place.address, _place.port, is_master=False,
                                  timeout=timedelta(seconds=max(PATIENCE, 1)))
        Watchdog.current = self
        self.beat()
        threading.Thread(target=self._watch, daemon=True, name='watchdog').start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        Watchdog.current = None

    def beat(self) -> None:
        """Say that something was finished."""
        self.beats += 1
        self.last = time.monotonic()

    def report(self, what: str) -> str:
        """Tell the others what happened here, wait a little for what they say, and return a text of all."""
        if self.world_size == 1:
            return f'this process cannot go on: it is {what}. Where steps need more time, raise train.timeout ' \
                   f'({self.timeout:g} s now).'
        what = self.said = self.said or what   # the first cause, where the main thread and the watchdog both report
        self._tell(what)
        known, end = {self.rank: what}, time.monotonic() + PATIENCE
        while len(known) < self.world_size and time.monotonic() < end:
            time.sleep(PAUSE)
            known.update(self._heard())
        time.sleep(3 * PAUSE)                  # the store may be with this process: the others read it too
        lines = [f'  process {rank}: {known.get(rank, "says nothing: it was killed, is stopped, or its machine is gone")}'
                 for rank in range(self.world_size)]
        return '\n'.join([
            f'this job of {self.world_size} processes cannot go on:', *lines,
            'Look at the process that is stuck or silent: its message, its machine, memory (dmesg: "out of memory"). Then '
            f'start all again with --resume. Where steps need more time, raise train.timeout ({self.timeout:g} s now).'])

    def _watch(self) -> None:
        pause, looked = min(1.0, self.timeout / 5), time.monotonic()
        while not self.done.wait(pause):
            passed, looked = time.monotonic() - looked, time.monotonic()
            asleep = max(passed - 2 * pause, 0.0)                  # the whole process was stopped (Ctrl-Z), or its machine
            self.last += asleep
            self.worked += asleep
            self._notice_work(passed)
            if self.launched and os.getppid() != self.parent:
                print_log('the launcher of this process is gone: stopping after this step', 'current', logging.WARNING)
                self.launched = False
                os.kill(os.getpid(), signal.SIGTERM)
            self._look_for_a_stop(StopRequest.current)
            if time.monotonic() - self.last > self.timeout:
                self._end()

    def _notice_work(self, passed: float) -> None:
        """Note whether the threads of this process have computed in the `passed` seconds since the last look."""
        before, self.used = self.used, time.process_time()
        if self.used - before > BUSY * passed:
            self.worked = time.monotonic()

    def _look_for_a_stop(self, request: StopRequest | None) -> None:
        """End this process where it was asked to stop and cannot, `GRACE` seconds after it was asked or did something."""
        number, since = (0, 0.0) if request is None else request.arrived()
        if not number or time.monotonic() - max(since, self.last) <= GRACE:
            return
        if request.waiting:
            self._end(f'asked to stop, and still waits for data after {GRACE:g} s', 128 + number)
        if self.world_size > 1 and self._waits(GRACE):
            self._end(f'asked to stop, and still waits for the others after {GRACE:g} s', 128 + number)

    def _waits(self, idle: float = 0.0) -> bool:
        """Return whether the main thread waits for other processes; in a pass only where nothing computed for `idle` s."""
        files = [frame.filename for frame in traceback.extract_stack(sys._current_frames()[self.main_thread])]
        if any(part in files[-1] for part in COLLECTIVES):
            return True
        inside = any(part in file for file in files for part in (*COLLECTIVES, *AROUND_THEM))
        return inside and time.monotonic() - self.worked >= idle

    def _end(self, why: str = '', code: int = LOST_EXIT) -> None:
        """Say where the main thread stands, or `why` not there, and end this process."""
        if self.said and self.done.wait(2 * PATIENCE):
            return                             # the main thread reports, and ends by itself
        frames = traceback.extract_stack(sys._current_frames()[self.main_thread])
        where = f'{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}'
        if any(Path(frame.filename).name in DEBUGGERS for frame in frames):
            self.beat()
            return
        waits = self.world_size > 1 and self._waits()
        data = f' while it waits for data. {LOADER_ADVICE}' if any(LOADER in frame.filename for frame in frames) else ''
        text = self.report(why or (f'waits for the others (in {where})' if waits else
                                   f'stuck for {self.timeout:g} s at {where}{data}'))
        sys.stderr.write(''.join(traceback.format_list(frames[-8:])) + f'LostProcessError: {text}\n')
        sys.stderr.flush()                     # the next line leaves no one to do it
        os._exit(code)

    def _tell(self, what: str) -> None:
        if self.store is None:
            return
        try:
            self.store.set(f'jrs/lost/{self.rank}', what)
        except RuntimeError:                   # the store was with a process that is gone
            self.store = None

    def _heard(self) -> dict[int, str]:
        """Return what the processes have said so far, by rank."""
        try:
            return {rank: self.store.get(f'jrs/lost/{rank}').decode() for rank in range(self.world_size)
                    if self.store is not None and self.store.check([f'jrs/lost/{rank}'])}
        except RuntimeError:
            self.store = None
            return {}


@HOOKS.register_module()
class Heartbeat(Hook):
    """Tells the watchdog that a step, or a scene of a validation or test, was finished."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Beat."""
        if Watchdog.current is not None:
            Watchdog.current.beat()

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Beat."""
        self.after_train_iter(runner, batch_idx)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Beat."""
        self.after_train_iter(runner, batch_idx)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Beat."""
        self.after_train_iter(runner, 0)
