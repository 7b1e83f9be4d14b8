"""Prediction and ground-truth files of the ScanNet and ScanNet++ instance benchmarks (evaluation.md sections 3 and 4).

Both have `<scene>.txt` with one line `mask-file class-id confidence` per instance. ScanNet's masks are text, one
number per vertex; ScanNet++'s are JSON run lengths with 1-based starts. Lists are written after their masks, so a
list that exists is complete.
"""

from __future__ import annotations

import json
import math
import os
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from jrs.errors import DataError, find_named
from jrs.io.atomic import atomic_write
from jrs.io.text import read_bytes, read_json

_NEWLINE, _ZERO, _NINE = b'\n09'
MAX_POINTS = 1 << 26                             # vertices of a mesh; real ones have some millions
MAX_NUMBER = 2 ** 53                            # what a float counts up to: no class id or confidence is larger
ORIGIN = 'predictions.json'                      # beside saved predictions: what made them
MAX_DIGITS = 20                                 # of an integer of 64 bits, sign included


@dataclass(frozen=True)
class SceneSubmission:
    """The predicted instances of one scene, in file order.

    Attributes:
        masks: (P, ceil(N / 8)) uint8, `np.packbits` of the (P, N) vertex masks.
        labels: (P,) int64 class ids of the data set.
        scores: (P,) float64.
        num_points: N, vertices of the benchmark mesh.
        files: P paths of masks below the folder; empty for what was not read from files.
        repeated: lines of the list whose mask stands in a later line, too.
    """

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    num_points: int
    files: tuple[str, ...] = ()
    repeated: int = 0

    def unpack(self, index: int) -> np.ndarray:
        """Return mask `index`, (N,) bool."""
        return np.unpackbits(self.masks[index], count=self.num_points).view(bool)


def read_vertex_numbers(path: str | os.PathLike, num_points: int | None = None) -> np.ndarray:
    """Return the integers of a text file with one per line, (N,) int64: ground truth, masks, mesh masks.

    Raises:
        DataError: no such file, something that is no integer, or not `num_points` lines.
    """
    data = read_bytes(path).removeprefix(BOM_UTF8)
    numbers = _single_digits(data)
    if numbers is None:
        try:
            numbers = _integers(data.split())
        except (ValueError, OverflowError) as error:
            other = " It is JSON, such as ScanNet++'s masks: ScanNet's are text." if data.lstrip()[:1] == b'{' else ''
            raise DataError(f'{path}: must hold one integer per line ({error}).{other}') from None
    _check_length(path, len(numbers), num_points)
    return numbers


def write_vertex_numbers(path: str | os.PathLike, numbers: np.ndarray) -> None:
    """Write integers (N,), one per line."""
    with atomic_write(path) as file:
        file.write(''.join(f'{number}\n' for number in np.asarray(numbers).tolist()).encode())


def read_run_lengths(path: str | os.PathLike, num_points: int | None = None) -> np.ndarray:
    """Return the mask (N,) bool of a ScanNet++ JSON file: `{"length": N, "counts": "start count ..."}`, starts from 1.

    Raises:
        DataError: no such file, another structure, runs outside the mask, or not `num_points` long.
    """
    content = read_json(path)
    try:
        length, runs = content['length'], _integers(content['counts'].encode().split())
        if type(length) is not int or not 0 <= length <= MAX_POINTS:
            raise ValueError(f'length must be 0 to {MAX_POINTS}')
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f'{path}: must be JSON {{"length": N, "counts": "start count start count ..."}} '
                        f'({type(error).__name__}: {error}).') from None
    _check_length(path, length, num_points)
    if len(runs) % 2:
        raise DataError(f'{path}: "counts" has {len(runs)} numbers; it needs a start and a count for each run.')
    if len(runs) and (runs[0::2].min() < 1 or runs[1::2].min() < 0 or max(runs[0::2].max() - 1, runs[1::2].max()) > length
                      or (runs[0::2] - 1 + runs[1::2]).max() > length):
        raise DataError(f'{path}: a run leaves the mask of {length} vertices; starts count from 1.')
    starts, stops = runs[0::2] - 1, runs[0::2] - 1 + runs[1::2]
    opened_minus_closed = np.bincount(starts, minlength=length + 1) - np.bincount(stops, minlength=length + 1)
    return np.cumsum(opened_minus_closed)[:length] > 0                          # runs may overlap


