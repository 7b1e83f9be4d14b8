"""A reconstruction of any unit, in metres: by a length, a depth, or where cameras stood."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.camera import invert_rigid
from jrs.geometry.scale import camera_ratio, depth_ratio, with_longer_translations
from jrs.io.images import LoadedPhotos
from jrs.io.known_geometry import known_geometry
from jrs.io.known_scale import (
    KnownDepth,
    KnownDepthMaps,
    KnownLength,
    KnownPositions,
    Pixel,
    ScaleSource,
    check_scale_source,
    input_pixel,
    metric_from,
)
from jrs.structures import Reconstruction

SHORTEST = 1e-6                                # length over the depth of its ends: two pixels that see one place


def in_metres(scene: Reconstruction, source: ScaleSource, photos: LoadedPhotos) -> tuple[Reconstruction, float]:
    """Return the scene with depth and translations in metres, and what they were multiplied by.

    Its `scale` then says what the unit is from: 'metric, from ...'. Whatever unit it had before does not count.

    Args:
        scene: of the views of `photos`.
        source: a known length, depth or camera positions.
        photos: original pixels are of these.

    Raises:
        DataError: `source` is of other views or pixels, or the scene lacks or does not see what it would have to compare.
    """
    check_scale_source(source, photos)
    factor = FACTORS[type(source)](scene, source, photos)
    extras = {name: value * factor if name == 'metric_scale' else value for name, value in scene.extras.items()}
    cameras = None if scene.cam_from_world is None else with_longer_translations(scene.cam_from_world, factor)
    return replace(scene, depth=None if scene.depth is None else scene.depth * factor, cam_from_world=cameras,
                   scale=metric_from(source), extras=extras), factor


def _by_length(scene: Reconstruction, source: KnownLength, photos: LoadedPhotos) -> float:
    _need(scene, 'a length', 'camera head', 'depth head')
    first, second = (_point(scene, end, photos) for end in source.ends)
    length = float((first - second).norm())
    if length <= SHORTEST * max(_depth(scene, end, photos) for end in source.ends):
        raise DataError('--scale-from: both pixels see the same place in the reconstruction, so the length between them is '
                        '0. Choose two that are further apart.')
    return source.metres / length


def _by_depth(scene: Reconstruction, source: KnownDepth, photos: LoadedPhotos) -> float:
    _need(scene, 'a depth', 'depth head')
    return source.metres / _depth(scene, source.ends[0], photos)


def _by_depth_maps(scene: Reconstruction, source: KnownDepthMaps, photos: LoadedPhotos) -> float:
    _need(scene, 'depth', 'depth head')
    return depth_ratio(scene.depth, known_geometry(photos, depth=source.folder).depth)


def _by_positions(scene: Reconstruction, source: KnownPositions, photos: LoadedPhotos) -> float:
    _need(scene, 'camera positions', 'camera head')
    views = [view for view, name in enumerate(photos.names) if name in source.cameras.cameras]
    known = torch.stack([torch.from_numpy(source.cameras.cameras[photos.names[view]].cam_from_world) for view in views])
    factor = camera_ratio(scene.cam_from_world[views], known)
    if factor is None:
        raise DataError(f'--scale-from: the cameras of {source.cameras.file} that belong to these views all stand in one '
                        'place, which says nothing of the scale. Give a length or a depth.')
    return factor


FACTORS = {KnownLength: _by_length, KnownDepth: _by_depth, KnownDepthMaps: _by_depth_maps, KnownPositions: _by_positions}


def _need(scene: Reconstruction, what: str, *heads: str) -> None:
    lacking = [head for head in scene.missing_geometry if head in heads]
    if lacking:
        raise DataError(f'--scale-from: {what} cannot be compared with this reconstruction, the model has no '
                        f'{" and no ".join(lacking)}.')


def _depth(scene: Reconstruction, pixel: Pixel, photos: LoadedPhotos) -> float:
    """Return the z-depth of the input pixel that is nearest to `pixel`."""
    row, column = input_pixel(pixel, photos)[1]
    depth = float(scene.depth[photos.names.index(pixel.view), row, column])
    if not depth > 0:
        raise DataError(f'--scale-from: the reconstruction has no depth at pixel {pixel.x:g},{pixel.y:g} of {pixel.view}. '
                        'Choose another one.')
    return depth


def _point(scene: Reconstruction, pixel: Pixel, photos: LoadedPhotos) -> Tensor:
    """Return the point (3,) of the world that `pixel` sees."""
    view, (u, v) = photos.names.index(pixel.view), input_pixel(pixel, photos)[0]
    ray = torch.linalg.solve(scene.intrinsics[view].double(), torch.tensor([u, v, 1.0], dtype=torch.float64))      # (3,)
    world_from_cam = invert_rigid(scene.cam_from_world[view].double())
    return world_from_cam[:3, :3] @ (ray * _depth(scene, pixel, photos)) + world_from_cam[:3, 3]
