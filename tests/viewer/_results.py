"""Small results whose answers are known."""

from functools import partial

import numpy as np

from jrs.viewer.read import Source
from jrs.viewer.result import Found, Result, ShownView

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def wall(name='wall', shift=0.0, **changes):
    """Return a 10 x 10 wall of unit squares at z = 4 in front of the first camera; a chair left, a table right."""
    x, y = np.meshgrid(np.arange(10.0) - 4.5, np.arange(10.0) - 4.5)
    points = np.stack([x, y, np.full_like(x, 4)], -1).reshape(-1, 3).astype(np.float32) + np.float32(shift)
    instances = np.where(x < -2, 1, np.where(x > 2, 2, 0)).reshape(-1).astype(np.int32)
    ids = np.array([[1, 1, 0, 2], [1, 0, 0, 2]], np.int32)
    views = []
    for index in range(3):
        cam_from_world = np.eye(4)
        cam_from_world[:3, 3] = -np.array([index, index % 2, 0]) - shift
        views.append(ShownView(f'v{index}', cam_from_world, np.array([[40.0, 0, 20], [0, 40, 10], [0, 0, 1]]), (20, 40),
                               partial(np.full, (20, 40, 3), 100, np.uint8), lambda index=index: ids * (index < 2)))
    parts = dict(
        name=name, points=points, colours=np.full((100, 3), 120, np.uint8), instances=instances,
        found=[Found('chair', 0.9, RED), Found('table', 0.4, BLUE)], views=views,
        confidence=np.arange(100, dtype=np.float32), feature_colours=np.full((100, 3), 7, np.uint8), scale='metres',
        metric=True)
    return Result(**(parts | changes))


def source(result, truth=None):
    """Return where a result that is already there comes from."""
    return Source(result.name, lambda: result, None if truth is None else lambda: truth)
