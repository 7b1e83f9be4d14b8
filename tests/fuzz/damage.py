"""Hypothesis strategies: arbitrary bytes, and sound files that were damaged."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, 1, -1, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 10 ** 12, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WORDS = [*(str(number).encode() for number in NUMBERS), b'nan', b'-inf', b'1e400', b'1e300', b'2.5', b'9' * 5000, b'', b'x',
         b'..', b'../../x', b'/etc/passwd', b'\0', b'\xff\xfe', b'[' * 3000, b'"', b'\n', b' ', b'list', b'NaN', b'Infinity']
SCALARS = st.sampled_from([None, True, -1, 0, 10 ** 12, 1 << 63, 10 ** 400, 0.5, float('nan'), float('inf'), '', 'x', 'nan',
                           '../../x', '/x', 'a/b', '\0', [], {}, [[]], [1, 2], [0, 0], ['a'], [[1] * 4] * 4, {'a': 1}])


def damaged(sound: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return files of `sound` after one to four changes, JSON also changed in structure, and a few arbitrary bytes."""
    kinds = [changed_bytes(sound), changed_bytes(sound), st.binary(max_size=200)]
    records = [json.loads(data) for data in sound if data[:1] == b'{']
    if records:
        kinds += [changed_json(records)] * 2
    return st.one_of(kinds)


@st.composite
def changed_bytes(draw: Callable, sound: list[bytes]) -> bytes:
    """Flip, overwrite, insert, remove, repeat or cut off bytes of a sound file."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 30]))
        change = draw(st.integers(0, 6))
        if change == 0:
            data[at:at + 1] = bytes([draw(st.integers(0, 255))])
        elif change == 1:
            kind, number = draw(st.sampled_from('<I >I <Q <H B'.split())), draw(st.sampled_from(NUMBERS))
            mask = (1 << 8 * struct.calcsize(kind)) - 1
            data[at:at + struct.calcsize(kind)] = struct.pack(kind, number & mask)
        elif change == 2:
            del data[at:at + length]
        elif change == 3:
            data[at:at] = data[at:at + length] * draw(st.integers(1, 40))
        elif change == 4:
            del data[at:]
        else:
            _replace_word(data, at, draw(st.sampled_from(WORDS)), insert=change == 5)
    return bytes(data)


def _replace_word(data: bytearray, at: int, word: bytes, insert: bool) -> None:
    """Put `word` at a place, or in the place of the word that stands there."""
    end = at
    while not insert and end < len(data) and data[end:end + 1].isalnum():
        end += 1
    data[at:end] = word


@st.composite
def changed_json(draw: Callable, records: list) -> bytes:
    """Put another value, or nothing, in one or two places of a JSON record."""
    record = json.loads(json.dumps(draw(st.sampled_from(records))))
    for _ in range(draw(st.integers(1, 2))):
        owner, key = draw(st.sampled_from(list(_places(record)) or [(None, None)]))
        if owner is None:
            record = draw(SCALARS)
        elif draw(st.integers(0, 4)) == 0:
            del owner[key]
        else:
            owner[key] = copy.deepcopy(draw(SCALARS))
    return json.dumps(record).encode()


def _places(node: Any) -> Any:
    """Yield (owner, key) of every value below a node."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])
