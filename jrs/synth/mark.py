"""The mark of a folder of rooms: which rooms it is for, and whether all are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jrs.io.atomic import atomic_write

ROOMS_MARK = 'rooms.json'


def write_mark(folder: Path, rooms: dict[str, Any], complete: bool) -> None:
    """Say in `folder` which `rooms` it is for, and whether all of them are there."""
    with atomic_write(folder / ROOMS_MARK, 'w') as file:
        json.dump({**rooms, 'complete': complete}, file)


def read_mark(folder: Path) -> dict[str, Any]:
    """Return what `write_mark` wrote, `complete` among it; empty for a folder without a mark: it is somebody's own."""
    mark = folder / ROOMS_MARK
    return json.loads(mark.read_text(encoding='utf-8-sig')) if mark.is_file() else {}
