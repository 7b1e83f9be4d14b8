"""Cameras as matrices and as encodings. States the conventions once:

- `cam_from_world` (..., 4, 4) maps world to camera coordinates, OpenCV axes (x right, y down, z forward).
- Intrinsics (..., 3, 3) are in pixels, without skew; pixel centres are at integer coordinates.
- A pose encoding (..., 9) is translation (3) and quaternion x, y, z, w of `cam_from_world`, then the full vertical
  and horizontal field of view in radians. The principal point is the image centre (W/2, H/2) (vggt.md section 7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.structures import Predictions

MIN_FIELD_OF_VIEW = 1e-3        # radians; a prediction of 0 would be an infinite focal length
MIN_QUATERNION_NORM = 1e-12
MIN_FORWARD = 1e-2              # z of a unit ray


def encode_cameras(cam_from_world: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return float32 pose encodings (..., 9), quaternions with w >= 0.

    Args:
        cam_from_world: (..., 4, 4).
        intrinsics: (..., 3, 3); the principal point is ignored.
        image_size: (H, W) in pixels.
    """
    height, width = image_size
    vertical = 2 * torch.atan((height / 2) / intrinsics[..., 1, 1])
    horizontal = 2 * torch.atan((width / 2) / intrinsics[..., 0, 0])
    quaternion = quaternion_from_rotation(cam_from_world[..., :3, :3])
    field_of_view = torch.stack([vertical, horizontal], dim=-1)                 # (..., 2)
    return torch.cat([cam_from_world[..., :3, 3], quaternion, field_of_view], dim=-1).float()


