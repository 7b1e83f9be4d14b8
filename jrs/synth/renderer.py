"""Ray casting of a room in plain numpy: exact depth, solid textures, ceiling lamps with soft shadows.

Rays have camera z = 1, so the distance along them is the z-depth. Images are traced on a grid of half-pixel steps whose
odd nodes are the pixel centres: depth is exact there, colour is a [1 2 1] tent over the nodes (four samples per pixel).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from jrs.synth.camera_path import CameraPath
from jrs.synth.layout import BuiltRoom
from jrs.synth.primitives import BOX, FRUSTUM, Solids, apply, hit_ball, hit_box, hit_frustum

NEAR = 1e-3                                                 # metres
SHADOW_SIDE = 160                                           # pixels of a face of a lamp's cube of depth maps
SHADOW_BIAS = 0.02                                          # metres
FLOOR_CELL = 0.04                                           # metres, of the map of what stands on the floor
GAMMA = 1 / 1.6
# Rotations (3, 3) of the six faces of a cube; columns are the camera's right, down and forward.
CUBE = np.array([np.stack([right, np.cross(forward, right), forward], axis=1) for forward, right in (
    ((1, 0, 0), (0, -1, 0)), ((-1, 0, 0), (0, 1, 0)), ((0, 1, 0), (1, 0, 0)), ((0, -1, 0), (-1, 0, 0)),
    ((0, 0, 1), (1, 0, 0)), ((0, 0, -1), (1, 0, 0)))], float)


def trace(solids: Solids, rotation: np.ndarray, position: np.ndarray, x: np.ndarray, y: np.ndarray
          ) -> tuple[np.ndarray, np.ndarray]:
    """Return z-depth (h, w) float32 (inf = nothing hit) and the index of the solid hit (h, w) int32 (-1 = none).

    Args:
        rotation, position: world <- camera, (3, 3) and (3,).
        x, y: (w,) and (h,) ascending ray directions at z = 1.
    """
    depth = np.full((len(y), len(x)), np.inf, np.float32)
    index = np.full(depth.shape, -1, np.int32)
    local_origin = apply(solids.inverse, position - solids.centre)                      # (P, 3)
    local_rotation = np.einsum('pij,jk->pik', solids.inverse, rotation)                 # (P, 3, 3)
    order, rectangles, nearest = _visible(solids, rotation, position, x, y)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        for solid in order:
            left, right, top, bottom = rectangles[solid]
            window = (slice(top, bottom), slice(left, right))
            if depth[window].max() <= nearest[solid]:
                continue
            distance = _hit(solids, solid, local_origin[solid], local_rotation[solid], x[left:right], y[top:bottom])
            closer = distance < depth[window]
            depth[window][closer] = distance[closer]
            index[window][closer] = solid
    return depth, index


def _visible(solids: Solids, rotation: np.ndarray, position: np.ndarray, x: np.ndarray, y: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the solids that may be seen, nearest first, their rectangles (P, 4) and least depths (P,)."""
    corners = np.einsum('pcj,jk->pck', solids.corners - position, rotation)             # (P, 8, 3)
    z = corners[..., 2]
    crosses = z.min(axis=1) < NEAR
    safe = np.maximum(z, NEAR)
    u, v = corners[..., 0] / safe, corners[..., 1] / safe                               # (P, 8)
    left, right = np.searchsorted(x, u.min(axis=1)), np.searchsorted(x, u.max(axis=1))
    top, bottom = np.searchsorted(y, v.min(axis=1)), np.searchsorted(y, v.max(axis=1))
    rectangles = np.stack([left, right, top, bottom], axis=1)                           # (P, 4)
    rectangles[crosses] = (0, len(x), 0, len(y))
    seen = (z.max(axis=1) > NEAR) & (rectangles[:, 1] > rectangles[:, 0]) & (rectangles[:, 3] > rectangles[:, 2])
    nearest = np.where(crosses, 0.0, z.min(axis=1))
    middle = np.where(crosses, z.max(axis=1), nearest)      # what crosses the image plane is large: walls, mostly last
    order = np.flatnonzero(seen)
    return order[np.argsort(middle[order], kind='stable')], rectangles, nearest


