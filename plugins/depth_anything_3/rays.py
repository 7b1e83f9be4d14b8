"""Cameras from a map of rays: the homography between the image plane and the rays, found by drawing, taken apart.

Formulas: backbones.md section 6.1, "Pose from rays". Nothing is learned here: no gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.camera import encode_cameras, invert_rigid, rigid_from_rotation_translation

DRAWS, POINTS = 100, 8                         # homographies that are tried, rays for each
CANDIDATES = 0.3                               # share of rays, those of largest confidence, that are drawn from
LARGEST_DISTANCE = 0.2                         # of an inlier, on the plane z = 1
FLATTEST = 1e-4                                # z of a direction, below which a ray does not count
MOST_INLIERS, BEST_INLIERS = 8000, 0.95        # of a refit; the share of them that are drawn from where there are more
SEED = 0


@dataclass(frozen=True)
class RayCameras:
    """Cameras of n views, float64.

    Attributes:
        world_from_cam: (n, 4, 4), OpenCV axes, in the world of the rays.
        focal: (n, 2) across and down, over half of the width and of the height.
        principal: (n, 2) the same of the principal point; 1 is the middle.
    """

    world_from_cam: Tensor
    focal: Tensor
    principal: Tensor

    def intrinsics(self, image_size: tuple[int, int]) -> Tensor:
        """Return (n, 3, 3) in pixels of images of (H, W)."""
        half = self.focal.new_tensor([image_size[1] / 2, image_size[0] / 2])
        matrix = torch.zeros_like(self.world_from_cam[:, :3, :3])
        matrix[:, :2, :2] = torch.diag_embed(self.focal * half)
        matrix[:, :2, 2] = self.principal * half
        matrix[:, 2, 2] = 1
        return matrix

    def encoding(self) -> Tensor:
        """Return float32 pose encodings (n, 9) of `cam_from_world`, with the field of view of the focal lengths."""
        return encode_cameras(invert_rigid(self.world_from_cam), self.intrinsics((2, 2)), (2, 2))


@torch.no_grad()
def cameras_from_rays(rays: Tensor, confidence: Tensor, draws: Tensor | None = None) -> RayCameras:
    """Return the cameras of n views.

    Args:
        rays: (n, h, w, 6) direction, of any length, and origin of the ray through each place of a grid over the image.
        confidence: (n, h, w) >= 0.
        draws: (d, 8) int64, places among the candidates, which are ranked by falling confidence, the same for all views;
            None = 100 draws of a fixed seed.

    Raises:
        DataError: the rays of a view are those of no camera.
    """
    if rays.device.type == 'mps':                       # which has no float64
        rays, confidence = rays.cpu(), confidence.cpu()
    plane = plane_points(rays.shape[1:3], rays.device)                          # (h * w, 2)
    number = max(POINTS, int(CANDIDATES * len(plane)))
    draws = draws_of(number) if draws is None else draws
    views = [_camera(plane, view.flatten(0, 1), weight.flatten(), number, draws.to(rays.device))
             for view, weight in zip(rays.double(), confidence.double(), strict=True)]
    found = RayCameras(*(torch.stack(parts) for parts in zip(*views, strict=True)))
    numbers = torch.cat([found.world_from_cam.flatten(1), found.focal, found.principal], dim=1)     # (n, 20)
    wrong = (~numbers.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        raise DataError(f'no camera fits the rays of {len(wrong)} of {len(rays)} views, such as view {wrong[0]} of the '
                        "batch: take cameras from tokens (poses='tokens'), or leave these images out.")
    return found


def plane_points(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return x and y (h * w, 2) float64 of the middles of h x w places, row-major; the image reaches from -1 to 1."""
    y, x = (torch.linspace(1 / count - 1, 1 - 1 / count, count, dtype=torch.float64, device=device) for count in size)
    return torch.cartesian_prod(y, x).flip(1)


