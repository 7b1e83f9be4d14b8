"""ScanNet's RGB-D stream `.sens`, versions 3 and 4 (data.md section 1.1), read frame by frame and written.

Poses are camera -> world (OpenCV axes, metres); a frame without tracking has a pose of -inf.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.png import BROKEN_PICTURE, MAX_PIXELS

COLOR_CODES = {-1: 'unknown', 0: 'raw', 1: 'png', 2: 'jpeg'}
DEPTH_CODES = {-1: 'unknown', 0: 'raw', 1: 'zlib', 2: 'occi'}
MAX_SIDE = 16384                                            # pixels; larger is taken for a corrupt header
MAX_NAME = 4096                                             # bytes of the sensor's name
RECORD = np.dtype([('world_from_cam', '<f4', (4, 4)), ('color_time', '<u8'), ('depth_time', '<u8'),
                   ('color_bytes', '<u8'), ('depth_bytes', '<u8')])
IMU = np.dtype([('rotation_rate', '<f8', 3), ('acceleration', '<f8', 3), ('magnetic_field', '<f8', 3),
                ('attitude', '<f8', 3), ('gravity', '<f8', 3), ('time', '<u8')])


def _identity() -> np.ndarray:
    return np.eye(4, dtype=np.float32)


@dataclass
class SensHeader:
    """What a `.sens` says of all its frames.

    Attributes:
        intrinsic_color, intrinsic_depth: (4, 4) float32, pixels, pixel centres at integers.
        extrinsic_color, extrinsic_depth: (4, 4) float32, sensor -> base (colour) frame.
        color_size, depth_size: (height, width).
        color_compression: 'raw' RGB8, 'png' or 'jpeg'; depth_compression: 'raw' uint16 or 'zlib' ('occi': no decoder).
        depth_shift: metres = value / depth_shift.
    """

    intrinsic_color: np.ndarray
    intrinsic_depth: np.ndarray
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    extrinsic_color: np.ndarray = field(default_factory=_identity)
    extrinsic_depth: np.ndarray = field(default_factory=_identity)
    color_compression: str = 'jpeg'
    depth_compression: str = 'zlib'
    depth_shift: float = 1000.0
    sensor_name: str = 'StructureSensor'
    version: int = 4


@dataclass
class SensFrame:
    """One frame as stored: world_from_cam (4, 4) float32 (-inf = lost), times in microseconds, encoded payloads."""

    world_from_cam: np.ndarray
    color: bytes
    depth: bytes
    color_time: int = 0
    depth_time: int = 0


class SensReader:
    """Random access to the frames of a `.sens`; opening reads the 96-byte record headers and seeks over the payloads.

    Attributes:
        header: SensHeader.
        records: (F,) structured array of `RECORD`.
        imu: (M,) structured array of `IMU`; empty where the file has none.

    Raises:
        DataError: not a `.sens` of version 3 or 4, cut off, or with sizes that cannot be.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, 'rb')
        except OSError as error:
            raise DataError(f'{self.path}: cannot be opened ({error.strerror}).') from error
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            self.header, count = self._read_header()
            self.records, self._offsets = self._scan_records(count)
            self.imu = self._read_imu()
        except DataError:
            self.close()
            raise

    def __enter__(self) -> SensReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        """F, the number of frames."""
        return len(self.records)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def world_from_cam(self) -> np.ndarray:
        """(F, 4, 4) float32 camera -> world; -inf where tracking was lost."""
        return self.records['world_from_cam']

    @property
    def tracked(self) -> np.ndarray:
        """(F,) bool: the pose is finite."""
        return np.isfinite(self.world_from_cam).all(axis=(1, 2))

    def frame(self, index: int) -> SensFrame:
        """Return frame `index` with its payloads still encoded."""
        record = self.records[index]
        return SensFrame(record['world_from_cam'].copy(), self._color_payload(index), self._depth_payload(index),
                         int(record['color_time']), int(record['depth_time']))

    def color(self, index: int) -> np.ndarray:
        """Return the colour image of frame `index`, (H, W, 3) uint8 RGB."""
        payload, where = self._color_payload(index), f'{self.path}: colour of frame {index}'
        height, width = self.header.color_size
        if self.header.color_compression == 'unknown':
            raise DataError(f'{where}: compression is "unknown"; raw, png and jpeg can be read.')
        if self.header.color_compression != 'raw':
            return _decode_image(payload, self.header.color_size, where)
        if len(payload) != height * width * 3:
            raise DataError(f'{where}: {len(payload)} bytes, raw {width} x {height} RGB needs {height * width * 3}.')
        return np.frombuffer(payload, np.uint8).reshape(height, width, 3).copy()        # (H, W, 3)

    def depth(self, index: int) -> np.ndarray:
        """Return the depth image of frame `index`, (H, W) uint16, metres * `header.depth_shift`, 0 = no reading."""
        payload, where = self._depth_payload(index), f'{self.path}: depth of frame {index}'
        height, width = self.header.depth_size
        if self.header.depth_compression not in ('raw', 'zlib'):
            raise DataError(f'{where}: compression is {self.header.depth_compression!r}, for which there is no '
                            f'decoder; raw and zlib can be read. Convert the file with the tool that wrote it.')
        if self.header.depth_compression == 'zlib':
            payload = _inflate(payload, height * width * 2, where)
        if len(payload) != height * width * 2:
            raise DataError(f'{where}: {len(payload)} bytes, {width} x {height} uint16 needs {height * width * 2}.')
        return np.frombuffer(payload, '<u2').reshape(height, width).astype(np.uint16)  # (H, W)

    def _color_payload(self, index: int) -> bytes:
        self._file.seek(int(self._offsets[index]))
        return self._read(int(self.records[index]['color_bytes']), f'colour of frame {index}')

    def _depth_payload(self, index: int) -> bytes:
        self._file.seek(int(self._offsets[index]) + int(self.records[index]['color_bytes']))
        return self._read(int(self.records[index]['depth_bytes']), f'depth of frame {index}')

    def _read(self, count: int, what: str) -> bytes:
        """Read `count` bytes; nothing is allocated for bytes that the file does not have."""
        left = self._size - self._file.tell()
        if count > left:
            raise DataError(f'{self.path}: {what} needs {count} bytes, the file has {left} left: it is cut off or '
                            f'corrupt. Copy it again.')
        return self._file.read(count)

    def _unpack(self, layout: str, what: str) -> tuple:
        return struct.unpack(layout, self._read(struct.calcsize(layout), what))

    def _read_header(self) -> tuple[SensHeader, int]:
        version, name_length = self._unpack('<IQ', 'the header')
        if version not in (3, 4):
            raise DataError(f'{self.path}: version {version}; 3 and 4 can be read.')
        if name_length > MAX_NAME:
            raise DataError(f'{self.path}: the sensor name has {name_length} bytes; at most {MAX_NAME} are allowed.')
        name = self._read(name_length, 'the sensor name').decode('latin-1')
        matrices = np.frombuffer(self._read(256, 'the cameras'), '<f4').reshape(4, 4, 4).astype(np.float32)
        values = self._unpack('<2i4IfQ', 'the header')
        color_code, depth_code, *sides, depth_shift, count = values
        self._check_header(color_code, depth_code, sides, depth_shift)
        header = SensHeader(matrices[0], matrices[2], (sides[1], sides[0]), (sides[3], sides[2]), matrices[1],
                            matrices[3], COLOR_CODES[color_code], DEPTH_CODES[depth_code], depth_shift, name, version)
        return header, count

    def _check_header(self, color_code: int, depth_code: int, sides: list[int], depth_shift: float) -> None:
        for code, codes, what in ((color_code, COLOR_CODES, 'colour'), (depth_code, DEPTH_CODES, 'depth')):
            if code not in codes:
                raise DataError(f'{self.path}: {what} compression {code}; allowed: {codes}.')
        if min(sides) < 1 or max(sides) > MAX_SIDE:
            raise DataError(f'{self.path}: image sides (colour width, height, depth width, height) are {sides}; each '
                            f'must be 1 to {MAX_SIDE}.')
        if max(sides[0] * sides[1], sides[2] * sides[3]) > MAX_PIXELS:
            raise DataError(f'{self.path}: image sides (colour width, height, depth width, height) are {sides}; at most '
                            f'{MAX_PIXELS} pixels are allowed.')
        if not (np.isfinite(depth_shift) and depth_shift > 0):
            raise DataError(f'{self.path}: depth shift {depth_shift}; it must be positive.')

    def _scan_records(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the record headers (F,) and where their payloads begin (F,)."""
        left = self._size - self._file.tell()
        if count * RECORD.itemsize > left:
            raise DataError(f'{self.path}: the header announces {count} frames, at least {count * RECORD.itemsize} '
                            f'bytes, but {left} bytes follow: it is cut off or corrupt.')
        records, offsets = np.zeros(count, RECORD), np.zeros(count, np.int64)
        for index in range(count):
            records[index] = np.frombuffer(self._read(RECORD.itemsize, f'frame {index} of {count}'), RECORD)[0]
            offsets[index] = self._file.tell()
            payload = int(records[index]['color_bytes']) + int(records[index]['depth_bytes'])
            if payload > self._size - offsets[index]:
                raise DataError(f'{self.path}: frame {index} of {count} announces {payload} bytes, '
                                f'{self._size - offsets[index]} follow: it is cut off or corrupt.')
            self._file.seek(payload, os.SEEK_CUR)
        return records, offsets

    def _read_imu(self) -> np.ndarray:
        """Return the IMU records (M,); a version 4 file that ends after its frames counts as having none."""
        if self.header.version == 3 or self._file.tell() == self._size:
            return np.zeros(0, IMU)
        count, = self._unpack('<Q', 'the number of IMU records')
        return np.frombuffer(self._read(count * IMU.itemsize, f'{count} IMU records'), IMU)


def _decode_image(payload: bytes, size: tuple[int, int], where: str) -> np.ndarray:
    """Decode a JPEG or PNG to (H, W, 3) uint8 RGB; its size is compared before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(payload), formats=('JPEG', 'PNG'))
        if image.size != (size[1], size[0]):
            raise DataError(f'{where}: the image is {image.size[0]} x {image.size[1]}, the header says '
                            f'{size[1]} x {size[0]}.')
        return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
    except (*BROKEN_PICTURE, Image.DecompressionBombWarning) as error:
        raise DataError(f'{where}: not a readable image ({error}).') from error


