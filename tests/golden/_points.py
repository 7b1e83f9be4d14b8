"""What the golden tests of the point-cloud methods share: stand-in weights by published names, and comparing arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden._golden import relative_error
from tests.seeded_weights import seeded_array

TOLERANCE = 1e-5


def published_state(meta: dict) -> dict[str, Tensor]:
    """Return the stand-in weights of a file under their published names (README_baselines_points.md)."""
    return {name: torch.from_numpy(np.asarray(published_value(name, shape, meta))) for name, shape in meta['keys'].items()}


def published_value(name: str, shape: list[int], meta: dict) -> np.ndarray:
    """Return one stand-in weight."""
    value = seeded_array(name, shape, meta['seed'])
    last = name.rsplit('.', 1)[-1]
    if last == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    value = value * 0.1 if last == 'running_mean' else 1 + 0.3 * value if last == 'running_var' else value
    for suffix, factor in meta.get('scale', {}).items():
        if name.endswith(suffix):
            value = value * np.float32(factor)
    return value.astype(np.float32)


def load_published(part: nn.Module, meta: dict, names=lambda key: key) -> nn.Module:
    """Fill every entry of `part` with what `meta` lists; `names` gives our name of a published one, None = not ours."""
    state = {ours: value for key, value in published_state(meta).items() if (ours := names(key)) is not None}
    part.load_state_dict(state, strict=True)
    return part


def assert_close(found, expected, name: str = '', tolerance: float = TOLERANCE) -> None:
    """Compare max |a - b| / max |b| with the tolerance."""
    found = found.detach().numpy() if isinstance(found, Tensor) else found
    error = relative_error(found, expected)
    assert error <= tolerance, f'{name}: {error:.2e} > {tolerance:.0e}'
