"""One frame and one unit for a scene's geometry, so that scenes of any size supervise alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jrs.geometry.camera import invert_rigid
from jrs.geometry.projection import transform_points


class NormalisedScene(NamedTuple):
    """Geometry in the frame of each scene's first camera, in units of its mean point distance.

    Attributes:
        cam_from_world: (B, V, 4, 4); the first of every scene is the identity.
        world_points: (B, V, H, W, 3).
        depth: (B, V, H, W).
        scale: (B,) the unit in the units of the input; camera points are normalised by dividing by it.
    """

    cam_from_world: Tensor
    world_points: Tensor
    depth: Tensor
    scale: Tensor


def normalise_scene(cam_from_world: Tensor, world_points: Tensor, depth: Tensor, valid: Tensor,
                    rescale: bool = True) -> NormalisedScene:
    """Return the geometry of B scenes as VGGT is trained on it (vggt.md section 15). Predictions are not normalised.

    The unit is the mean distance of the valid points of all views from the first camera. Values that are not finite
    become 0; nothing is clamped.

    Args:
        cam_from_world: (B, V, 4, 4).
        world_points: (B, V, H, W, 3).
        depth: (B, V, H, W) z-depth.
        valid: (B, V, H, W) bool, the pixels whose points count.
        rescale: False keeps the unit of the input, and `scale` is 1.
    """
    first = cam_from_world[:, 0]                                                # (B, 4, 4)
    moved = cam_from_world @ invert_rigid(first)[:, None]                       # (B, V, 4, 4)
    points = transform_points(first, world_points, num_axes=3)                  # (B, V, H, W, 3)
    distance = points.norm(dim=-1).where(valid, 0).sum(dim=(1, 2, 3))           # (B,)
    scale = (distance / (valid.sum(dim=(1, 2, 3)) + 1e-3)).clamp(1e-6, 1e6)     # (B,)
    scale = scale if rescale else torch.ones_like(scale)
    translation = moved[..., :3, 3:] / scale[:, None, None, None]               # (B, V, 3, 1)
    upper = torch.cat([moved[..., :3, :3], translation], dim=-1)                # (B, V, 3, 4)
    moved = torch.cat([upper, moved[..., 3:, :]], dim=-2)                       # (B, V, 4, 4)
    return NormalisedScene(_finite(moved), _finite(points / scale[:, None, None, None, None]),
                           _finite(depth / scale[:, None, None, None]), scale)


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
