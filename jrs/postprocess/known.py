"""Known cameras and depth in the place of predicted ones."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.scale import camera_ratio, depth_ratio, with_longer_translations
from jrs.structures import KnownGeometry, Reconstruction

SCALES = ('metric', 'metric, approximate', 'arbitrary')    # the best known first


def check_usable(known: KnownGeometry, images: Tensor, predicts_cameras: bool, predicts_depth: bool) -> None:
    """Raise a DataError where what is known is of other views, or cannot be brought to one unit with what a model predicts.

    Args:
        known: for the views below.
        images: (V, 3, H, W), the network input.
        predicts_cameras, predicts_depth: what the model has heads for.
    """
    views, (height, width) = len(images), images.shape[-2:]
    for name, shape in (('depth', (views, height, width)), ('intrinsics', (views, 3, 3)), ('cam_from_world', (views, 4, 4))):
        value = getattr(known, name)
        if value is not None and tuple(value.shape) != shape:
            raise DataError(f'The known {name} must be of shape {shape}, as the views at the size of the network input have '
                            f'it, got {tuple(value.shape)}.')
    if (known.intrinsics is None) != (known.cam_from_world is None):
        raise DataError('Known cameras are intrinsics and cam_from_world: one of them is None.')
    if known.depth is None and predicts_depth and not predicts_cameras:
        raise DataError('Cameras are given and the model predicts depth but no cameras, so the unit of its depth cannot be '
                        'told. Give depth too (--depth).')
    if known.cam_from_world is None and predicts_cameras and not predicts_depth:
        raise DataError('Depth is given and the model predicts cameras but no depth, so the unit of its cameras cannot be '
                        'told. Give cameras too (--cameras).')


def with_known(scene: Reconstruction, known: KnownGeometry) -> Reconstruction:
    """Return the scene with what is known in the place of what was predicted, in the unit, and world, of what is known.

    Predicted depth beside given cameras is scaled by how far apart the cameras stand, predicted cameras beside given depth
    by the median of the depth. Where the given cameras stand in one place, predicted depth keeps its scale.

    Raises:
        DataError: the unit of what stays predicted cannot be told.
    """
    check_usable(known, scene.images, scene.cam_from_world is not None, scene.depth is not None)
    changed: dict = {'scale': known.scale, 'given': known.given}
    if known.cam_from_world is not None:
        changed |= {'cam_from_world': known.cam_from_world, 'intrinsics': known.intrinsics}
        if known.depth is None and scene.depth is not None:
            factor = camera_ratio(scene.cam_from_world, known.cam_from_world)
            changed['depth'] = scene.depth if factor is None else scene.depth * factor
            if factor is None:
                changed['scale'] = max(scene.scale, known.scale, key=SCALES.index)
    if known.depth is not None:
        changed |= {'depth': known.depth, 'depth_conf': None}
        if known.cam_from_world is None and scene.cam_from_world is not None:
            factor = depth_ratio(scene.depth, known.depth)
            changed['cam_from_world'] = with_longer_translations(scene.cam_from_world, factor)
    return replace(scene, **changed)
