"""What weights files hold: safetensors, files of torch.save, or several parts with an index; told by content, not by suffix.

Nothing in a file is ever executed. What is no weights file is named for what it is: a web page, a pointer, a cut download.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jrs.errors import WeightsError, did_you_mean
from jrs.io.names import openable

# What torch.load raises on broken files: its unpickler checks neither stack nor arguments.
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
              ArithmeticError, MemoryError, struct.error, UnpicklingError)
# What is no checkpoint, by how the file begins.
IMPOSTORS = {
    b'<': 'a web page: the download gave a page (not found, log-in or licence needed) instead of the file',
    b'version https://git-lfs': 'a Git LFS pointer: fetch the file itself (git lfs pull)',
    b'/annex/': 'a git-annex pointer: fetch the file itself (git annex get)',
    b'{': 'JSON text',
    b'\x80': 'a bare pickle, or of torch before 1.6: loading it could run code, so it is not read. If you trust it, load '
             'and save it with today\'s torch.save',
    b'\x1f\x8b': 'a gzip archive: unpack it', b'BZh': 'a bzip2 archive: unpack it', b'\xfd7zXZ': 'an xz archive: unpack it',
    b'7z\xbc\xaf': 'a 7z archive: unpack it', b'Rar!': 'a rar archive: unpack it',
    b'\x93NUMPY': 'an array of numpy', b'\x89HDF': 'an HDF5 file', b'GGUF': 'a GGUF file, of another program'}
WEIGHTS_SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin', '.ckpt')
HARMLESS = [Namespace]                         # options of a command beside the weights (MUSt3R): attributes, and no code
PART = re.compile(r'-\d{5}-of-(\d{5})')


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, memory-mapped: (...) each, of any type.

    Of a file of torch.save the names of the dictionaries that a tensor stands in come before its own, with dots between.

    Args:
        path: a safetensors file, a file of torch.save, or the `*.index.json` of a set of either.

    Raises:
        WeightsError: no file, a broken one, something else, or one that would need code to be read.
    """
    start = _start(path)
    if _is_safetensors(start):
        return _read_safetensors(path)
    if start.startswith(b'PK\x03\x04'):
        return _read_pickled(path)
    if start.lstrip().startswith(b'{') and path.suffix == '.json':
        return {name: tensor for part in parts_of(path) for name, tensor in read_tensors(part).items()}
    raise WeightsError(f'{path} is not a weights file but {_impostor(start)}. It begins with {start[:24]!r}.')


def parts_of(path: Path) -> list[Path]:
    """Return the files that a weights file consists of: those that an `*.index.json` names, or itself.

    Raises:
        WeightsError: an index that is none, or one of whose parts is not there.
    """
    if path.suffix != '.json' or not path.is_file():
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding='utf-8-sig'))['weight_map'].values()))
        wrong = [name for name in names if PurePosixPath(name).is_absolute() or '..' in PurePosixPath(name).parts]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f'{path} is no index of weights: {{"weight_map": {{name: file}}}} ({type(error).__name__}).'
                           ) from error
    missing = [name for name in names if not (path.parent / name).is_file()]
    if wrong or missing or not names:
        fault = f'{wrong[0]!r} is outside its folder' if wrong else f'{missing[0]!r} is not there' if missing else 'no part'
        raise WeightsError(f'{path} names {len(names)} files of weights: {fault}. Keep all parts beside the index.')
    return [path.parent / name for name in names]


def read_header(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for other files."""
    first = parts_of(path)[0]
    if not first.is_file() or not _is_safetensors(_start(first)):
        return {}
    with _opened(first) as file:
        return file.metadata() or {}


def part_of_a_set(path: Path) -> str:
    """Return what to say of a file that is one part of several, '' for others."""
    found = PART.search(path.name)
    if not found:
        return ''
    return (f' It is one of {int(found[1])} parts: name their index, {PART.sub("", path.name)}.index.json, and keep all '
            'parts beside it.')


def check_file(path: Path) -> None:
    """Raise a WeightsError where `path` is no file, or an empty one; names what is near."""
    _start(path)


def _start(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        WeightsError: it is not there, no file, or empty; names what is near.
    """
    if path.is_dir():
        found = sorted(file.name for file in path.iterdir() if file.name.endswith((*WEIGHTS_SUFFIXES, '.index.json')))
        raise WeightsError(f'{path} is a folder; name a file in it' + (f': {", ".join(found[:8])}.' if found else
                           f', and it has none that ends in {", ".join(WEIGHTS_SUFFIXES)}.'))
    if not path.is_file():
        link = f' It is a link to {os.readlink(path)}, which is not there.' if path.is_symlink() else ''
        near = [file.name for file in path.parent.glob('*') if file.name.endswith(WEIGHTS_SUFFIXES)]
        near_words = did_you_mean(path.name, near[:1000]) if near and not link else ''
        raise WeightsError(f'There is no weights file {path}.{link}{near_words} Training writes weights.safetensors into '
                           'its run folder; where the official files are is said in docs/weights.md.')
    try:
        with path.open('rb') as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f'{path} cannot be read ({error}).') from error
    if not start:
        raise WeightsError(f'{path} is empty. Is the download complete?')
    return start


