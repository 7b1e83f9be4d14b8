"""Where the frames of a ScanNet scan come from: its `.sens`, or the folders that the exporter wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from jrs.datasets.scene import Camera
from jrs.io import scannet as files
from jrs.io.frames import ExportedFrames
from jrs.io.names import some
from jrs.io.png import encode_png8
from jrs.io.sens import SensReader


class Recording(Protocol):
    """Random access to the frames of a scan.

    Attributes:
        path: for messages.
        camera: of all frames.
        indices: numbers of the frames that are there, rising.
        notes: what is unusual, for people.
    """

    path: Path
    camera: Camera
    indices: list[int]
    notes: list[str]

    def world_from_cam(self, index: int) -> np.ndarray:
        """Return the pose (4, 4) float64; not finite where tracking was lost."""

    def color(self, index: int) -> tuple[bytes, str]:
        """Return an encoded colour image and its suffix."""

    def depth_mm(self, index: int) -> np.ndarray:
        """Return depth in millimetres, (Hd, Wd) uint16, 0 = no reading."""

    def close(self) -> None:
        """Close what is open."""


class SensRecording:
    """The frames of a `.sens`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = SensReader(path)
        header = self.reader.header
        self.indices = list(range(len(self.reader)))
        self.notes = _extrinsic_notes({'color': header.extrinsic_color, 'depth': header.extrinsic_depth})
        self.camera = Camera(header.color_size, _pinhole(header.intrinsic_color), header.depth_size,
                             _pinhole(header.intrinsic_depth))

    def world_from_cam(self, index: int) -> np.ndarray:
        """Return the pose (4, 4) float64."""
        return self.reader.world_from_cam[index].astype(np.float64)

    def color(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of the recording as they are; raw pixels become a PNG."""
        suffix = {'jpeg': '.jpg', 'png': '.png'}.get(self.reader.header.color_compression)
        return (self.reader.frame(index).color, suffix) if suffix else (encode_png8(self.reader.color(index)), '.png')

    def depth_mm(self, index: int) -> np.ndarray:
        """Return depth in millimetres, whatever the unit of the file."""
        depth, shift = self.reader.depth(index), self.reader.header.depth_shift
        if shift == 1000:
            return depth
        return np.clip(np.rint(depth * (1000.0 / shift)), 0, 65535).astype(np.uint16)

    def close(self) -> None:
        """Close the file."""
        self.reader.close()


class ExportedRecording:
    """The frames of an exported folder. Resized colour images keep the right intrinsics.

    Args:
        folder: holds color, depth, pose and intrinsic.
        metadata: the scan's `.txt`, which may know the size that colour images had; need not exist.
    """

    def __init__(self, folder: Path, metadata: Path) -> None:
        self.path = folder
        self.frames = frames = ExportedFrames(folder, _color_sizes(metadata))
        self.indices = frames.indices
        self.notes = _extrinsic_notes({what: frames.extrinsic(what) for what in ('color', 'depth')})
        self.notes.append(f'frames exported by others: every {frames.stride}th of the recording')
        if frames.others:
            self.notes.append(f'{len(frames.others)} files of color were not read (frames are called 0.jpg, 20.jpg, … or '
                              f'.png, each number once): {some(frames.others)}')
        self.camera = Camera(frames.color_size, frames.color_intrinsics, frames.depth_size, frames.depth_intrinsics)
        self.world_from_cam, self.color, self.depth_mm = frames.world_from_cam, frames.color, frames.depth_mm

    def close(self) -> None:
        """Nothing is open."""


def _extrinsic_notes(extrinsics: dict[str, np.ndarray]) -> list[str]:
    return [f'extrinsic_{what} is not the identity and was not applied' for what, matrix in extrinsics.items()
            if not np.allclose(matrix, np.eye(4), atol=1e-4)]


def _pinhole(matrix: np.ndarray) -> np.ndarray:
    return np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]], np.float64)


def _color_sizes(metadata: Path) -> list[tuple[int, int]]:
    values = files.read_metadata(metadata) if metadata.is_file() else {}
    size = values.get('colorHeight'), values.get('colorWidth')
    return [(int(size[0]), int(size[1]))] if all(isinstance(side, float) for side in size) else []
