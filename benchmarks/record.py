"""How a benchmark leaves its figures: a line of JSON on the console, one more record in a list; several seeds in a table."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from jrs.io.atomic import atomic_write


def publish(figures: dict, path: Path | None, **versions: str) -> None:
    """Print `figures` with command, machine, load and `versions`; append them to the list in `path` where it is given."""
    record = dict(command=' '.join(['python', *sys.argv]), machine=platform.platform(), python=platform.python_version(),
                  cores=os.cpu_count(), load=os.getloadavg()[0], **versions, **figures)
    print(json.dumps(record))
    if path is not None:
        before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
        with atomic_write(path, 'w') as file:
            file.write(json.dumps([*before, record], indent=1) + '\n')


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return one number, or the mean of several and their range; '–' of none."""
    if len(values) < 2:
        return f'{values[0]:.{digits}f}' if values else '–'
    return f'{mean(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]'
