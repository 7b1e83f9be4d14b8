"""16-bit PNG for depth and ids, 8-bit JPEG and PNG for colour."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from jrs.errors import DataError
from jrs.io.atomic import atomic_write

MAX_PIXELS = 1 << 26                                      # of an image; a picture of a good camera has half of them
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 6]            # OpenCV's default makes smooth depth twice as large
# What PIL raises on broken pictures: its readers check little.
BROKEN_PICTURE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
                  NotImplementedError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)
CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}                 # PNG's colour type -> channels
SIGNATURE = b'\x89PNG\r\n\x1a\n'


def write_png16(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W) uint16: depth in millimetres (0 = no reading) or ids (0 = none)."""
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise DataError(f'{path}: a 16-bit image is (H, W) uint16, got {image.shape} {image.dtype}.')
    _write(path, '.png', image, PNG_OPTIONS)


def read_png16(path: str | os.PathLike, allowed: Collection[int] = (8, 16)) -> np.ndarray:
    """Return the single channel of a PNG of `allowed` bits as (H, W) uint16; its size is checked before decoding.

    Raises:
        DataError: missing, not a PNG, cut off, absurdly large, of other bits, or with more than one channel.
    """
    return decode_png16(_bytes_of(path), str(path), allowed)


def read_depth_mm(path: str | os.PathLike) -> np.ndarray:
    """Return a depth image, (H, W) uint16 millimetres, 0 = no reading; 8 bits, which end at 255 mm, are refused.

    Raises:
        DataError: as of `read_png16`.
    """
    data = _bytes_of(path)
    *_, bits, color_type = read_png_header(data, str(path))
    if (bits, color_type) != (16, 0):
        raise DataError(f'{path}: a depth image has 16 bits and one channel (millimetres), got {bits} bits and '
                        f'{CHANNELS.get(color_type, "no known number of")} channel{"s" * (color_type != 0)}.')
    return decode_png16(data, str(path))


def decode_png16(data: bytes, where: str, allowed: Collection[int] = (8, 16)) -> np.ndarray:
    """Do what `read_png16` does with the bytes of a PNG; `where` names them in messages."""
    height, width, bits, color_type = read_png_header(data, where)
    if color_type != 0 or bits not in allowed:
        raise DataError(f'{where}: {bits} bits, PNG colour type {color_type}; allowed: {" or ".join(map(str, allowed))} '
                        'bits, type 0 (one channel).')
    try:
        with quiet_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f'{where}: the PNG cannot be decoded ({error.err}).') from error
    if image is None or image.shape != (height, width) or b'IEND' not in data[-16:]:
        raise DataError(f'{where}: the PNG cannot be decoded: it is cut off or corrupt.')
    return image.astype(np.uint16)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to the terminal what an error of ours will say."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def read_png_header(data: bytes, where: str) -> tuple[int, int, int, int]:
    """Return height, width, bits and colour type of a PNG of 1 to `MAX_PIXELS` pixels; nothing is decoded."""
    if data[:8] != SIGNATURE or len(data) < 33:
        raise DataError(f'{where}: not a PNG; it starts with {data[:8]!r}.')
    width, height, bits, color_type = struct.unpack('>IIBB', data[16:26])
    if not 1 <= width * height <= MAX_PIXELS:
        raise DataError(f'{where}: {width} x {height} pixels; allowed: 1 to {MAX_PIXELS}.')
    return height, width, bits, color_type


def _bytes_of(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}).') from error


def encode_jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Return (H, W, 3) uint8 RGB as a JPEG without chroma subsampling, so that decoders agree to within 2 levels."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality,
               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode('.jpg', _bgr(image), options)


def write_jpeg(path: str | os.PathLike, image: np.ndarray, quality: int = 92) -> None:
    """Write (H, W, 3) uint8 RGB as a JPEG of `quality` 1 to 100."""
    data = encode_jpeg(image, quality)
    with atomic_write(path) as file:
        file.write(data)


def write_png8(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB or (H, W) uint8 as a PNG."""
    data = encode_png8(image)
    with atomic_write(path) as file:
        file.write(data)


def encode_png8(image: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 RGB or (H, W) uint8 as a PNG."""
    image = np.asarray(image)
    return _encode('.png', image if image.ndim == 2 and image.dtype == np.uint8 else _bgr(image), PNG_OPTIONS)


def encode_png_alpha(image: np.ndarray) -> bytes:
    """Return (H, W, 4) uint8 RGBA as a PNG."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise DataError(f'a picture with alpha is (H, W, 4) uint8, got {image.shape} {image.dtype}.')
    return _encode('.png', np.ascontiguousarray(image[..., [2, 1, 0, 3]]), PNG_OPTIONS)


def _bgr(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f'a colour image is (H, W, 3) uint8, got {image.shape} {image.dtype}.')
    return np.ascontiguousarray(image[..., ::-1])


def _encode(kind: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, image, options)
    if not done:
        raise DataError(f'an image of {image.shape} cannot be encoded as {kind}.')
    return data.tobytes()


def _write(path: str | os.PathLike, kind: str, image: np.ndarray, options: list[int]) -> None:
    data = _encode(kind, image, options)
    with atomic_write(path) as file:
        file.write(data)
