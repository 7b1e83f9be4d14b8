"""Unit solids under affine maps, and where rays meet them in closed form.

The unit solids: a box [-1, 1]^3; a frustum |z| <= 1 with radius 1 at z = -1 and `taper` at z = 1 (taper 1 is a
cylinder); a ball of radius 1. A solid in the room is world = matrix @ local + centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jrs.synth.textures import Material, MaterialTable

BOX, FRUSTUM, ELLIPSOID = range(3)
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)  # (8, 3)


@dataclass(frozen=True)
class Part:
    """One solid of a piece of furniture: world = matrix @ local + centre, metres."""

    kind: int
    matrix: np.ndarray
    centre: np.ndarray
    material: Material
    taper: float = 1.0

    @property
    def corners(self) -> np.ndarray:
        """(8, 3) corners of a box around the solid."""
        wide = max(1.0, self.taper) if self.kind == FRUSTUM else 1.0
        return apply(self.matrix, CORNERS * [wide, wide, 1.0]) + self.centre

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> Part:
        """Return the part under a rigid motion: rotation (3, 3), translation (3,)."""
        return Part(self.kind, rotation @ self.matrix, rotation @ self.centre + translation, self.material, self.taper)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return matrix (3, 3) or (N, 3, 3) times points (N, 3). Plain sums: the bits do not depend on a BLAS's threads."""
    return (matrix[..., 0] * points[:, 0:1] + matrix[..., 1] * points[:, 1:2] + matrix[..., 2] * points[:, 2:3])


class Solids:
    """The P solids of a room as arrays; `owner` (P,) is the object that each belongs to."""

    def __init__(self, parts: Sequence[Part], owner: Sequence[int]) -> None:
        self.kind = np.array([part.kind for part in parts])
        self.matrix = np.stack([part.matrix for part in parts])                         # (P, 3, 3)
        self.inverse = np.linalg.inv(self.matrix)                                       # (P, 3, 3)
        self.centre = np.stack([part.centre for part in parts])                         # (P, 3)
        self.taper = np.array([part.taper for part in parts])
        self.corners = np.stack([part.corners for part in parts])                       # (P, 8, 3)
        self.owner = np.asarray(owner)
        self.materials = MaterialTable([part.material for part in parts])
        self.half_sizes = np.linalg.norm(self.matrix, axis=1)                           # (P, 3) metres
        self.axis_order = np.argsort(-self.half_sizes, axis=1, kind='stable')           # (P, 3) longest first
        self.phase = (1.0 + self.materials.scale[:, None]) * [0.613, 0.371, 0.257]      # (P, 3) metres

    def __len__(self) -> int:
        """P."""
        return len(self.kind)

    def to_local(self, index: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return world points (N, 3) in the unit frames of the solids `index` (N,)."""
        return apply(self.inverse[index], points - self.centre[index])

    def normals(self, index: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Return outward unit normals (N, 3) in the world at surface points given in unit frames (N, 3)."""
        normals = local_normals(self.kind[index], self.taper[index], local)
        world = apply(np.swapaxes(self.inverse[index], 1, 2), normals)
        return world / np.linalg.norm(world, axis=1, keepdims=True)

    def albedo(self, index: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Return linear RGB (N, 3) at points (N, 3) in unit frames."""
        metres = local * self.half_sizes[index]
        ordered = np.take_along_axis(metres, self.axis_order[index], axis=1)            # (N, 3)
        return self.materials.albedo(index, ordered + self.phase[index])


def local_normals(kind: np.ndarray, taper: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Return outward normals (N, 3), not of unit length, of the unit solids at surface points (N, 3)."""
    normals = local.copy()                                                              # right for balls
    box = np.flatnonzero(kind == BOX)
    axis = np.abs(local[box]).argmax(axis=1)
    normals[box] = 0.0
    normals[box, axis] = np.sign(local[box, axis])
    frustum = np.flatnonzero(kind == FRUSTUM)
    x, y, z = local[frustum].T
    slope = (taper[frustum] - 1.0) / 2.0
    radius = (1.0 + taper[frustum]) / 2.0 + slope * z
    side = np.stack([x, y, -slope * radius], axis=1)                                    # (n, 3)
    cap = np.stack([np.zeros_like(x), np.zeros_like(x), np.sign(z)], axis=1)            # (n, 3)
    on_cap = np.abs(1.0 - np.abs(z)) < np.abs(radius - np.hypot(x, y))
    normals[frustum] = np.where(on_cap[:, None], cap, side)
    return normals


def hit_box(origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """Return the distance (h, w) along rays origin + t * (dx, dy, dz) to the unit box; inf where they miss it."""
    near, far = None, None
    for start, direction in zip(origin, (dx, dy, dz), strict=True):
        inverse = np.reciprocal(direction)
        middle = inverse * -start
        np.abs(inverse, out=inverse)
        enter, leave = middle - inverse, middle + inverse
        near = enter if near is None else np.maximum(near, enter, out=near)
        far = leave if far is None else np.minimum(far, leave, out=far)
    near[~((near <= far) & (near > 0))] = np.inf
    return near


def hit_frustum(origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray, taper: float) -> np.ndarray:
    """Return the distance (h, w) to the unit frustum: the nearest of two roots of its cone and two caps."""
    ox, oy, oz = origin
    slope, middle = (taper - 1.0) / 2.0, (taper + 1.0) / 2.0
    radius = middle + slope * oz
    a = dx * dx + dy * dy - slope * slope * dz * dz
    b = ox * dx + oy * dy - slope * radius * dz
    c = ox * ox + oy * oy - radius * radius
    root = np.sqrt(np.maximum(b * b - a * c, 0.0))
    missed = b * b < a * c
    nearest = np.full(dx.shape, np.inf)
    for t in ((-b - root) / a, (-b + root) / a):
        z = oz + t * dz
        np.minimum(nearest, np.where(missed | (np.abs(z) > 1.0) | (t <= 0), np.inf, t), out=nearest)
    for z, limit in ((-1.0, 1.0), (1.0, taper)):
        t = (z - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        np.minimum(nearest, np.where((x * x + y * y > limit * limit) | (t <= 0), np.inf, t), out=nearest)
    return nearest


def hit_ball(origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """Return the distance (h, w) to the unit ball; inf where the rays miss it."""
    ox, oy, oz = origin
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    inside = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    t = (-b - np.sqrt(np.maximum(inside, 0.0))) / a
    return np.where((inside < 0) | (t <= 0), np.inf, t)
