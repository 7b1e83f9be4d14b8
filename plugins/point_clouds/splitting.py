"""Mask3D's way from predictions to scored masks: parts of a mask that lie apart are masks (baselines.md section 2.3)."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from jrs_plugins.point_clouds.pooling import superpoint_mean
from jrs_plugins.point_clouds.scene_voxels import PointContext
from scipy.spatial import cKDTree
from torch import Tensor

from jrs.errors import ConfigError, DataError
from jrs.finite import refuse_nonfinite
from jrs.postprocess.instances import BROKEN
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances


@POSTPROCESSORS.register_module()
class SplitMasks:
    """Splits each mask into its parts in space, ranks (part, class) pairs, and gives each superpoint's points to one side.

    The score is the class probability times the mean probability of the mask's voxels; there is no least score or size.

    Args:
        distance_m: points further apart than this are neighbours of nobody; None = masks are not split.
        min_points: a point with fewer neighbours, itself included, does not link others; where no link reaches it, it is of
            no part.
        top_pairs: pairs that are kept; None = as many as there are parts.
        num_labels: labels of the benchmark; pairs of further ones, which published weights have, are dropped after the
            ranking. None = all are of the benchmark.
        filter_score, filter_overlap: both, or None = no filter: drop pairs of a lower score, of an empty mask, or whose mask
            has more than this share of the mask of any better one.

    Raises:
        ConfigError: one threshold of the filter without the other, or sizes that are none.
    """

    reads = ('queries',)

    sees = 'points'

    def __init__(self, distance_m: float | None = 0.95, min_points: int = 1, top_pairs: int | None = 500,
                 num_labels: int | None = None, filter_score: float | None = None,
                 filter_overlap: float | None = None) -> None:
        if (filter_score is None) != (filter_overlap is None):
            raise ConfigError('SplitMasks.filter_score and filter_overlap go together: set both, or neither, got '
                              f'{filter_score!r} and {filter_overlap!r}.')
        if distance_m is not None and not distance_m > 0 or min_points < 1 or top_pairs is not None and top_pairs < 1:
            raise ConfigError('SplitMasks needs distance_m above 0, min_points and top_pairs of at least 1, got '
                              f'{distance_m!r}, {min_points!r} and {top_pairs!r}.')
        self.distance_m, self.min_points, self.top_pairs = distance_m, min_points, top_pairs
        self.num_labels, self.filter_score, self.filter_overlap = num_labels, filter_score, filter_overlap

    @torch.no_grad()
    def __call__(self, scene: PointContext) -> Instances:
        """Return the scored instances of one scene, best first; masks are (M, 1, 1, S).

        Raises:
            DataError: the scene has no voxels: the decoder reads superpoints only.
            NonFiniteError: class or mask logits are not finite.
        """
        queries, voxels = scene.queries, getattr(scene, 'voxels', None)
        if voxels is None:
            raise DataError(f'{scene.scene_name}: SplitMasks reads the voxels of a scene, which are there where the decoder '
                            "reads them (LevelDecoder). Take QueryMasks for others.")
        refuse_nonfinite(dict(class_logits=queries.class_logits, mask_logits=queries.mask_logits), 'SplitMasks', BROKEN)
        logits = queries.mask_logits.flatten(1).float()[:, voxels.superpoints]              # (Q, X)
        query, parts = self._parts(logits, voxels.positions)                                # (n,), (n, X)
        quality = (logits[query].sigmoid() * parts).sum(dim=1) / (parts.sum(dim=1) + 1e-6)
        probability = queries.class_probabilities()[0][query]                               # (n, K)
        count = len(query) if self.top_pairs is None else min(self.top_pairs, probability.numel())
        best = probability.flatten().topk(count)
        part, label = best.indices // probability.shape[1], best.indices % probability.shape[1]
        scores = best.values * quality[part]
        order = scores.argsort(descending=True, stable=True)
        masks = superpoint_mean(parts[:, voxels.point_voxel].T.float(), voxels.point_superpoint,
                                queries.mask_logits.shape[-1]).T > 0.5                      # (n, S)
        return self._left(masks, voxels.point_superpoint, part[order], label[order], scores[order], query)

    def _parts(self, logits: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the query (n,) of each part and its voxels (n, X) bool."""
        positive = logits > 0
        query = torch.arange(len(logits), device=logits.device)
        if self.distance_m is None:
            return query, positive
        numbers, parts = [], []
        places = positions.double().cpu().numpy()
        for number, mask in enumerate(positive.cpu().numpy()):
            rows = np.flatnonzero(mask)
            labels = clusters(places[rows], self.distance_m, self.min_points)
            for label in range(labels.max(initial=-1) + 1):
                part = np.zeros(len(mask), bool)
                part[rows[labels == label]] = True
                parts.append(part)
                numbers.append(number)
        found = torch.from_numpy(np.stack(parts)) if parts else torch.zeros(0, logits.shape[1], dtype=torch.bool)
        return torch.tensor(numbers, dtype=torch.int64, device=logits.device), found.to(logits.device)

    def _left(self, masks: Tensor, superpoints: Tensor, part: Tensor, label: Tensor, scores: Tensor,
              query: Tensor) -> Instances:
        """Return the pairs (M,), best first, that no filter drops, of parts with `masks` (n, S)."""
        kept = torch.ones_like(scores, dtype=torch.bool)
        if self.filter_score is not None:
            points = torch.bincount(superpoints, minlength=masks.shape[1]).float()          # (S,)
            given = masks[part].float()                                                     # (M, S)
            area = given @ points
            covered = (given * points) @ given.T / area                                     # of row j's mask, by row i's
            better = torch.ones_like(covered, dtype=torch.bool).tril(diagonal=-1)
            kept = (scores >= self.filter_score) & (area > 0) & ~((covered > self.filter_overlap) & better).any(dim=1)
        if self.num_labels is not None:
            kept &= label < self.num_labels
        part = part[kept]
        return Instances(masks[part][:, None, None], label[kept], scores[kept], query[part])


