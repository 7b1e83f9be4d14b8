"""Known cameras and depth of photos: `cameras.json` as exports write it, and a folder of depth images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jrs.errors import DataError
from jrs.io.images import LoadedPhotos
from jrs.io.known_scale import SCALED
from jrs.io.names import readable, some, view_name
from jrs.io.png import MAX_PIXELS, read_depth_mm
from jrs.structures import KnownGeometry

UNITS = {'metric': 'metres',
         'metric, approximate': 'metres, approximately: predicted from how things look; check one known distance',
         'arbitrary': 'arbitrary: depth, points and translations share one unknown factor; measure one known distance to '
                      'make them metric (--scale-from)'}
RIGID = 1e-3                                   # by which entries of R^T R may differ from those of the identity
SAME_ASPECT = 0.02                             # by which width over height of a depth image may differ from the photo's
SHOWN = 5                                      # names in a message


@dataclass(frozen=True)
class KnownCamera:
    """A camera of a photo of `size` (height, width): `intrinsics` (3, 3) and `cam_from_world` (4, 4), float64."""

    size: tuple[int, int]
    intrinsics: np.ndarray
    cam_from_world: np.ndarray


@dataclass(frozen=True)
class KnownCameras:
    """What a `cameras.json` says.

    Attributes:
        file: where it stands, for messages.
        scale: a key of `UNITS`; 'arbitrary' where the file says none.
        cameras: name of the view (`jrs.io.names.view_name`) -> camera.
    """

    file: Path
    scale: str
    cameras: Mapping[str, KnownCamera]


def read_cameras(file: str | Path) -> KnownCameras:
    """Return the cameras of a file of the format in which results are saved.

    Raises:
        DataError: no such file, no JSON, an entry that lacks something, or numbers that are no camera.
    """
    file = Path(file)
    try:
        record = json.loads(file.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise DataError(f'The cameras {file} cannot be read ({error.strerror}).') from error
    except (ValueError, RecursionError) as error:
        raise DataError(f'The cameras {file} are no JSON ({error}).') from error
    entries = record.get('cameras') if isinstance(record, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{file} has no list "cameras"; it must be a cameras.json as tools/infer.py writes it.')
    scale = _scale_said(said := record.get('scale', 'arbitrary'))
    if scale is None:
        raise DataError(f'{file}: "scale" must be one of {", ".join(UNITS)}, or the words that exports write for them, got '
                        f'{str(said)[:80]!r}.')
    cameras: dict[str, KnownCamera] = {}
    for number, entry in enumerate(entries):
        name = entry.get('name') if isinstance(entry, dict) else None
        view = view_name(name) if isinstance(name, str) else None
        if view is None or view in cameras:
            raise DataError(f'{file}: camera number {number + 1} must have a "name" of its own, got {name!r}.')
        cameras[view] = _camera(entry, f'{file}, camera {name!r}')
    return KnownCameras(file, scale, cameras)


def unit_in_words(scale: str) -> str:
    """Return what files say of a `scale`: of `UNITS`, or of what was scaled, 'metres, from a known length of 2 m'."""
    return f'metres, from {scale.removeprefix(SCALED)}' if scale.startswith(SCALED) else UNITS[scale]


def _scale_said(said: object) -> str | None:
    """Return the key of `UNITS` that a file's `said` means; None where it means none."""
    if isinstance(said, str) and said.startswith((SCALED, 'metres, from ')):
        return 'metric, approximate' if said.endswith('(approximate)') else 'metric'
    words = {**{name: name for name in UNITS}, **{text: name for name, text in UNITS.items()}}
    return words.get(said) if isinstance(said, str) else None


