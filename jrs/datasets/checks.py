"""What a scene of a layout of one's own must keep, checked where it is read: nothing of it would be seen later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jrs.datasets.scene import Frame, Scene, is_rigid
from jrs.errors import DataError, PluginError

MAX_DEPTH_M = 1000.0                            # beyond it are numbers that nobody divided by their unit
NEEDED = ('frames', 'camera', 'color')


def check_scenes(scenes: Sequence[Scene], where: object) -> None:
    """Check what `open_scenes` gave.

    Args:
        scenes: what it gave.
        where: what to call the split.

    Raises:
        DataError: no scene. PluginError: no scenes of ours, or such that lack what every scene has.
    """
    if not isinstance(scenes, (list, tuple)) or not all(isinstance(scene, Scene) for scene in scenes):
        raise PluginError(f'{where}: open_scenes must return a list of jrs.datasets.scene.Scene, got {scenes!r:.80}.')
    if not scenes:
        raise DataError(f'{where} has no scene.')
    for kind in {type(scene) for scene in scenes}:
        if lacking := [name for name in NEEDED if getattr(kind, name) is getattr(Scene, name)]:
            raise PluginError(f'{kind.__name__} lacks {", ".join(lacking)}: a Scene gives {", ".join(NEEDED)} at least.')


def check_poses(scene: Scene, frames: Sequence[Frame]) -> None:
    """Check that known cameras are rotations and shifts, or raise a DataError that names the first one that is not."""
    for frame in frames:
        if frame.cam_from_world is not None and not is_rigid(np.asarray(frame.cam_from_world, float)):
            raise DataError(f'{scene.path}: cam_from_world of frame {frame.name} must be a finite rotation and shift, got '
                            f'{np.asarray(frame.cam_from_world).tolist()}. Leave frames without a pose out.')


def color_of(scene: Scene, frame: Frame) -> np.ndarray:
    """Return the colour image (H, W, 3) uint8 of a frame, of the size that its camera says."""
    image = scene.color(frame)
    _check_size(scene, frame, 'color', image, (*scene.camera(frame).color_size, 3))
    if image.dtype != np.uint8:
        raise DataError(f'{scene.path}: color of frame {frame.name} must be uint8, got {image.dtype}.')
    return image


def depth_of(scene: Scene, frame: Frame) -> np.ndarray | None:
    """Return the depth (Hd, Wd) of a frame in metres, of the size that its camera says; None without."""
    depth = scene.depth_m(frame)
    if depth is None:
        return None
    camera = scene.camera(frame)
    if camera.depth_size is None or camera.depth_intrinsics is None:
        raise DataError(f'{scene.path}: frame {frame.name} has depth, and its camera no depth_size or no depth_intrinsics.')
    _check_size(scene, frame, 'depth_m', depth, camera.depth_size)
    if not 0 <= depth.min() <= depth.max() <= MAX_DEPTH_M:             # false for NaN
        raise DataError(f'{scene.path}: depth_m of frame {frame.name} must be metres, 0 without a reading, and is '
                        f'{depth.min():g} to {depth.max():g}: divide by the factor of the files.')
    return depth


def ids_of(scene: Scene, frame: Frame) -> np.ndarray | None:
    """Return the instance ids (H, W) of a frame, at the size of its colour image; None without."""
    ids = scene.instance_ids(frame)
    if ids is not None:
        _check_size(scene, frame, 'instance_ids', ids, scene.camera(frame).color_size)
    return ids


def _check_size(scene: Scene, frame: Frame, name: str, found: np.ndarray, size: Sequence[int]) -> None:
    if tuple(found.shape) != tuple(size):
        raise DataError(f'{scene.path}: {name} of frame {frame.name} is {tuple(found.shape)}, and must be {tuple(size)} as '
                        'the camera of the frame says (instance ids as the colour image).')
