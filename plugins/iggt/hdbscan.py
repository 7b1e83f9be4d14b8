"""HDBSCAN in NumPy: clusters of points by density, without a number of clusters (baselines.md section 4.4).

Exact: the spanning tree is that of all pairs, and equal lengths are ordered stably, so that all machines agree. Time grows
with the square of the points, memory linearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

NOISE = -1
CHUNK = 4096                                   # points whose neighbours are looked for at a time
COMPACT = 8                                    # points in the tree are dropped from the arrays once they are 1 in so many


def hdbscan(points: np.ndarray, min_samples: int, min_cluster_size: int,
            epsilon: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster (N,) int64 of each point, -1 = noise, and how surely it belongs there (N,) in [0, 1].

    Excess-of-mass selection; all points together are never one cluster.

    Args:
        points: (N, D).
        min_samples: the density at a point is that of its `min_samples`-th other point.
        min_cluster_size: smaller groups are no clusters.
        epsilon: clusters that split off at a smaller distance are taken together again.

    Raises:
        ValueError: numbers below 1 or 2, or points that are not finite.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    if min_samples < 1 or min_cluster_size < 2 or not np.isfinite(points).all():
        raise ValueError(f'hdbscan needs min_samples of at least 1, min_cluster_size of at least 2 and finite points, got '
                         f'{min_samples}, {min_cluster_size} and {int((~np.isfinite(points)).sum())} numbers that are not')
    if len(points) < min_cluster_size:
        return np.full(len(points), NOISE), np.zeros(len(points))
    tree = single_linkage(*spanning_tree(points, core_distances(points, min_samples)))
    condensed = condense(tree, min_cluster_size)
    return labelled(condensed, chosen_clusters(condensed, epsilon))


def core_distances(points: np.ndarray, min_samples: int) -> np.ndarray:
    """Return the distance (N,) of each of `points` (N, D) to its `min_samples`-th other point; inf where there are fewer."""
    tree = cKDTree(points)
    chunks = (points[start:start + CHUNK] for start in range(0, len(points), CHUNK))
    return np.concatenate([tree.query(chunk, [min_samples + 1])[0][:, 0] for chunk in chunks])


def spanning_tree(points: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ends (N - 1, 2) int64 and lengths (N - 1,) of the shortest tree through `points` (N, D), shortest edge first.

    The length of an edge is the largest of the distance and of both `core` distances (N,). Prim's algorithm from the first
    point on; of equally near points the first comes next.
    """
    count = len(points)
    ends, lengths = np.empty((count - 1, 2), dtype=np.int64), np.empty(count - 1)
    outside = _Outside(points, core)
    current = 0
    for step in range(count - 1):
        outside.reach(current)
        current, ends[step, 0], lengths[step] = outside.take_nearest()
        ends[step, 1] = current
    order = lengths.argsort(kind='stable')
    return ends[order], lengths[order]


class _Outside:
    """The points (N, D) that are not in the tree yet: how near each is to it, and to which point of it."""

    def __init__(self, points: np.ndarray, core: np.ndarray) -> None:
        self.points, self.core = points, core
        self.index = np.arange(1, len(points))                                  # ascending: of equals the first is found
        self.columns, self.own = np.ascontiguousarray(points[1:].T), core[1:].copy()            # (D, n), (n,)
        self.length, self.parent = np.full(len(points) - 1, np.inf), np.zeros(len(points) - 1, dtype=np.int64)
        self.dead = 0
        self._make_room()

    def _make_room(self) -> None:
        self.scratch, self.total = np.empty(len(self.index)), np.empty(len(self.index))

    def reach(self, point: int) -> None:
        """Note who is nearer to `point`, the newest of the tree, than to the others."""
        np.subtract(self.columns[0], self.points[point, 0], out=self.total)
        np.multiply(self.total, self.total, out=self.total)
        for column, value in zip(self.columns[1:], self.points[point, 1:], strict=True):
            np.subtract(column, value, out=self.scratch)
            np.multiply(self.scratch, self.scratch, out=self.scratch)
            self.total += self.scratch
        np.sqrt(self.total, out=self.total)
        np.maximum(self.total, self.own, out=self.total)
        np.maximum(self.total, self.core[point], out=self.total)
        nearer = (self.total < self.length) & (self.index >= 0)
        self.length[nearer], self.parent[nearer] = self.total[nearer], point

    def take_nearest(self) -> tuple[int, int, float]:
        """Return the nearest point, the point of the tree it is nearest to, and how far; it is in the tree from now on."""
        place = int(self.length.argmin())
        found = int(self.index[place]), int(self.parent[place]), float(self.length[place])
        self.length[place], self.index[place] = np.inf, NOISE
        self.dead += 1
        if self.dead * COMPACT > len(self.index):
            alive = self.index >= 0
            self.index, self.own, self.length, self.parent = (
                values[alive] for values in (self.index, self.own, self.length, self.parent))
            self.columns, self.dead = np.ascontiguousarray(self.columns[:, alive]), 0
            self._make_room()
        return found


@dataclass
class Merges:
    """Points joined one by one along a spanning tree: node N + i joins two nodes at `length[i]`, the last one all.

    Attributes:
        children: (N - 1, 2) int64, nodes: points 0 .. N - 1, or earlier joins.
        length: (N - 1,), ascending.
        size: (2 N - 1,) int64, points below each node.
    """

    children: np.ndarray
    length: np.ndarray
    size: np.ndarray


