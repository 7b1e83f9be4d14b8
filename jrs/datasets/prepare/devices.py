"""The two cameras of a ScanNet++ scene that views are taken from: iPhone and DSLR (data.md section 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from jrs.benchmarks import PREPARED_EVERY
from jrs.datasets.prepare.undistort import VALID
from jrs.errors import DataError
from jrs.io.colmap import Lens, is_model, read_lenses, read_poses
from jrs.io.images import natural_key, resize_map
from jrs.io.lidar_depth import SIZE as LIDAR_SIZE
from jrs.io.lidar_depth import LidarDepth
from jrs.io.names import readable
from jrs.io.photo import read_photo
from jrs.io.png import read_depth_mm, read_png16
from jrs.io.scannetpp import read_transforms
from jrs.io.video import VideoFrames

UNDISTORTED = ('resized_undistorted_images', 'resized_undistorted_masks')
FRAME_NAME = re.compile(r'frame_([0-9]+)')


@dataclass(frozen=True)
class Shot:
    """One posed picture: name without suffix, number, `cam_from_world` (4, 4), whether the data set marks it as bad."""

    name: str
    file: str
    index: int
    cam_from_world: np.ndarray
    bad: bool


def read_shots(folder: Path, undistorted: bool = False) -> tuple[Lens, list[Shot]]:
    """Return the lens and the posed pictures of a device's folder, from COLMAP's model, else from nerfstudio's file.

    Pictures are in order of their numbers: those of the video for `frame_000010`, else their place among all names.

    Args:
        undistorted: of the pictures that the official tool undistorted; their lens is in a file of its own.

    Raises:
        DataError: neither is there, several lenses, or a picture that is posed twice.
    """
    colmap, transforms = folder / 'colmap', folder / 'nerfstudio' / ('transforms_undistorted.json' if undistorted else
                                                                     'transforms.json')
    bad = frozenset()
    if transforms.is_file():
        found = read_transforms(transforms)
        lens, images, bad = found.lens, found.images, frozenset(map(_file_name, found.bad))
    if is_model(colmap) and not undistorted:
        images, lenses = read_poses(colmap / 'images.txt'), read_lenses(colmap / 'cameras.txt')
        used = {image.camera for image in images}
        if len(used) != 1 or not used <= set(lenses):
            raise DataError(f'{colmap}: images of the cameras {sorted(used)}, cameras.txt has {sorted(lenses)}; all must be '
                            'of one.')
        lens = lenses[used.pop()]
    elif not transforms.is_file():
        raise DataError(f'{folder}: neither colmap/cameras.txt and colmap/images.txt nor nerfstudio/{transforms.name}.')
    images = sorted(images, key=lambda image: natural_key(_file_name(image.name)))
    shots = [Shot(PurePosixPath(file).stem, file, _number(file, place), image.cam_from_world, file in bad)
             for place, image in enumerate(images) for file in [_file_name(image.name)]]
    if len({shot.name for shot in shots}) != len(shots):
        raise DataError(f'{folder}: a picture is posed twice.')
    return lens, shots


def count_shots(folder: Path, every: int) -> tuple[int, int]:
    """Return about how many pictures stay with the every-n rule, and their pixels; (0, 0) where nothing can be read."""
    try:
        lens, shots = read_shots(folder, undistorted=_only_undistorted(folder))
    except DataError:
        return 0, 0
    return sum(shot.index % every == 0 for shot in shots), lens.size[0] * lens.size[1]


def _file_name(path: str) -> str:
    """Return the last part of a name such as `iphone/frame_000010.jpg`."""
    return PurePosixPath(path).name


def _number(file: str, place: int) -> int:
    match = FRAME_NAME.match(file)
    return int(match[1]) if match else place


def _only_undistorted(folder: Path) -> bool:
    """Whether a DSLR's folder has the official tool's undistorted pictures and not those of the lens."""
    return (folder / UNDISTORTED[0]).is_dir() and not (folder / 'resized_images').is_dir()


class Dslr:
    """Fisheye pictures, `dslr/resized_images`, or, where only those are there, `dslr/resized_undistorted_images` as the
    official tool made them; without a depth sensor.

    Attributes:
        lens: of all pictures.
        shots: the posed pictures.
        depth_lens: None.
    """

    every = 1
    depth_lens = None

    def __init__(self, scene: Path) -> None:
        self.folder = scene / 'dslr'
        undistorted = _only_undistorted(self.folder)
        self.lens, self.shots = read_shots(self.folder, undistorted)
        pictures, masks = UNDISTORTED if undistorted else ('resized_images', 'resized_anon_masks')
        self._pictures, self._masks = self.folder / pictures, self.folder / masks

    def has(self, shot: Shot) -> bool:
        """Whether the picture is there."""
        return (self._pictures / shot.file).is_file()

    def unposed(self) -> list[str]:
        """Return the names of pictures that no camera is known of."""
        return _unposed(self._pictures, self.shots)

    def picture(self, shot: Shot) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB."""
        return _of_size(read_photo(self._pictures / shot.file), self.lens.size, shot.file)

    def mask(self, shot: Shot) -> np.ndarray | None:
        """Return (H, W) uint8, less than 255 where the picture is anonymised; None without a mask."""
        return _read_mask(self._masks / f'{shot.name}.png', self.lens.size)

    def close(self) -> None:
        """Nothing is open."""


