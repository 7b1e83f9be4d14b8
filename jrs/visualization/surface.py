"""Meshes as still pictures: a z-buffer in numpy that remembers which triangle each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jrs.visualization.cloud import DISTANCE, Shot, shade_edges
from jrs.visualization.pictures import Picture

FINE = 1.5                                      # samples per pixel along the longest edge of a triangle
LARGEST = 2048                                  # samples along an edge
CHUNK = 2_000_000                               # samples that are worked on at once
DARKEST = 0.72                                  # brightness of a surface that is seen edge-on


@dataclass(frozen=True)
class Raster:
    """What each pixel of a shot shows of a mesh.

    Attributes:
        depth: (height, width) z-depth, inf = nothing.
        face: (height, width) int64 triangle, -1 = nothing.
        weights: (height, width, 3) how much of each of its corners, sum 1.
        bright: (height, width) in [0, 1], by how much the surface faces the viewer.
    """

    depth: np.ndarray
    face: np.ndarray
    weights: np.ndarray
    bright: np.ndarray

    def picture(self, faces: np.ndarray, colours: np.ndarray, background: int = 255) -> Picture:
        """Return the mesh in colours that run between its vertices: faces (M, 3), colours (N, 3) uint8."""
        drawn = (self.weights[..., None] * colours[faces[self.face]]).sum(-2)               # (height, width, 3)
        return self._lit(drawn, background)

    def patches(self, faces: np.ndarray, colours: np.ndarray, background: int = 255) -> Picture:
        """Return the mesh in the colour of the nearest vertex: faces (M, 3), colours (N, 3) uint8."""
        return self._lit(colours[self.corners(faces)].astype(np.float64), background)

    def corners(self, faces: np.ndarray) -> np.ndarray:
        """Return the vertex (h, w) of `faces` (M, 3) nearest to what each pixel shows; no meaning where that is nothing."""
        return np.take_along_axis(faces[self.face], self.weights.argmax(-1)[..., None], -1)[..., 0]

    def numbers(self, faces: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return which of `numbers` (N,) each pixel (height, width) shows, 0 = nothing."""
        return np.where(self.face >= 0, numbers[self.corners(faces)], 0)

    def _lit(self, drawn: np.ndarray, background: int) -> Picture:
        drawn = np.where((self.face >= 0)[..., None], drawn * self.bright[..., None], background)
        return shade_edges(self.depth, drawn)


def rasterised(shot: Shot, vertices: np.ndarray, faces: np.ndarray) -> Raster:
    """Return what a shot shows of a mesh; triangles that turn their back are left out, so that one looks into a room.

    Args:
        shot: the camera.
        vertices: (N, 3).
        faces: (M, 3) corners, against the clock as seen from the front.
    """
    height, width = shot.size
    local = shot.local(vertices.astype(np.float64))
    pixels, nearness = np.stack(shot.pixels(local), 1), 1 / np.maximum(local[:, 2], 1e-9)   # (N, 2), (N,)
    facing = facing_of(shot, vertices, faces)
    corners = pixels[faces]                                                                 # (M, 3, 2)
    low, high = corners.min(1), corners.max(1)
    seen = (local[faces, 2] > 0.15).all(1) & (facing > 0) & (high >= 0).all(1) & (low < [width, height]).all(1)
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(1)
    steps = 2 ** np.ceil(np.log2(np.clip(longest * FINE, 1, LARGEST))).astype(int)
    depth, face = np.full(height * width, np.inf), np.full(height * width, -1)
    weights = np.zeros((height * width, 3), np.float32)
    for step in np.unique(steps[seen]):
        lattice = _lattice(int(step))                                                       # (S, 3)
        those = np.flatnonzero(seen & (steps == step))
        for part in np.array_split(those, -(-len(those) * len(lattice) // CHUNK)):
            _paint(part, lattice, corners[part], nearness[faces[part]], (height, width), depth, face, weights)
    bright = np.where(face >= 0, DARKEST + (1 - DARKEST) * facing[face], 0.0)
    return Raster(*(values.reshape(height, width, *values.shape[1:]) for values in (depth, face, weights, bright)))


def facing_of(shot: Shot, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the cosine between the normals of triangles (M, 3) of vertices (N, 3) and the way to the camera, (M,)."""
    corners = vertices[faces].astype(np.float64)                                            # (M, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = shot.centre + DISTANCE * shot.radius * shot.axes[2] - corners.mean(1)
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(towards, axis=1)
    return (normals * towards).sum(1) / np.maximum(lengths, 1e-300)


def _lattice(steps: int) -> np.ndarray:
    """Return weights (S, 3) of points spread over a triangle, `steps` intervals along each edge."""
    first, second = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing='ij')
    first, second = first[first + second <= steps], second[first + second <= steps]
    return np.stack([first, second, steps - first - second], 1) / steps


def _paint(numbers: np.ndarray, lattice: np.ndarray, corners: np.ndarray, nearness: np.ndarray, size: tuple[int, int],
           depth: np.ndarray, face: np.ndarray, weights: np.ndarray) -> None:
    """Write triangles `numbers` (m,) into the flat buffers where they are nearer than what is there.

    Args:
        numbers: which.
        lattice: (S, 3) weights of samples.
        corners: (m, 3, 2) pixels.
        nearness: (m, 3) 1 / z-depth, which runs evenly over the picture.
        size: (height, width).
        depth, face, weights: (height * width,), the same, (height * width, 3); changed.
    """
    u, v = np.moveaxis(np.einsum('sc,mcx->msx', lattice, corners), -1, 0)                   # (m, S)
    z = 1 / np.einsum('sc,mc->ms', lattice, nearness)
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    sample = np.flatnonzero(((column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])).ravel())
    pixel, z = (row * size[1] + column).ravel()[sample], z.ravel()[sample]
    order = np.argsort(-z, kind='stable')
    nearest = np.full(len(depth), -1)
    nearest[pixel[order]] = order                                                           # the last one, the nearest
    pixel = np.flatnonzero(nearest >= 0)
    kept = nearest[pixel]
    closer = z[kept] < depth[pixel]
    pixel, kept = pixel[closer], kept[closer]
    triangle, place = np.divmod(sample[kept], len(lattice))
    depth[pixel], face[pixel], weights[pixel] = z[kept], numbers[triangle], lattice[place]
