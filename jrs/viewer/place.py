"""How a result stands before the viewer: upright, of one size, alone or two side by side under one camera; numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jrs.geometry.alignment import COLLINEAR, Similarity, fit_similarity, spread
from jrs.viewer.result import Result
from jrs.visualization.cloud import scene_frame

APART = 2.1                                     # distance of two results, in radii
SAME_WORLD = 0.1                                # of the spread of the cameras: how far they may stay apart after a fit


@dataclass(frozen=True)
class Place:
    """Shown coordinates = axes @ (world - centre) / radius: x right, y up, z to the viewer; a scene reaches from -1 to 1.

    Attributes:
        axes: (3, 3), rows right, up and backward in the world.
        centre: (3,) of the world.
        radius: > 0, in its unit.
    """

    axes: np.ndarray
    centre: np.ndarray
    radius: float

    def shown(self, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) of the world in shown coordinates, float32."""
        return ((points - self.centre) @ self.axes.T / self.radius).astype(np.float32)

    def camera(self, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rotation (3, 3) that takes a camera's axes to shown ones, and its centre (3,) there."""
        rotation = cam_from_world[:3, :3]
        return self.axes @ rotation.T, self.shown(-rotation.T @ cam_from_world[:3, 3]).astype(np.float64)


def own_place(result: Result) -> Place:
    """Return how a result stands by its own points and cameras; without cameras z of the world is up."""
    cameras = [view.cam_from_world for view in result.views if view.cam_from_world is not None]
    upright = np.array([[[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]])       # looks along y, z is up
    return Place(*scene_frame(result.points.astype(np.float64), np.stack(cameras) if cameras else upright))


def place_beside(result: Result, other: Result, place: Place) -> Place:
    """Return how `result` stands so that one camera shows the same of it and of `other`, which stands at `place`.

    Results with the same cameras stand alike; where names of at least three cameras agree and a similarity takes the ones
    to the others, it is undone; else each stands by itself.
    """
    fit = other_from(result, other)
    if fit is None:
        return own_place(result)
    # axes @ (s R p + t - centre) / radius = (axes R) @ (p - R^T (centre - t) / s) / (radius / s)
    centre = fit.rotation.T @ (place.centre - fit.translation) / fit.scale
    return replace(place, axes=place.axes @ fit.rotation, centre=centre, radius=place.radius / fit.scale)


def other_from(result: Result, other: Result) -> Similarity | None:
    """Return what takes the world of `result` to that of `other` by cameras of one name; None if no similarity does."""
    ours, theirs = (_cameras(one) for one in (result, other))
    shared = [name for name in ours if name in theirs]
    if shared and all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in shared):
        return Similarity(1.0, np.eye(3), np.zeros(3))
    if len(shared) < 3:
        return None
    source, target = (np.stack([_centre(cameras[name]) for name in shared]) for cameras in (ours, theirs))
    reach = spread(target)
    if min(spread(source)[0], reach[0]) <= 0 or reach[1] < COLLINEAR * reach[0]:
        return None
    fit = fit_similarity(source, target)
    rest = np.sqrt(np.square(fit.apply(source) - target).sum(1).mean())
    return fit if rest <= SAME_WORLD * np.linalg.norm(reach) else None


def _cameras(result: Result) -> dict[str, np.ndarray]:
    return {view.name: view.cam_from_world for view in result.views if view.cam_from_world is not None}


def _centre(cam_from_world: np.ndarray) -> np.ndarray:
    return -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]


def shifts(right: np.ndarray | None, both: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return where the left and the right result stand, (3,) each, for a camera whose right is `right` (3,) or None.

    Two results keep their distance across the camera's view, wherever it goes; a single one stands in the middle.
    """
    if not both:
        return np.zeros(3), np.zeros(3)
    right = np.array([1.0, 0, 0]) if right is None else right / max(np.linalg.norm(right), 1e-9)
    return -right * APART / 2, right * APART / 2