def _inflate(payload: bytes, size: int, where: str) -> bytes:
    """Inflate a zlib stream, never to more than one byte above `size`."""
    try:
        stream = zlib.decompressobj()
        return stream.decompress(payload, size + 1)
    except zlib.error as error:
        raise DataError(f'{where}: not a zlib stream ({error}).') from error


def encode_depth(depth: np.ndarray) -> bytes:
    """Return depth (H, W) uint16 as the zlib payload of a frame."""
    return zlib.compress(np.ascontiguousarray(depth, dtype='<u2').tobytes(), 6)


def write_sens(path: str | os.PathLike, header: SensHeader, frames: Iterable[SensFrame],
               imu: np.ndarray | None = None) -> None:
    """Write a `.sens`; `frames` is consumed one by one. What was read is written back with the same bytes.

    Args:
        header: its `version` decides whether the IMU block is written (4) or not (3).
        frames: payloads must be encoded as the header says.
        imu: (M,) of `IMU`; None = none.

    Raises:
        DataError: a version other than 3 and 4, or an unknown compression.
    """
    if header.version not in (3, 4):
        raise DataError(f'{path}: version {header.version} cannot be written; 3 and 4 can.')
    with atomic_write(path, 'w+b') as file:
        count_at = _write_header(file, header, path)
        count = 0
        for count, frame in enumerate(frames, start=1):     # noqa: B007
            file.write(_record(frame))
            file.write(frame.color)
            file.write(frame.depth)
        if header.version == 4:
            imu = np.zeros(0, IMU) if imu is None else np.asarray(imu, IMU)
            file.write(struct.pack('<Q', len(imu)) + imu.tobytes())
        file.seek(count_at)
        file.write(struct.pack('<Q', count))