def clusters(points: np.ndarray, distance: float, min_points: int = 1) -> np.ndarray:
    """Return the cluster (n,) of each of `points` (n, 3), numbered by their first dense point; -1 = none (DBSCAN).

    Points with at least `min_points` within `distance`, themselves included, are dense. Dense ones within it of each other
    are of one cluster; another point is of the first cluster that has a dense point within it.
    """
    labels = np.full(len(points), -1)
    if not len(points):
        return labels
    dense = np.ones(len(points), bool) if min_points == 1 else \
        _distance_of_nearest(points, min_points) <= distance
    if not dense.any():
        return labels
    found = _linked(points[dense], distance)
    first = np.unique(found, return_index=True)[1]                              # numbers in the order of first points
    labels[dense] = np.argsort(np.argsort(first))[found]
    of_dense = labels[dense]
    near = cKDTree(points[dense]).query_ball_point(points[~dense], distance)
    labels[~dense] = [min(of_dense[rows], default=-1) for rows in near]
    return labels


def _distance_of_nearest(points: np.ndarray, number: int) -> np.ndarray:
    """Return how far the `number`-th nearest point, itself the first, is from each (n,); infinite where there are fewer."""
    return cKDTree(points).query(points, k=[number])[0][:, 0]


def _linked(points: np.ndarray, distance: float) -> np.ndarray:
    """Return the component (n,) of each of `points` (n, 3), where points within `distance` of each other are linked.

    Points of one cell of a grid whose diagonal is `distance` are linked; of two cells near each other it is asked whether
    any are, unless a chain of cells links them already.
    """
    cells, cell = np.unique(np.floor(points / (distance / 3 ** 0.5 * (1 - 1e-9))).astype(np.int64), axis=0,
                            return_inverse=True)
    cell = cell.reshape(-1)
    order = np.argsort(cell, kind='stable')
    members = np.split(points[order], np.cumsum(np.bincount(cell))[:-1])
    trees, place = {}, {tuple(row): number for number, row in enumerate(cells.tolist())}
    root = np.arange(len(cells))
    near = (step for step in product(range(-2, 3), repeat=3) if step > (0, 0, 0))
    for step in sorted(near, key=lambda step: np.dot(step, step)):
        for row, number in place.items():
            other = place.get((row[0] + step[0], row[1] + step[1], row[2] + step[2]))
            if other is None or root[number] == root[other]:
                continue
            if other not in trees:
                trees[other] = cKDTree(members[other])
            if trees[other].query(members[number])[0].min() <= distance:
                root[root == root[other]] = root[number]
    return np.unique(root, return_inverse=True)[1].reshape(-1)[cell]