def _impostor(start: bytes) -> str:
    plain = start.removeprefix(b'\xef\xbb\xbf').lstrip()
    known = next((what for mark, what in IMPOSTORS.items() if plain.startswith(mark)), None)
    if known:
        return known
    text = plain.isascii() and all(byte >= 32 or byte in b'\t\r\n' for byte in plain)
    return 'text, such as the message of a server' if text else 'of no kind that is known (safetensors, or of torch.save)'


def _is_safetensors(start: bytes) -> bool:
    """Return whether a file begins as safetensors do: the length of a header, then the header, which is JSON."""
    return start[8:9] == b'{' and not all(32 <= byte < 127 for byte in start[:8])


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def _opened(path: Path):
    try:
        with openable(path) as name:
            return safe_open(name, framework='pt')
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is no readable safetensors file ({error}). {_lacking(path)}') from error


def _lacking(path: Path) -> str:
    """Return how much of a safetensors file is there, where its header says how much there should be."""
    try:
        with path.open('rb') as file:
            size = length = 8 + int.from_bytes(file.read(8), 'little')
            if length <= path.stat().st_size:
                header = json.loads(file.read(length - 8))
                size += max(entry['data_offsets'][1] for name, entry in header.items() if name != '__metadata__')
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 'Is it complete?'
    have = path.stat().st_size
    return f'It is cut off: {have:,} of {size:,} bytes are there. Download it again.' if have < size else 'Is it complete?'


def _read_pickled(path: Path) -> dict[str, Tensor]:
    _refuse_other_archives(path)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            if path.suffix == '.safetensors':              # torch goes by this suffix, unless it is given an open file
                with path.open('rb') as file:
                    content = torch.load(file, map_location='cpu', weights_only=True)
            else:
                with openable(path) as name:
                    content = torch.load(name, map_location='cpu', weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise WeightsError(
            f'{path} holds Python objects other than tensors, which could run code: refused, nothing of it was executed '
            f'({_cause(error)}). Save a plain dictionary of tensors; where you trust the file, with '
            'torch.save(torch.load(FILE, weights_only=False)[\'state_dict\'], NEW), or whatever it calls its weights.'
        ) from error
    except UNREADABLE as error:
        raise WeightsError(f'{path} is no readable checkpoint ({type(error).__name__}: {_cause(error)}). Is the download '
                           f'complete? The file has {path.stat().st_size:,} bytes.') from error
    if not isinstance(content, Mapping):
        raise WeightsError(f'{path} holds a {type(content).__name__}; a checkpoint is a mapping of names to tensors.')
    found = _named(content)
    if not found:
        entries = ', '.join(map(str, list(content)[:8]))
        raise WeightsError(f'{path} holds no tensor with a name; it has: {entries or "nothing"}.')
    return found


def _refuse_other_archives(path: Path) -> None:
    """Refuse archives that are cut off, or not of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError) as error:
        raise WeightsError(f'{path} is no readable checkpoint: it begins as a file of torch.save, and its end is missing '
                           f'or broken ({error}). Is the download complete? The file has {path.stat().st_size:,} bytes.'
                           ) from error
    if any(PurePosixPath(name).name == 'constants.pkl' for name in names):
        raise WeightsError(f'{path} is a TorchScript program, which is code: refused. Save the state_dict() of the model '
                           'that it was made of.')
    if not any(PurePosixPath(name).name == 'data.pkl' for name in names):
        held = ', '.join(names[:4])
        raise WeightsError(f'{path} is not a weights file but a zip archive of {held or "nothing"}: unpack it.')


def _named(content: Mapping) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries, by the names on the way to them, with dots between."""
    found, seen, waiting = {}, set(), [('', content)]
    while waiting:
        place, mapping = waiting.pop(0)
        if id(mapping) in seen:                         # a hostile file may hold a dictionary that holds itself
            continue
        seen.add(id(mapping))
        for key, value in mapping.items():
            name = f'{place}{key}'
            if isinstance(value, Tensor):
                found[name] = value
            elif isinstance(value, Mapping):
                waiting.append((f'{name}.', value))
    return found


def check_held(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors (...) whose numbers are not all in the file: a few bytes can announce any size by a stride of 0."""
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized \
                or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f'{path}: {key} {tuple(tensor.shape)} is no plain tensor whose numbers are all in the file.')


def _cause(error: Exception) -> str:
    """Return what matters of torch's long messages: the line that names a forbidden object, else the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ['no reason given']
    telling = next((line for line in lines if re.search('GLOBAL|Unsupported', line)), lines[0])
    return telling.partition(' Please use')[0][:160]


def plain_metadata(text: str) -> Any:
    """Return the value of a metadata entry; other programs write text where ours is JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
