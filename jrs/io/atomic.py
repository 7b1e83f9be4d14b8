"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jrs.errors import DataError
from jrs.io.names import short


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'wb') -> Iterator[IO]:
    """Open a temporary file beside `path`; move it onto `path` when the block ends, delete it when the block raises.

    Args:
        path: the file to write; its folder is created.
        mode: 'w' (UTF-8, names of files as their bytes, line ends as written) or 'wb'; 'w+b' lets the block seek back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{short(path.name)}.', suffix='.part')
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a folder beside `path` to fill; it becomes `path` when the block ends, and is deleted when the block raises.

    Raises:
        DataError: `path` is there by then, and not an empty folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix='.', suffix='.part'))
    try:
        yield folder
        refuse_filled(path, 'the folder')
        os.chmod(folder, 0o777 & ~_umask())
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_folder(folder: Path) -> None:
    """Make `folder` and write a file there.

    Raises:
        DataError: it cannot be written to.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'x')


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing to `folder`, of a full disk among others, into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f'cannot write to the folder {folder}: {error.strerror or error}. Choose another folder, make '
                        'it writable, or make room.') from error


def refuse_filled(folder: Path, what: str) -> None:
    """Raise a DataError where `folder`, which the message calls `what`, is a file, or holds anything."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f'{what} {folder} is a file: name a folder that is new, or empty.')
    if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir())):
        shown = ', '.join(there[:3]) + (', …' if len(there) > 3 else '')
        raise DataError(f'{what} {folder} is not empty ({shown}): what lies there would be taken for part of what is '
                        'written now. Name a folder that is new, or remove it.')


def _umask() -> int:
    """Return the process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
