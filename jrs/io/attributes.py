"""A stand-in for text embeddings: what a thing of the built-in rooms is, in four stated attributes, as numbers.

`jrs/labels/rooms.tsv` says of each name its family (seat, table, ...), its size (longest side, metres), the height of its
top above the floor (metres) and what it stands on or hangs from. The numbers are means over 60 generated rooms. The code of
a name is these four side by side, each of length 1: one of all families, one of all supports, and bumps along a logarithmic
scale for the two lengths, so that like lengths have like codes. The cosine of two names is therefore the mean agreement of
their attributes, and a name that no training has seen is made of values that it has seen with others. A language model
knows more than that; this makes transfer to held-out names possible without one.
"""

from __future__ import annotations

import csv
from functools import cache

import numpy as np

from jrs.benchmarks import LABELS_DIR

TABLE = 'rooms.tsv'
WHICH, LENGTHS = ('family', 'support'), ('size_m', 'top_m')
BUMPS_M = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 5.6)       # half an octave apart, the last one for walls and ceilings
SPREAD = 0.3                                                    # octaves


@cache
def attributes() -> dict[str, dict[str, str]]:
    """Return name -> attribute -> value of the things of the built-in rooms."""
    with open(LABELS_DIR / TABLE, encoding='utf-8-sig', newline='') as file:
        rows = [row for row in csv.DictReader(file, delimiter='\t') if row['is_instance_class'] == '1']
    return {row['name']: {key: row[key] for key in (*WHICH, *LENGTHS)} for row in rows}


def attribute_codes() -> tuple[tuple[str, ...], np.ndarray]:
    """Return the K names of the built-in rooms and their codes (K, E) float32."""
    known = attributes()
    blocks = [_one_of([row[key] for row in known.values()]) for key in WHICH]
    blocks += [_bumps(np.array([float(row[key]) for row in known.values()])) for key in LENGTHS]
    return tuple(known), np.concatenate(blocks, axis=1).astype(np.float32)


def _one_of(values: list[str]) -> np.ndarray:
    """Return (K, number of different values), a one where the value is."""
    kinds = sorted(set(values))
    return np.eye(len(kinds))[[kinds.index(value) for value in values]]


def _bumps(metres: np.ndarray) -> np.ndarray:
    """Return metres (K,) as (K, bumps) of length 1."""
    octaves = np.log2(metres)[:, None] - np.log2(BUMPS_M)                       # (K, bumps)
    code = np.exp(-0.5 * (octaves / SPREAD) ** 2)
    return code / np.linalg.norm(code, axis=1, keepdims=True)
