"""File names are bytes that need not be text: how they become names of results, which are text, apart and readable."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jrs.errors import DataError

MAX_NAME = 251                                  # bytes of a name, of the 255 that file systems allow: '.png' fits behind it
MAX_SCENE_NAME = 200                            # bytes; files of predictions are called by it, with a number and a suffix
MAX_SHORT = 64                                  # bytes of a name of something temporary
PRINTED = 'jrs.printed'                         # how a terminal shows what its code has not
# What no text, no terminal and no line of a list takes: control characters, line ends, turns of the writing direction, and
# the surrogates by which Python passes on bytes that are not UTF-8.
UNREADABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
# Beside these, what readers of lists (white space), shells, URLs and other systems take for something else.
NOT_PLAIN = re.compile(r'[\s\\/:*?"<>|#%&\'`$;]')


def readable(name: str | os.PathLike) -> str:
    """Return a name or path as text that every file and terminal takes: bytes that are no text become %XX, as in URLs."""
    return UNREADABLE.sub(_percent, os.fspath(name))


def is_text(name: str | os.PathLike) -> bool:
    """Return whether a name or path is UTF-8, so that files of text can hold it."""
    return not re.search('[\ud800-\udfff]', os.fspath(name))


def view_name(stem: str) -> str:
    """Return what results call the photo of that stem: the stem itself where it is readable, no path and not too long.

    The same stem has the same name everywhere: depth images and cameras of a photo are found by it.
    """
    return _fitted(readable(stem).replace('\\', '%5C'))


def distinct_names(files: Iterable[str | os.PathLike]) -> list[str]:
    """Return one name per file, its `view_name`, with `-2`, `-3`, … where several share one (see `distinct`)."""
    stems = [Path(file).stem for file in files]
    return distinct([view_name(stem) for stem in stems], stems)


def distinct_files(files: Iterable[Path]) -> list[str]:
    """Return for people which file each is, apart as `distinct` names are: what follows the folder that all share.

    A slash stands behind a folder.
    """
    full = [Path(os.path.abspath(path)) for path in files]
    shared = os.path.commonpath([path.parent for path in full]) if full else ''
    names = [path.relative_to(shared).as_posix() + '/' * path.is_dir() for path in full]
    return distinct([readable(name) for name in names], names)


def distinct(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return `names` with `-2`, `-3`, … where they are equal, or are so for a file system that ignores case or normal form.

    Of equal ones the first that was `given` so keeps its name, else the first; who is called `a-2` already is left alone.
    """
    wanted, used, counts = {_folded(name) for name in names}, set(), defaultdict(lambda: 1)
    found = list(names)
    for index in sorted(range(len(names)), key=lambda index: names[index] != given[index]):
        name, key = names[index], _folded(names[index])
        while _folded(found[index]) in used or (found[index] != name and _folded(found[index]) in wanted):
            counts[key] += 1
            found[index] = _fitted(name, f'-{counts[key]}')
        used.add(_folded(found[index]))
    return found


def plain_name(name: str) -> str:
    """Return `name` as one word for programs that split lines at white space: other characters become `_`."""
    return NOT_PLAIN.sub('_', readable(name))


def hidden_beside(path: str | os.PathLike, ending: str) -> Path:
    """Return the hidden name, always the same one, under which `path` is made or set aside: it fits where `path` does."""
    path = Path(path)
    return path.with_name(f'.{short(path.name)}.{ending}')


def short(name: str) -> str:
    """Return a name of at most `MAX_SHORT` bytes, for temporary files that people can still tell apart."""
    data = os.fsencode(name)
    return name if len(data) <= MAX_SHORT else f'{name[:MAX_SHORT // 4 - 3]}~{_digest(data)}'    # a character: 4 bytes


def some(names: Sequence[str], shown: int | None = 8) -> str:
    """Return the first of many names and how many more there are, for a message; None shows all."""
    more = f' and {len(names) - shown} more' if shown is not None and len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Make an empty file of each name on the disk of `folder`, and remove it: a name that cannot be is found before work.

    Raises:
        DataError: the system refuses a name; says which and why.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix='.names.') as scratch:
        for name in names:
            try:
                with open(Path(scratch, name), 'xb'):
                    pass
            except OSError as error:
                raise DataError(f'{readable(folder)}: no file there can be called {name!r} ({error.strerror}). Rename the '
                                'photo, or choose another --out.') from error


def expanded(path: str | os.PathLike) -> Path:
    """Return the path with `~` as the home folder, where no file of that very name is there and there is such a user."""
    path = Path(path)
    if os.path.lexists(path):
        return path
    return Path(os.path.expanduser(path))


@contextmanager
def openable(path: str | os.PathLike) -> Iterator[str]:
    """Yield a name by which libraries that take only text open a file, whatever bytes its own name has."""
    if is_text(path):
        yield os.fspath(path)
        return
    with open(path, 'rb') as file:
        yield f'/dev/fd/{file.fileno()}'


def is_about_a_name(error: OSError) -> bool:
    """Return whether the system says that no file can have the name that it was given."""
    return error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP)


def print_any_name() -> None:
    """Let standard output and error take every name: what their code or no code has becomes %XX or \\u...."""
    codecs.register_error(PRINTED, _printed)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors=PRINTED)


def _printed(error: UnicodeError) -> tuple[str, int]:
    shown = readable(error.object[error.start:error.end])
    return shown.encode('ascii', 'backslashreplace').decode(), error.end


def _percent(match: re.Match) -> str:
    character = match.group()
    errors = 'surrogateescape' if '\udc80' <= character <= '\udcff' else 'surrogatepass'
    return ''.join(f'%{byte:02X}' for byte in character.encode('utf-8', errors))


def _folded(name: str) -> str:
    """Return what a file system that ignores case and normal form sees of a name."""
    return unicodedata.normalize('NFC', unicodedata.normalize('NFC', name).casefold())


def _fitted(name: str, tail: str = '') -> str:
    """Return name and tail in at most `MAX_NAME` bytes; a name that is cut ends in a digest of the whole one."""
    data = name.encode()
    if len(data) + len(tail) <= MAX_NAME:
        return name + tail
    tail = f'~{_digest(data)}{tail}'
    return data[:MAX_NAME - len(tail)].decode(errors='ignore') + tail


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
