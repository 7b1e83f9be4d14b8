"""Superpoints: ScanNet's over-segmentation of meshes, and the same on a cloud of points (baselines.md section 4.3).

Neighbours whose normals agree are joined by the graph method of Felzenszwalb and Huttenlocher (IJCV 2004). Numbers are
float32 throughout, as in ScanNet's program: in float64 other vertices are joined.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

THRESHOLD, MIN_SIZE = 0.01, 20                 # ScanNet's: joins grow rarer with size; smaller components are joined
GRAPH_NEIGHBOURS, NORMAL_NEIGHBOURS = 8, 16    # of a cloud of points; ours
FALLBACK_M = 0.1                               # edge of the cells that stand in for superpoints; ours
CHUNK = 1 << 15                                # points whose neighbourhoods are in memory at a time
EDGES = 1 << 18                                # edges that are Python's at a time


def mesh_superpoints(vertices: np.ndarray, faces: np.ndarray, threshold: float = THRESHOLD,
                     min_size: int = MIN_SIZE) -> np.ndarray:
    """Return the superpoint of each vertex of a mesh, (N,) int64, 0 .. S - 1 in order of first appearance.

    A vertex of no face is a superpoint of its own.

    Args:
        vertices: (N, 3) metres.
        faces: (M, 3) integers.
        threshold: of normals; larger values join more.
        min_size: components of fewer vertices are joined to a neighbour.
    """
    vertices = np.asarray(vertices, np.float32)
    tails, heads = face_edges(faces)
    return _segments(vertices, vertex_normals(vertices, faces), tails, heads, threshold, min_size)


def cloud_superpoints(points: np.ndarray, towards: np.ndarray | None = None, threshold: float = THRESHOLD,
                      min_size: int = MIN_SIZE, normal_neighbours: int = NORMAL_NEIGHBOURS) -> np.ndarray:
    """Return the superpoint of each point of a cloud, (N,) int64, 0 .. S - 1 in order of first appearance.

    As of a mesh, over the 8 nearest neighbours of each point; a pair of neighbours is listed in both directions, as an edge
    between two faces is. Where no normals can be had, with fewer than 3 points, cells of 10 cm stand in.

    Args:
        points: (N, 3) metres, about equally dense.
        towards: (N, 3) a place on the side from which each surface was seen, such as the camera's; None = above the cloud.
        threshold, min_size: as of `mesh_superpoints`.
        normal_neighbours: points, itself among them, of which a point's normal is made; fewer where points are sparse, since
            these reach over edges sooner.
    """
    points = np.asarray(points, np.float32)
    if len(points) < 3:
        return cell_superpoints(points)
    if towards is None:
        towards = points.mean(axis=0) + [0, 0, 1e3]
    neighbours = nearest_neighbours(points, max(normal_neighbours, GRAPH_NEIGHBOURS + 1))   # (N, k), itself first
    normals = cloud_normals(points, neighbours[:, :normal_neighbours], towards)
    tails, heads = neighbour_pairs(neighbours[:, 1:GRAPH_NEIGHBOURS + 1])
    return _segments(points, normals, tails, heads, threshold, min_size)


def cell_superpoints(points: np.ndarray, edge_m: float = FALLBACK_M) -> np.ndarray:
    """Return the cell of edge `edge_m` that each point (N, 3) is in, (N,) int64 in order of first appearance."""
    cells = np.floor(np.asarray(points, np.float64) / edge_m).astype(np.int64)
    return numbered(np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1))


def face_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the edges (3 M,) of faces (M, 3) begin and end, as ScanNet lists them: v0 -> v1, v2 -> v1, v0 -> v2."""
    first, second, third = np.asarray(faces, np.int64).reshape(-1, 3).T
    return np.stack([first, third, first], axis=1).ravel(), np.stack([second, second, third], axis=1).ravel()


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the running average of the unit normals of each vertex's faces in their order, (N, 3) float32.

    It is not brought to length 1 again. A face without area says nothing; a vertex of no other face has zeros.
    """
    corners = vertices[faces]                                                               # (M, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals = (normals / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
    faces, normals = np.asarray(faces, np.int64)[lengths > 0], normals[lengths > 0]
    average = np.zeros((len(vertices), 3), np.float32)
    vertex, face = faces.ravel(), np.repeat(np.arange(len(faces)), 3)                       # in order of faces
    order = vertex.argsort(kind='stable')
    starts = np.searchsorted(vertex[order], vertex[order])
    turn = np.empty_like(starts)
    turn[order] = np.arange(len(order)) - starts                                            # which face of its vertex
    for number in range(int(turn.max(initial=-1)) + 1):                                     # each vertex once at a turn
        now = turn == number
        share = np.float32(1) / np.float32(number + 1)
        average[vertex[now]] = (1 - share) * average[vertex[now]] + share * normals[face[now]]
    return average


def cloud_normals(points: np.ndarray, neighbours: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Return unit normals (N, 3) float32 of points (N, 3): the direction in which `neighbours` (N, k) spread least.

    They are turned to `towards`, (N, 3) or (3,).
    """
    points, normals = np.asarray(points, np.float32), np.empty((len(points), 3), np.float32)
    for start in range(0, len(points), CHUNK):
        around = points[neighbours[start:start + CHUNK]].astype(np.float64)                 # (n, k, 3)
        around -= around.mean(axis=1, keepdims=True)
        normals[start:start + CHUNK] = np.linalg.eigh(around.transpose(0, 2, 1) @ around)[1][:, :, 0]
    away = ((np.asarray(towards, np.float32) - points) * normals).sum(axis=1) < 0
    normals[away] *= -1
    return normals


