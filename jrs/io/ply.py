"""PLY files: per-vertex properties and triangles; binary little-endian is written, binary and ASCII are read."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.atomic import atomic_write

TYPES = {'char': 'i1', 'uchar': 'u1', 'short': 'i2', 'ushort': 'u2', 'int': 'i4', 'uint': 'u4', 'float': 'f4',
         'double': 'f8', 'int8': 'i1', 'uint8': 'u1', 'int16': 'i2', 'uint16': 'u2', 'int32': 'i4', 'uint32': 'u4',
         'float32': 'f4', 'float64': 'f8'}
NAMES = {'i1': 'char', 'u1': 'uchar', 'i2': 'short', 'u2': 'ushort', 'i4': 'int', 'u4': 'uint', 'f4': 'float',
         'f8': 'double'}
ORDERS = {'ascii': '', 'binary_little_endian': '<', 'binary_big_endian': '>'}
MAX_HEADER = 1 << 16                                        # bytes


@dataclass
class _Element:
    """One element of a header: its name, how many, and (name, type) per property; a list's type is (count, item)."""

    name: str
    count: int
    properties: list[tuple[str, str | tuple[str, str]]] = field(default_factory=list)

    @property
    def has_list(self) -> bool:
        return any(isinstance(kind, tuple) for _, kind in self.properties)


def write_ply(path: str | os.PathLike, vertices: Mapping[str, np.ndarray], faces: np.ndarray | None = None,
              comment: str | None = None) -> None:
    """Write a binary little-endian PLY.

    Args:
        vertices: property name -> (N,), in the order of the file; any integer or floating type up to 64-bit floats and
            32-bit integers.
        faces: (M, 3) vertex indices; None writes no face element.
        comment: a line for the header; what is not ASCII is written as escapes.
    """
    arrays = {name: np.asarray(values) for name, values in vertices.items()}
    kinds = {name: values.dtype.str[1:] for name, values in arrays.items()}
    lengths = {values.shape for values in arrays.values()}
    if not arrays or len(lengths) != 1 or len(next(iter(lengths))) != 1:
        raise DataError(f'{path}: vertex properties must be (N,) each, all of one N, got '
                        f'{ {name: values.shape for name, values in arrays.items()} }.')
    wrong = [name for name, kind in kinds.items() if kind not in NAMES]
    if wrong:
        raise DataError(f'{path}: PLY has no type for {wrong[0]!r} ({arrays[wrong[0]].dtype}); '
                        f'allowed: {sorted(NAMES)}.')
    count = len(next(iter(arrays.values())))
    table = np.zeros(count, [(name, '<' + kind) for name, kind in kinds.items()])
    for name, values in arrays.items():
        table[name] = values
    lines = ['ply', 'format binary_little_endian 1.0', *([] if comment is None else [_comment(comment)]),
             f'element vertex {count}']
    lines += [f'property {NAMES[kind]} {name}' for name, kind in kinds.items()]
    if faces is not None:
        lines += [f'element face {len(faces)}', 'property list uchar int vertex_indices']
    with atomic_write(path) as file:
        file.write(('\n'.join([*lines, 'end_header']) + '\n').encode('ascii'))
        file.write(table.tobytes())
        if faces is not None:
            file.write(_face_table(faces, count, path).tobytes())


def _comment(words: str) -> str:
    return f'comment {" ".join(words.split())}'.encode('ascii', 'backslashreplace').decode()


def _face_table(faces: np.ndarray, num_vertices: int, path: str | os.PathLike) -> np.ndarray:
    faces = np.asarray(faces).reshape(-1, 3)                                            # (M, 3)
    _check_faces(faces, num_vertices, path)
    table = np.zeros(len(faces), [('count', 'u1'), ('index', '<i4', 3)])
    table['count'], table['index'] = 3, faces
    return table