def _write_header(file: BinaryIO, header: SensHeader, path: str | os.PathLike) -> int:
    """Write the header with 0 frames; return where the number of frames stands."""
    name = header.sensor_name.encode('latin-1')
    color_code = {name: code for code, name in COLOR_CODES.items()}.get(header.color_compression)
    depth_code = {name: code for code, name in DEPTH_CODES.items()}.get(header.depth_compression)
    if color_code is None or depth_code is None:
        raise DataError(f'{path}: compressions {header.color_compression!r}, {header.depth_compression!r}; allowed: '
                        f'{sorted(COLOR_CODES.values())}, {sorted(DEPTH_CODES.values())}.')
    file.write(struct.pack('<IQ', header.version, len(name)) + name)
    for matrix in (header.intrinsic_color, header.extrinsic_color, header.intrinsic_depth, header.extrinsic_depth):
        file.write(np.asarray(matrix, '<f4').tobytes())
    file.write(struct.pack('<2i4If', color_code, depth_code, *header.color_size[::-1], *header.depth_size[::-1],
                           header.depth_shift))
    count_at = file.tell()
    file.write(struct.pack('<Q', 0))
    return count_at


def _record(frame: SensFrame) -> bytes:
    record = np.zeros((), RECORD)
    record['world_from_cam'] = frame.world_from_cam
    record['color_time'], record['depth_time'] = frame.color_time, frame.depth_time
    record['color_bytes'], record['depth_bytes'] = len(frame.color), len(frame.depth)
    return record.tobytes()