class Iphone:
    """Frames of the iPhone's video, extracted or not, with LiDAR depth.

    Attributes:
        lens: of the colour pictures.
        shots: the posed frames, about each tenth of the video.
        depth_lens: the same lens at the depth's resolution, None where there is no depth.
    """

    every = PREPARED_EVERY

    def __init__(self, scene: Path) -> None:
        self.folder = folder = scene / 'iphone'
        self.lens, self.shots = read_shots(folder)
        self._open = []
        self._video = self._start(VideoFrames, folder / 'rgb.mkv', unless=folder / 'rgb')
        self._masks = self._start(VideoFrames, folder / 'rgb_mask.mkv', unless=folder / 'rgb_masks')
        self._lidar = self._start(LidarDepth, folder / 'depth.bin', unless=folder / 'depth')
        self.depth_lens = None
        if self._lidar is not None or (folder / 'depth').is_dir():
            self.depth_lens = _scaled(self.lens, self._depth_size())

    def has(self, shot: Shot) -> bool:
        """Whether the frame is there; a video is taken to have all of them."""
        return self._video is not None or self._picture_path(shot).is_file()

    def unposed(self) -> list[str]:
        """Return the names of extracted frames that no camera is known of; of a video most have none."""
        return _unposed(self.folder / 'rgb', self.shots)

    def picture(self, shot: Shot) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; frames must be asked for in rising order."""
        picture = read_photo(self._picture_path(shot)) if self._video is None else self._video.frame(shot.index)
        return _of_size(picture, self.lens.size, shot.file)

    def mask(self, shot: Shot) -> np.ndarray | None:
        """Return (H, W) uint8, less than 255 where the frame is anonymised; None without a mask."""
        if self._masks is None:
            return _read_mask(self.folder / 'rgb_masks' / f'{shot.name}.png', self.lens.size)
        light = _of_size(self._masks.frame(shot.index), self.lens.size, 'rgb_mask.mkv')[..., 0]
        return np.where(light > VALID // 2, VALID, 0).astype(np.uint8)      # a video's white need not be 255

    def depth_mm(self, shot: Shot) -> np.ndarray:
        """Return the sensor's depth, (Hd, Wd) uint16 millimetres, 0 = no reading, through the same lens."""
        if self._lidar is not None:
            return self._lidar.depth_mm(shot.index)
        path = self._depth_path(shot)
        return _of_size(read_depth_mm(path), self.depth_lens.size, str(path))

    def close(self) -> None:
        """Close videos and depth."""
        for reader in self._open:
            reader.close()

    def _start(self, reader: type, path: Path, unless: Path):
        """Return an open reader of `path`; None where the extracted files are there or the file is not."""
        if unless.is_dir() or not path.is_file():
            return None
        self._open.append(reader(path))
        return self._open[-1]

    def _depth_size(self) -> tuple[int, int]:
        if self._lidar is not None:
            return LIDAR_SIZE
        path = next((self._depth_path(shot) for shot in self.shots if self._depth_path(shot).is_file()), None)
        if path is None:
            raise DataError(f'{self.folder / "depth"}: no depth of any posed frame.')
        return read_depth_mm(path).shape

    def _picture_path(self, shot: Shot) -> Path:
        return self.folder / 'rgb' / shot.file

    def _depth_path(self, shot: Shot) -> Path:
        return self.folder / 'depth' / f'{shot.name}.png'


DEVICES = {'iphone': Iphone, 'dslr': Dslr}


def _unposed(folder: Path, shots: Sequence[Shot]) -> list[str]:
    known = {shot.file for shot in shots}
    return sorted(readable(path.name) for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []


def _scaled(lens: Lens, size: tuple[int, int]) -> Lens:
    """Return the lens of pictures resized to `size`; distortion is in units of the focal length and stays."""
    scale = resize_map(size[1] / lens.size[1], size[0] / lens.size[0], 0, 0)
    return replace(lens, size=size, intrinsics=scale @ lens.intrinsics)


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    return _of_size(read_png16(path, allowed=(8,)).astype(np.uint8), size, str(path)) if path.is_file() else None


def _of_size(image: np.ndarray, size: tuple[int, int], what: str) -> np.ndarray:
    if image.shape[:2] != size:
        raise DataError(f'{what}: is {image.shape[:2]}, its camera takes {size} (height, width).')
    return image
