"""MUSt3R's own head: two point maps per view, from which its camera is found in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.geometry.camera import encode_cameras, invert_rigid, rigid_from_rotation_translation
from jrs.geometry.rotation import nearest_rotation
from jrs.heads.pixels import PixelHead
from jrs.layers.dpt import HeadMemory
from jrs.registry import HEADS
from jrs.structures import FeatureTaps, Predictions

CHANNELS = 7                                   # point in the world, point in the camera, confidence
SHORTEST = 1e-8                                # length of a raw point
ROUNDS = 10                                    # of Weiszfeld's algorithm
NEAREST_PIXEL = 1e-8                           # distance at which a pixel counts most
FORWARD = 1e-6                                 # least z of a point in front of the camera
SHORTEST_FOCAL = 0.05                          # over the longer side of the image: a field of view of 168 degrees
LONGEST_FOCAL = 100.0
POINTS_LOCAL = 'points_local'                  # among the extras
SAVED_PIXEL, ALIVE_PIXEL = 23.3, 32            # values for the backward pass; without one, beside what stays; measured


@HEADS.register_module()
class MUSt3RGeometry(nn.Module):
    """Points, depth and cameras as MUSt3R predicts them (backbones.md section 5), in our conventions; float32.

    A part of `model.geometry_head`. One linear map of the last tap gives each pixel's point in the world and in its own
    camera, and a confidence 1 + exp(logit) for both. Depth is z of the latter, which trained weights put in front of the
    camera; what is not counts as almost 0. `extras['points_local']` has all three as they come.

    There is no camera head. The focal length is Weiszfeld's, for the principal point in the middle of the image; the camera
    is the rigid motion of least squares between both maps, weighted by confidence - 1. No gradient goes through cameras:
    train with `PointLoss` and `LocalPointLoss`.

    Args:
        dim_in: width of the last tap.
        patch_size: side of a patch in pixels, the backbone's.
    """

    def __init__(self, dim_in: int, patch_size: int) -> None:
        super().__init__()
        self.head_dec = PixelHead(dim_in, CHANNELS, patch_size)

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what reading `views` views of (H, W) = `size` needs."""
        pixels = size[0] * size[1]
        return HeadMemory(4.0 * ALIVE_PIXEL * pixels * views, 4.0 * SAVED_PIXEL * pixels, None, 4.0 * CHANNELS * pixels)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return points (B, V, H, W, 3), depth and confidence > 1 (B, V, H, W), one stage of pose encodings (B, V, 9).

        Reads the last of the taps (B, V, P, dim_in). Extras: `points_local` (B, V, H, W, 3).
        """
        raw = self.raw(features)                                                # (B, V, H, W, 7)
        points, local = scaled_exp(raw[..., :3]), scaled_exp(raw[..., 3:6])
        confidence = 1 + raw[..., 6].exp()                                      # (B, V, H, W)
        with torch.no_grad():
            cam_from_world, intrinsics = cameras_of_points(points.detach(), local.detach(), confidence.detach())
            encoding = encode_cameras(cam_from_world, intrinsics, features.image_size)
        return Predictions([encoding], local[..., 2].clamp_min(FORWARD), confidence, points=points, points_conf=confidence,
                           extras={POINTS_LOCAL: local})

    def raw(self, features: FeatureTaps) -> Tensor:
        """Return the values of each pixel as they come, (B, V, H, W, 7)."""
        tap = features.taps[-1][:, :, features.patch_index]                     # (B, V, h_p * w_p, dim_in)
        with torch.autocast(tap.device.type, enabled=False):
            maps = self.head_dec(tap.flatten(0, 1).float(), features.patch_grid)            # (B*V, 7, H, W)
        return maps.movedim(1, -1).unflatten(0, tap.shape[:2])


def scaled_exp(values: Tensor) -> Tensor:
    """Return vectors (..., 3) of the same direction whose length l is now exp(l) - 1."""
    length = values.norm(dim=-1, keepdim=True)
    return values / length.clamp_min(SHORTEST) * length.expm1()


def cameras_of_points(points: Tensor, local: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Return `cam_from_world` (..., 4, 4) and intrinsics (..., 3, 3) of views that see `points` (..., H, W, 3).

    Args:
        points: in the world.
        local: (..., H, W, 3), the same in the camera.
        confidence: (..., H, W) > 1.
    """
    height, width = confidence.shape[-2:]
    world_from_cam = registration(local.flatten(-3, -2), points.flatten(-3, -2), (confidence - 1).flatten(-2))
    focal = focal_length(local)
    intrinsics = torch.zeros(*focal.shape, 3, 3, device=focal.device)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = focal
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return invert_rigid(world_from_cam), intrinsics


def registration(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the rigid motions (..., 4, 4) that take `source` (..., N, 3) nearest to `target` (..., N, 3).

    Least squares, each pair counting by `weight` (..., N) >= 0; no scale.
    """
    share = (weight / weight.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)).double()[..., None]
    source, target = source.double(), target.double()
    before, after = (share * source).sum(dim=-2), (share * target).sum(dim=-2)              # (..., 3)
    covariance = (share * (target - after[..., None, :])).mT @ (source - before[..., None, :])      # (..., 3, 3)
    rotation = nearest_rotation(covariance)
    moved = after - (rotation @ before[..., None])[..., 0]
    return rigid_from_rotation_translation(rotation, moved).float()


def focal_length(local: Tensor) -> Tensor:
    """Return the focal lengths (...,) in pixels that bring the points `local` (..., H, W, 3) nearest to their pixels.

    The sum of distances, not of their squares, is least: Weiszfeld's algorithm, principal point at (W/2, H/2). Points that
    do not lie in front of the camera do not count; without any, the focal length is the longer side.
    """
    height, width = local.shape[-3:-1]
    longer = float(max(height, width))
    pixel = torch.stack(torch.meshgrid(torch.arange(width, device=local.device) - width / 2,
                                       torch.arange(height, device=local.device) - height / 2, indexing='xy'), dim=-1)
    front = local[..., 2] > FORWARD                                             # (..., H, W)
    slope = torch.where(front[..., None], local[..., :2] / local[..., 2:].clamp_min(FORWARD), 0.0)
    along, squared = (slope * pixel).sum(dim=-1), slope.square().sum(dim=-1)    # (..., H, W) each
    weight = front.float()
    for _ in range(1 + ROUNDS):
        total = (weight * squared).sum(dim=(-2, -1))
        focal = torch.where(total > 0, (weight * along).sum(dim=(-2, -1)) / total.clamp_min(1e-12), longer)
        focal = focal.clamp(SHORTEST_FOCAL * longer, LONGEST_FOCAL * longer)
        distance = (focal[..., None, None, None] * slope - pixel).norm(dim=-1)
        weight = front / distance.clamp_min(NEAREST_PIXEL)
    return focal
