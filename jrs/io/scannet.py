"""ScanNet's text files: metadata, over-segmentation, objects, the label table and split lists (data.md section 1)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.text import read_json, read_text

SENS, METADATA = '.sens', '.txt'
MESH, MESH_LABELS = '_vh_clean_2.ply', '_vh_clean_2.labels.ply'
SEGMENTS, AGGREGATION = '_vh_clean_2.0.010000.segs.json', '.aggregation.json'
LABEL_TABLE = 'scannetv2-labels.combined.tsv'
LABEL_COLUMNS = ('id', 'raw_category', 'category', 'count', 'nyu40id', 'eigen13id', 'nyuClass', 'nyu40class',
                 'eigen13class', 'ModelNet40', 'ModelNet10', 'ShapeNetCore55', 'synsetoffset', 'wnsynsetid',
                 'wnsynsetkey', 'mpcat40', 'mpcat40index')
MAX_OBJECTS = 65535                                         # objectId + 1 is a pixel of a 16-bit image
MATRICES = ('axisAlignment', 'colorToDepthExtrinsics')      # 16 numbers, row-major


@dataclass(frozen=True)
class SegmentGroup:
    """One object: 0-based `object_id`, raw category `label`, and the segments it is made of."""

    object_id: int
    label: str
    segments: tuple[int, ...]


@dataclass(frozen=True)
class LabelRow:
    """What the label table says of a raw category; `id` is ScanNet200's, `nyu40id` 1..40."""

    id: int
    nyu40id: int
    nyu40class: str = ''


def scan_file(folder: str | os.PathLike, ending: str) -> Path:
    """Return the file of a scan folder with this exact ending, `<folder>/<scan id><ending>`."""
    folder = Path(folder)
    return folder / f'{folder.name}{ending}'


def read_metadata(path: str | os.PathLike) -> dict[str, float | str | np.ndarray]:
    """Return a scan's `.txt`: numbers as float, `axisAlignment` and `colorToDepthExtrinsics` as (4, 4) float64, other
    values as text. Missing keys are missing: no `axisAlignment` means identity."""
    found = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        key, separator, value = (part.strip() for part in line.partition('='))
        if not separator:
            raise DataError(f'{path}, line {number}: {line[:80]!r} is not "key = value".')
        found[key] = _matrix(value, f'{path}, line {number}: {key}') if key in MATRICES else _number_or_text(value)
    return found


def _matrix(text: str, where: str) -> np.ndarray:
    try:
        values = np.array(text.split(), np.float64)
    except ValueError as error:
        raise DataError(f'{where} has words that are not numbers.') from error
    if values.size != 16:
        raise DataError(f'{where} has {values.size} numbers; it needs 16.')
    return values.reshape(4, 4)                                                         # (4, 4)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_matrix(path: str | os.PathLike) -> np.ndarray:
    """Return the 4 x 4 matrix of a text file of an exported frame, (4, 4) float64; a lost pose is -inf throughout."""
    return _matrix(read_text(path), str(path))


def write_metadata(path: str | os.PathLike, values: Mapping[str, float | str | np.ndarray]) -> None:
    """Write a scan's `.txt`: `axisAlignment` first and `sceneType` last, as tools expect; the others in their order.

    Matrices, such as `axisAlignment` (4, 4), are written row by row; numbers and text as they are.
    """
    first = [key for key in values if key == 'axisAlignment']
    last = [key for key in values if key == 'sceneType']
    keys = first + [key for key in values if key not in ('axisAlignment', 'sceneType')] + last
    lines = [f'{key} = {_format(values[key])}\n' for key in keys]
    with atomic_write(path, 'w') as file:
        file.write(''.join(lines))


def _format(value: float | str | np.ndarray) -> str:
    if isinstance(value, np.ndarray):
        return ' '.join(f'{number:.6f}' for number in value.ravel())
    if isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() else f'{value:.6f}'


def read_segments(path: str | os.PathLike, num_vertices: int | None = None) -> np.ndarray:
    """Return the segment of each vertex, (N,) int64; ids are arbitrary and have gaps.

    Args:
        num_vertices: N of the mesh that the file belongs to, checked when given.
    """
    data = read_json(path)
    indices = data.get('segIndices') if isinstance(data, dict) else None
    if not isinstance(indices, list):
        raise DataError(f'{path}: no list "segIndices".')
    segments = _integers(indices, f'{path}: segIndices')
    if num_vertices is not None and len(segments) != num_vertices:
        raise DataError(f'{path}: {len(segments)} segment indices, the mesh has {num_vertices} vertices.')
    return segments


def write_segments(path: str | os.PathLike, scan_id: str, segments: np.ndarray) -> None:
    """Write the segment of each vertex, (N,) non-negative integers."""
    _write_json(path, {'params': {'kThresh': '0.010000', 'segMinVerts': '20'}, 'sceneId': scan_id,
                       'segIndices': np.asarray(segments).tolist()})


def read_aggregation(path: str | os.PathLike) -> list[SegmentGroup]:
    """Return the objects in file order; a repeated list of segments (val scan scene0217_00) counts once, the first."""
    return list(_first_of_each(read_groups(path)).values())


