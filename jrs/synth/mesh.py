"""The mesh that a scan of a room would give: tessellated surfaces, seen faces only, colours and an over-segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from jrs.synth.camera_path import CameraPath
from jrs.synth.primitives import ELLIPSOID, FRUSTUM, Solids, apply
from jrs.synth.renderer import Renderer, half_pixel_rays

FINEST = 0.012                                              # metres
SMALLEST_FACE = 1e-8                                        # square metres
SEGMENT_CELL = 0.45                                         # metres, side of a segment on a large surface
MIN_SEGMENT = 20                                            # vertices, as ScanNet's segMinVerts
BLEED = 0.06                                                # chance of a segment to be lost to another object's …
BLEED_REACH, BLEED_STEP = 0.08, 0.03                        # … that is so near, in metres, and nearly in one plane with it
BLEED_ANGLE, BLEED_CONTACTS, BLEED_SHARE = 0.97, 4, 0.2     # cosine; pairs of vertices; most of an object that it may lose


@dataclass
class Mesh:
    """A labelled mesh in the room's frame.

    Attributes:
        vertices, normals: (N, 3).
        colours: (N, 3) linear RGB.
        faces: (M, 3) vertex indices.
        solid, owner: (N,) the solid and the object of each vertex.
        segments: (N,) segment ids: the first vertex of each segment; a segment belongs to one object.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    solid: np.ndarray
    owner: np.ndarray
    segments: np.ndarray
    colours: np.ndarray | None = None

    def keep(self, faces: np.ndarray) -> Mesh:
        """Return the mesh with the faces of the mask (M,) and the vertices that they use."""
        kept = self.faces[faces]
        used = np.zeros(len(self.vertices), bool)
        used[kept] = True
        renumbered = np.cumsum(used) - 1
        return Mesh(self.vertices[used], self.normals[used], renumbered[kept], self.solid[used], self.owner[used],
                    self.segments[used])


def scan_mesh(renderer: Renderer, path: CameraPath, depths: list[np.ndarray], spacing: float,
              object_vertices: int, random: np.random.Generator) -> Mesh:
    """Return what the views of `path` see of a room.

    Args:
        depths: per view the z-depth (2H + 1, 2W + 1), metres, on the half-pixel grid, as `Renderer.trace_view` gives it.
        spacing: metres between vertices on large surfaces.
        object_vertices: small objects get so many before their hidden faces are dropped.
        random: decides which segments bleed into another object.
    """
    mesh = tessellate(renderer.solids, spacing, object_vertices)
    shell = mesh.owner < renderer.room.num_stuff            # walls overlap at the corners: pull them into the room
    mesh.vertices[shell] = np.clip(mesh.vertices[shell], 0.0, renderer.room.size)
    seen = seen_vertices(mesh, path, depths)
    mesh = mesh.keep(seen[mesh.faces].all(axis=1) & (_areas(mesh) > SMALLEST_FACE))
    sizes = np.bincount(mesh.owner, minlength=1)
    mesh = mesh.keep((sizes[mesh.owner] >= MIN_SEGMENT)[mesh.faces[:, 0]])
    mesh.segments = merge_small_segments(mesh)
    bleed(mesh, random)
    mesh.colours = renderer.shade(mesh.solid, mesh.vertices, mesh.normals)
    return mesh


def tessellate(solids: Solids, spacing: float, object_vertices: int) -> Mesh:
    """Return grids of triangles over all surfaces of the solids."""
    steps = _object_spacing(solids, spacing, object_vertices)
    parts, offset, patches = [], 0, 0
    for solid in range(len(solids)):
        for local, normal, (rows, columns) in _patches(solids, solid, steps[solids.owner[solid]]):
            faces = _grid_faces(rows, columns) + offset
            points = apply(solids.matrix[solid], local) + solids.centre[solid]
            normals = apply(solids.inverse[solid].T, normal)
            cells = patches + _cells(points.reshape(rows, columns, 3))
            parts.append((points, normals / np.linalg.norm(normals, axis=1, keepdims=True), faces,
                          np.full(len(points), solid), cells))
            offset += len(points)
            patches = int(cells.max()) + 1
    points, normals, faces, solid, segments = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Mesh(points, normals, faces, solid, solids.owner[solid], segments)


