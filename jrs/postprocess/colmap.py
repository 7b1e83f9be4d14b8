"""A reconstruction as COLMAP's text model beside its pictures, in the layout that trainers of splats read.

    colmap/
      images/NAME.jpg          upright, of the size that cameras.txt says; NAME is one word
      sparse/0/cameras.txt     one PINHOLE camera per view
      sparse/0/images.txt      IMAGE_ID counts the views of cameras.json from 1
      sparse/0/points3D.txt    each point with the pixel that it was lifted from
      transforms.json          the same for trainers of NeRFs, with sparse_pc.ply (`jrs.postprocess.nerf`)

The centre of COLMAP's first pixel is (0.5, 0.5), that of ours (0, 0): places in pixels are 0.5 more than in cameras.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags
from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.camera import quaternion_from_rotation
from jrs.geometry.cloud import PointCloud
from jrs.geometry.projection import project_points
from jrs.io.atomic import atomic_write
from jrs.io.colmap import read_poses
from jrs.io.images import LoadedPhotos, Original, resize_map
from jrs.io.known_geometry import unit_in_words
from jrs.io.names import distinct, plain_name
from jrs.io.photo import HEAD, LARGE, opened, sniff
from jrs.io.png import encode_jpeg, encode_png8
from jrs.io.text import read_bytes
from jrs.io.wide import read_samples
from jrs.postprocess.nerf import write_transforms
from jrs.structures import Reconstruction

HALF = 0.5                                      # by which COLMAP's pixel coordinates exceed ours
QUALITY = 95                                    # of a JPEG that is made anew
LONGEST = 255                                   # bytes of a file's name
SUFFIXES = {'JPEG': ('.jpg', '.jpeg'), 'PNG': ('.png',)}                                # of what is copied
LOSSY = ('JPEG', 'HEIF', 'AVIF')                # kinds of photos that are written anew as JPEG; others as PNG, without loss
TURNED = range(2, 9)                            # EXIF's orientations but for "upright"
# What other programs make of an earlier export of ours, and read in the place of the new one.
DERIVED = ('cameras.bin', 'images.bin', 'points3D.bin', 'rigs.bin', 'frames.bin', 'rigs.txt', 'frames.txt', 'points3D.ply')


def write_colmap(folder: Path, scene: Reconstruction, photos: LoadedPhotos, intrinsics: Tensor, cloud: PointCloud) -> Path:
    """Write `images`, `sparse/0` and `transforms.json` into `folder` (see above); return it.

    A photo that stands upright, is RGB of 8 bits, JPEG or PNG, is copied byte for byte; others, and frames of videos, are
    written as they were read. Of an earlier export its pictures and what was derived from it are removed.

    Args:
        intrinsics: (V, 3, 3) float64, in pixels of the original images (`jrs.postprocess.export.original_intrinsics`).

    Raises:
        DataError: a photo is no longer what it was when it was read.
    """
    model, unit = folder / 'sparse' / '0', f'unit: {unit_in_words(scene.scale)}'
    earlier = _earlier_names(model / 'images.txt')
    names, sizes = _write_pictures(folder / 'images', scene.view_names, photos)
    intrinsics = _at_sizes(intrinsics, photos.original_sizes, sizes)
    seen, number, pixels = _observations(scene, intrinsics, cloud)
    for name, lines in (('cameras.txt', _camera_lines(intrinsics, sizes)),
                        ('points3D.txt', _point_lines(cloud, number, unit)),
                        ('images.txt', _image_lines(scene, names, seen, pixels, unit))):
        with atomic_write(model / name, 'w') as file:
            file.writelines(f'{line}\n' for line in lines)
    write_transforms(folder, [f'images/{name}' for name in names], sizes, intrinsics, scene.cam_from_world, cloud, unit)
    for name in earlier - {*names}:
        (folder / 'images' / name).unlink(missing_ok=True)
    for name in DERIVED:
        (model / name).unlink(missing_ok=True)
    return folder


def upright_file(original: Original, size: tuple[int, int]) -> tuple[bytes, str, tuple[int, int]]:
    """Return a picture of `size` (H, W) as a JPEG or PNG of 8-bit RGB that needs no turning, its suffix, and its own size.

    The bytes of the file itself where they are that; its size is another only where the picture was read reduced.
    """
    photo = original.path is not None and original.frame is None
    data = read_bytes(original.path) if photo else b''
    kind = sniff(data[:HEAD])
    if kind in SUFFIXES and _serves(original.path, data, kind, size):
        suffix = original.path.suffix
        return data, suffix if suffix.lower() in SUFFIXES[kind] else SUFFIXES[kind][0], size
    picture = original.read()
    height, width = picture.shape[:2]
    if abs(height * size[1] - width * size[0]) > 2 * max(size):                             # no reduction to whole pixels
        raise DataError(f'{original.path or "a view"} has {width} x {height} pixels, and had {size[1]} x {size[0]} when it '
                        'was read: leave photos as they are while they are reconstructed.')
    lossy = original.frame is not None or kind in LOSSY
    return encode_jpeg(picture, QUALITY) if lossy else encode_png8(picture), '.jpg' if lossy else '.png', (height, width)


def _serves(path: Path, data: bytes, kind: str, size: tuple[int, int]) -> bool:
    """Return whether the photo in `path`, of these bytes, is upright 8-bit RGB of `size` (H, W) as it is."""
    try:
        with opened(path) as picture:
            upright = picture.getexif().get(ExifTags.Base.Orientation) not in TURNED
            plain = picture.mode == 'RGB' and picture.size == size[::-1] and 'transparency' not in picture.info
    except DataError:                           # its EXIF data are broken, say: others may stumble over them
        return False
    return plain and upright and size[0] * size[1] <= LARGE and read_samples(data, kind) is None


def _write_pictures(folder: Path, views: Sequence[str], photos: LoadedPhotos) -> tuple[list[str], list[tuple[int, int]]]:
    """Write the picture of each view; return the names of the files, and their sizes (H, W)."""
    names, sizes = [], []
    stems = distinct([plain_name(view) for view in views], views)
    for stem, original, size in zip(stems, photos.originals, photos.original_sizes, strict=True):
        data, suffix, size = upright_file(original, tuple(size))
        names.append(stem + (suffix if len((stem + suffix).encode()) <= LONGEST else suffix[:4]))
        sizes.append(size)
        with atomic_write(folder / names[-1]) as file:
            file.write(data)
    return names, sizes


def _at_sizes(intrinsics: Tensor, sizes: Sequence[tuple[int, int]], written: Sequence[tuple[int, int]]) -> Tensor:
    """Return intrinsics (V, 3, 3) of pictures of `sizes` for those that were written, which may have been reduced."""
    maps = [resize_map(new[1] / old[1], new[0] / old[0], 0, 0) for old, new in zip(sizes, written, strict=True)]
    return torch.from_numpy(np.stack(maps)) @ intrinsics


def _observations(scene: Reconstruction, intrinsics: Tensor,
                  cloud: PointCloud) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return which pixel saw each point: per view its points (n,); their numbers in the view (N,); per view pixels (n, 2).

    A point of the cloud is a pixel of one view, lifted by its depth: that is its track. Pixels are COLMAP's.
    """
    seen, pixels, number = [], [], np.zeros(len(cloud.points), dtype=np.int64)
    for view, matrix in enumerate(intrinsics):
        points = np.flatnonzero(cloud.views == view)
        places, _ = project_points(torch.from_numpy(cloud.points[points]).double(), matrix,
                                   scene.cam_from_world[view].cpu().double())
        number[points] = np.arange(len(points))
        seen.append(points)
        pixels.append(places.numpy() + HALF)
    return seen, number, pixels