def read_ply(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the vertex properties, name -> (N,), and the triangles (M, 3) int32 (None without a face element).

    Polygons are cut into fans of triangles. Elements other than vertex and face are skipped.

    Raises:
        DataError: not a PLY, cut off, or with indices beyond its vertices.
    """
    path = Path(path)
    try:
        data = path.read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}).') from error
    order, elements, start = _parse_header(data, path)
    source = _AsciiBody(data[start:], path) if order == '' else _BinaryBody(data, start, order, path)
    vertices, faces = None, None
    for element in (element for element in elements if element.properties):
        if element.has_list:
            polygons = source.lists(element)
            faces = polygons if element.name == 'face' else faces
        else:
            columns = source.scalars(element)
            vertices = columns if element.name == 'vertex' else vertices
    if vertices is None:
        raise DataError(f'{path}: no vertex element with scalar properties.')
    if faces is not None:
        _check_faces(faces, len(next(iter(vertices.values()), ())), path)
        faces = faces.astype(np.int32)
    return vertices, faces


def _check_faces(faces: np.ndarray, num_vertices: int, path: str | os.PathLike) -> None:
    if faces.dtype.kind == 'f':
        raise DataError(f'{path}: face indices are of a floating type; they must be integers.')
    if faces.size and (faces.min() < 0 or faces.max() >= num_vertices):
        raise DataError(f'{path}: face indices span {faces.min()} to {faces.max()}; there are {num_vertices} vertices.')


def _parse_header(data: bytes, path: Path) -> tuple[str, list[_Element], int]:
    """Return the byte order ('' = ASCII), the elements, and where the body starts."""
    end = data.find(b'end_header', 0, MAX_HEADER)
    if not data.startswith(b'ply') or end < 0:
        raise DataError(f'{path}: not a PLY: it must start with "ply" and have "end_header" in its first {MAX_HEADER} '
                        f'bytes; it starts with {data[:12]!r}.')
    start = data.find(b'\n', end) + 1 or len(data)
    order, elements = None, []
    for line in data[:end].decode('latin-1').splitlines()[1:]:
        words = line.split()
        try:
            if not words or words[0] in ('comment', 'obj_info'):
                continue
            if words[0] == 'format':
                order = ORDERS[words[1]]
            elif words[0] == 'element':
                elements.append(_Element(words[1], _count(words[2])))
            elif words[0] == 'property':
                elements[-1].properties.append(_property(words))
                _check_distinct(elements[-1])
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(f'{path}: header line {line!r} is not understood.') from error
    if order is None:
        raise DataError(f'{path}: the header has no format line; allowed formats: {sorted(ORDERS)}.')
    return order, elements, start


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError(word)
    return count


def _check_distinct(element: _Element) -> None:
    names = [name for name, _ in element.properties]
    if len(set(names)) != len(names):
        raise ValueError(f'{names[-1]} stands twice')


def _property(words: list[str]) -> tuple[str, str | tuple[str, str]]:
    if words[1] == 'list':
        if TYPES[words[2]].startswith('f'):
            raise ValueError('a list cannot have a fractional length')
        return words[4], (TYPES[words[2]], TYPES[words[3]])
    return words[2], TYPES[words[1]]


class _BinaryBody:
    """Reads elements one after the other from binary data; nothing is allocated beyond what the file holds."""

    def __init__(self, data: bytes, start: int, order: str, path: Path) -> None:
        self.data, self.at, self.order, self.path = data, start, order, path

    def scalars(self, element: _Element) -> dict[str, np.ndarray]:
        """Return property name -> (count,)."""
        table = self._take(np.dtype([(name, self.order + kind) for name, kind in element.properties]), element)
        return {name: table[name].astype(kind) for name, kind in element.properties}

    def lists(self, element: _Element) -> np.ndarray:
        """Return the list property as triangles (M, 3) of its own type."""
        before, kinds, after = _split_at_list(element, self.path)
        triangle = np.dtype([*((f'b{i}', self.order + kind) for i, kind in enumerate(before)),
                             ('count', self.order + kinds[0]), ('index', self.order + kinds[1], 3),
                             *((f'a{i}', self.order + kind) for i, kind in enumerate(after))])
        if element.count * triangle.itemsize <= len(self.data) - self.at:
            table = np.frombuffer(self.data, triangle, element.count, self.at)
            if (table['count'] == 3).all():
                self.at += table.nbytes
                return table['index']
        return self._polygons(element, before, kinds, after)

    def _polygons(self, element: _Element, before: list[str], kinds: tuple[str, str], after: list[str]) -> np.ndarray:
        number, item = np.dtype(self.order + kinds[0]), np.dtype(self.order + kinds[1])
        skip_before, skip_after = (sum(np.dtype(kind).itemsize for kind in part) for part in (before, after))
        fans = []
        for _ in range(element.count):
            self.at += skip_before
            count = int(self._some(number, 1, element)[0])
            polygon = self._some(item, count, element)
            self.at += skip_after
            fans.append(_fan(polygon))
        return np.concatenate(fans) if fans else np.zeros((0, 3), item)

    def _take(self, dtype: np.dtype, element: _Element) -> np.ndarray:
        return self._some(dtype, element.count, element)

    def _some(self, dtype: np.dtype, count: int, element: _Element) -> np.ndarray:
        left = len(self.data) - self.at
        if count < 0 or count * dtype.itemsize > left:
            raise DataError(f'{self.path}: {element.count} of {element.name!r} are announced, {count} x '
                            f'{dtype.itemsize} bytes are needed next and {max(left, 0)} are left: cut off or corrupt.')
        table = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return table


class _AsciiBody:
    """Reads elements one after the other from text, one line each."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.lines, self.at, self.path = data.decode('latin-1').split('\n'), 0, path

    def _take(self, element: _Element) -> list[list[str]]:
        rows = [line.split() for line in self.lines[self.at:self.at + element.count]]
        if len(rows) < element.count or not all(rows):
            raise DataError(f'{self.path}: {element.count} lines of {element.name!r} are announced, fewer follow.')
        self.at += element.count
        return rows

    def scalars(self, element: _Element) -> dict[str, np.ndarray]:
        """Return property name -> (count,)."""
        rows = self._take(element)
        try:
            table = np.array(rows, np.float64).reshape(len(rows), len(element.properties))  # (count, properties)
            return {name: _cast(table[:, i], kind) for i, (name, kind) in enumerate(element.properties)}
        except ValueError as error:
            raise DataError(f'{self.path}: a line of {element.name!r} is not {len(element.properties)} '
                            f'numbers of their types.') from error

    def lists(self, element: _Element) -> np.ndarray:
        """Return the list property as triangles (M, 3) of its own type."""
        before, (_, kind), _ = _split_at_list(element, self.path)
        fans = [np.zeros((0, 3), kind)]
        try:
            for row in self._take(element):
                count = int(row[len(before)])
                polygon = _cast(np.array(row[len(before) + 1:len(before) + 1 + count], np.float64), kind)
                if len(polygon) != count:
                    raise ValueError(row)
                fans.append(_fan(polygon))
        except (ValueError, IndexError) as error:
            raise DataError(f'{self.path}: a line of {element.name!r} is not a list of numbers of its type.') from error
        return np.concatenate(fans)


def _cast(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Return float64 numbers as a type; raises a ValueError where it cannot hold one of them."""
    with np.errstate(invalid='ignore', over='ignore'):
        values = numbers.astype(kind)
    if kind.startswith('f'):
        same = np.isfinite(values) == np.isfinite(numbers)
    else:
        same = values == numbers
    if not same.all():
        raise ValueError(f'{numbers[~same][0]} is no {NAMES[kind]}')
    return values


def _split_at_list(element: _Element, path: Path) -> tuple[list[str], tuple[str, str], list[str]]:
    """Return the types before the only list property, the list's (count, item) types, and the types after it."""
    kinds = [kind for _, kind in element.properties]
    lists = [i for i, kind in enumerate(kinds) if isinstance(kind, tuple)]
    if len(lists) != 1:
        raise DataError(f'{path}: element {element.name!r} has {len(lists)} list properties; one can be read.')
    at = lists[0]
    return kinds[:at], kinds[at], kinds[at + 1:]


def _fan(polygon: np.ndarray) -> np.ndarray:
    """Cut a polygon (k,) into k - 2 triangles that share its first corner, (k - 2, 3)."""
    count = max(len(polygon) - 2, 0)
    first = np.repeat(polygon[:1], count)
    return np.stack([first, polygon[1:1 + count], polygon[2:2 + count]], axis=1)