def _object_spacing(solids: Solids, spacing: float, object_vertices: int) -> np.ndarray:
    """Return metres between vertices per object (O,): finer where an object is small."""
    x, y, z = 2 * solids.half_sizes.T
    areas = np.bincount(solids.owner, 2 * (x * y + y * z + z * x))
    return np.clip(np.sqrt(areas / object_vertices), FINEST, spacing)


def _patches(solids: Solids, solid: int, step: float) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    """Yield local points (n, 3), local normals (n, 3) and grid shape of every patch of a solid's surface."""
    sides = 2 * solids.half_sizes[solid]
    if solids.kind[solid] == FRUSTUM:
        yield from _frustum_patches(solids.taper[solid], sides, step)
        return
    for axis in range(3):
        first, second = [other for other in range(3) if other != axis]
        for sign in (-1.0, 1.0):
            grid, shape = _grid(sides[first], sides[second], step)
            local = np.zeros((len(grid), 3))
            local[:, axis], local[:, [first, second]] = sign, grid
            normal = np.zeros_like(local)
            normal[:, axis] = sign
            if solids.kind[solid] == ELLIPSOID:
                local = np.tan(local * np.pi / 4)           # nearly even steps on the ball
                local /= np.linalg.norm(local, axis=1, keepdims=True)
                normal = local
            yield local, normal, shape


def _frustum_patches(taper: float, sides: np.ndarray, step: float
                     ) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    """Yield the side of a frustum, unrolled, and its two caps."""
    grid, shape = _grid(max(np.pi * sides[0], 6.5 * step), sides[2], step)
    angle, z = np.pi * grid[:, 0], grid[:, 1]
    slope = (taper - 1.0) / 2.0
    radius = (1.0 + taper) / 2.0 + slope * z
    yield (np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1),
           np.stack([np.cos(angle), np.sin(angle), np.full_like(z, -slope)], axis=1), shape)
    for z, radius in ((-1.0, 1.0), (1.0, taper)):
        grid, shape = _grid(sides[0], sides[1], step)
        x, y = grid.T
        disc = radius * np.stack([x * np.sqrt(1 - y * y / 2), y * np.sqrt(1 - x * x / 2)], axis=1)     # square -> disc
        constant = np.full((len(grid), 1), z)
        yield np.hstack([disc, constant]), np.hstack([np.zeros_like(disc), constant]), shape