def _hit(solids: Solids, solid: int, origin: np.ndarray, rotation: np.ndarray, x: np.ndarray, y: np.ndarray
         ) -> np.ndarray:
    """Return the distances (h, w) to one solid for the rays of one rectangle."""
    kind = np.float32 if solids.kind[solid] == BOX else np.float64
    columns = (rotation[:, 0:1] * x).astype(kind)                                       # (3, w)
    rows = (rotation[:, 1:2] * y + rotation[:, 2:3]).astype(kind)                       # (3, h)
    directions = [row[:, None] + column for row, column in zip(rows, columns, strict=True)]
    if solids.kind[solid] == BOX:
        return hit_box(origin.astype(kind), *directions)
    if solids.kind[solid] == FRUSTUM:
        return hit_frustum(origin, *directions, taper=solids.taper[solid]).astype(np.float32)
    return hit_ball(origin, *directions).astype(np.float32)


class Renderer:
    """Renders views of one room and shades its vertices; making one bakes the shadows."""

    def __init__(self, room: BuiltRoom) -> None:
        self.room, self.solids = room, room.solids
        self.shadows = [_cube_map(room.solids, light) for light in room.lights]
        self.footprint = _footprint(room)

    def trace_view(self, path: CameraPath, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Return z-depth and solid index (2H + 1, 2W + 1) on the half-pixel grid of a view."""
        x, y = half_pixel_rays(path)
        pose = path.world_from_cam[view]
        return trace(self.solids, pose[:3, :3], pose[:3, 3], x, y)

    def colour(self, path: CameraPath, view: int, depth: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return linear RGB (H, W, 3) from what `trace_view` found."""
        points, hit = _surface(path, view, depth, index)
        shaded = self.shade(np.maximum(hit, 0), points)
        shaded[hit < 0] = 0.0
        return _tent(shaded.reshape(*depth.shape, 3))                                   # (H, W, 3)

    def reflection(self, path: CameraPath, view: int, depth: np.ndarray, index: np.ndarray
                   ) -> tuple[np.ndarray, np.ndarray]:
        """Return what a depth sensor's light meets at the pixels: cosine (H, W) to the normal, brightness (H, W), 0 to 1."""
        points, hit = _surface(path, view, depth, index)
        local = self.solids.to_local(np.maximum(hit, 0), points)
        back = path.world_from_cam[view, :3, 3] - points
        cosine = (self.solids.normals(np.maximum(hit, 0), local) * back).sum(axis=1) / np.linalg.norm(back, axis=1)
        brightness = self.solids.albedo(np.maximum(hit, 0), local).mean(axis=1)
        return at_pixels(cosine.reshape(depth.shape)), at_pixels(brightness.reshape(depth.shape))

    def shade(self, index: np.ndarray, points: np.ndarray, normals: np.ndarray | None = None) -> np.ndarray:
        """Return linear RGB (N, 3) of surface points (N, 3) of the solids `index` (N,), with given or own normals."""
        local = self.solids.to_local(index, points)
        normals = self.solids.normals(index, local) if normals is None else normals
        albedo = self.solids.albedo(index, local)
        ambient = 0.44 + 0.04 * normals[:, 2]
        light = ambient * self._openness(points, normals)
        for position, power, cube in zip(self.room.lights, self.room.powers, self.shadows, strict=True):
            light += power * self._lamp(position, cube, points, normals)
        light[self.solids.materials.emissive[index]] = 1.0
        return albedo * light[:, None]

    def _lamp(self, position: np.ndarray, cube: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Return the light (N,) that one lamp of power 1 sheds on points (N, 3)."""
        towards = position - points
        squared = (towards * towards).sum(axis=1)
        cosine = np.maximum((normals * towards).sum(axis=1) / np.sqrt(squared), 0.0)
        lit = cosine / (0.55 + 0.16 * squared)
        chosen = np.flatnonzero(cosine > 0)
        lit[chosen] *= _unshadowed(cube, -towards[chosen] + SHADOW_BIAS * normals[chosen])
        return lit

    def _openness(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Return how open (N,) points (N, 3) lie: less in corners and on the floor beside furniture."""
        low, high = np.maximum(points, 0.0), np.maximum(self.room.size - points, 0.0)
        away = 1.0 - np.abs(normals)
        corner = 1.0 - 0.32 * away * (np.exp(-low / 0.22) + np.exp(-high / 0.22))
        openness = corner.prod(axis=1)
        on_floor = np.flatnonzero((points[:, 2] < 0.03) & (normals[:, 2] > 0.9))
        cells = np.clip((points[on_floor, :2] / FLOOR_CELL).astype(int), 0, np.array(self.footprint.shape) - 1)
        openness[on_floor] *= 1.0 - 0.6 * self.footprint[cells[:, 0], cells[:, 1]]
        return openness


def _surface(path: CameraPath, view: int, depth: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (h * w, 3) that the rays of a traced view end at, and the solids (h * w,) there, -1 = none."""
    x, y = half_pixel_rays(path)
    pose = path.world_from_cam[view]
    rays = np.stack([np.broadcast_to(x, depth.shape), np.broadcast_to(y[:, None], depth.shape),
                     np.ones(depth.shape)], axis=-1).reshape(-1, 3)                     # (h*w, 3)
    flat, hit = depth.reshape(-1), index.reshape(-1)                                    # (h*w,)
    return apply(pose[:3, :3], rays * np.where(hit >= 0, flat, 1.0)[:, None]) + pose[:3, 3], hit


def half_pixel_rays(path: CameraPath) -> tuple[np.ndarray, np.ndarray]:
    """Return ray directions x (2W + 1,), y (2H + 1,) at z = 1 on the grid whose odd nodes are the pixel centres."""
    height, width = path.size
    u, v = np.arange(2 * width + 1) / 2 - 0.5, np.arange(2 * height + 1) / 2 - 0.5
    k = path.intrinsics
    return (u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1]


def at_pixels(grid: np.ndarray) -> np.ndarray:
    """Return the values at the pixel centres (H, W) of a half-pixel grid (2H + 1, 2W + 1)."""
    return grid[1::2, 1::2]


def _tent(samples: np.ndarray) -> np.ndarray:
    """Average (2H + 1, 2W + 1, 3) to (H, W, 3) with weights [1 2 1] x [1 2 1] / 16 around the pixel centres."""
    rows = 0.25 * samples[0:-2:2] + 0.5 * samples[1:-1:2] + 0.25 * samples[2::2]
    return 0.25 * rows[:, 0:-2:2] + 0.5 * rows[:, 1:-1:2] + 0.25 * rows[:, 2::2]


def develop(linear: np.ndarray, exposure: float, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Return 8-bit RGB of `linear` (..., 3) >= 0: exposure, tone curve, sensor noise (of its shape, in units of 1)."""
    tone = np.clip(linear * exposure, 0.0, 1.0) ** GAMMA
    return np.clip((tone + noise) * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)


def _cube_map(solids: Solids, light: np.ndarray) -> np.ndarray:
    """Return the depth maps (6, S, S) that a lamp sees."""
    rays = (np.arange(SHADOW_SIDE) + 0.5) / SHADOW_SIDE * 2 - 1
    return np.stack([trace(solids, face, light, rays, rays)[0] for face in CUBE])


def _unshadowed(cube: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the share (N,) of four neighbouring shadow-map rays that reach points at `offsets` (N, 3) from the lamp."""
    size = np.abs(offsets)
    axis = size.argmax(axis=1)
    rows = np.arange(len(offsets))
    face = 2 * axis + (offsets[rows, axis] < 0)
    local = apply(np.swapaxes(CUBE, 1, 2)[face], offsets)                               # (N, 3) right, down, forward
    distance = local[:, 2]
    column = (local[:, 0] / distance + 1) / 2 * SHADOW_SIDE - 0.5
    row = (local[:, 1] / distance + 1) / 2 * SHADOW_SIDE - 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    fx, fy = column - left, row - top
    lit = np.zeros(len(offsets))
    limit = distance * 0.995 - SHADOW_BIAS
    for dx, wx in ((0, 1 - fx), (1, fx)):
        for dy, wy in ((0, 1 - fy), (1, fy)):
            u, v = np.clip(left + dx, 0, SHADOW_SIDE - 1), np.clip(top + dy, 0, SHADOW_SIDE - 1)
            lit += wx * wy * (cube[face, v, u] > limit)
    return lit


def _footprint(room: BuiltRoom) -> np.ndarray:
    """Return how much stands on each cell of the floor, blurred, in [0, 1]."""
    shape = np.ceil(room.size[:2] / FLOOR_CELL).astype(int) + 1
    taken = np.zeros(shape)
    corners = room.solids.corners
    for low, high in zip(corners.min(axis=1), corners.max(axis=1), strict=True):
        standing = 0.02 < high[2] and low[2] < 0.6 and (high - low)[:2].max() < 0.95 * room.size[:2].max()
        if standing:
            (x0, y0), (x1, y1) = (np.clip(corner[:2] / FLOOR_CELL, 0, shape).astype(int) for corner in (low, high))
            taken[x0:x1 + 1, y0:y1 + 1] = np.maximum(taken[x0:x1 + 1, y0:y1 + 1], 1.0 - max(low[2], 0.0) / 0.6)
    return gaussian_filter(taken, 0.09 / FLOOR_CELL)
