"""From the embedding of each pixel to instances: clusters of averages over neighbours in space (baselines.md 4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jrs_plugins.iggt.hdbscan import CHUNK, NOISE, hdbscan
from mmengine.logging import print_log
from scipy.spatial import cKDTree
from torch import Tensor

from jrs.errors import ConfigError, JrsError
from jrs.geometry.pixels import at_centres
from jrs.geometry.projection import unproject_depth
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances, SceneContext

OWN, PACKAGE = 'exact', 'package'


@POSTPROCESSORS.register_module()
class ClusteredPixels:
    """Instances as clusters of pixels of all views; no queries, no classes (label 0).

    The embedding of a pixel is averaged over the pixels of all views that see places nearest to its own, by predicted depth
    and cameras; HDBSCAN clusters the averages; pixels that are in no cluster take that of the nearest average that is. Where
    there are more pixels than `max_clustered`, every n-th row and column is clustered, with `min_samples` and
    `min_cluster_size` divided by n squared, and all other pixels are assigned like noise. How many were clustered and how
    many assigned is logged for each scene.

    The method has no scores; these are ours, and AP is given for each (`Instances.rankings`): 'cohesion', the mean cosine of
    the members' embeddings with their mean; 'probability', the mean of HDBSCAN's membership over clustered members; 'size',
    pixels relative to the largest; 'constant', 1.

    Args:
        ranking: one of these, by which instances stand.
        neighbours: pixels that an average is taken over, beside the pixel itself, which is left out.
        epsilon, min_samples, min_cluster_size: of HDBSCAN, in pixels of the masks; released: 0.005, 50 for small scenes,
            0.01, 100 for medium, 0.06, 100 for large ones, and 500.
        max_clustered: pixels that are clustered at most; the time grows with their square (50,000: a minute).
        algorithm: 'exact', our own, or 'package': hdbscan's, with its approximate tree, as the release calls it.

    Raises:
        ConfigError: no such ranking or algorithm, or a number below its least.
    """

    reads = ('features', 'depth', 'cameras')

    def __init__(self, ranking: str = 'cohesion', neighbours: int = 20, epsilon: float = 0.01, min_samples: int = 100,
                 min_cluster_size: int = 500, max_clustered: int = 50000, algorithm: str = OWN) -> None:
        for name, value, allowed in (('ranking', ranking, RANKINGS), ('algorithm', algorithm, ALGORITHMS)):
            if value not in allowed:
                raise ConfigError(f'ClusteredPixels.{name} is one of {", ".join(map(repr, allowed))}, got {value!r}.')
        if neighbours < 1 or min_samples < 1 or min_cluster_size < 2 or max_clustered < 2 or epsilon < 0:
            raise ConfigError('ClusteredPixels needs neighbours and min_samples of at least 1, min_cluster_size and '
                              f'max_clustered of at least 2 and epsilon >= 0, got {neighbours}, {min_samples}, '
                              f'{min_cluster_size}, {max_clustered} and {epsilon}.')
        self.ranking, self.neighbours, self.max_clustered = ranking, neighbours, max_clustered
        self.epsilon, self.min_samples, self.min_cluster_size = epsilon, min_samples, min_cluster_size
        self.cluster = ALGORITHMS[algorithm]

    @torch.no_grad()
    def __call__(self, scene: SceneContext) -> Instances:
        """Return the clusters of one scene, best first; masks (M, V, h, w) do not overlap.

        Pixels that are padding, or whose depth is no number above 0, are in none.
        """
        views, _, height, width = scene.features.shape
        used, points = seen_points(scene, (height, width))                      # (V*h*w,) bool, (n, 3)
        embedding = scene.features.movedim(1, -1).flatten(0, 2)[used].double().cpu().numpy()       # (n, D)
        averages = neighbour_averages(embedding, points, self.neighbours)
        label, probability = self._clusters(averages, used.view(views, height, width), scene.scene_name)
        found = np.full((len(used),), NOISE)
        found[used.cpu().numpy()] = label
        count = int(label.max(initial=NOISE)) + 1
        scores = {name: torch.tensor([rank(embedding, label, probability, number) for number in range(count)],
                                     dtype=torch.float32) for name, rank in RANKINGS.items()}
        order = scores[self.ranking].argsort(descending=True, stable=True)
        masks = torch.from_numpy(found.reshape(views, height, width)) == order.view(-1, 1, 1, 1)   # (M, V, h, w)
        device, labels = scene.features.device, torch.zeros(count, dtype=torch.int64)
        return Instances(masks, labels, scores[self.ranking][order], order, ranking=WORDS[self.ranking], rankings={
            name: values[order] for name, values in scores.items() if name != self.ranking}).to(device)

    def _clusters(self, averages: np.ndarray, used: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster (n,) of each used pixel and its membership (n,), NaN where it was not clustered.

        `used` is (V, h, w) bool with n pixels set.
        """
        stride = max(1, math.ceil(math.sqrt(len(averages) / self.max_clustered)))
        chosen = torch.zeros_like(used)
        chosen[:, ::stride, ::stride] = True
        chosen = chosen[used].cpu().numpy()                                     # (n,)
        samples, smallest = (max(least, round(value / stride ** 2)) for value, least in (
            (self.min_samples, 1), (self.min_cluster_size, 2)))
        core, membership = self.cluster(averages[chosen], samples, smallest, self.epsilon)
        label, probability = np.full(len(averages), NOISE), np.full(len(averages), np.nan)
        label[chosen], probability[chosen] = core, membership
        outside = int((label == NOISE).sum())
        words = f'every {stride}. row and column, ' if stride > 1 else ''
        print_log(f'clusters{f" of {name}" if name else ""}: {int(chosen.sum())} of {len(label)} pixels clustered ({words}'
                  f'min_samples {samples}, min_cluster_size {smallest}): {core.max(initial=NOISE) + 1} clusters, '
                  f'{int((core == NOISE).sum())} pixels of noise; {outside} pixels assigned to the nearest', 'current')
        return assigned(averages, label), probability


