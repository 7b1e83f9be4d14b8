"""Point clouds as still pictures, drawn in numpy: z-buffered splats with shaded depth edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jrs.visualization.pictures import Picture, to_numpy

EDGE_STRENGTH = 6.0                             # how dark the far side of a depth edge becomes
DISTANCE = 2.5                                  # of the viewer from the centre, in radii
LARGEST_SPLAT = 6                               # pixels along an edge that a near point may cover
GROUND = 238                                    # grey behind the points: white walls and tables stay visible


def scene_frame(points: np.ndarray, cam_from_world) -> tuple[np.ndarray, np.ndarray, float]:
    """Return how to stand in a scene: axes (3, 3), centre (3,) and radius.

    The rows of the axes are right, up and backward, from the mean orientation of the cameras; the centre is the middle
    of the box that holds 96 % of the points along each axis, the radius half its diagonal.

    Args:
        points: (N, 3).
        cam_from_world: (V, 4, 4).
    """
    rotations = to_numpy(cam_from_world).astype(np.float64)[:, :3, :3]
    up = _unit(-rotations[:, 1].mean(0), np.array([0.0, -1.0, 0.0]))
    backward = -rotations[:, 2].mean(0)
    first = -rotations[0, 2] - up * (-rotations[0, 2] @ up)                        # where cameras look all around
    backward = _unit(backward - up * (backward @ up), _unit(first, np.array([0.0, 0.0, -1.0])))
    axes = np.stack([np.cross(up, backward), up, backward])
    if len(points) == 0:
        return axes, np.zeros(3), 1.0
    low, high = np.percentile(points @ axes.T, [2, 98], axis=0)
    return axes, (low + high) / 2 @ axes, max(float(np.linalg.norm(high - low)) / 2, 1e-6)


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-3 else otherwise


def turned(axes: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """Return the `axes` (3, 3), rows right, up and backward, of who walked `yaw` degrees to the right and `pitch` up."""
    a, b = np.radians([yaw, pitch])
    right = np.cos(a) * axes[0] - np.sin(a) * axes[2]
    level = np.sin(a) * axes[0] + np.cos(a) * axes[2]
    backward = np.cos(b) * level + np.sin(b) * axes[1]
    return np.stack([right, np.cross(backward, right), backward])


def render_cloud(points, colours, axes: np.ndarray, centre: np.ndarray, radius: float, yaw: float = 0.0,
                 pitch: float = 15.0, size: tuple[int, int] = (360, 480), normals=None,
                 background: int = GROUND) -> Picture:
    """Draw a cloud in perspective from 2.5 radii away, filling the picture.

    Args:
        points: (N, 3).
        colours: (N, 3) uint8.
        axes, centre, radius: from `scene_frame`.
        yaw, pitch: degrees from the mean viewing direction.
        size: (height, width).
        normals: (N, 3); surfaces that turn their back are left out, so that one looks into a room. None draws all.
    """
    shot = shot_of(points, axes, centre, radius, yaw, pitch, size, normals)
    local, colours = shot.local(to_numpy(points).astype(np.float64)), to_numpy(colours)
    seen = shot.seen(local, normals)
    local, colours = local[seen], colours[seen]
    if len(local) == 0:
        return np.full((*size, 3), background, np.uint8)
    depth, picture = _splat(*shot.pixels(local), local[:, 2], colours, size, background)
    return shade_edges(depth, picture)


@dataclass(frozen=True)
class Shot:
    """A camera that looks at a cloud: where it stands, and how it fills its picture.

    Attributes:
        axes: (3, 3), rows right, up and backward.
        centre: (3,) that it turns about.
        radius: its distance is `DISTANCE` of these.
        focal: pixels per unit of the plane at depth 1.
        middle: (2,) of that plane, in the middle of the picture.
        size: (height, width).
    """

    axes: np.ndarray
    centre: np.ndarray
    radius: float
    focal: float
    middle: np.ndarray
    size: tuple[int, int]

    def local(self, points: np.ndarray) -> np.ndarray:
        """Return points (N, 3) in its frame, (N, 3): right, up and z-depth, in radii."""
        local = (points - self.centre) @ self.axes.T / self.radius
        local[:, 2] = DISTANCE - local[:, 2]
        return local

    def pixels(self, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return u and v (N,) of points (N, 3) that `local` gave."""
        plane = local[:, :2] / local[:, 2:] * [1, -1]                                       # (N, 2)
        u, v = ((plane - self.middle) * self.focal + [self.size[1] / 2, self.size[0] / 2]).T
        return u, v

    def seen(self, local: np.ndarray, normals) -> np.ndarray:
        """Return which points (N, 3) of `local` lie in front and, with `normals` (N, 3), face the camera: (N,) bool."""
        seen = local[:, 2] > 0.15
        if normals is not None:
            facing = to_numpy(normals).astype(np.float64) @ self.axes.T                     # (N, 3)
            seen &= (facing * (local * [-1, -1, 1])).sum(-1) > -0.1
        return seen

    def zoomed(self, box: tuple[float, float, float, float]) -> Shot:
        """Return the shot whose picture shows the part x, y, width, height of this one, as large as it fits."""
        x, y, width, height = box
        grow = min(self.size[1] / width, self.size[0] / height)
        aside = np.array([x + width / 2 - self.size[1] / 2, y + height / 2 - self.size[0] / 2]) / self.focal
        return replace(self, focal=self.focal * grow, middle=self.middle + aside)


