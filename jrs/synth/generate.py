"""Generates a whole set of rooms over several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from jrs.errors import ConfigError, DataError
from jrs.io import scannet
from jrs.io.atomic import atomic_write
from jrs.io.progress import Progress
from jrs.synth.presets import GENERATOR_VERSION, Preset, find_preset
from jrs.synth.scan import label_table, scan_id, write_scan

MANIFEST = 'rooms.json'
THREAD_VARIABLES = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')


def generate(preset: str, raw_folder: str | os.PathLike, jobs: int = 1, rooms: int | None = None,
             progress: Callable[[str], None] | None = None, seed: int | None = None,
             departures: dict[str, str] | None = None) -> list[Path]:
    """Write a preset's rooms as raw ScanNet scans, with the label table and the split lists; return the scan folders.

    The bytes depend on preset, seed, departures and GENERATOR_VERSION only, not on `jobs`. Finished scans stay as they
    are.

    Args:
        preset: a name in PRESETS.
        raw_folder: receives `scene0000_00/`, …, `scannetv2-labels.combined.tsv`, `scannetv2_train.txt`, `_val.txt`.
        jobs: processes.
        rooms: at most so many rooms, in the preset's proportion of training and validation; None = all.
        progress: receives a line for people after each room.
        seed: other rooms of the same kind; None = the preset's own.
        departures: other `style`, `depth` or `poses` than the preset's.

    Raises:
        ConfigError: unknown preset or departure, or numbers below 1.
        DataError: the folder holds rooms of another preset, seed or version; or a process died.
    """
    chosen = find_preset(preset, departures)
    if jobs < 1 or (rooms is not None and rooms < 2):
        raise ConfigError(f'jobs is {jobs} and rooms is {rooms}; jobs must be at least 1, rooms at least 2 (one per '
                          f'split).')
    raw_folder, seed = Path(raw_folder), chosen.seed if seed is None else seed
    train, val = split_sizes(chosen, rooms)
    raw_folder.mkdir(parents=True, exist_ok=True)
    _claim(raw_folder, chosen, seed)
    tasks = [(raw_folder, index, chosen, seed) for index in range(train + val)]
    pieces = Progress(len(tasks), 'rooms')
    for _ in _run(tasks, jobs):
        if progress is not None:
            progress(pieces.step('rooms generated'))
    names = [scan_id(index) for index in range(train + val)]
    scannet.write_label_table(raw_folder / scannet.LABEL_TABLE, label_table())
    scannet.write_list(raw_folder / 'scannetv2_train.txt', names[:train])
    scannet.write_list(raw_folder / 'scannetv2_val.txt', names[train:])
    return [raw_folder / name for name in names]


def split_sizes(preset: Preset, rooms: int | None) -> tuple[int, int]:
    """Return how many rooms train and validate: of each that the preset has, at least one."""
    total = preset.train + preset.val
    if rooms is None or rooms >= total:
        return preset.train, preset.val
    val = max(1, round(rooms * preset.val / total))
    return rooms - val, val


def _claim(raw_folder: Path, preset: Preset, seed: int) -> None:
    """Note in the folder what its rooms are; refuse one that holds others."""
    wanted = {'preset': preset.name, 'seed': seed, 'generator_version': GENERATOR_VERSION,
              **preset.departures}
    manifest = raw_folder / MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text(encoding='utf-8-sig'))
        except ValueError as error:
            raise DataError(f'{manifest}: not JSON ({error}). Delete the folder or choose another.') from error
        if found != wanted:
            raise DataError(f'{raw_folder} holds rooms made with {found}; asked for are {wanted}. Delete it or choose '
                            f'another folder.')
        return
    with atomic_write(manifest, 'w') as file:
        json.dump(wanted, file, indent=1)


def _run(tasks: list[tuple], jobs: int) -> Iterator[bool]:
    """Yield once per finished task, from this process or from several."""
    if jobs == 1:
        yield from (write_scan(*task) for task in tasks)
        return
    with _single_threads(), ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context('spawn')) as pool:
        futures = [pool.submit(write_scan, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(f'A process that made rooms died, perhaps for lack of memory. Run again with fewer than '
                            f'{jobs} jobs: finished rooms are kept.') from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _single_threads() -> Iterator[None]:
    """Processes started inside the block use one thread each."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