def decode_cameras(encoding: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return `cam_from_world` (..., 4, 4) and intrinsics (..., 3, 3) of pose encodings (..., 9).

    Fields of view below `MIN_FIELD_OF_VIEW` count as that, so that every focal length is finite.

    Args:
        encoding: (..., 9), with quaternions of any non-zero length.
        image_size: (H, W) in pixels.
    """
    height, width = image_size
    cam_from_world = rigid_from_rotation_translation(rotation_from_quaternion(encoding[..., 3:7]), encoding[..., :3])
    half_angles = encoding[..., 7:].clamp(min=MIN_FIELD_OF_VIEW) / 2            # (..., 2), vertical first
    intrinsics = encoding.new_zeros(*encoding.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = (width / 2) / half_angles[..., 1].tan()
    intrinsics[..., 1, 1] = (height / 2) / half_angles[..., 0].tan()
    intrinsics[..., 0, 2] = width / 2
    intrinsics[..., 1, 2] = height / 2
    intrinsics[..., 2, 2] = 1
    return cam_from_world, intrinsics


def predicted_cameras(predictions: Predictions, image_size: tuple[int, int],
                      seen_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Return `cam_from_world` (B, V, 4, 4) and intrinsics (B, V, 3, 3) of the last stage of `predictions`.

    Args:
        predictions: with at least one encoding (B, V, 9).
        image_size: (H, W) of the images that the intrinsics are for.
        seen_size: (H, W) of the same images as the model saw them; None = the same size.
    """
    cam_from_world, intrinsics = decode_cameras(predictions.pose_encodings[-1].float(), image_size)
    if predictions.intrinsics is None:
        return cam_from_world, intrinsics
    height, width = (new / old for new, old in zip(image_size, seen_size or image_size, strict=True))
    across, down, last = predictions.intrinsics.float().unbind(-2)              # (B, V, 3) each; centres at integers
    resized = [width * across + (width - 1) / 2 * last, height * down + (height - 1) / 2 * last, last]
    return cam_from_world, torch.stack(resized, dim=-2)


def pinhole_of_rays(rays: Tensor) -> Tensor:
    """Return the intrinsics (..., 3, 3), in pixels of H x W, of the pinhole cameras nearest to `rays` (..., H, W, 3).

    Least squares of the column over x/z, and of the row over y/z, on a grid of about 50 x 50 pixels (backbones.md section
    3). Rays that do not look forward count as almost sideways, and focal lengths are those of a field of view of
    `MIN_FIELD_OF_VIEW` at least and of almost 180 degrees at most, so that all numbers are finite.
    """
    height, width = rays.shape[-3:-1]
    rows = torch.arange(0, height, max(1, height // 50), device=rays.device)
    columns = torch.arange(0, width, max(1, width // 50), device=rays.device)
    seen = rays[..., rows[:, None], columns, :]                                 # (..., h, w, 3)
    slopes = (seen[..., :2] / seen[..., 2:].clamp(min=MIN_FORWARD)).flatten(-3, -2)         # (..., h * w, 2)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), dim=-1).flatten(0, 1).to(rays)       # (h * w, 2)
    slope, pixel = slopes.mean(dim=-2, keepdim=True), pixels.mean(dim=0)        # (..., 1, 2), (2,)
    spread = (slopes - slope).square().sum(dim=-2).clamp(min=1e-12)             # (..., 2)
    focal = ((slopes - slope) * (pixels - pixel)).sum(dim=-2) / spread          # (..., 2)
    focal = torch.stack([length.clamp(MIN_FORWARD * side, side / MIN_FIELD_OF_VIEW)
                         for length, side in zip(focal.unbind(-1), (width, height), strict=True)], dim=-1)
    centre = pixel - focal * slope[..., 0, :]                                   # (..., 2)
    intrinsics = rays.new_zeros(*rays.shape[:-3], 3, 3)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = focal.unbind(-1)
    intrinsics[..., :2, 2] = centre
    intrinsics[..., 2, 2] = 1
    return intrinsics


def relative_to_first(encoding: Tensor) -> Tensor:
    """Return pose encodings (B, V, 9) with the first camera of each scene as the world.

    Quaternions leave with length 1 and w >= 0; fields of view stay.

    Args:
        encoding: (B, V, 9), the world of each scene being any frame; quaternions of any non-zero length.
    """
    rotation = rotation_from_quaternion(encoding[..., 3:7])
    cam_from_world = rigid_from_rotation_translation(rotation, encoding[..., :3])           # (B, V, 4, 4)
    moved = cam_from_world @ invert_rigid(cam_from_world[:, :1])
    return torch.cat([moved[..., :3, 3], quaternion_from_rotation(moved[..., :3, :3]), encoding[..., 7:]], dim=-1)


def in_first_frame(points: Tensor, encoding: Tensor) -> Tensor:
    """Return points (B, V, H, W, 3) of any world in the frame of each scene's first camera.

    Args:
        points: (B, V, H, W, 3).
        encoding: (B, V, 9), pose encodings in that world; the first of each scene counts.
    """
    rotation = rotation_from_quaternion(encoding[:, 0, 3:7])[:, None, None]                 # (B, 1, 1, 3, 3)
    return (points @ rotation.mT) + encoding[:, None, None, None, 0, :3]


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) of quaternions (..., 4), such as (B, V, 4).

    The order is x, y, z, w; any non-zero length will do.
    """
    x, y, z, w = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(-1).clamp(min=MIN_QUATERNION_NORM)
    entries = [
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))                   # (..., 3, 3)


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Return quaternions (..., 4) in the order x, y, z, w, with w >= 0, of rotation matrices (..., 3, 3).

    Leading axes are any, such as (B, V). Of the four ways to write a quaternion, the one that divides by its largest
    entry is taken (vggt.md section 7).
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in rotation.unbind(-2))
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], dim=-1)
    sizes = _square_root(squares)                                               # (..., 4), order w, x, y, z
    ww, xx, yy, zz = sizes.square().unbind(-1)
    candidates = torch.stack([
        torch.stack([ww, m21 - m12, m02 - m20, m10 - m01], dim=-1),
        torch.stack([m21 - m12, xx, m10 + m01, m02 + m20], dim=-1),
        torch.stack([m02 - m20, m10 + m01, yy, m12 + m21], dim=-1),
        torch.stack([m10 - m01, m20 + m02, m21 + m12, zz], dim=-1),
    ], dim=-2) / (2 * sizes[..., None].clamp(min=0.1))                          # (..., 4 candidates, wxyz)
    best = sizes.argmax(dim=-1)[..., None, None].expand(*sizes.shape[:-1], 1, 4)
    quaternion = candidates.gather(-2, best).squeeze(-2)                        # (..., 4), order w, x, y, z
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    return quaternion.roll(-1, dims=-1)                                         # order x, y, z, w


def rigid_from_rotation_translation(rotation: Tensor, translation: Tensor) -> Tensor:
    """Return rigid transforms (..., 4, 4) of rotations (..., 3, 3) and translations (..., 3), such as (B, V, 3)."""
    upper = torch.cat([rotation, translation[..., None]], dim=-1)               # (..., 3, 4)
    lower = torch.eye(4, dtype=upper.dtype, device=upper.device)[3:].expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, lower], dim=-2)                                    # (..., 4, 4)


def invert_rigid(transform: Tensor) -> Tensor:
    """Return the inverse of rigid transforms (..., 4, 4), such as (B, V, 4, 4), in closed form: [R^T | -R^T t]."""
    rotation = transform[..., :3, :3].mT
    return rigid_from_rotation_translation(rotation, -(rotation @ transform[..., :3, 3:]).squeeze(-1))


def _square_root(values: Tensor) -> Tensor:
    """Return the root of `values`, 0 below 0, with gradient 0 there instead of infinity."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1).sqrt(), 0)
