"""A loader whose waits end: a worker that dies or finds no shared memory is an error that says what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader, Dataset, get_worker_info

from jrs.datasets.dataset import collate_scenes
from jrs.engine.stop import waiting_for_data
from jrs.errors import DataError, LostProcessError
from jrs.structures import SceneBatch

SHARED = Path('/dev/shm')
DEAD = re.compile(r'DataLoader worker')        # torch's words, raised anywhere in the main thread when a worker dies
STARVED = re.compile(r'DataLoader worker|shared memory|No space left|Too many open files|ancillary data')
_END = object()


class PatientLoader(DataLoader):
    """torch's loader; while it waits for a batch, a request to stop is obeyed and a lost worker is named."""

    def __iter__(self) -> Iterator[SceneBatch]:
        """Yield batches."""
        with explaining_lost_workers(self.num_workers, STARVED):
            batches = super().__iter__()
        while True:
            with explaining_lost_workers(self.num_workers, STARVED), waiting_for_data():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch


def collation_of(dataset: Dataset) -> Callable[[list[SceneBatch]], SceneBatch]:
    """Return what joins samples of a data set: its own `collate`, else `collate_scenes`; in workers in shared memory."""
    return partial(collate_shared, collate=getattr(dataset, 'collate', collate_scenes))


def collate_shared(samples: list[SceneBatch],
                   collate: Callable[[list[SceneBatch]], SceneBatch] = collate_scenes) -> SceneBatch:
    """Return what `collate` makes, in a worker in shared memory: where that is full, torch would lose the batch later on.

    Raises:
        DataError: shared memory is full.
    """
    batch, worker = collate(samples), get_worker_info()
    if worker is None:
        return batch
    try:
        return batch.share_memory()
    except (RuntimeError, OSError) as error:
        raise DataError(f'a batch does not fit into shared memory ({_first_line(error)}). '
                        f'{memory_advice(worker.num_workers)}') from error


@contextmanager
def explaining_lost_workers(workers: int, signs: re.Pattern[str] = DEAD) -> Iterator[None]:
    """Turn what torch raises when one of `workers` is gone into a LostProcessError that says what to look at.

    Args:
        workers: of the loader; 0 changes nothing.
        signs: of a lost worker, in the words of an error.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not workers or not signs.search(str(error)):
            raise
        raise LostProcessError(f'a worker that loads data is gone: {_first_line(error)} Most often the system had no memory '
                               f'left and killed it (dmesg: "out of memory"). {memory_advice(workers)}') from error


def memory_advice(workers: int) -> str:
    """Return how large the shared memory of workers is, and what to do where it does not suffice."""
    usage = shutil.disk_usage(SHARED) if SHARED.is_dir() else None
    size = f'{SHARED} has {usage.total / 1e6:.1f} MB, {usage.free / 1e6:.1f} MB free' if usage else f'no {SHARED} here'
    return (f'Workers hand over batches in shared memory: {size}. Give it more (docker run --shm-size=8g), or have fewer '
            f'workers, or none: --cfg-options train.workers=0 ({workers} now).')


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300]
