"""`transforms.json`: a reconstruction as trainers of NeRFs and splats read it (nerfstudio's documented data format).

Cameras there are OpenGL's (x right, y up, z backward), the world has z up, `transform_matrix` maps camera to world, and the
centre of the first pixel is (0.5, 0.5), as in COLMAP's files beside it. Our world, whose first camera looks along z with
y down, is turned so that this camera looks along y: `applied_transform`. The points of `ply_file_path` are turned, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from jrs.geometry.camera import invert_rigid
from jrs.geometry.cloud import PointCloud
from jrs.io.atomic import atomic_write
from jrs.io.ply import write_ply

TURNED_FROM_OURS = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])       # x, z, -y: z up
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
HALF = 0.5                                      # by which these pixel coordinates exceed ours
POINTS = 'sparse_pc.ply'


def write_transforms(folder: Path, pictures: Sequence[str], sizes: Sequence[tuple[int, int]], intrinsics: Tensor,
                     cam_from_world: Tensor, cloud: PointCloud, unit: str) -> list[Path]:
    """Write `transforms.json` and its points into `folder`; return both files.

    Args:
        pictures: of each view, relative to `folder`.
        sizes: (H, W) of each.
        intrinsics: (V, 3, 3) in pixels of the pictures, pixel centres at integers.
        cam_from_world: (V, 4, 4).
        unit: of the world, in words.
    """
    record = transforms_record(pictures, sizes, intrinsics, cam_from_world)
    path, points = folder / 'transforms.json', folder / POINTS
    turned = cloud.points @ TURNED_FROM_OURS[:3, :3].T.astype(cloud.points.dtype)
    columns = dict(zip(('x', 'y', 'z'), turned.T, strict=True)) | dict(
        zip(('red', 'green', 'blue'), cloud.colours.T, strict=True))
    write_ply(points, columns, comment=unit)
    with atomic_write(path, 'w') as file:
        file.write(json.dumps(record, indent=1, allow_nan=False) + '\n')
    return [path, points]


def transforms_record(pictures: Sequence[str], sizes: Sequence[tuple[int, int]], intrinsics: Tensor,
                      cam_from_world: Tensor) -> dict:
    """Return what `transforms.json` holds; arguments as of `write_transforms`, (V, 3, 3) and (V, 4, 4)."""
    world_from_cam = invert_rigid(cam_from_world.detach().cpu().double()).numpy()
    frames = []
    for view, (name, (height, width)) in enumerate(zip(pictures, sizes, strict=True)):
        matrix = intrinsics[view].tolist()
        frames.append({'file_path': name, 'fl_x': matrix[0][0], 'fl_y': matrix[1][1], 'cx': matrix[0][2] + HALF,
                       'cy': matrix[1][2] + HALF, 'w': width, 'h': height, 'colmap_im_id': view + 1,
                       'transform_matrix': (TURNED_FROM_OURS @ world_from_cam[view] @ OPENCV_FROM_OPENGL).tolist()})
    return {'camera_model': 'OPENCV', 'k1': 0.0, 'k2': 0.0, 'p1': 0.0, 'p2': 0.0, 'ply_file_path': POINTS,
            'applied_transform': TURNED_FROM_OURS[:3].tolist(), 'frames': frames}
