"""Words and their text embeddings: a YAML file of names, encoder and source, and a file of tensors beside it.

    encoder: openai/clip-vit-base-patch32          # what made the embeddings; words of another encoder are no neighbours
    source: names of scannet200                    # where the names come from
    prompt: a photo of a {}.                       # what was encoded, with the name in the place of {}; may be left out
    width: 512
    embeddings: scannet200.safetensors             # beside this file
    names: [chair, table, ...]

The file of embeddings is a safetensors file with the tensor `embeddings` (N, E) and its N names as a JSON list in the
metadata `names`, or an .npz with the arrays `embeddings` and `names`. It may hold more words than the YAML file names.
`tools/vocabulary.py` writes both; `ATTRIBUTES` in the place of a path is the stand-in vocabulary of the built-in rooms.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from jrs.errors import DataError, WeightsError, did_you_mean
from jrs.io.atomic import atomic_write
from jrs.io.attributes import attribute_codes
from jrs.io.tensor_file import write_tensors
from jrs.io.text import read_text
from jrs.io.weights_file import read_header, read_tensors

ATTRIBUTES = 'attributes'
TENSOR = 'embeddings'                          # its name in the file of embeddings, whose names are called `NAMES` there
NAMES = 'names'
KEYS = {'encoder': str, 'source': str, 'prompt': str, 'width': int, 'embeddings': str, 'names': list}
IN_WORDS = {str: 'a text', int: 'a whole number', list: 'a list'}
PLAIN_PROMPT = '{}'
HOW_TO_WRITE = ('Write it with a CLIP or SigLIP that you have: python tools/vocabulary.py FILE --encoder FOLDER --names ... '
                '(--help).')


@dataclass(frozen=True)
class Vocabulary:
    """Words that an open class head knows.

    Attributes:
        names: K different words.
        embeddings: (K, E) float32, of any length above 0 each.
        encoder: what made them.
        source: where the names come from.
        prompt: what was encoded, with the name in the place of {}.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    encoder: str
    source: str
    prompt: str = PLAIN_PROMPT

    @property
    def width(self) -> int:
        """E."""
        return self.embeddings.shape[1]

    def rows(self, names: Sequence[str]) -> Tensor:
        """Return the embeddings (n, E) of `names`, in that order.

        Raises:
            DataError: no name, the same twice, or one that the vocabulary does not have.
        """
        check_names(names, 'the words that are asked for')
        place = {name: number for number, name in enumerate(self.names)}
        lacking = [name for name in names if name not in place]
        if lacking:
            raise DataError(f'the vocabulary ({self.source}; {self.encoder}) has no embedding of {_some(lacking)}.'
                            f'{did_you_mean(lacking[0], self.names)} tools/vocabulary.py makes one with these words, by the '
                            'same encoder.')
        return self.embeddings[[place[name] for name in names]]


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Return the vocabulary that a YAML file describes, or for the word `ATTRIBUTES` the stand-in of the rooms.

    Raises:
        DataError: the file or its embeddings are not there or broken; a name twice or without an embedding; embeddings of
            another width than the file says, or that are not finite or have length 0.
    """
    if str(path) == ATTRIBUTES:
        names, codes = attribute_codes()
        return Vocabulary(names, torch.from_numpy(codes), 'stated attributes', 'the things of the built-in rooms')
    path = Path(path)
    said = _said(path)
    check_names(said['names'], f'{path}: names')
    if '{}' not in said['prompt']:
        raise DataError(f'{path}: prompt {said["prompt"]!r} has no {{}}, the place of the name.')
    file = path.parent / said['embeddings']
    known, embeddings = _read_embeddings(file)
    if embeddings.shape[1] != said['width']:
        raise DataError(f'{path} says that embeddings have width {said["width"]}, and those of {file} have '
                        f'{embeddings.shape[1]}: the files do not belong together.')
    place = {name: number for number, name in enumerate(known)}
    lacking = [name for name in said['names'] if name not in place]
    if lacking:
        raise DataError(f'{path}: {len(lacking)} of {len(said["names"])} names have no embedding in {file}: '
                        f'{_some(lacking)}.{did_you_mean(lacking[0], known)} tools/vocabulary.py writes both files.')
    rows = embeddings[[place[name] for name in said['names']]]
    lengths = rows.norm(dim=1)
    wrong = (~(lengths.isfinite() & (lengths > 0))).nonzero()[:, 0].tolist()
    if wrong:
        raise DataError(f'{file}: the embeddings of {_some([said["names"][number] for number in wrong])} are not finite, or '
                        'have length 0: they have no direction. Write them again with tools/vocabulary.py.')
    return Vocabulary(tuple(said['names']), rows, said['encoder'], said['source'], said['prompt'])


def write_vocabulary(path: str | os.PathLike, vocabulary: Vocabulary) -> list[Path]:
    """Write a YAML file and `<stem>.safetensors` beside it, each whole or not at all; returns both.

    Raises:
        DataError: a path that does not end in .yaml, a name that is wrong, or other shapes than (K, E).
    """
    path = Path(path)
    if path.suffix not in ('.yaml', '.yml'):
        raise DataError(f'a vocabulary is a .yaml file, with its embeddings beside it; got {path}.')
    check_names(vocabulary.names, 'the names of a vocabulary')
    if vocabulary.embeddings.ndim != 2 or len(vocabulary.embeddings) != len(vocabulary.names):
        raise DataError(f'{len(vocabulary.names)} names and embeddings of shape {tuple(vocabulary.embeddings.shape)}: a '
                        'vocabulary has one row for each name.')
    file = path.with_suffix('.safetensors')
    write_tensors(file, {TENSOR: vocabulary.embeddings.float()}, {NAMES: json.dumps(list(vocabulary.names))})
    said = dict(encoder=vocabulary.encoder, source=vocabulary.source, prompt=vocabulary.prompt, width=vocabulary.width,
                embeddings=file.name, names=list(vocabulary.names))
    with atomic_write(path, 'w') as out:
        yaml.safe_dump(said, out, sort_keys=False, allow_unicode=True, width=120)
    return [path, file]


def check_names(names: Iterable[object], what: str) -> None:
    """Raise a DataError unless there is a name, and all are different texts without blanks around them."""
    seen: set[str] = set()
    for name in (names := list(names)):
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            raise DataError(f'{what}: {name!r} is no name: a name is a text without blanks around it. YAML takes words such '
                            "as no, on and 12 for something else: write 'no' in quotes.")
        if name in seen:
            raise DataError(f'{what}: {name!r} stands there twice.')
        seen.add(name)
    if not names:
        raise DataError(f'{what}: there is none.')


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, blanks around them dropped: 'chair, fire extinguisher'."""
    return [name.strip() for name in text.split(',') if name.strip()]


