"""COLMAP's text model: lenses and poses (data.md section 5.3). Its pixel centres at half-integers become ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jrs.errors import DataError
from jrs.geometry.camera import rotation_from_quaternion
from jrs.io.png import MAX_PIXELS

FOCALS = {'SIMPLE_PINHOLE': 1, 'PINHOLE': 2, 'OPENCV': 2, 'OPENCV_FISHEYE': 2}     # model -> number of focal lengths
DISTORTION = {'OPENCV': 4, 'OPENCV_FISHEYE': 4}                                    # k1 k2 p1 p2; k1 k2 k3 k4


@dataclass(frozen=True)
class Lens:
    """A camera with its distortion.

    Attributes:
        model: a key of `FOCALS`; distortion as OpenCV defines it.
        size: (H, W).
        intrinsics: (3, 3) float64, pixel centres at integers.
        distortion: (n,) float64; empty for a pinhole.
    """

    model: str
    size: tuple[int, int]
    intrinsics: np.ndarray
    distortion: np.ndarray


@dataclass(frozen=True)
class PosedImage:
    """A picture's name as the model has it, its camera's number, and `cam_from_world` (4, 4) float64, not checked."""

    name: str
    camera: int
    cam_from_world: np.ndarray


def make_lens(model: str, size: tuple[int, int], parameters: list[float], where: str) -> Lens:
    """Return the lens with COLMAP's `parameters` (focal lengths, centre, distortion); `where` is for messages."""
    if model not in FOCALS:
        raise DataError(f'{where}: camera model {model!r}; {", ".join(FOCALS)} can be read.')
    focals, values = FOCALS[model], np.array(parameters, np.float64)
    if len(values) != focals + 2 + DISTORTION.get(model, 0) or not np.isfinite(values).all() or min(values[:focals]) <= 0 \
            or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise DataError(f'{where}: a camera {model} of size {size} cannot have the parameters {parameters}.')
    fx, fy = values[0], values[focals - 1]
    cx, cy = values[focals:focals + 2] - 0.5                                # centres at half-integers -> at integers
    return Lens(model, size, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), values[focals + 2:])


def read_lenses(path: str | os.PathLike) -> dict[int, Lens]:
    """Return camera number -> lens of `cameras.txt`."""
    lenses = {}
    for where, words in _lines(path, 12):
        if not words:
            continue
        try:
            number, width, height, parameters = int(words[0]), int(words[2]), int(words[3]), [*map(float, words[4:])]
        except (ValueError, IndexError) as error:
            raise DataError(f'{where}: must be "CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS".') from error
        lenses[number] = make_lens(words[1], (height, width), parameters, where)
    return lenses


def read_poses(path: str | os.PathLike) -> list[PosedImage]:
    """Return the images of `images.txt` in file order; of the two lines of an image the second, its points, is skipped."""
    images, quaternions = [], []
    for where, words in list(_lines(path, 9))[0::2]:
        if not words:
            continue
        try:
            numbers, camera, name = [*map(float, words[1:8])], int(words[8]), words[9]
        except (ValueError, IndexError) as error:
            raise DataError(f'{where}: must be "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", and a line of points must '
                            'follow, if only an empty one.') from error
        pose = np.eye(4)
        pose[:3, 3] = numbers[4:]
        quaternions.append([*numbers[1:4], numbers[0]])                     # x y z w
        images.append(PosedImage(name, camera, pose))
    rotations = rotation_from_quaternion(torch.tensor(quaternions, dtype=torch.float64).reshape(-1, 4)).numpy()
    for image, rotation in zip(images, rotations, strict=True):
        image.cam_from_world[:3, :3] = rotation
    return images


def _lines(path: str | os.PathLike, splits: int) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, words) of each line that is no comment; it is split `splits` times, as the last word may be a name."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, start=1):
                if not line.startswith('#'):
                    yield f'{path}, line {number}', line.strip().split(maxsplit=splits)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}).') from error
    except UnicodeDecodeError as error:
        raise DataError(f'{path}: not UTF-8 text ({error.reason} at byte {error.start}).') from error


def is_model(folder: Path) -> bool:
    """Whether a folder holds the two files that are read here."""
    return (folder / 'cameras.txt').is_file() and (folder / 'images.txt').is_file()
