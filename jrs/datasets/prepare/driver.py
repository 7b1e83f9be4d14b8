"""What every source of scene folders shares: what is to do, whether it fits on the disk, processes, split lists."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import cv2

from jrs.datasets.scene import SceneFolder, check_scene_name
from jrs.errors import DataError
from jrs.io.names import some
from jrs.io.progress import Progress
from jrs.io.scannet import read_list, write_list

LOG = logging.getLogger('jrs')
OVERHEAD = 1.1                          # our files over the estimate of their payloads


@dataclass(frozen=True)
class Task:
    """One scene to prepare; goes to a process of its own, so both functions must be picklable.

    Attributes:
        name: of the scene.
        settings: a finished scene with these settings is kept as it is.
        estimate: returns about how many bytes the scene will take.
        write: writes the scene and returns what was dropped or repaired, for people.
    """

    name: str
    settings: dict
    estimate: Callable[[], float]
    write: Callable[[], list[str]]


@dataclass(frozen=True)
class Summary:
    """What a run did: scenes written, scenes that were there, and scene -> why it failed."""

    written: list[str]
    kept: list[str]
    failed: dict[str, str]


def prepare_scenes(tasks: Sequence[Task], out: Path, jobs: int, progress: Callable[[str], None] = LOG.info) -> Summary:
    """Write the scenes that are not there yet; those that fail are reported, not raised.

    Args:
        out: folder of the data set; made if need be, and cleared of what a killed run left.
        jobs: processes.
        progress: receives lines for people.

    Raises:
        DataError: `jobs` below 1, too little disk space, another run at work in `out`, or a process was killed.
    """
    if jobs < 1:
        raise DataError(f'--jobs must be at least 1, got {jobs}.')
    for task in tasks:
        check_scene_name(task.name, 'Rename the folder of the scan.')
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _clear_leftovers(out)
        kept = [task.name for task in tasks if _is_done(out / task.name, task.settings)]
        todo = [task for task in tasks if task.name not in set(kept)]
        _check_disk(todo, out, progress)
        failed = _work(todo, jobs, len(kept), progress)
    return Summary(sorted(task.name for task in todo if task.name not in failed), kept, failed)


def _work(todo: Sequence[Task], jobs: int, num_kept: int, progress: Callable[[str], None]) -> dict[str, str]:
    """Prepare scenes with a line for each; return scene -> why it failed."""
    failed, pieces = {}, Progress(num_kept + len(todo), 'scenes', num_kept)
    for name, notes, fault in _run(todo, jobs):
        if fault:
            failed[name] = fault
        progress(pieces.step(f'{name}{": " + fault if fault else ""}'))
        for note in notes:
            progress(f'  {name}: {note}')
    return failed


def _run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[str, list[str], str | None]]:
    """Yield (scene, notes, why it failed or None) as scenes finish."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(_attempt, tasks)
        return
    # Fresh processes: forking after OpenCV or torch started threads can hang.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, initializer=_start_worker) as pool:
        futures = [pool.submit(_attempt, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError('A process that prepared scenes was killed, probably for want of memory. Scenes that are '
                            'done stay; run the same command again with fewer --jobs.') from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Keep to one thread, and end with the parent: an orphan would write where the next run writes."""
    cv2.setNumThreads(0)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)
    threading.Thread(target=follow, daemon=True).start()


def _attempt(task: Task) -> tuple[str, list[str], str | None]:
    try:
        return task.name, task.write(), None
    except DataError as error:
        return task.name, [], str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f'{task.name}: the disk is full ({error}). Scenes that are done stay; make room and run the same '
                        'command again.') from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder against a second run; the system lets go when this process ends, however it ends."""
    try:
        import fcntl
    except ImportError:                                                     # not on this system
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise DataError(f'{out}: another run is preparing scenes there. Wait for it, or use another --out.') from error
    except OSError as error:                                                # a file system without locks
        LOG.info('%s cannot be locked (%s): do not start a second run there', out, error.strerror)
    try:
        yield
    finally:
        os.close(handle)


def _clear_leftovers(out: Path) -> None:
    """Remove what killed runs left under the hidden names of `SceneWriter` and `atomic_write`."""
    for ending in ('part', 'old'):
        for path in out.glob(f'.*.{ending}'):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_done(folder: Path, settings: dict) -> bool:
    scene = SceneFolder(folder)
    if not scene.exists():
        return False
    try:
        return scene.record.settings == settings
    except DataError:                                                       # an older format: prepare it again
        return False


def _check_disk(tasks: Sequence[Task], out: Path, progress: Callable[[str], None]) -> None:
    """Say how much disk space is needed, and stop when there is less."""
    need = sum(task.estimate() for task in tasks) * OVERHEAD
    free = shutil.disk_usage(out).free
    progress(f'{len(tasks)} scenes to prepare, about {need / 1e9:.2f} GB; {free / 1e9:.1f} GB are free in {out}')
    if need > free:
        raise DataError(f'{out}: about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. Make room, use '
                        'another --out, or a larger --every.')


def write_splits(out: Path, lists: Mapping[str, Path], names: Sequence[str], advice: str,
                 progress: Callable[[str], None] = LOG.info) -> None:
    """Write the split lists, restricted to scenes that are there; without any, `all.txt`.

    Args:
        lists: split -> the raw data set's list of it.
        names: of the scenes, for `all.txt`.
        advice: what to do for want of lists.
    """
    there, wanted = {path.parent.name for path in out.glob('*/scene.json')}, set()
    for split, path in lists.items():
        listed = read_list(path)
        present = [name for name in listed if name in there]
        write_list(out / f'{split}.txt', present)
        missing = [name for name in listed if name not in there]
        lacking = f'; not prepared: {some(missing)}' if missing else ''
        progress(f'split {split}: {len(present)} of {len(listed)} scenes{lacking}')
        wanted.update(listed)
    if lists and (unlisted := sorted(there - wanted)):
        progress(f'{len(unlisted)} scenes are in no split list and will not be read: {some(unlisted)}')
    if not lists:
        write_list(out / 'all.txt', [name for name in names if name in there])
        progress(f'no split lists: all scenes are in the split "all". {advice}')


def scenes_in(folder: Path) -> list[Path]:
    """Return the scene folders of a data set in order, or `folder` itself where it is one.

    Raises:
        DataError: there is none.
    """
    scenes = [folder] if SceneFolder(folder).exists() else sorted(path.parent for path in folder.glob('*/scene.json'))
    if not scenes:
        raise DataError(f'{folder}: no scene.json here or one folder below. Prepare scenes with tools/prepare.py.')
    return scenes


def file_bytes(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0
