"""Checks prepared data: one scene, or every scene of a data set and its split lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jrs.datasets.prepare.driver import scenes_in
from jrs.datasets.scene import check_scene, read_split
from jrs.errors import DataError
from jrs.io.progress import Progress


def check_folder(folder: Path, progress: Callable[[str], None]) -> int:
    """Check a scene, or all scenes of a data set; report each fault, then raise if there were any.

    Args:
        folder: scene folder or folder of a data set.
        progress: receives lines for people.

    Returns:
        The number of scenes, all of them sound.

    Raises:
        DataError: nothing to check, or a fault; the first fault of every scene has been reported by then.
    """
    scenes = scenes_in(folder)
    faults = list(_list_faults(folder, {scene.name for scene in scenes}))
    pieces = Progress(len(scenes), 'scenes')
    for scene in scenes:
        try:
            check_scene(scene)
            progress(pieces.step(f'{scene.name}: sound'))
        except DataError as error:
            faults.append(str(error))
            progress(pieces.step(f'{scene.name}: {error}'))
    if faults:
        raise DataError(f'{folder}: {len(faults)} faults in {len(scenes)} scenes, the first: {faults[0]}')
    return len(scenes)


def _list_faults(folder: Path, there: set[str]) -> Iterator[str]:
    for path in sorted(folder.glob('*.txt')):
        missing = [name for name in read_split(folder, path.stem) if name not in there]
        if missing:
            yield f'{path}: {len(missing)} scenes of the list are missing, first {missing[0]}'
