"""Point clouds as still pictures, drawn in numpy: z-buffered splats with shaded depth edges."""

from __future__ import annotations

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
    points, colours = to_numpy(points).astype(np.float64), to_numpy(colours)
    view_axes = turned(axes, yaw, pitch)
    local = (points - centre) @ view_axes.T / radius                                        # (N, 3)
    local[:, 2] = DISTANCE - local[:, 2]                                                    # z-depth
    seen = local[:, 2] > 0.15
    if normals is not None:
        facing = to_numpy(normals).astype(np.float64) @ view_axes.T                          # (N, 3)
        seen &= (facing * (local * [-1, -1, 1])).sum(-1) > -0.1
    local, colours = local[seen], colours[seen]
    if len(local) == 0:
        return np.full((*size, 3), background, np.uint8)
    depth, picture = _splat(*_fit(local, size), local[:, 2], colours, size, background)
    return _shade_edges(depth, picture)


def _fit(local: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Project (N, 3) points, y up and z the depth, so that nearly all of them fill 94 % of the picture."""
    height, width = size
    plane = local[:, :2] / local[:, 2:] * [1, -1]                                           # (N, 2)
    low, high = np.percentile(plane, [0.5, 99.5], axis=0)
    focal = 0.94 * min(width / max(high[0] - low[0], 1e-6), height / max(high[1] - low[1], 1e-6))
    u, v = ((plane - (low + high) / 2) * focal + [width / 2, height / 2]).T
    return u, v


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


def _shade_edges(depth: np.ndarray, picture: Picture) -> Picture:
    """Darken pixels that lie behind a neighbour, so that shape shows without lights."""
    log_depth = np.log(np.where(np.isfinite(depth), depth, 1e3))
    behind = np.zeros_like(depth)
    for axis in (0, 1):
        for step in (-1, 1):
            neighbour = np.roll(log_depth, step, axis)
            behind += np.clip(log_depth - neighbour, 0, 0.12)
    shade = np.where(np.isfinite(depth), np.exp(-EDGE_STRENGTH * behind / 4), 1.0)
    return np.rint(picture * shade[..., None]).astype(np.uint8)
