"""From depth maps to points and back. Pixel coordinates are integers at pixel centres (vggt.md section 11)."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.geometry.camera import invert_rigid


def unproject_depth(depth: Tensor, intrinsics: Tensor, cam_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points (..., H, W, 3) that pixels see, in camera and in world coordinates, in units of the depth.

    Args:
        depth: (..., H, W) z-depth; a pixel of depth 0 gives the camera centre.
        intrinsics: (..., 3, 3) without skew.
        cam_from_world: (..., 4, 4), its translation in units of the depth.
    """
    height, width = depth.shape[-2:]
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None]   # (H, 1)
    u = torch.arange(width, device=depth.device, dtype=depth.dtype)             # (W,)
    intrinsics = intrinsics[..., None, None]                                    # (..., 3, 3, 1, 1)
    x = (u - intrinsics[..., 0, 2, :, :]) * depth / intrinsics[..., 0, 0, :, :]
    y = (v - intrinsics[..., 1, 2, :, :]) * depth / intrinsics[..., 1, 1, :, :]
    cam_points = torch.stack([x, y, depth], dim=-1)                             # (..., H, W, 3)
    return cam_points, transform_points(invert_rigid(cam_from_world), cam_points)


def project_points(points: Tensor, intrinsics: Tensor, cam_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixel coordinates (..., N, 2), (u, v), and z-depth (..., N) of world points.

    Coordinates without a meaning (z = 0) are 0; points behind the camera have a negative depth.

    Args:
        points: (..., N, 3), world.
        intrinsics: (..., 3, 3).
        cam_from_world: (..., 4, 4).
    """
    cam_points = transform_points(cam_from_world, points, 1)                    # (..., N, 3)
    z = cam_points[..., 2]
    pixels = (cam_points / z[..., None]) @ intrinsics.mT                        # (..., N, 3)
    return torch.nan_to_num(pixels[..., :2], nan=0.0, posinf=0.0, neginf=0.0), z


def transform_points(transform: Tensor, points: Tensor, num_axes: int = 2) -> Tensor:
    """Return `points` (..., 3) moved by rigid transforms (..., 4, 4).

    Args:
        transform: one transform per leading index of `points`.
        points: leading axes of `transform`, then `num_axes` axes, then 3.
        num_axes: 1 for (..., N, 3), 2 for maps (..., H, W, 3).
    """
    flat = points.flatten(-1 - num_axes, -2)                                    # (..., N, 3)
    moved = flat @ transform[..., :3, :3].mT + transform[..., None, :3, 3]
    return moved.unflatten(-2, points.shape[-1 - num_axes:-1])
