"""One world for reconstructions that share views: the similarity between two of them, robust and in closed form; numpy.

Ours: no part of the paper. Two reconstructions of one scene differ by a similarity (scale, rotation, translation) and by
what each got wrong. The views that both hold say which: a camera of both has one place, and so has what a pixel of both
sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jrs.errors import DataError
from jrs.geometry.alignment import COLLINEAR, Similarity, camera_centres, fit_similarity, move_cameras, spread

ROUNDS = 10                                    # of choosing pairs and fitting, at most; the choice settles after a few
SURE = 0.3                                     # share of the pairs that is taken to be right, at least
FAR = 3.0                                      # a pair so many times as far off as the best of those is left out
EXACT = 1e-9                                   # of the distances in the scene: residuals below it are rounding
POINTS = 20_000                                # pairs of points of all shared views together
IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))


@dataclass
class SharedViews:
    """What one reconstruction says of the S views that it shares with another one.

    Attributes:
        cam_from_world: (S, 4, 4) float64, its own world and unit.
        depth: S arrays (n_s,) of z-depth at pixels of each view, 0 = none; the same pixels in both. None without depth.
        rays: S arrays (n_s, 3), where these pixels look in its own camera, of z = 1; None without depth.
    """

    cam_from_world: np.ndarray
    depth: list[np.ndarray] | None = None
    rays: list[np.ndarray] | None = None

    def moved(self, similarity: Similarity) -> SharedViews:
        """Return the same in the world and unit that `similarity` leads to."""
        depth = None if self.depth is None else [similarity.scale * own for own in self.depth]
        return SharedViews(move_cameras(self.cam_from_world, similarity), depth, self.rays)

    def some(self, count: int) -> SharedViews:
        """Return the first `count` views."""
        return SharedViews(self.cam_from_world[:count], *(None if part is None else part[:count]
                                                          for part in (self.depth, self.rays)))

    def __add__(self, other: SharedViews) -> SharedViews:
        """Return the views of both, which are in one world."""
        depth, rays = (None if own is None else [*own, *further]
                       for own, further in ((self.depth, other.depth), (self.rays, other.rays)))
        return SharedViews(np.concatenate([self.cam_from_world, other.cam_from_world]), depth, rays)


@dataclass
class Join:
    """How a reconstruction is brought to the world of the one before.

    Attributes:
        similarity: from its world to that of the one before.
        residual: median distance of the pairs after it, in the unit of the one before; 0 is exact.
        relative: that over the median distance of the points (without depth: of the cameras) from the shared cameras.
        pairs: of points and of cameras, used or not.
        inliers: share of them that the fit used.
        rotation_degrees: median angle that is left between the shared cameras.
    """

    similarity: Similarity
    residual: float
    relative: float
    pairs: int
    inliers: float
    rotation_degrees: float

    def record(self) -> dict:
        """Return what windows.json says of it."""
        return dict(scale=self.similarity.scale, rotation=self.similarity.rotation.tolist(),
                    translation=self.similarity.translation.tolist(), residual=self.residual,
                    residual_over_distance=self.relative, pairs=self.pairs, inliers=self.inliers,
                    rotation_residual_degrees=self.rotation_degrees)


def join(earlier: SharedViews, later: SharedViews) -> Join:
    """Return the similarity from the world of `later` to that of `earlier`, of the same views in the same order.

    Pairs are the points of the same pixel and the centres of the same camera. A start that bears outliers is the best of
    S + 1: what each shared camera says, with the median ratio of depths in its view, and what all say, the rotation that
    cameras agree on best, the median ratio (without depth: of distances between cameras) and the median translation. Best is
    the one after which 30 % of the pairs are nearest. Then, until the choice settles, the similarity of least squares
    (`fit_similarity`) of the pairs that are within three times that distance. Where these are all on a line, so that they
    leave a turn open, the start stays.

    Raises:
        DataError: no view is shared; or nothing that is shared says how the scales compare.
    """
    if not len(earlier.cam_from_world):
        raise DataError('Windows without a shared view cannot be joined: give --overlap of 1 or more.')
    centres = [camera_centres(side.cam_from_world) for side in (earlier, later)]
    points, ratios = _shared_points(earlier, later)
    target, source = (np.concatenate([own, *seen]) for own, seen in zip(centres, points, strict=True))
    finite = np.isfinite(target).all(1) & np.isfinite(source).all(1)
    target, source = target[finite], source[finite]
    if not len(target):
        raise DataError('No shared camera and no shared point is finite, so windows cannot be joined: the weights '
                        'may be broken.')
    starts = _starts(earlier.cam_from_world, later.cam_from_world, centres, ratios, source, target)
    found = min(starts, key=lambda one: np.quantile(np.linalg.norm(one.apply(source) - target, axis=1), SURE))
    found, used = _refined(found, source, target)
    residual = float(np.median(np.linalg.norm(found.apply(source) - target, axis=1)))
    reach = float(np.median(np.linalg.norm(target - centres[0].mean(axis=0), axis=1)))
    left = move_cameras(later.cam_from_world, found)[:, :3, :3] @ earlier.cam_from_world[:, :3, :3].transpose(0, 2, 1)
    return Join(found, residual, residual / reach if reach else 0.0, len(target), float(used.mean()),
                float(np.degrees(np.median(_angles(left)))))


def chain(joins: Iterable[Similarity]) -> list[Similarity]:
    """Return the similarity of each reconstruction to the world of the first: its own, then one per join."""
    found = [IDENTITY]
    for one in joins:
        found.append(compose(found[-1], one))
    return found


def inverse(similarity: Similarity) -> Similarity:
    """Return the similarity that takes back what `similarity` does."""
    back = similarity.rotation.T
    return Similarity(1 / similarity.scale, back, -back @ similarity.translation / similarity.scale)


def compose(outer: Similarity, inner: Similarity) -> Similarity:
    """Return the similarity that moves by `inner`, then by `outer`."""
    return Similarity(outer.scale * inner.scale, outer.rotation @ inner.rotation, outer.apply(inner.translation))


def _starts(earlier: np.ndarray, later: np.ndarray, centres: list[np.ndarray], ratios: list[np.ndarray], source: np.ndarray,
            target: np.ndarray) -> list[Similarity]:
    """Return what the shared cameras (S, 4, 4) say together, and what each says.

    Args:
        earlier, later: cameras.
        centres: of these, (S, 3) of either.
        ratios: S arrays, of the depths of each view; empty without depth.
        source, target: all pairs (n, 3).
    """
    known = np.concatenate([np.zeros(0), *ratios])
    whole = float(np.median(known)) if len(known) else _ratio_of_distances(*centres)
    rotations = earlier[:, :3, :3].transpose(0, 2, 1) @ later[:, :3, :3]                    # (S, 3, 3)
    agreed = _most_agreed(rotations)
    found = [Similarity(whole, agreed, np.median(target - whole * source @ agreed.T, axis=0))]
    for view, (rotation, own, other) in enumerate(zip(rotations, *centres, strict=True)):
        ratio = float(np.median(ratios[view])) if len(ratios) and len(ratios[view]) else whole
        found.append(Similarity(ratio, rotation, own - ratio * rotation @ other))
    return found


def _refined(found: Similarity, source: np.ndarray, target: np.ndarray) -> tuple[Similarity, np.ndarray]:
    """Return the similarity of the pairs (n, 3) near to what it says of them, from `found` on; and which, (n,) bool."""
    floor, used = EXACT * max(float(np.abs(target).max()), EXACT), None
    for _ in range(ROUNDS):
        far = np.linalg.norm(found.apply(source) - target, axis=1)
        near = far <= FAR * np.quantile(far, SURE) + floor
        if used is not None and (near == used).all():
            break
        used = near
        reach = [spread(points[used]) for points in (source, target)]
        if any(own[0] <= floor or own[1] < COLLINEAR * own[0] for own in reach):        # fewer than three are on a line
            break
        found = fit_similarity(source[used], target[used])
    return found, used


def _shared_points(earlier: SharedViews,
                   later: SharedViews) -> tuple[tuple[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]:
    """Return the points of the pixels that have depth in both, S arrays (m, 3) of each, and the ratios (m,) of depths."""
    if earlier.depth is None or later.depth is None:
        return ([], []), []
    per_view, seen, ratios = max(POINTS // len(earlier.depth), 1), ([], []), []
    for view, depths in enumerate(zip(earlier.depth, later.depth, strict=True)):
        both = np.flatnonzero((depths[0] > 0) & (depths[1] > 0) & np.isfinite(depths[0]) & np.isfinite(depths[1]))
        both = both[np.unique(np.linspace(0, len(both) - 1, min(len(both), per_view)).astype(np.int64))]
        ratios.append(depths[0][both] / depths[1][both])
        for side, depth, points in zip((earlier, later), depths, seen, strict=True):
            camera = np.asarray(side.cam_from_world[view], np.float64)
            points.append((side.rays[view][both] * depth[both, None] - camera[:3, 3]) @ camera[:3, :3])
    return seen, ratios


def _ratio_of_distances(target: np.ndarray, source: np.ndarray) -> float:
    """Return the median ratio of distances between the same two of S centres (S, 3)."""
    one, two = np.triu_indices(len(target), 1)
    own, true = (np.linalg.norm(centres[one] - centres[two], axis=1) for centres in (source, target))
    apart = (own > EXACT * np.abs(source).max()) & (true > EXACT * np.abs(target).max())
    if not apart.any():
        raise DataError('Nothing that two windows share tells their scales apart: without depth it takes two shared views '
                        'from different places. Give a larger --overlap, or a model with a depth head.')
    return float(np.median(true[apart] / own[apart]))


def _most_agreed(each: np.ndarray) -> np.ndarray:
    """Return that of rotations (S, 3, 3) whose angles to all are least in sum."""
    apart = _angles(each[:, None] @ each[None].transpose(0, 1, 3, 2))                       # (S, S)
    return each[int(np.argmin(apart.sum(axis=1)))]


def _angles(rotations: np.ndarray) -> np.ndarray:
    """Return the angles of rotations (..., 3, 3), radians (...)."""
    turned = np.stack([rotations[..., 2, 1] - rotations[..., 1, 2], rotations[..., 0, 2] - rotations[..., 2, 0],
                       rotations[..., 1, 0] - rotations[..., 0, 1]], axis=-1)
    return np.arctan2(np.linalg.norm(turned, axis=-1), np.trace(rotations, axis1=-2, axis2=-1) - 1)