def _grid(width: float, height: float, step: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Return points (rows * columns, 2) that cover [-1, 1]^2 with steps of about `step` metres."""
    rows, columns = (max(2, int(np.ceil(side / step)) + 1) for side in (width, height))
    first, second = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing='ij')
    return np.stack([first.ravel(), second.ravel()], axis=1), (rows, columns)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Return the triangles (2 * (rows - 1) * (columns - 1), 3) of a grid."""
    start = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([np.stack([start, start + columns, start + 1], axis=1),
                           np.stack([start + 1, start + columns, start + columns + 1], axis=1)])


def _cells(points: np.ndarray) -> np.ndarray:
    """Return the segment cell of each point of a patch (rows, columns, 3): about SEGMENT_CELL metres square, (n,)."""
    rows, columns = points.shape[:2]
    lengths = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in (points[:, columns // 2], points[rows // 2])]
    counts = [max(1, round(length / SEGMENT_CELL)) for length in lengths]
    row, column = (np.minimum(np.arange(size) * count // size, count - 1)
                   for size, count in zip((rows, columns), counts, strict=True))
    return (row[:, None] * counts[1] + column).ravel()


def _areas(mesh: Mesh) -> np.ndarray:
    """Return the areas (M,) of the faces, square metres."""
    first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2


def seen_vertices(mesh: Mesh, path: CameraPath, depths: list[np.ndarray]) -> np.ndarray:
    """Return which vertices (N,) some view sees: facing it, inside the image, at the depth that was traced."""
    seen = np.zeros(len(mesh.vertices), bool)
    x, y = half_pixel_rays(path)
    for pose, depth in zip(path.world_from_cam, depths, strict=True):
        left = np.flatnonzero(~seen)
        offsets = mesh.vertices[left] - pose[:3, 3]
        facing = (offsets * mesh.normals[left]).sum(axis=1) < 0
        left, local = left[facing], apply(pose[:3, :3].T, offsets[facing])              # (n, 3) in the camera
        front = local[:, 2] > 0.05
        left, local = left[front], local[front]
        u = np.rint((local[:, 0] / local[:, 2] - x[0]) / (x[1] - x[0])).astype(int)
        v = np.rint((local[:, 1] / local[:, 2] - y[0]) / (y[1] - y[0])).astype(int)
        inside = (u >= 0) & (u < len(x)) & (v >= 0) & (v < len(y))
        z = local[inside, 2]
        hit = np.abs(depth[v[inside], u[inside]] - z) < 0.01 + 0.015 * z
        seen[left[inside][hit]] = True
    return seen


def merge_small_segments(mesh: Mesh) -> np.ndarray:
    """Return segment ids (N,), each its first vertex, after joining small segments to the nearest one of their object."""
    ids, segments = np.unique(mesh.segments, return_inverse=True)
    sizes = np.bincount(segments)
    centres = np.stack([np.bincount(segments, mesh.vertices[:, axis]) for axis in range(3)], axis=1) / sizes[:, None]
    owner = np.zeros(len(ids), int)
    owner[segments] = mesh.owner
    target = np.arange(len(ids))
    for index in np.argsort(owner, kind='stable'):
        while sizes[index] and sizes[index] < MIN_SEGMENT:
            others = np.flatnonzero((owner == owner[index]) & (sizes > 0) & (np.arange(len(ids)) != index))
            if not len(others):
                break
            nearest = others[np.linalg.norm(centres[others] - centres[index], axis=1).argmin()]
            total = sizes[index] + sizes[nearest]
            centres[nearest] = (centres[index] * sizes[index] + centres[nearest] * sizes[nearest]) / total
            sizes[nearest], sizes[index] = total, 0
            target[target == index] = nearest
    _, first, merged = np.unique(target[segments], return_index=True, return_inverse=True)
    return first[merged]


def bleed(mesh: Mesh, random: np.random.Generator) -> None:
    """Give a few segments to an object that they touch in one plane, in place; each loses at most BLEED_SHARE of itself.

    As in ScanNet, where objects are annotated by segments: what a segment swallows belongs to the wrong object.
    """
    ids, segments, sizes = np.unique(mesh.segments, return_inverse=True, return_counts=True)
    losses = np.bincount(mesh.owner) * BLEED_SHARE
    taken = np.zeros(len(ids), bool)
    for loser, winner in _contacts(mesh, segments):
        if sizes[loser] > sizes[winner]:
            loser, winner = winner, loser
        owner = mesh.owner[ids[loser]]
        lost = random.random() < BLEED and not (taken[loser] or taken[winner])
        if lost and sizes[loser] <= losses[owner]:
            losses[owner] -= sizes[loser]
            taken[[loser, winner]] = True
            members = segments == loser
            mesh.owner[members] = mesh.owner[ids[winner]]
            mesh.segments[segments == winner] = mesh.segments[members] = min(ids[loser], ids[winner])


def _contacts(mesh: Mesh, segments: np.ndarray) -> np.ndarray:
    """Return pairs (n, 2) of segment numbers (N,) of different objects that touch in one plane, in order."""
    first, second = cKDTree(mesh.vertices).query_pairs(BLEED_REACH, output_type='ndarray').T
    apart = mesh.owner[first] != mesh.owner[second]
    first, second = first[apart], second[apart]
    offset = mesh.vertices[first] - mesh.vertices[second]
    normal = mesh.normals[first]
    flat = ((normal * mesh.normals[second]).sum(axis=1) > BLEED_ANGLE) & (
        np.abs((normal * offset).sum(axis=1)) < BLEED_STEP)
    pairs = np.sort(np.stack([segments[first[flat]], segments[second[flat]]], axis=1), axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found[counts >= BLEED_CONTACTS]