def draws_of(number: int) -> Tensor:
    """Return `DRAWS` times `POINTS` different places (100, 8) below `number`, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.rand(DRAWS, number, generator=generator).argsort(dim=1)[:, :POINTS]


def _camera(plane: Tensor, rays: Tensor, weight: Tensor, number: int, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `world_from_cam` (4, 4), focal (2,) and principal (2,) of one view, for rays (m, 6) and weights (m,)."""
    depth = rays[:, 2:3]
    flat = depth.abs() <= FLATTEST
    targets = torch.where(flat, rays[:, :2], rays[:, :2] / torch.where(flat, 1, depth))     # (m, 2)
    weight = torch.where(flat[:, 0], 0, weight)
    ranked = weight.argsort(descending=True, stable=True)
    matrix = _best_homography(plane, targets, weight, ranked[:number][draws])
    inside = (_distances(matrix[None], plane, targets)[0] < LARGEST_DISTANCE)[ranked]
    kept = _refitted(ranked[inside])
    if len(kept) >= 4:                                  # fewer do not determine one
        matrix = homography(plane[kept][None], targets[kept][None], weight[kept][None])[0]
    rotation, lower = rotation_times_lower(torch.where(torch.linalg.det(matrix) < 0, -matrix, matrix))
    lower = lower / lower[2, 2]
    centre = (weight[:, None] * rays[:, 3:]).sum(dim=0) / weight.sum()
    return (rigid_from_rotation_translation(rotation, centre), 1 / lower.diagonal()[:2], 1 + lower[2, :2])


def _best_homography(plane: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
    """Return the homography (3, 3) of the draw, among `drawn` (d, 8) rays, whose inliers weigh most; the first of equals."""
    tried = homography(plane[drawn], targets[drawn], weight[drawn])             # (d, 3, 3)
    scores = torch.stack([(weight * (_distances(matrix[None], plane, targets)[0] < LARGEST_DISTANCE)).sum()
                          for matrix in tried])
    return tried[scores.argmax()]


def _refitted(inliers: Tensor) -> Tensor:
    """Return which of the rays `inliers` (m,), ranked by falling weight, make the last fit."""
    if len(inliers) <= MOST_INLIERS:
        return inliers
    best = inliers[:int(BEST_INLIERS * len(inliers))]
    generator = torch.Generator().manual_seed(SEED)
    return best[torch.randperm(len(best), generator=generator)[:MOST_INLIERS].to(best.device)]


def homography(points: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Return the matrices (d, 3, 3), last entry 1, that map `points` (d, k, 2) to `targets` (d, k, 2) best.

    Direct linear transform; the two equations of a point count by its `weight` (d, k).
    """
    ones, zeros = torch.ones_like(points[..., :1]), torch.zeros_like(points)
    plain = torch.cat([points, ones], dim=-1)                                   # (d, k, 3)
    rows = [torch.cat([*pair, plain * targets[..., axis:axis + 1]], dim=-1)     # (d, k, 9)
            for axis, pair in enumerate(((-plain, zeros, zeros[..., :1]), (zeros, zeros[..., :1], -plain)))]
    rows = torch.cat(rows, dim=1) * torch.cat([weight, weight], dim=1).sqrt()[..., None]    # (d, 2k, 9)
    entries = torch.linalg.eigh(rows.mT @ rows).eigenvectors[..., 0]            # the last right singular vector
    return (entries / entries[:, 8:]).unflatten(1, (3, 3))


def _distances(matrices: Tensor, plane: Tensor, targets: Tensor) -> Tensor:
    """Return how far each of `plane` (m, 2) lands from `targets` (m, 2) under `matrices` (d, 3, 3), (d, m)."""
    moved = torch.nn.functional.pad(plane, (0, 1), value=1.0) @ matrices.mT     # (d, m, 3)
    return (moved[..., :2] / moved[..., 2:] - targets).norm(dim=-1)


def rotation_times_lower(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return R and L of `matrix` (3, 3) = R L with determinant > 0: a rotation, and lower-triangular, diagonal > 0."""
    left, right = torch.linalg.qr(matrix.flip(1))
    rotation, lower = left.flip(1), right.flip(0, 1)
    sign = lower.diagonal().sign()                                              # (3,)
    return rotation * sign, lower * sign[:, None]
