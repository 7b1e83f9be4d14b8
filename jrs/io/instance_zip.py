"""ScanNet's 2D instance images in the zip they come in, read without unpacking it (data.md section 1.6)."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.png import decode_png16, read_png_header

ENDINGS = ('_2d-instance-filt.zip', '_2d-instance.zip')     # the filtered images are preferred
MEMBER = re.compile(r'instance(?:-filt)?/(0|[1-9][0-9]{0,8})\.png')
MAX_BYTES = 1 << 24                                         # of one image; real ones have some 20 kB
MAX_PIXELS = 1 << 24
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)        # others reserve what their header asks for
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


class InstanceZip:
    """Random access to the images of a zip; a context manager.

    Members are looked up by number and decoded in memory: no name in the zip ever becomes a path, and no image larger
    than `MAX_BYTES` or `MAX_PIXELS` is unpacked, whatever its header announces.

    Raises:
        DataError: not a zip, a frame that stands twice; from `ids`, a missing, broken or oversized image.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except _BROKEN as error:
            raise DataError(f'{self.path}: not a readable zip ({error}). Download it again.') from error
        self._members: dict[int, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            match = MEMBER.fullmatch(member.filename)
            if match and self._members.setdefault(int(match[1]), member) is not member:
                self.close()
                raise DataError(f'{self.path}: frame {match[1]} stands in it twice. Download it again.')

    def __enter__(self) -> InstanceZip:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def ids(self, index: int) -> np.ndarray:
        """Return the image of a frame, (H, W) uint16: object id + 1, 0 = none."""
        where = f'{self.path}, frame {index}'
        if index not in self._members:
            raise DataError(f'{where}: not in the zip, which has {len(self._members)} images.')
        data = self._unpack(self._members[index], where)
        height, width, *_ = read_png_header(data, where)
        if height * width > MAX_PIXELS:
            raise DataError(f'{where}: {width} x {height} pixels; at most {MAX_PIXELS} are allowed.')
        return decode_png16(data, where)

    def _unpack(self, member: zipfile.ZipInfo, where: str) -> bytes:
        if member.file_size > MAX_BYTES:
            raise DataError(f'{where}: {member.file_size} bytes are announced; at most {MAX_BYTES} are allowed.')
        if member.compress_type not in PACKINGS:
            raise DataError(f'{where}: packed by method {member.compress_type}; allowed: stored and deflated, {PACKINGS}.')
        try:
            with self._zip.open(member) as file:
                data = file.read(MAX_BYTES + 1)
        except _BROKEN as error:
            raise DataError(f'{where}: cannot be unpacked ({error}). Download the zip again.') from error
        if len(data) > MAX_BYTES:
            raise DataError(f'{where}: more than {MAX_BYTES} bytes when unpacked.')
        return data


def find_instance_zip(scan: Path) -> Path:
    """Return the zip of a scan folder, the filtered one if both are there; raises a DataError without any."""
    for ending in ENDINGS:
        path = scan / f'{scan.name}{ending}'
        if path.is_file():
            return path
    raise DataError(f'{scan}: neither {scan.name}{ENDINGS[0]} nor {scan.name}{ENDINGS[1]}. Download them, or leave out '
                    '--masks official.')
