"""What a run's folder is called: the name tells what the run is of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from jrs.config import parse_override

MAX_SLUG = 80                                   # characters of the overrides in the name of a run folder


def default_work_dir(config: str | Path, profile: str, seed: int, overrides: Iterable[str] = ()) -> Path:
    """Return ``work_dirs/<experiment>_<profile>_seed<seed>``, with the overrides behind it: ``_train.iterations-500``.

    Args:
        config: the experiment's file.
        profile: its scale.
        seed: of the run; an override of it is not named again.
        overrides: `a.b=c` as given to --cfg-options, in any order; a path that is given twice counts with its last value.
    """
    name = f'{Path(config).stem}_{profile}_seed{seed}'
    return Path('work_dirs') / '_'.join([name, *_slug(overrides)])


def _slug(overrides: Iterable[str]) -> list[str]:
    """Return one word per override, sorted by path; a long list is cut and ends in the digest of the whole."""
    values = {path: str(value) for path, value in sorted(dict(map(parse_override, overrides)).items()) if path != 'seed'}
    words = [f'{path}-{_word(value)}' for path, value in values.items()]
    if len('_'.join(words)) <= MAX_SLUG:
        return words
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]
    return ['_'.join(words)[:MAX_SLUG - 9] + f'-{digest}']


def _word(value: str) -> str:
    """Return a value as part of a file name: brackets, quotes and spaces go, other marks become '-'."""
    return re.sub(r'[^\w.+-]+', '-', re.sub(r'[][(){}\s\'"]', '', value))