def shot_of(points, axes: np.ndarray, centre: np.ndarray, radius: float, yaw: float, pitch: float, size: tuple[int, int],
            normals=None) -> Shot:
    """Return the shot of a cloud (N, 3) whose seen points fill 94 % of the picture; arguments as of `render_cloud`."""
    shot = Shot(turned(axes, yaw, pitch), centre, radius, 1.0, np.zeros(2), size)
    local = shot.local(to_numpy(points).astype(np.float64))
    local = local[shot.seen(local, normals)]
    if len(local) == 0:
        return shot
    plane = local[:, :2] / local[:, 2:] * [1, -1]                                           # (N, 2)
    low, high = np.percentile(plane, [0.5, 99.5], axis=0)
    height, width = size
    focal = 0.94 * min(width / max(high[0] - low[0], 1e-6), height / max(high[1] - low[1], 1e-6))
    return replace(shot, focal=focal, middle=(low + high) / 2)


def _splat(u, v, z, colours, size, background) -> tuple[np.ndarray, Picture]:
    """Paint squares far to near: return the z-buffer (height, width), inf = nothing, and the picture."""
    height, width = size
    depth, picture = np.full(height * width, np.inf), np.full((height * width, 3), background, np.uint8)
    edge = 1.6 * (0.6 * height * width / len(z)) ** 0.5 * np.median(z) / z                  # (n,) pixels
    edge = np.clip(np.rint(edge), 1, LARGEST_SPLAT)
    columns, rows, source = [], [], []
    for dx, dy in np.ndindex(LARGEST_SPLAT, LARGEST_SPLAT):
        covering = np.flatnonzero(edge > max(dx, dy))
        columns.append(np.floor(u[covering]).astype(np.int64) + dx)
        rows.append(np.floor(v[covering]).astype(np.int64) + dy)
        source.append(covering)
    columns, rows, source = (np.concatenate(parts) for parts in (columns, rows, source))
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixels, source = rows[inside] * width + columns[inside], source[inside]
    order = np.argsort(-z[source], kind='stable')
    depth[pixels[order]] = z[source[order]]                                         # the last one, the nearest, stays
    picture[pixels[order]] = colours[source[order]]
    return depth.reshape(height, width), picture.reshape(height, width, 3)


def shade_edges(depth: np.ndarray, picture: np.ndarray) -> Picture:
    """Darken pixels that lie behind a neighbour, so that shape shows without lights.

    Args:
        depth: (height, width) z-depth, inf = nothing.
        picture: (height, width, 3) in 0 .. 255.
    """
    log_depth = np.log(np.where(np.isfinite(depth), depth, 1e3))
    behind = np.zeros_like(depth)
    for axis in (0, 1):
        for step in (-1, 1):
            neighbour = np.roll(log_depth, step, axis)
            behind += np.clip(log_depth - neighbour, 0, 0.12)
    shade = np.where(np.isfinite(depth), np.exp(-EDGE_STRENGTH * behind / 4), 1.0)
    return np.rint(picture * shade[..., None]).astype(np.uint8)