def neighbour_pairs(neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the edges (n,) between points and their `neighbours` (N, k) begin and end.

    Each pair of which one is the other's neighbour is there once in both directions, sorted.
    """
    own = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    other = neighbours.ravel().astype(np.int64)
    keys = np.unique(np.concatenate([own * len(neighbours) + other, other * len(neighbours) + own]))
    tails, heads = np.divmod(keys, len(neighbours))
    return tails[tails != heads], heads[tails != heads]


def edge_weights(points: np.ndarray, normals: np.ndarray, tails: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Return how much the normals (N, 3) at the ends of edges (n,) differ, (n,) float32: 0 = not at all.

    1 - cos, and squared where the surface is convex: where the head's normal looks on from the tail.
    """
    step = points[heads] - points[tails]
    length = np.sqrt((step * step).sum(axis=1))
    along = (normals[heads] * (step / np.where(length > 0, length, np.float32(1))[:, None])).sum(axis=1)
    differ = 1 - (normals[tails] * normals[heads]).sum(axis=1)
    return np.where(along > 0, differ * differ, differ)


def joined_components(tails: np.ndarray, heads: np.ndarray, weights: np.ndarray, count: int, threshold: float) -> np.ndarray:
    """Join the ends of edges (n,) whose weight is no more than both components bear; returns each point's root, (N,).

    A component bears the weight that made it plus `threshold` / its size.

    Args:
        tails, heads, weights: of the edges, least weight first.
        count: N points.
        threshold: what a single point bears.
    """
    parent, size = list(range(count)), [1] * count
    patience = (np.float32(threshold) / np.arange(1, count + 1, dtype=np.float32)).tolist()         # by size
    bears, single = patience[:1] * count, np.float32
    for start in range(0, len(tails), EDGES):
        edges = (part[start:start + EDGES].tolist() for part in (tails, heads, weights))
        for tail, head, weight in zip(*edges, strict=True):
            while parent[tail] != tail:
                parent[tail] = tail = parent[parent[tail]]
            while parent[head] != head:
                parent[head] = head = parent[parent[head]]
            if tail == head or weight > bears[tail] or weight > bears[head]:
                continue
            if size[tail] < size[head]:
                tail, head = head, tail
            parent[head] = tail
            size[tail] += size[head]
            bears[tail] = float(single(weight + patience[size[tail] - 1]))
    return roots(parent)


def small_joined(component: np.ndarray, tails: np.ndarray, heads: np.ndarray, min_size: int) -> np.ndarray:
    """Join components of fewer than `min_size` points along edges (n,), in their order; returns each point's root, (N,).

    `component` (N,) is the root of each point so far.
    """
    points = np.bincount(component, minlength=len(component))                               # (N,), 0 but for roots
    tails, heads = component[tails], component[heads]
    open_ends = (tails != heads) & ((points[tails] < min_size) | (points[heads] < min_size))        # sizes only grow
    parent, size = list(range(len(component))), points.tolist()
    for tail, head in zip(tails[open_ends].tolist(), heads[open_ends].tolist(), strict=True):
        while parent[tail] != tail:
            parent[tail] = tail = parent[parent[tail]]
        while parent[head] != head:
            parent[head] = head = parent[parent[head]]
        if tail != head and (size[tail] < min_size or size[head] < min_size):
            parent[head] = tail
            size[tail] += size[head]
    return roots(parent)[component]


def roots(parent: list[int]) -> np.ndarray:
    """Return the root of each point in a forest of parents, (N,) int64."""
    found = np.array(parent, np.int64)
    while (found[found] != found).any():
        found = found[found]
    return found


def numbered(values: np.ndarray) -> np.ndarray:
    """Return numbers 0 .. S - 1 for the distinct `values` (N,), in order of their first appearance, (N,) int64."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[first.argsort()] = np.arange(len(first))
    return place[inverse.reshape(-1)]


def _segments(points: np.ndarray, normals: np.ndarray, tails: np.ndarray, heads: np.ndarray, threshold: float,
              min_size: int) -> np.ndarray:
    weights = edge_weights(points, normals, tails, heads)
    order = weights.argsort(kind='stable')
    tails, heads = tails[order], heads[order]
    component = joined_components(tails, heads, weights[order], len(points), threshold)
    return numbered(small_joined(component, tails, heads, min_size))


def nearest_neighbours(points: np.ndarray, count: int = NORMAL_NEIGHBOURS) -> np.ndarray:
    """Return the `count` points nearest to each, (N, k), itself first and equally near ones by number; all where fewer."""
    distance, found = cKDTree(points).query(points, k=range(1, min(count, len(points)) + 1))
    return np.take_along_axis(found, np.lexsort((found, distance, found != np.arange(len(points))[:, None])), axis=1)