def _camera_lines(intrinsics: Tensor, sizes: Sequence[tuple[int, int]]) -> Iterator[str]:
    yield '# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy; the centre of the first pixel is (0.5, 0.5)'
    for view, (matrix, (height, width)) in enumerate(zip(intrinsics.tolist(), sizes, strict=True)):
        lens = (matrix[0][0], matrix[1][1], matrix[0][2] + HALF, matrix[1][2] + HALF)
        yield f'{view + 1} PINHOLE {width} {height} ' + ' '.join(f'{value:.12g}' for value in lens)


def _image_lines(scene: Reconstruction, names: Sequence[str], seen: Sequence[np.ndarray], pixels: Sequence[np.ndarray],
                 unit: str) -> Iterator[str]:
    yield f'# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of its points, {unit}'
    cam_from_world = scene.cam_from_world.cpu().double()
    quaternions = torch.nn.functional.normalize(quaternion_from_rotation(cam_from_world[:, :3, :3]), dim=-1)    # x y z w
    for view, (x, y, z, w) in enumerate(quaternions.tolist()):
        pose = ' '.join(f'{value:.12g}' for value in (w, x, y, z, *cam_from_world[view, :3, 3].tolist()))
        yield f'{view + 1} {pose} {view + 1} {names[view]}'
        yield ' '.join(f'{u:.3f} {v:.3f} {point + 1}' for (u, v), point in
                       zip(pixels[view].tolist(), seen[view].tolist(), strict=True))


def _point_lines(cloud: PointCloud, number: np.ndarray, unit: str) -> Iterator[str]:
    yield f'# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of where it is seen, {unit}'
    for index, ((x, y, z), (r, g, b), view, place) in enumerate(zip(
            cloud.points.tolist(), cloud.colours.tolist(), cloud.views.tolist(), number.tolist(), strict=True)):
        yield f'{index + 1} {x:.7g} {y:.7g} {z:.7g} {r} {g} {b} 0 {view + 1} {place}'


def _earlier_names(path: Path) -> set[str]:
    """Return the pictures of the export that `path` is of; none where it is of nothing that can be read."""
    try:
        names = {image.name for image in read_poses(path)} if path.is_file() else set()
    except DataError:
        return set()
    return {os.fsdecode(name.encode()) for name in names if Path(name).name == name}        # images.txt is UTF-8 anywhere