def repeated_objects(path: str | os.PathLike) -> dict[int, int]:
    """Return object id -> the id it repeats, for the objects that `read_aggregation` leaves out."""
    groups = read_groups(path)
    first = _first_of_each(groups)
    return {group.object_id: first[group.segments].object_id for group in groups if first[group.segments] is not group}


def _first_of_each(groups: Iterable[SegmentGroup]) -> dict[tuple[int, ...], SegmentGroup]:
    unique = {}
    for group in groups:
        unique.setdefault(group.segments, group)
    return unique


def read_groups(path: str | os.PathLike) -> list[SegmentGroup]:
    """Return every entry of "segGroups" in file order, repeated ones too; ScanNet++'s annotation has the same layout."""
    data = read_json(path)
    groups = data.get('segGroups') if isinstance(data, dict) else None
    if not isinstance(groups, list):
        raise DataError(f'{path}: no list "segGroups".')
    return [_parse_group(group, f'{path}: segGroups[{index}]') for index, group in enumerate(groups)]


def _parse_group(group: dict, where: str) -> SegmentGroup:
    try:
        object_id, label, listed = group['objectId'], group['label'], group['segments']
    except (KeyError, TypeError) as error:
        raise DataError(f'{where} needs objectId, label and segments.') from error
    if not (type(object_id) is int and 0 <= object_id < MAX_OBJECTS and isinstance(label, str) and isinstance(listed, list)):
        raise DataError(f'{where} needs an objectId from 0 to {MAX_OBJECTS - 1}, a text label and a list of segments.')
    return SegmentGroup(object_id, label, tuple(_integers(listed, f'{where}.segments').tolist()))


def write_aggregation(path: str | os.PathLike, scan_id: str, groups: Sequence[SegmentGroup]) -> None:
    """Write the objects of a scan, which refer to the segments of its decimated mesh."""
    listed = [{'id': group.object_id, 'objectId': group.object_id, 'segments': list(group.segments),
               'label': group.label} for group in groups]
    _write_json(path, {'sceneId': f'scannet.{scan_id}', 'appId': 'Aggregator.v2', 'segGroups': listed,
                       'segmentsFile': f'scannet.{scan_id}{SEGMENTS}'})


def vertex_objects(segments: np.ndarray, groups: Sequence[SegmentGroup]) -> np.ndarray:
    """Return the index into `groups` of each vertex, (N,) int64, -1 = unannotated; the last group of a segment wins."""
    ids, inverse = np.unique(segments, return_inverse=True)
    owner = np.full(len(ids), -1, np.int64)
    for index, group in enumerate(groups):
        owner[np.isin(ids, np.asarray(group.segments, np.int64))] = index
    return owner[inverse]


def read_label_table(path: str | os.PathLike) -> dict[str, LabelRow]:
    """Return raw category -> LabelRow of `scannetv2-labels.combined.tsv`; columns are found by name."""
    lines = [line.split('\t') for line in read_text(path).splitlines() if line.strip()]
    missing = {'id', 'raw_category', 'nyu40id'} - set(lines[0] if lines else ())
    if missing:
        raise DataError(f'{path}: the first line lacks the columns {sorted(missing)}; it must be tab-separated.')
    table = {}
    for number, fields in enumerate(lines[1:], start=2):
        row = dict(zip(lines[0], fields, strict=False))
        try:
            table[row['raw_category']] = LabelRow(int(row['id']), int(row['nyu40id']), row.get('nyu40class', ''))
        except (KeyError, ValueError) as error:
            raise DataError(f'{path}, line {number}: id and nyu40id must be integers, got {row.get("id")!r} and '
                            f'{row.get("nyu40id")!r}.') from error
    return table


def write_label_table(path: str | os.PathLike, table: Mapping[str, LabelRow]) -> None:
    """Write raw category -> LabelRow with all 17 columns; those that jrs does not use stay empty."""
    lines = ['\t'.join(LABEL_COLUMNS)]
    for name, row in table.items():
        values = {'id': str(row.id), 'raw_category': name, 'nyu40id': str(row.nyu40id), 'nyu40class': row.nyu40class}
        lines.append('\t'.join(values.get(column, '') for column in LABEL_COLUMNS))
    with atomic_write(path, 'w') as file:
        file.write('\n'.join(lines) + '\n')


def read_list(path: str | os.PathLike) -> list[str]:
    """Return the scan ids of a split list, one per line; empty lines are skipped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def write_list(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a split list, one scan id per line."""
    with atomic_write(path, 'w') as file:
        file.writelines(f'{name}\n' for name in names)


def _write_json(path: str | os.PathLike, data: dict) -> None:
    with atomic_write(path, 'w') as file:
        json.dump(data, file, separators=(',', ':'))


def _integers(values: list, where: str) -> np.ndarray:
    """Return a list of non-negative integers as (n,) int64."""
    array = np.array(values, dtype=object)
    if array.ndim != 1 or not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise DataError(f'{where}: all entries must be non-negative integers.')
    return array.astype(np.int64)