def write_run_lengths(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Write a mask (N,) bool as ScanNet++ run lengths."""
    edges = np.flatnonzero(np.diff(np.asarray(mask, dtype=np.int8), prepend=0, append=0)).reshape(-1, 2)  # (runs, 2)
    runs = np.stack([edges[:, 0] + 1, edges[:, 1] - edges[:, 0]], axis=1)                                 # (runs, 2)
    with atomic_write(path, 'w') as file:
        json.dump({'length': len(mask), 'counts': ' '.join(map(str, runs.ravel().tolist()))}, file)


def _read_text_mask(path: Path, num_points: int | None) -> np.ndarray:
    return read_vertex_numbers(path, num_points) != 0


def _write_text_mask(path: Path, mask: np.ndarray) -> None:
    digits = np.full((len(mask), 2), _NEWLINE, dtype=np.uint8)
    digits[:, 0] = np.where(mask, _ZERO + 1, _ZERO)
    with atomic_write(path) as file:
        file.write(digits.tobytes())


@dataclass(frozen=True)
class SubmissionFormat:
    """How a benchmark stores masks, and what its program checks."""

    mask_folder: str
    mask_suffix: str
    read_mask: Callable[[Path, int | None], np.ndarray]
    write_mask: Callable[[Path, np.ndarray], None]
    class_id_range: tuple[int, int] | None = None              # None: any integer
    score_range: tuple[float, float] | None = None             # None: any number


FORMATS = {
    'scannet': SubmissionFormat('pred_mask', '.txt', _read_text_mask, _write_text_mask),
    'scannetpp': SubmissionFormat('predicted_masks', '.json', read_run_lengths, write_run_lengths, (0, 99), (0.0, 1.0)),
}


def submission_format(name: str) -> SubmissionFormat:
    """Return the format called `name` ('scannet', 'scannetpp'); a ConfigError names the near spellings."""
    return find_named(FORMATS, name, 'submission format')


def read_submission(folder: str | os.PathLike, scene_name: str, layout: SubmissionFormat,
                    num_points: int) -> SceneSubmission:
    """Read the predictions of one scene. A mask path that stands twice counts once, with its last label and score.

    Args:
        folder: holds `<scene_name>.txt`.
        num_points: N, that every mask must have.

    Raises:
        DataError: names the file and line that is wrong.
    """
    path = Path(folder) / f'{scene_name}.txt'
    lines = read_bytes(path).removeprefix(BOM_UTF8).split(b'\n')                  # bytes: a name of a mask need not be text
    listed = [_parse_line(line, f'{path}:{number}', layout) for number, line in enumerate(lines, start=1) if line.strip()]
    entries = dict(listed)
    masks = np.zeros((len(entries), -(-num_points // 8)), dtype=np.uint8)
    for row, name in enumerate(entries):
        masks[row] = np.packbits(layout.read_mask(Path(folder) / name, num_points))
    labels, scores = zip(*entries.values(), strict=True) if entries else ((), ())
    return SceneSubmission(masks, np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float64), num_points,
                           tuple(entries), len(listed) - len(entries))


def write_submission(folder: str | os.PathLike, scene_name: str, layout: SubmissionFormat,
                     submission: SceneSubmission) -> None:
    """Write the predictions of one scene; confidences keep every digit.

    Raises:
        DataError: a scene name with spaces, or a label or score that the benchmark does not allow.
    """
    lines = []
    for index, (label, score) in enumerate(zip(submission.labels.tolist(), submission.scores.tolist(), strict=True)):
        name = f'{layout.mask_folder}/{scene_name}_{index:03d}{layout.mask_suffix}'
        line = f'{name} {label} {score!r}'
        _parse_line(os.fsencode(line), f'prediction {index} of {scene_name}', layout)
        lines.append(line)
        layout.write_mask(Path(folder) / name, submission.unpack(index))
    with atomic_write(Path(folder) / f'{scene_name}.txt', 'w') as file:
        file.write(''.join(f'{line}\n' for line in lines))


def _parse_line(line: bytes, where: str, layout: SubmissionFormat) -> tuple[str, tuple[int, float]]:
    """Return mask path and (class id, score) of one line."""
    fields = [*map(os.fsdecode, line.split())]              # at ASCII's white space only
    if len(fields) != 3:
        raise DataError(f'{where}: {os.fsdecode(line.strip())!r} must be `mask-file class-id confidence`, and no name may '
                        'hold a space.')
    name = PurePosixPath(fields[0])
    if name.is_absolute() or '..' in name.parts:
        raise DataError(f'{where}: mask file {fields[0]!r} must be a path inside the folder of predictions.')
    label, score = _number(fields[1], f'{where}: class id'), _number(fields[2], f'{where}: confidence')
    check_entry(label, score, where, layout)
    return str(name), (int(label), score)


def check_entry(label: float, score: float, where: str, layout: SubmissionFormat) -> None:
    """Raise a DataError where a benchmark's program would refuse a class id or a confidence."""
    if layout.class_id_range is not None and not (label.is_integer() and
                                                  layout.class_id_range[0] <= label <= layout.class_id_range[1]):
        raise DataError(f'{where}: class id {label:g} must be an integer in '
                        f'{layout.class_id_range[0]} .. {layout.class_id_range[1]}.')
    if layout.score_range is not None and not layout.score_range[0] <= score <= layout.score_range[1]:
        raise DataError(f'{where}: confidence {score!r} must be in {layout.score_range[0]:g} .. '
                        f'{layout.score_range[1]:g}.')


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_NUMBER:
        raise DataError(f'{what} {text[:40]!r} is not a number, or is too large.')
    return value


def _integers(words: list[bytes]) -> np.ndarray:
    """Return words as (n,) int64; raises a ValueError or OverflowError for one that is no such integer."""
    longest = max(map(len, words), default=0)                   # numpy gives each word the room of the longest
    if longest > MAX_DIGITS:
        raise ValueError(f'a number of {longest} characters')
    return np.array(words, dtype=np.bytes_).astype(np.int64)


def _single_digits(data: bytes) -> np.ndarray | None:
    """Return the numbers of a file whose every line is one digit; None for any other file. Most masks are so."""
    characters = np.frombuffer(data if data.endswith(b'\n') else data + b'\n', dtype=np.uint8)
    digits, ends = characters[0::2], characters[1::2]
    if len(digits) != len(ends) or (ends != _NEWLINE).any() or ((digits < _ZERO) | (digits > _NINE)).any():
        return None
    return (digits - _ZERO).astype(np.int64)


def _check_length(path: str | os.PathLike, length: int, num_points: int | None) -> None:
    if num_points is not None and length != num_points:
        raise DataError(f'{path}: has {length} entries, but the mesh of this scene has {num_points} vertices.')