def _said(path: Path) -> dict:
    """Return what the YAML file says, its keys and their types checked."""
    if not path.is_file():
        raise DataError(f'There is no vocabulary {path}. {HOW_TO_WRITE}')
    try:
        said = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f'{path}: not YAML ({str(error).splitlines()[0][:200]}).') from error
    if not isinstance(said, dict):
        raise DataError(f'{path}: a vocabulary is a mapping with {", ".join(KEYS)}; this is {type(said).__name__}.')
    said = {'prompt': PLAIN_PROMPT, **said}
    for key in said:
        if key not in KEYS:
            raise DataError(f'{path}: a vocabulary has no {key!r}.{did_you_mean(str(key), KEYS)}')
    for key, kind in KEYS.items():
        if not isinstance(said.get(key), kind) or isinstance(said[key], bool):
            found = repr(said[key])[:60] if key in said else 'nothing'
            raise DataError(f'{path}: {key} must be {IN_WORDS[kind]}, got {found}.')
    if Path(said['embeddings']).name != said['embeddings']:
        raise DataError(f'{path}: embeddings must name a file beside it, got {said["embeddings"]!r}.')
    return said


def _read_embeddings(file: Path) -> tuple[list[str], Tensor]:
    """Return the names (N) and the embeddings (N, E) float32 of a file."""
    if not file.is_file():
        raise DataError(f'There is no file {file}, which has the embeddings: keep it beside the vocabulary, or write both '
                        'again with tools/vocabulary.py.')
    names, embeddings = (_of_npz if file.suffix == '.npz' else _of_safetensors)(file)
    check_names(names, f'{file}: names')
    matrix = embeddings.ndim == 2 and len(embeddings) == len(names) and embeddings.shape[1] > 0
    if not matrix or not embeddings.is_floating_point():
        raise DataError(f'{file}: {TENSOR!r} must be floating numbers ({len(names)}, E), one row for each of its names; got '
                        f'{tuple(embeddings.shape)} {str(embeddings.dtype).removeprefix("torch.")}.')
    return names, embeddings.float()


def _of_safetensors(file: Path) -> tuple[list[str], Tensor]:
    try:
        tensors, header = read_tensors(file), read_header(file)
        names = json.loads(header.get(NAMES, 'null'))
    except (WeightsError, ValueError, RecursionError) as error:
        raise DataError(f'{file}: no embeddings ({error}).') from error
    if TENSOR not in tensors or not isinstance(names, list):
        raise DataError(f'{file}: embeddings are a tensor {TENSOR!r} with a JSON list {NAMES!r} in the metadata; this has '
                        f'{_some(list(tensors)) or "no tensor"}.')
    return names, tensors[TENSOR]


def _of_npz(file: Path) -> tuple[list[str], Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names, embeddings = arrays[NAMES].tolist(), torch.from_numpy(arrays[TENSOR].astype(np.float32))
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f'{file}: no embeddings ({type(error).__name__}: {str(error)[:200]}): it must be an .npz with the '
                        f'arrays {TENSOR!r} and {NAMES!r}.') from error
    return names if isinstance(names, list) else [names], embeddings


def _some(names: Sequence[str]) -> str:
    return ', '.join(map(repr, names[:8])) + (f' and {len(names) - 8} more' if len(names) > 8 else '')
