"""Which files of a source are photos, and why the others are not read: nothing is left out without a word."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from jrs.io.names import readable, some
from jrs.io.photo import HEAD, PHOTO_KINDS, VIDEO, sniff, unsupported

PHOTO_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.jfi', '.jif', '.mpo', '.png', '.apng', '.webp', '.bmp', '.dib', '.tif',
                  '.tiff', '.gif', '.heic', '.heif', '.hif', '.avif')          # in any case; content decides
KINDS = 'JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC, AVIF'
NEEDING = {'.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF', '.avif': 'AVIF'}           # a library that may not be there
RAW_SUFFIXES = ('.dng', '.cr2', '.cr3', '.crw', '.nef', '.nrw', '.arw', '.srf', '.sr2', '.orf', '.rw2', '.raf', '.pef',
                '.srw', '.3fr', '.iiq', '.kdc', '.dcr', '.mos', '.erf', '.rwl', '.x3f')         # most begin as a TIFF does
VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.3gp', '.wmv', '.mts', '.m2ts', '.ogv')
SHOWN = 20                                      # names of one reason in a line for the terminal


def why_not_read(path: Path) -> str:
    """Return why a file of a folder is not read as a photo, '' where it is: its content decides, then its suffix.

    A broken file with a photo's suffix is read, so that whoever reads it says what is wrong.
    """
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return f'dangling link to {readable(os.readlink(path))}'
    if path.is_dir():
        return 'a folder: give it by itself'
    if not path.is_file():
        return 'no regular file'
    if suffix in RAW_SUFFIXES:
        return unsupported('raw')
    if suffix in VIDEO_SUFFIXES:
        return unsupported(VIDEO)
    kind = kind_of(path)
    if kind in PHOTO_KINDS and suffix not in (*PHOTO_SUFFIXES, ''):
        return unsupported(kind) or f'it holds a {kind} and is not named like a picture: rename it to have it read'
    if kind or suffix not in PHOTO_SUFFIXES:
        return unsupported(kind) if kind or path.stat().st_size else 'empty file'
    return unsupported(NEEDING[suffix]) if suffix in NEEDING else ''


def kind_of(path: Path) -> str:
    """Return what the first bytes of a file say it is (`jrs.io.photo.sniff`), '' where it cannot be opened."""
    try:
        with open(path, 'rb') as file:
            return sniff(file.read(HEAD))
    except OSError:
        return ''


def is_video(path: Path) -> bool:
    """Return whether a path names a video, by its suffix, or by its content where the suffix is no photo's."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return not path.is_dir()
    return suffix not in (*PHOTO_SUFFIXES, *RAW_SUFFIXES) and path.is_file() and kind_of(path) == VIDEO


def not_read(left_out: Mapping[str, str], shown: int | None = SHOWN) -> str:
    """Return one line that names files and why they were not read, by reason; '' for none.

    Args:
        left_out: name of a file -> why.
        shown: names of each reason at most; None = all.
    """
    return f'{len(left_out)} file{"s were" if len(left_out) > 1 else " was"} not read: {reasons(left_out, shown)}' \
        if left_out else ''


def reasons(left_out: Mapping[str, str], shown: int | None = SHOWN) -> str:
    """Return files and why they were not read, as `not_read` names them."""
    return '; '.join(f'{names} ({why})' for why, names in _by_words(((why, name) for name, why in left_out.items()), shown))


def remarks_on(notes: Iterable[tuple[str, str]], shown: int | None = SHOWN) -> list[str]:
    """Return a line per remark that names the files (file, remark) that it is on."""
    return [f'{names}: {words}' if names else words
            for words, names in _by_words(((words, file) for file, words in notes), shown)]


def _by_words(pairs: Iterable[tuple[str, str]], shown: int | None) -> list[tuple[str, str]]:
    """Return (words, the names that they are said of), `shown` of them at most."""
    groups: dict[str, list[str]] = {}
    for words, name in pairs:
        groups.setdefault(words, []).append(name)
    return [(words, some(names, shown)) for words, names in groups.items()]
