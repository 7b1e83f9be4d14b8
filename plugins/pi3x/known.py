"""Known depth, intrinsics and cameras as Pi3X reads them: relative to the first view, on a scale of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.camera import invert_rigid
from jrs.structures import Priors

TINY = 1e-8
STATIC = 0.02                                  # translations all shorter than this are a camera that turns in place


@dataclass(frozen=True)
class Known:
    """Priors in the form that the conditioning modules read; None = not given.

    Attributes:
        depth: (B, V, 2, H, W) depth over its mean in the scene, and 1 where it is known.
        rays: (B, V, 2, H, W) x/z and y/z of what each pixel looks along.
        depth_views, ray_views: (B, V) bool, the views whose map is used.
        cam_from_reference: (B, V, 4, 4), the reference being the first view, translations scaled.
        posed: (B, V) bool, the views whose camera is used; None where no view of the batch has one.
        factor: (B,), what the lengths were divided by.
    """

    depth: Tensor | None
    rays: Tensor | None
    depth_views: Tensor | None
    ray_views: Tensor | None
    cam_from_reference: Tensor | None
    posed: Tensor | None
    factor: Tensor


def known_geometry(priors: Priors, images: Tensor) -> Known:
    """Return `priors` normalised (backbones.md section 1, "Optional inputs"), float32, for `images` (B, V, 3, H, W).

    Raises:
        DataError: a prior of another shape.
    """
    (scenes, views, _, *size), device = images.shape, images.device
    depth = _checked(priors.depth, (scenes, views, *size), 'depth', device)
    intrinsics = _checked(priors.intrinsics, (scenes, views, 3, 3), 'intrinsics', device)
    cameras = _checked(priors.cam_from_world, (scenes, views, 4, 4), 'cam_from_world', device)
    depth_views, ray_views, posed = (
        _views(given, words, value, (scenes, views), device) for given, words, value in (
            (priors.depth_views, 'depth_views', depth), (priors.intrinsics_views, 'intrinsics_views', intrinsics),
            (priors.camera_views, 'camera_views', cameras)))
    factor = torch.ones(scenes, device=device) if depth is None else _mean_depth(depth)
    if depth is not None:
        depth = depth / (factor + TINY)[:, None, None, None]
    relative = None
    if cameras is not None:
        posed = posed & (posed.sum(dim=1, keepdim=True) > 1)                    # one camera alone says nothing
        relative = cameras[:, :1] @ invert_rigid(cameras)                       # (B, V, 4, 4), reference_from_cam
        relative = _shortened(relative, factor)
        length = _mean_length(relative, depth_views)
        relative, factor = _shortened(relative, length), factor * length
        depth = None if depth is None else depth / length[:, None, None, None]
    return Known(None if depth is None else torch.stack([depth, (depth > 0).to(depth.dtype)], dim=2),
                 None if intrinsics is None else _rays(intrinsics, size), depth_views, ray_views,
                 None if relative is None else invert_rigid(relative),
                 posed if posed is not None and posed.any() else None, factor)


def _mean_depth(depth: Tensor) -> Tensor:
    """Return the mean (B,) of the depth (B, V, H, W) that is known, of all views; 1 where none is."""
    known = depth > 0
    count = known.sum(dim=(1, 2, 3))                                            # (B,)
    mean = torch.where(known, depth, 0).sum(dim=(1, 2, 3)) / count.clamp(min=1)
    return torch.where(count > 0, mean, 1)


def _mean_length(relative: Tensor, depth_views: Tensor | None) -> Tensor:
    """Return what translations (B, V, 4, 4) are divided by (B,): their mean length where no view uses depth, else 1."""
    lengths = relative[:, 1:, :3, 3].norm(dim=-1)                               # (B, V - 1)
    if not lengths.shape[1]:
        return relative.new_ones(len(relative))
    scaled = (lengths >= STATIC).any(dim=1)
    if depth_views is not None:
        scaled &= ~depth_views.any(dim=1)
    return torch.where(scaled, lengths.mean(dim=1) + TINY, 1)


def _shortened(transforms: Tensor, factor: Tensor) -> Tensor:
    """Return rigid transforms (B, V, 4, 4) with translations divided by `factor` (B,)."""
    divisor = torch.ones_like(transforms)
    divisor[..., :3, 3] = factor[:, None, None]
    return transforms / divisor


def _rays(intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x/z and y/z (B, V, 2, H, W) along the pixels of cameras (B, V, 3, 3) with pixel centres at integers."""
    height, width = size
    rows, columns = (torch.arange(length, device=intrinsics.device, dtype=intrinsics.dtype) for length in size)
    pixels = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width),
                          rows.new_ones(height, width)]).flatten(1)             # (3, H * W)
    rays = torch.linalg.solve(intrinsics, pixels.expand(*intrinsics.shape[:2], -1, -1))     # (B, V, 3, H * W)
    return (rays[:, :, :2] / rays[:, :, 2:]).unflatten(3, (height, width))


def _checked(value: Tensor | None, shape: tuple[int, ...], name: str, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if tuple(value.shape) != shape:
        raise DataError(f'The prior {name} must be of shape {shape}, as the images have it, got {tuple(value.shape)}.')
    return value.to(device).float()


def _views(given: Tensor | None, name: str, value: Tensor | None, shape: tuple[int, int],
           device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if given is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if tuple(given.shape) != shape:
        raise DataError(f'{name} of the priors must be of shape {shape}, one flag per view, got {tuple(given.shape)}.')
    return given.to(device).bool()
