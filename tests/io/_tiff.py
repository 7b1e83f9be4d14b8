"""TIFF and PNG files of any sample type, written byte by byte, so that no library decides what they mean."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

CODES = {3: 'H', 4: 'I', 11: 'f'}               # TIFF's types: 16 bits, 32 bits, float
SAMPLE_FORMATS = {'u': 1, 'i': 2, 'f': 3}


def write_tiff(path: Path, samples: np.ndarray, photometric: int = 1, tags: dict | None = None, order: str = '<',
               pages: int = 1, data: bytes | None = None, bits: int | None = None) -> Path:
    """Write samples (H, W) or (H, W, C), uncompressed, in one strip; `tags` are number -> (type, values)."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if data is None else data
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits or samples.itemsize * 8] * channels), 259: (3, [1]),
               262: (3, [photometric]), 273: (4, [0]), 277: (3, [channels]), 278: (4, [height]), 279: (4, [len(data)]),
               339: (3, [SAMPLE_FORMATS[samples.dtype.kind]] * channels), **(tags or {})}
    out = (b'II' if order == '<' else b'MM') + struct.pack(f'{order}HI', 42, 8)
    for page in range(pages):
        out += _page(entries, data, len(out), order, page == pages - 1)
    path.write_bytes(out)
    return path


def _page(entries: dict, data: bytes, at: int, order: str, is_last: bool) -> bytes:
    table, beside, body = b'', b'', at + 2 + 12 * len(entries) + 4
    packed = {tag: struct.pack(order + CODES[kind] * len(values), *values) for tag, (kind, values) in entries.items()}
    first = body + sum(len(raw) for raw in packed.values() if len(raw) > 4)
    packed[273] = struct.pack(f'{order}I', first)
    for tag in sorted(entries):
        raw = packed[tag]
        if len(raw) > 4:
            raw, beside = struct.pack(f'{order}I', body + len(beside)), beside + raw
        table += struct.pack(f'{order}HHI', tag, entries[tag][0], len(entries[tag][1])) + raw.ljust(4, b'\0')
    data += b'\0' * ((first + len(data)) % 2)
    return struct.pack(f'{order}H', len(entries)) + table + struct.pack(f'{order}I', 0 if is_last else first + len(data)) \
        + beside + data


def write_png(path: Path, samples: np.ndarray, bits: int = 16, chunks: tuple = (), size: tuple | None = None) -> Path:
    """Write samples (H, W) or (H, W, C) of 16 bits, or rows of bytes (H, n), as a PNG that says that its `size` is (W, H).

    `chunks` are (name, content).
    """
    channels = samples.shape[2] if samples.ndim == 3 else 1
    rows = samples.astype('>u2') if samples.dtype == np.uint16 else samples
    width = samples.shape[1] * 8 // bits if bits < 8 else samples.shape[1]
    head = struct.pack('>IIBBBBB', *(size or (width, samples.shape[0])), bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
        for name, content in ((b'IHDR', head), *chunks, (b'IDAT', body), (b'IEND', b''))))
    return path