def known_geometry(photos: LoadedPhotos, cameras: KnownCameras | None = None,
                   depth: str | Path | None = None) -> KnownGeometry:
    """Return what is known of `photos`, for images of their input size.

    Args:
        photos: as loaded; cameras and depth belong to views of the same names.
        cameras: of photos of their original sizes; those of other names are not needed.
        depth: folder with one NAME.png (16 bits, one channel, millimetres, 0 = no reading) or NAME.npy (z-depth in the unit
            of the cameras, in metres without any; 0 or NaN = no reading) per view, of any size of the photo's aspect.

    Raises:
        DataError: a view has none, one is of another size, or units cannot agree.
    """
    known = KnownGeometry(scale='metric' if cameras is None else cameras.scale)
    if cameras is not None:
        _need_all(photos.names, cameras.cameras, f'{cameras.file} has no camera', sorted(cameras.cameras))
        found = [cameras.cameras[name] for name in photos.names]
        for name, camera, size in zip(photos.names, found, photos.original_sizes, strict=True):
            if camera.size != tuple(size):
                raise DataError(f'{cameras.file}: camera {name!r} is of a photo of {camera.size[1]} x {camera.size[0]}, and '
                                f'{name} has {size[1]} x {size[0]} pixels. Scale intrinsics, or give the photo as it was.')
        known.intrinsics = photos.input_from_original.double() @ torch.from_numpy(np.stack([c.intrinsics for c in found]))
        known.cam_from_world = torch.from_numpy(np.stack([camera.cam_from_world for camera in found]))
    if depth is not None:
        known.depth = _read_depth(Path(depth), photos, cameras)
    return known


