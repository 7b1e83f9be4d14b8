"""What points made of images are worth: how much of the mesh they meet, and what their superpoints leave possible."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from jrs.errors import NotMeasured
from jrs.evaluation.metrics import SceneMetric
from jrs.registry import METRICS
from jrs.structures import Reconstruction, SceneBatch


@METRICS.register_module()
class PointQuality(SceneMetric):
    """Points of `ReconstructedPoints` against the true mesh and the true instance images, means over scenes.

    `points/on_mesh`: share of the points that lie near a vertex; `points/covered`: share of the vertices that a point lies
    near; `points/pure`: share of the points that are of the object which most points of their superpoint are of, an upper
    bound of what masks of superpoints can be; `points/number` and `points/superpoints` per scene.

    Args:
        near_m: how far apart point and vertex are at most.
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.
    """

    sees = 'points'
    default_prefix = 'points'
    reads_maps = ('instance_ids',)

    def __init__(self, near_m: float = 0.10, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.near_m = near_m

    def describe(self) -> dict[str, str]:
        """Return the rule in words, and what the points take of the ground truth."""
        return {'points': "of a reconstruction; ground truth used: true cameras give scale and z-up (by 'directions': "
                          f'the scale is of the true depth); near is {self.near_m:g} m'}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> dict[str, float]:
        """Return the numbers of one scene.

        Raises:
            NotMeasured: the reconstruction is not one of points.
        """
        made = reconstruction.extras
        if not {'points', 'superpoints', 'pixels'} <= set(made):
            raise NotMeasured('the model makes no points of images (model.reconstruction)')
        points, superpoints, pixels = (made[name].cpu().numpy() for name in ('points', 'superpoints', 'pixels'))
        found = dict(number=float(len(points)), superpoints=float(superpoints.max() + 1))
        if batch.ground_truth is not None:
            vertices = batch.ground_truth[index].vertices
            found |= dict(on_mesh=_near(points, vertices, self.near_m), covered=_near(vertices, points, self.near_m))
        if batch.instance_ids is not None:
            ids = batch.instance_ids[index].flatten().cpu().numpy()[pixels]
            found |= dict(pure=purity(ids[ids >= 0], superpoints[ids >= 0]))
        return found

    def summarise(self, scenes: list[dict[str, float]]) -> dict[str, float]:
        """Return means over the scenes that have each number."""
        names = dict.fromkeys(name for scene in scenes for name in scene)
        return {name: float(np.mean([scene[name] for scene in scenes if name in scene])) for name in names}


def purity(ids: np.ndarray, superpoints: np.ndarray) -> float:
    """Return the share of points whose id (n,) is the commonest of their superpoint (n,); 1 without points."""
    if not len(ids):
        return 1.0
    pairs, counts = np.unique(np.stack([superpoints, ids]), axis=1, return_counts=True)
    most = np.zeros(superpoints.max() + 1)
    np.maximum.at(most, pairs[0], counts)
    return float(most.sum() / len(ids))


def _near(points: np.ndarray, others: np.ndarray, most_m: float) -> float:
    return float(np.isfinite(cKDTree(others).query(points, distance_upper_bound=most_m)[0]).mean())