def single_linkage(ends: np.ndarray, lengths: np.ndarray) -> Merges:
    """Return the joins along edges `ends` (N - 1, 2) of ascending `lengths` (N - 1,)."""
    count = len(ends) + 1
    above = list(range(2 * count - 1))                                          # union-find: the join that a node is in
    size = np.ones(2 * count - 1, dtype=np.int64)
    children = np.empty((count - 1, 2), dtype=np.int64)

    def root(node: int) -> int:
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node
    for join, (first, second) in enumerate(ends.tolist()):
        pair = root(first), root(second)
        above[pair[0]] = above[pair[1]] = count + join
        children[join], size[count + join] = pair, size[pair[0]] + size[pair[1]]
    return Merges(children, lengths, size)


@dataclass
class Condensed:
    """The clusters that points fall out of as the distance shrinks; cluster 0 is all points, parents come before children.

    Attributes:
        parent, birth, size: (C,) of each cluster: the one it split off, the density 1 / distance at which, its points then.
        cluster, left: (N,) of each point: the last cluster it was in, and the density at which it fell out.
    """

    parent: np.ndarray
    birth: np.ndarray
    size: np.ndarray
    cluster: np.ndarray
    left: np.ndarray


def condense(tree: Merges, min_cluster_size: int) -> Condensed:
    """Return the clusters of at least `min_cluster_size` points that `tree` has, from its root down."""
    count = len(tree.children) + 1
    with np.errstate(divide='ignore'):
        density = (1 / tree.length).tolist()
    children, size = tree.children.tolist(), tree.size.tolist()
    cluster, left = [0] * len(size), [-1.0] * len(size)                        # of each node; below 0: still inside
    parents, births, sizes = [NOISE], [0.0], [count]
    for join in range(count - 2, -1, -1):
        node, pair = count + join, children[join]
        large = [size[child] >= min_cluster_size for child in pair]
        for child, is_large in zip(pair, large, strict=True):
            cluster[child], left[child] = cluster[node], left[node]
            if left[node] >= 0:
                continue
            if not is_large:
                left[child] = density[join]
            elif all(large):
                cluster[child] = len(parents)
                parents.append(cluster[node])
                births.append(density[join])
                sizes.append(size[child])
    return Condensed(*map(np.array, (parents, births, sizes)), np.array(cluster[:count]), np.array(left[:count]))


def chosen_clusters(tree: Condensed, epsilon: float) -> list[int]:
    """Return the clusters whose excess of mass is larger than that of their parts, none inside another one."""
    stability = np.bincount(tree.cluster, tree.left - tree.birth[tree.cluster], minlength=len(tree.parent))
    inside = np.zeros(len(tree.parent))                                         # stability of the parts, as chosen
    parts: list[list[int]] = [[] for _ in tree.parent]                          # chosen clusters below, itself included
    for number in range(1, len(tree.parent)):
        stability[tree.parent[number]] += tree.size[number] * (tree.birth[number] - tree.birth[tree.parent[number]])
    for number in range(len(tree.parent) - 1, 0, -1):
        gives_way = bool(parts[number]) and inside[number] > stability[number]
        parts[tree.parent[number]] += parts[number] if gives_way else [number]
        inside[tree.parent[number]] += inside[number] if gives_way else stability[number]
    return sorted(parts[0]) if epsilon <= 0 else _not_closer(tree, sorted(parts[0]), epsilon)


def _not_closer(tree: Condensed, chosen: list[int], epsilon: float) -> list[int]:
    """Return `chosen` with those that split off at less than `epsilon` replaced by an ancestor that did not."""
    found: dict[int, None] = {}
    for number in chosen:
        while tree.birth[number] * epsilon > 1 and tree.parent[number] != 0:
            number = int(tree.parent[number])
        found[number] = None
    return [number for number in found if not any(ancestor in found for ancestor in _ancestors(tree, number))]


def _ancestors(tree: Condensed, number: int) -> list[int]:
    found = []
    while (number := int(tree.parent[number])) > 0:
        found.append(number)
    return found


def labelled(tree: Condensed, chosen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the `chosen` clusters each point is in (N,), -1 = none, and how surely (N,).

    A point is as sure as the density at which it fell out is near the largest at which anything left the chosen cluster
    itself; points that live on in parts of it are sure.
    """
    of_cluster, latest = np.full(len(tree.parent), NOISE), np.zeros(len(tree.parent))
    of_cluster[chosen] = np.arange(len(chosen))
    np.maximum.at(latest, tree.cluster, tree.left)
    np.maximum.at(latest, tree.parent[1:], tree.birth[1:])
    within = of_cluster.copy()                                                  # the chosen cluster that each is, or is in
    for number in range(1, len(tree.parent)):
        if within[number] == NOISE:
            within[number] = within[tree.parent[number]]
    label = within[tree.cluster]
    if not chosen:
        return label, np.zeros(len(label))
    highest = latest[chosen][label]
    with np.errstate(invalid='ignore'):
        share = np.where(np.isinf(highest), np.isinf(tree.left), np.minimum(tree.left, highest) / highest)
    return label, np.where(label == NOISE, 0.0, share)