def _camera(entry: Mapping[str, Any], where: str) -> KnownCamera:
    size = entry.get('height'), entry.get('width')
    if not all(type(length) is int and length > 0 for length in size):
        raise DataError(f'{where}: "width" and "height" must be whole numbers above 0, got {size[1]!r} and {size[0]!r}.')
    intrinsics, cam_from_world = _matrix(entry, 'intrinsics', 3, where), _matrix(entry, 'cam_from_world', 4, where)
    focal, rest = intrinsics[[0, 1], [0, 1]], intrinsics[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
    if focal.min() <= 0 or np.abs(rest - [0, 0, 0, 0, 1]).max() > RIGID:
        raise DataError(f'{where}: "intrinsics" must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, got '
                        f'{intrinsics.tolist()}.')
    rotation = cam_from_world[:3, :3]
    skew = max(np.abs(rotation.T @ rotation - np.eye(3)).max(), np.abs(cam_from_world[3] - [0, 0, 0, 1]).max())
    if skew > RIGID or np.linalg.det(rotation) < 0:
        raise DataError(f'{where}: "cam_from_world" must be a rotation and a translation, its last row 0, 0, 0, 1, got '
                        f'{cam_from_world.tolist()}.')
    return KnownCamera(size, intrinsics, cam_from_world)


def _matrix(entry: Mapping[str, Any], key: str, side: int, where: str) -> np.ndarray:
    try:
        matrix = np.array(entry.get(key), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != (side, side) or not np.isfinite(matrix).all():
        raise DataError(f'{where}: "{key}" must be {side} x {side} finite numbers, got {str(entry.get(key))[:80]}.')
    return matrix


def _read_depth(folder: Path, photos: LoadedPhotos, cameras: KnownCameras | None) -> torch.Tensor:
    """Return the depth (V, H, W) float32 of the network input, 0 = no reading."""
    if not folder.is_dir():
        raise DataError(f'There is no folder {folder} of depth images.')
    there = _depth_files(folder)
    _need_all(photos.names, there, f'The folder {folder} has no depth (NAME.png or NAME.npy)', sorted(there))
    doubled = [name for name in photos.names if len(there[name]) > 1]
    if doubled:
        both = ' and '.join(repr(path.name) for path in there[doubled[0]])
        raise DataError(f'The folder {folder} has both {both} for the view {doubled[0]}: leave one.')
    files = {name: there[name][0] for name in photos.names}
    metres = [name for name in photos.names if files[name].suffix.lower() == '.png']
    if metres and cameras is not None and cameras.scale == 'arbitrary':
        raise DataError(f'{cameras.file} is of arbitrary scale, and {files[metres[0]]} is in millimetres: they share no '
                        'unit. Scale the cameras to metres and set their "scale" to "metric", or give depth as .npy in the '
                        'unit of the cameras.')
    maps = [_at_input(_depth_image(files[name]), photos, view, files[name]) for view, name in enumerate(photos.names)]
    depth = torch.from_numpy(np.stack(maps)) * photos.valid                     # (V, H, W)
    if not (depth > 0).any():
        raise DataError(f'No depth image of the folder {folder} has a reading where the photos are: all are 0.')
    return depth


def not_used(photos: LoadedPhotos, cameras: KnownCameras | None, depth: str | Path | None) -> list[str]:
    """Return lines that name cameras, depth images and other files that belong to no view of `photos`."""
    lines = []
    if cameras is not None and (extra := [name for name in cameras.cameras if name not in photos.names]):
        lines.append(f'{readable(cameras.file.name)}: {len(extra)} of {len(cameras.cameras)} cameras are of no view and not '
                     f'used: {some(extra)}')
    if depth is not None:
        used = {path for name in photos.names for path in _depth_files(Path(depth)).get(name, ())}
        if extra := [readable(path.name) for path in sorted(Path(depth).iterdir()) if path not in used]:
            lines.append(f'{readable(Path(depth).name)}: {len(extra)} files are no depth of a view and not used: '
                         f'{some(extra)}')
    return lines


def _depth_files(folder: Path) -> dict[str, list[Path]]:
    """Return name of a view -> the files of its depth."""
    there = defaultdict(list)
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in ('.png', '.npy')):
        there[view_name(path.stem)].append(path)
    return there


def _depth_image(path: Path) -> np.ndarray:
    """Return z-depth (h, w) float32, of a PNG in metres; 0 = no reading."""
    if path.suffix.lower() == '.png':
        return read_depth_mm(path).astype(np.float32) / np.float32(1000)
    try:
        depth = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(f'{path} is no readable .npy file of numbers ({error}).') from error
    numbers = isinstance(depth, np.ndarray) and depth.dtype.kind in 'fiu'
    if not numbers or depth.ndim != 2 or not 1 <= depth.size <= MAX_PIXELS:
        raise DataError(f'{path}: depth must be (height, width) real numbers, of 1 to {MAX_PIXELS} pixels, got '
                        f'{getattr(depth, "shape", "several arrays")} {getattr(depth, "dtype", "")}.')
    depth = np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise DataError(f'{path}: depth must be 0 or NaN where there is no reading, else finite and above 0; it has values '
                        f'from {depth.min()} to {depth.max()}.')
    return depth


def _at_input(depth: np.ndarray, photos: LoadedPhotos, view: int, path: Path) -> np.ndarray:
    """Return the depth (h, w) of a view at the pixels (H, W) of the network input, nearest reading; 0 outside the photo."""
    original, size = photos.original_sizes[view], photos.images.shape[-2:]
    aspects = [width / height for height, width in (depth.shape, original)]
    if abs(aspects[0] / aspects[1] - 1) > SAME_ASPECT:
        raise DataError(f'{path} has {depth.shape[1]} x {depth.shape[0]} pixels, another aspect than its photo of '
                        f'{original[1]} x {original[0]}: it must show the same field of view.')
    places, inside = [], []
    for axis in (0, 1):
        to_input = photos.input_from_original[view, 1 - axis].numpy()           # row 1 maps v, row 0 maps u
        position = (np.arange(size[axis]) - to_input[2]) / to_input[1 - axis]   # pixel of the photo
        place = np.floor((position + 0.5) * depth.shape[axis] / original[axis]).astype(np.int64)
        inside.append((position > -0.5) & (position < original[axis] - 0.5))
        places.append(place.clip(0, depth.shape[axis] - 1))
    return depth[places[0]][:, places[1]] * (inside[0][:, None] & inside[1])


def _need_all(names: Sequence[str], found: Mapping, words: str, there: Sequence[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        more = f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''
        held = some(there) if there else 'none'
        raise DataError(f'{words} for {len(missing)} of {len(names)} views: {", ".join(missing[:SHOWN])}{more}. It has: '
                        f'{held}. Names are those of the photos without suffix, as in a cameras.json of the same photos.')
