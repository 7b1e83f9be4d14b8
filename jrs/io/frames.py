"""Frames of a ScanNet scan as its Python exporter writes them: color/ depth/ pose/ intrinsic/ (data.md section 2)."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.images import resize_map
from jrs.io.names import readable
from jrs.io.photo import photo_size
from jrs.io.png import read_depth_mm
from jrs.io.scannet import read_matrix

COLOR_SUFFIXES = {'.jpg': '.jpg', '.jpeg': '.jpg', '.jpe': '.jpg', '.jfif': '.jpg', '.png': '.png'}     # as scenes have it
COLOR_SIZE, DEPTH_SIZE = (968, 1296), (480, 640)            # (H, W) of almost all scans
CENTRE_TOLERANCE = 0.05                                     # a principal point is this near the middle, share of a side


class ExportedFrames:
    """Reads the exported frames of one scan; their names are numbers of the recording, not padded with zeros.

    Args:
        folder: holds color, depth, pose and intrinsic.
        color_sizes: (H, W) that the scan's colour images may have had before they were resized, beside `COLOR_SIZE`.

    Attributes:
        others: names of what is in `color` and is not read.

    Raises:
        DataError: from any property or method when a file is missing, broken, or of another size than the others.
    """

    def __init__(self, folder: str | os.PathLike, color_sizes: Sequence[tuple[int, int]] = ()) -> None:
        self.path = Path(folder)
        self._color_sizes = [*color_sizes, COLOR_SIZE]
        self._colors, self.others = _numbered(self.path / 'color', COLOR_SUFFIXES)
        if not self._colors:
            raise DataError(f'{self.path / "color"}: no frames; they are called 0.jpg, 20.jpg, … or .png.')

    @property
    def indices(self) -> list[int]:
        """Numbers of the frames, rising."""
        return sorted(self._colors)

    @property
    def stride(self) -> int:
        """The largest number of which every frame's number is a multiple; 1 for a single frame 0."""
        return math.gcd(*self.indices) or 1

    @cached_property
    def color_size(self) -> tuple[int, int]:
        """(H, W) of the colour images."""
        return photo_size(self._colors[self.indices[0]])

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(H, W) of the depth images."""
        return read_depth_mm(self._depth_path(self.indices[0])).shape

    @cached_property
    def color_intrinsics(self) -> np.ndarray:
        """(3, 3) float64, pixels of the colour images as they are: scaled where they were resized."""
        return self._intrinsics('color', self.color_size, self._color_sizes)

    @cached_property
    def depth_intrinsics(self) -> np.ndarray:
        """(3, 3) float64, pixels of the depth images as they are."""
        return self._intrinsics('depth', self.depth_size, [DEPTH_SIZE])

    def extrinsic(self, what: str) -> np.ndarray:
        """Return the (4, 4) of `extrinsic_color` or `extrinsic_depth`, the identity where there is no file."""
        path = self.path / 'intrinsic' / f'extrinsic_{what}.txt'
        return read_matrix(path) if path.is_file() else np.eye(4)

    def world_from_cam(self, index: int) -> np.ndarray:
        """Return the pose of a frame, (4, 4) float64; not finite where tracking was lost or there is no file."""
        path = self.path / 'pose' / f'{index}.txt'
        return read_matrix(path) if path.is_file() else np.full((4, 4), -np.inf)

    def color(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of a colour image and their suffix, '.jpg' or '.png'."""
        path = self._colors[index]
        if (size := photo_size(path)) != self.color_size:
            raise DataError(f'{path}: is {size}, the first frame is {self.color_size} (height, width).')
        return path.read_bytes(), COLOR_SUFFIXES[path.suffix.lower()]

    def depth_mm(self, index: int) -> np.ndarray:
        """Return depth in millimetres, (Hd, Wd) uint16, 0 = no reading."""
        depth = read_depth_mm(self._depth_path(index))
        if depth.shape != self.depth_size:
            raise DataError(f'{self._depth_path(index)}: is {depth.shape}, the first frame is {self.depth_size}.')
        return depth

    def _depth_path(self, index: int) -> Path:
        return self.path / 'depth' / f'{index}.png'

    def _intrinsics(self, what: str, size: tuple[int, int], originals: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return intrinsics for images of `size`. The file may be for the sizes before resizing: of the candidates, the
        one whose middle is the principal point is right."""
        path = self.path / 'intrinsic' / f'intrinsic_{what}.txt'
        matrix = read_matrix(path)[:3, :3]
        matrix = np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]])
        for height, width in (size, *originals):
            off = np.abs(matrix[:2, 2] - [(width - 1) / 2, (height - 1) / 2]) / [width, height]
            if (off < CENTRE_TOLERANCE).all():
                return resize_map(size[1] / width, size[0] / height, 0, 0) @ matrix
        raise DataError(f'{path}: the principal point ({matrix[0, 2]:g}, {matrix[1, 2]:g}) is not near the middle of '
                        f'{size} nor of {", ".join(map(str, originals))} (height, width): these are not the intrinsics '
                        'of these images.')


def is_exported(folder: Path) -> bool:
    """Whether a folder holds exported frames."""
    return all((folder / part).is_dir() for part in ('color', 'depth', 'pose', 'intrinsic'))


def _numbered(folder: Path, suffixes: Collection[str]) -> tuple[dict[int, Path], list[str]]:
    """Return number -> file of the files whose stem is a number, each number once, and the names of all others."""
    found, others = {}, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        usable = path.suffix.lower() in suffixes and path.stem.isdecimal() and path.is_file() and int(path.stem) not in found
        if usable:
            found[int(path.stem)] = path
        else:
            others.append(readable(path.name))
    return found, others
