"""Predictions of a scene as arrays: `<scene>.npz` with `masks`, `classes` and `scores`, whatever the benchmark's own format.

    numpy.savez_compressed('scene0011_00.npz', masks=masks, classes=classes, scores=scores)

with masks (N, M) bool, a column per instance and a row per vertex of the benchmark's mesh, classes (M,) ids of the data set,
and scores (M,). Masks are read some rows at a time and kept at one bit a vertex.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.submission import MAX_NUMBER, SceneSubmission, SubmissionFormat, check_entry, read_submission

SUFFIX = '.npz'
FIELDS = ('masks', 'classes', 'scores')
MAX_INSTANCES = 1 << 14
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)        # numpy's; others reserve what their header asks for
PIECE = 1 << 24                                # bytes of masks in memory at a time
KINDS = 'biuf'                                 # numpy's letters of truth values, integers and floats
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, TypeError,
           SyntaxError, struct.error, OverflowError, MemoryError, RecursionError)


def read_submission_arrays(path: str | os.PathLike, layout: SubmissionFormat, num_points: int) -> SceneSubmission:
    """Read the predictions of one scene.

    Args:
        path: of the file.
        layout: of the benchmark, whose classes and scores are allowed.
        num_points: N, the rows that `masks` must have.

    Raises:
        DataError: names the file, the field and what is wrong with it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            fields = {name.removesuffix('.npy'): name for name in file.namelist()}
            if missing := [name for name in FIELDS if name not in fields]:
                raise DataError(f'{path}: has no {" and no ".join(missing)}; there are {", ".join(fields) or "no arrays"}. '
                                'It needs masks (N, M), classes (M,) and scores (M,).')
            if other := [name for name in FIELDS if file.getinfo(fields[name]).compress_type not in PACKINGS]:
                raise DataError(f'{path}: {other[0]} is packed by another method than numpy.savez_compressed has.')
            classes, scores = (_numbers(file, fields[name], f'{path}: {name}') for name in FIELDS[1:])
            if len(classes) != len(scores):
                raise DataError(f'{path}: {len(classes)} classes and {len(scores)} scores; there is one of each per mask.')
            with file.open(fields['masks']) as stream:
                masks = _masks(stream, num_points, len(classes), f'{path}: masks')
    except _BROKEN as error:
        raise DataError(f'{path}: not a readable npz of arrays of numbers ({error}). Save it with numpy.savez.') from None
    if (classes != np.trunc(classes)).any():
        raise DataError(f'{path}: classes must be whole numbers, got {classes[classes != np.trunc(classes)][0]}.')
    for row, (label, score) in enumerate(zip(classes.tolist(), scores.tolist(), strict=True)):
        check_entry(label, score, f'{path}: instance {row}', layout)
    return SceneSubmission(masks, classes.astype(np.int64), scores, num_points)


def read_either(folder: str | os.PathLike, scene_name: str, layout: SubmissionFormat, num_points: int) -> SceneSubmission:
    """Read the predictions of one scene from its arrays where `folder` has them, else from its list `<scene_name>.txt`.

    Raises:
        DataError: `folder` has both, or what the reader of that format says.
    """
    arrays, listed = (Path(folder) / f'{scene_name}{suffix}' for suffix in (SUFFIX, '.txt'))
    if not arrays.is_file():
        return read_submission(folder, scene_name, layout, num_points)
    if listed.is_file():
        raise DataError(f'{folder} has {listed.name} and {arrays.name}: keep the one that is meant.')
    return read_submission_arrays(arrays, layout, num_points)


def write_submission_arrays(path: str | os.PathLike, submission: SceneSubmission) -> None:
    """Write the predictions of one scene as `read_submission_arrays` reads them."""
    masks = np.unpackbits(submission.masks, axis=1, count=submission.num_points).view(bool).T           # (N, M)
    with atomic_write(path) as file:
        np.savez_compressed(file, masks=masks, classes=submission.labels, scores=submission.scores)


def _header(stream: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the first axis runs fastest, and type of an array of numbers."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, first_axis_fastest, dtype = read(stream)
    if dtype.kind not in KINDS or dtype.hasobject:
        raise DataError(f'{where} must be truth values or numbers, got {dtype}.')
    return shape, first_axis_fastest, dtype


def _numbers(file: zipfile.ZipFile, member: str, where: str) -> np.ndarray:
    """Return an array (M,) as float64."""
    with file.open(member) as stream:
        shape, _, dtype = _header(stream, where)
        if len(shape) != 1 or not 0 <= shape[0] <= MAX_INSTANCES:
            raise DataError(f'{where} must be (M,) with M up to {MAX_INSTANCES}, got {shape}.')
        values = _read(stream, shape[0], dtype, where).astype(np.float64)
    if not (np.abs(values) <= MAX_NUMBER).all():
        raise DataError(f'{where} holds what is not a number, or is too large.')
    return values


def _masks(stream: BinaryIO, num_points: int, count: int, where: str) -> np.ndarray:
    """Return masks (N, M) as bits (M, ceil(N / 8))."""
    shape, first_axis_fastest, dtype = _header(stream, where)
    if tuple(shape) != (num_points, count):
        turned = ' It is the other way round: save masks.T.' if tuple(shape) == (count, num_points) else ''
        raise DataError(f'{where} must be (N, M) = ({num_points}, {count}), a row for each vertex of the mesh of this scene '
                        f'and a column for each of the classes; got {shape}.{turned}')
    bits = np.zeros((count, -(-num_points // 8)), np.uint8)
    if first_axis_fastest:                                                                  # stored mask by mask
        for row in range(count):
            bits[row] = np.packbits(_truth(_read(stream, num_points, dtype, where), where))
        return bits
    for start, rows in _pieces(num_points, count * dtype.itemsize):
        inside = _truth(_read(stream, rows * count, dtype, where), where).reshape(rows, count)
        bits[:, start // 8:-(-(start + rows) // 8)] = np.packbits(inside, axis=0).T
    return bits


def _pieces(num_rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where pieces of rows begin, multiples of 8, and how many rows they have."""
    step = max(8, PIECE // max(1, row_bytes) // 8 * 8)
    for start in range(0, num_rows, step):
        yield start, min(step, num_rows - start)


def _read(stream: BinaryIO, count: int, dtype: np.dtype, where: str) -> np.ndarray:
    """Return the next `count` values of an array."""
    data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise DataError(f'{where} is cut off: save it again.')
    return np.frombuffer(data, dtype)


def _truth(values: np.ndarray, where: str) -> np.ndarray:
    """Return which values (n,) are 1; raises where one is neither 0 nor 1."""
    inside = values == 1
    if values.dtype.kind != 'b' and not (inside | (values == 0)).all():
        raise DataError(f'{where} must be True or False, 1 or 0; got {values[~inside & (values != 0)][0]}. Compare '
                        'probabilities with a threshold first.')
    return inside
