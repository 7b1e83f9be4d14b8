"""Golden cases: found by listing `$JRS_GOLDEN`; a missing folder is a skip with its reason, never a pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(os.environ.get('JRS_GOLDEN', Path(__file__).resolve().parents[3] / 'shared' / 'golden'))


def golden_files(*patterns: str, exclude: tuple[str, ...] = ()) -> list:
    """Return one pytest parameter per golden file that matches, or a single skipped one."""
    files = sorted({path for pattern in patterns for path in FOLDER.glob(pattern) if path.stem not in exclude})
    if files:
        return [pytest.param(path, id=path.stem) for path in files]
    reason = f'no golden file {" | ".join(patterns)} in {FOLDER}; set JRS_GOLDEN to the folder that has them'
    return [pytest.param(None, id='absent', marks=pytest.mark.skip(reason=reason))]


def load_npz(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the decoded `meta` of a golden file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop('meta'))) if 'meta' in arrays else {}
    return arrays, meta


def relative_error(actual, expected) -> float:
    """max |a - b| / max |b| over one array."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if actual.shape != expected.shape:
        raise AssertionError(f'shape {actual.shape}, expected {expected.shape}')
    scale = np.abs(expected).max() if expected.size else 0.0
    return float(np.abs(actual - expected).max() / max(scale, 1e-30)) if expected.size else 0.0
