"""One writer per folder: a file names who writes there; one that died does not hold it against the next.

The file must work where a cluster shares the folder, so no lock of the file system is relied on alone. On the machine of the
writer its process is looked up, by number and time of start. From another machine one waits for a sign of life: the writer
touches the file every `BEAT` seconds. A job that Slurm has started again is known to have ended before.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.dist import get_rank

from jrs.engine.processes import agree
from jrs.errors import DataError, JrsError
from jrs.io.atomic import check_folder

WRITER_FILE = '.writer.json'
BEAT = 20.0                                    # seconds between two signs of life
SILENT = 180.0                                 # seconds without one after which a writer elsewhere counts as dead
PAUSE = 0.5                                    # seconds between two looks
SHOWN = 200                                    # characters of a command in a message
TAKEN_EXIT = 2


@contextmanager
def one_writer(folder: Path, command: Sequence[str]) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, against every other process inside the block.

    Of several processes of a job the first one holds it, for all.

    Args:
        folder: whose files the block writes.
        command: of this process, for the message that another one gets.

    Raises:
        DataError: another process writes there, or the folder cannot be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    held, fault = None, None
    if get_rank() == 0:
        try:
            check_folder(folder)
            held = _Held(folder / WRITER_FILE, command)
        except JrsError as error:
            fault = error
    try:
        if agree(int(fault is not None))[0]:
            raise fault or DataError(f'process 0 may not write to {folder}; its message says why.')
        yield
    finally:
        if held is not None:
            held.release()
        if get_rank() == 0:
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to one that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def refuse_second_writer(folder: Path) -> None:
    """Raise a DataError where another process writes to `folder`, or one on another machine may do so."""
    path = folder / WRITER_FILE
    record = _read_written(path) if path.exists() else {}
    if path.exists() and not _is_gone(record) and (_is_here(record) or _age(path) < SILENT):
        raise DataError(_who(folder, record))


class _Held:
    """The file of this process; a thread keeps it young."""

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        self.path, self.process, self.done = path, os.getpid(), threading.Event()
        self.record = _own_record(command)
        while not (self._create() or self._take_over()):
            pass
        threading.Thread(target=self._beat, daemon=True, name='writer').start()

    def release(self) -> None:
        """Remove the file where it is this process's own."""
        self.done.set()
        if os.getpid() == self.process and self._is_mine():
            self.path.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        return _read(self.path).get('token') == self.record['token']

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            json.dump(self.record, file)
        return True

    def _take_over(self) -> bool:
        """Write over the file of a writer that is gone; False where the file has gone or changed meanwhile.

        Raises:
            DataError: the writer lives.
        """
        before = _read_written(self.path)
        gone = _is_gone(before)
        if not gone and (_is_here(before) or _shows_life(self.path, before)):
            raise DataError(_who(self.path.parent, before or _read(self.path)))
        with suppress(FileNotFoundError), self.path.open('r+', encoding='utf-8') as file:
            _lock(file)
            if _read(self.path) != before:
                return False
            file.write(json.dumps(self.record))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if not gone:
            time.sleep(2 * PAUSE)              # another machine may have judged the same at the same time
        if not self._is_mine():
            return False
        print(f'{self.path.parent}: taking over from {_name(before)}, which is gone', file=sys.stderr, flush=True)
        return True

    def _beat(self) -> None:
        while not self.done.wait(BEAT):
            found = _read(self.path)
            if found and not self._is_mine() and not self.done.is_set():
                sys.stderr.write(f'{_who(self.path.parent, found)} This process was silent for long, and ends: two would '
                                 'write the same files.\n')
                sys.stderr.flush()
                os._exit(TAKEN_EXIT)
            with suppress(OSError):
                os.utime(self.path)


def _own_record(command: Sequence[str]) -> dict:
    pid = os.getpid()
    return dict(host=socket.gethostname(), pid=pid, process_start=_process_start(pid), machine=_machine(),
                slurm_job=os.environ.get('SLURM_JOB_ID', ''), slurm_restart=os.environ.get('SLURM_RESTART_COUNT', '0'),
                since=time.strftime('%Y-%m-%d %H:%M:%S'), command=shlex.join(map(str, command)), token=uuid.uuid4().hex)


def _machine() -> str:
    """Return what processes that can see each other have in common: one boot of a machine, one container of it."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:                            # no Linux
        return socket.gethostname()


def _process_start(pid: int) -> str:
    """Return when a process started, in ticks since the boot; '' for one that is over, '?' where the system does not say."""
    try:
        state, *rest = Path(f'/proc/{pid}/stat').read_text(encoding='ascii', errors='replace').rpartition(')')[2].split()
        return '' if state in 'ZX' else rest[18]
    except OSError:
        if Path('/proc/self/stat').exists():
            return ''
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ''
    except PermissionError:
        pass
    return '?'


def _is_here(record: dict) -> bool:
    return record.get('machine') == _machine()


def _is_gone(record: dict) -> bool:
    """Return whether a writer is known to be dead: its process here, or its run of a job that Slurm has started again."""
    if _is_here(record):
        return _process_start(record['pid']) != record['process_start']
    job, restart = (os.environ.get(name) for name in ('SLURM_JOB_ID', 'SLURM_RESTART_COUNT'))
    return bool(job) and record.get('slurm_job') == job and record.get('slurm_restart') != (restart or '0')


def _shows_life(path: Path, record: dict) -> bool:
    """Return whether a writer that cannot be looked up touches its file, waiting until it would have."""
    end, before = time.monotonic() + SILENT - _age(path), _touched(path)
    if end > time.monotonic():
        print(f'{path.parent}: {_name(record)} writes there, or has been killed: waiting {end - time.monotonic():.0f} s for '
              'a sign of life', file=sys.stderr, flush=True)
    while time.monotonic() < end:
        time.sleep(PAUSE)
        if _touched(path) != before or _read(path) != record:
            return path.exists()
    return False


def _touched(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float:
    """Return the seconds since `path` was touched, by the clock of whoever keeps the folder."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b'x')
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path) -> dict:
    """Return what a writer says of itself; empty where there is none, or it is about to write."""
    try:
        record = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _read_written(path: Path) -> dict:
    """Return what a writer says of itself, giving it a moment to write; empty where it has not."""
    for _ in range(3):
        if record := _read(path):
            break
        time.sleep(PAUSE / 3)
    return record


def _lock(file) -> None:
    """Let others on this machine wait until `file` is closed, where the file system can do that."""
    try:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return


def _name(record: dict) -> str:
    if not record:
        return 'a process that does not say who it is'
    command = record.get('command', '')
    job = f', Slurm job {record["slurm_job"]}' if record.get('slurm_job') else ''
    return (f'process {record.get("pid")} on {record.get("host")}{job} since {record.get("since")} '
            f'({command if len(command) <= SHOWN else command[:SHOWN] + "…"})')


def _who(folder: Path, record: dict) -> str:
    return (f'{folder} belongs to {_name(record)}. Two writers would spoil it: wait until that one ends, stop it, or choose '
            f'another folder. If you know that it is gone, remove {folder / WRITER_FILE}.')
