"""The iPhone's LiDAR depth of ScanNet++, `depth.bin`, in both of its encodings (data.md section 5.2)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jrs.errors import DataError

SIZE = (192, 256)                                           # (H, W) of every frame
_METRES, _MILLIMETRES = SIZE[0] * SIZE[1] * 4, SIZE[0] * SIZE[1] * 2       # bytes of a frame as float32, as uint16
CHUNK = 1 << 20
LEAST, MOST = 128, 2 * _METRES                              # bytes of a payload: a byte makes 1032 at most, and none grows


class LidarDepth:
    """Reads frames in rising order; what is skipped is not kept.

    A file whose length words lead exactly to its end holds one payload per frame: an LZ4 block of millimetres or a raw
    deflate stream of metres. Any other is one raw deflate stream of metres.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, 'rb')
        except OSError as error:
            raise DataError(f'{self.path}: cannot be opened ({error.strerror}).') from error
        self._offsets = self._payloads()
        self._file.seek(0)
        self._stream = self._inflated() if self._offsets is None else None
        self._next = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def depth_mm(self, index: int) -> np.ndarray:
        """Return frame `index`, not before the last one asked for, (192, 256) uint16 millimetres, 0 = no reading."""
        where = f'{self.path}, frame {index}'
        if self._offsets is not None:
            if index >= len(self._offsets):
                raise DataError(f'{where}: the file has {len(self._offsets)} frames.')
            offset, length = self._offsets[index]
            self._file.seek(offset)
            return _decode(self._file.read(length), where)
        frame = b''
        while self._next <= index:
            frame = next(self._stream, b'')
            if len(frame) != _METRES:
                raise DataError(f'{where}: the file ends at frame {self._next}, or is not a raw deflate stream.')
            self._next += 1
        return _millimetres(frame, where)

    def _payloads(self) -> list[tuple[int, int]] | None:
        """Return (offset, length) of each frame's payload; None where length words do not lead to the end."""
        end, at, found = os.fstat(self._file.fileno()).st_size, 0, []
        while at + 4 <= end:
            self._file.seek(at)
            length, = struct.unpack('<I', self._file.read(4))
            if not LEAST <= length <= MOST:
                return None
            found.append((at + 4, length))
            at += 4 + length
        return found if at == end and found else None

    def _inflated(self) -> Iterator[bytes]:
        """Yield frames of the one stream; never holds more than a few of them."""
        stream, held = zlib.decompressobj(-15), b''
        try:
            while not stream.eof and (chunk := stream.unconsumed_tail or self._file.read(CHUNK)):
                held += stream.decompress(chunk, CHUNK)
                while len(held) >= _METRES:
                    yield held[:_METRES]
                    held = held[_METRES:]
            yield held + stream.flush()
        except zlib.error:
            return


def _decode(payload: bytes, where: str) -> np.ndarray:
    try:
        return np.frombuffer(decompress_lz4(payload, _MILLIMETRES), '<u2').reshape(SIZE).astype(np.uint16)      # (H, W)
    except ValueError:
        pass                                                                # then it must be the other encoding
    try:
        data = zlib.decompressobj(-15).decompress(payload, _METRES + 1)
    except zlib.error as error:
        raise DataError(f'{where}: neither an LZ4 block nor a raw deflate stream ({error}).') from error
    return _millimetres(data, where)


def _millimetres(data: bytes, where: str) -> np.ndarray:
    if len(data) != _METRES:
        raise DataError(f'{where}: {len(data)} bytes of depth, {_METRES} are needed.')
    metres = np.frombuffer(data, '<f4').reshape(SIZE)                       # (H, W)
    usable = np.isfinite(metres) & (metres > 0) & (metres < 65.535)
    return np.rint(np.where(usable, metres, 0) * 1000).astype(np.uint16)


def decompress_lz4(block: bytes, size: int) -> bytes:
    """Return the `size` bytes of an LZ4 block; never makes more.

    Raises:
        ValueError: the block is no LZ4, or does not make exactly `size` bytes.
    """
    out, at = bytearray(), 0
    try:
        while at < len(block):
            token = block[at]
            literals, at = _length(block, at + 1, token >> 4)
            if at + literals > len(block) or len(out) + literals > size:
                raise ValueError('literals beyond the end')
            out += block[at:at + literals]
            at += literals
            if at == len(block):                                            # the last sequence is literals only
                break
            distance = block[at] | block[at + 1] << 8
            length, at = _length(block, at + 2, token & 15)
            _repeat(out, distance, length + 4, size)
    except IndexError as error:
        raise ValueError('cut off') from error
    if len(out) != size:
        raise ValueError(f'{len(out)} bytes instead of {size}')
    return bytes(out)


def _length(block: bytes, at: int, length: int) -> tuple[int, int]:
    """Return a length that starts with four bits of the token, and where the block goes on."""
    if length == 15:
        while block[at] == 255:
            length, at = length + 255, at + 1
        length, at = length + block[at], at + 1
    return length, at


def _repeat(out: bytearray, distance: int, length: int, size: int) -> None:
    if not 1 <= distance <= len(out) or len(out) + length > size:
        raise ValueError('a match that cannot be')
    pattern = bytes(out[-distance:])
    out += (pattern * (length // distance + 1))[:length]
