"""Room for what a run writes, looked at before it is written."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from jrs.errors import DataError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
FILL = 2**20                                   # bytes of a checkpoint beside its tensors, at least
MOMENTS = 2                                    # of Adam: as large as the trained parameters, each


def weights_bytes(model: nn.Module) -> int:
    """Return how many bytes the file of a model's weights has."""
    return sum(math.prod(value.shape) * value.element_size() for value in model.state_dict().values())


def checkpoint_bytes(model: nn.Module) -> int:
    """Return about how many bytes a checkpoint of training has: weights, and the moments of what is trained."""
    trained = sum(math.prod(value.shape) * value.element_size() for value in model.parameters() if value.requires_grad)
    return weights_bytes(model) + MOMENTS * trained + FILL


def check_space(folder: Path, need: int, what: str) -> None:
    """Raise a DataError where the disk of `folder` has not `need` bytes left for `what`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DataError(f'{folder}: {what} need about {_size(need)}, {_size(free)} are free. Make room, or choose '
                        'another --work-dir. What is there already is whole: go on with --resume.')


@contextmanager
def explaining_full_disks(path: Path) -> Iterator[None]:
    """Turn what the system says about a disk that takes no more, while `path` is written, into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataError(f'cannot write {path}: {error}. The checkpoints before it are whole: make room, then go on with '
                        '--resume.') from error


def _size(count: int) -> str:
    return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'