def seen_points(scene: SceneContext, size: tuple[int, int]) -> tuple[Tensor, np.ndarray]:
    """Return which pixels of masks of `size` (h, w) see a point, (V*h*w,) bool, and the points (n, 3) of these, world."""
    _, world = unproject_depth(scene.depth.double(), scene.intrinsics.double(), scene.cam_from_world.double())
    used = scene.depth.isfinite() & (scene.depth > 0) & world.isfinite().all(dim=-1)            # (V, H, W)
    used = at_centres(used if scene.valid is None else used & scene.valid, size).flatten()
    return used, at_centres(world.movedim(-1, 0), size).flatten(1)[:, used].T.cpu().numpy()


def neighbour_averages(embedding: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Return the mean (n, D) of the `embedding` (n, D) of the `count` others whose `points` (n, 3) are nearest to each."""
    count = min(count, len(points) - 1)
    if count < 1:
        return embedding
    tree, averages = cKDTree(points), np.empty_like(embedding)
    for start in range(0, len(points), CHUNK):
        own = np.arange(start, min(start + CHUNK, len(points)))
        _, near = tree.query(points[own], count + 1)                            # (c, count + 1)
        other = near != own[:, None]
        other[other.all(axis=1), -1] = False                    # of many points in one place it may not be there
        averages[own] = embedding[near[other].reshape(len(own), count)].mean(axis=1)
    return averages


def assigned(averages: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return `label` (n,) with -1 replaced by that of the nearest of `averages` (n, D) with a label; all 0 without any."""
    clustered = label != NOISE
    if not clustered.any():
        return np.zeros_like(label)
    result, left = label.copy(), np.flatnonzero(~clustered)
    tree = cKDTree(averages[clustered])
    for chunk in np.split(left, range(CHUNK, len(left), CHUNK)):
        result[chunk] = label[clustered][tree.query(averages[chunk])[1]]
    return result


def package_hdbscan(points: np.ndarray, min_samples: int, min_cluster_size: int,
                    epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and memberships (N,) of the package `hdbscan` for `points` (N, D), called as the release does."""
    try:
        import hdbscan as package
    except ImportError as error:
        raise JrsError("ClusteredPixels(algorithm='package') needs the package hdbscan: pip install hdbscan, or take our "
                       "own, algorithm='exact'.") from error
    found = package.HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples, cluster_selection_epsilon=epsilon)
    found.fit(points.astype(np.float32))
    return found.labels_.astype(np.int64), found.probabilities_


def cohesion(embedding: np.ndarray, label: np.ndarray, probability: np.ndarray, number: int) -> float:
    """Return the mean cosine of the members' embeddings (n, D) with their mean, at least 0."""
    members = embedding[label == number]
    mean = members.mean(axis=0)
    lengths = np.linalg.norm(members, axis=1) * np.linalg.norm(mean)
    return float(np.clip((members @ mean / np.maximum(lengths, 1e-12)).mean(), 0, 1))


def membership(embedding: np.ndarray, label: np.ndarray, probability: np.ndarray, number: int) -> float:
    """Return the mean `probability` (n,) of the members that were clustered; 0 where none was."""
    own = probability[label == number]
    return float(np.nanmean(own)) if np.isfinite(own).any() else 0.0


def size_share(embedding: np.ndarray, label: np.ndarray, probability: np.ndarray, number: int) -> float:
    """Return the members of `label` (n,) over those of the largest cluster."""
    sizes = np.bincount(label[label != NOISE])
    return float(sizes[number] / sizes.max())


ALGORITHMS: dict[str, Callable] = {OWN: hdbscan, PACKAGE: package_hdbscan}
RANKINGS: dict[str, Callable] = {'cohesion': cohesion, 'probability': membership, 'size': size_share,
                                 'constant': lambda *given: 1.0}
WORDS = {'cohesion': 'cohesion: mean cosine of the pixels of a cluster with their mean',
         'probability': "probability: mean of HDBSCAN's membership", 'size': 'size: pixels relative to the largest cluster',
         'constant': 'constant: all 1'}
