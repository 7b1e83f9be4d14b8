"""Masks in views -> masks on mesh vertices (evaluation.md section 7).

Which mask pixel shows which vertex is found once per scene and shared by all masks: here through true poses and sensor
depth (`PosedTransfer`), in `unposed.py` through the model's own geometry. How the views then vote is the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from jrs.errors import ConfigError, DataError, NotMeasured, did_you_mean
from jrs.finite import refuse_nonfinite
from jrs.geometry.projection import project_points
from jrs.masks import mask_logits
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances, Reconstruction, SceneGroundTruth

NEAREST_M = 0.05                                   # vertices closer to a camera than this are not seen
VOTES = ('majority', 'any', 'mean_prob')
ROUNDINGS = ('nearest', 'floor')
TOLERANCES_M = (0.05, 0.10, 0.20)                  # ours and of others: evaluation.md section 7, step 2
SUPERPOINT_VOTES = ('all_points', 'observed', 'mode', None)


@dataclass(frozen=True)
class VisiblePixels:
    """Which mask pixel shows which vertex: E pairs in order of views, then vertices.

    Attributes:
        vertex: (E,) int64 vertex.
        pixel: (E,) int64 position in the flattened (V, h, w) masks.
        num_seeing: (N,) int64, views that see each vertex.
        mask_shape: (V, h, w).
    """

    vertex: np.ndarray
    pixel: np.ndarray
    num_seeing: np.ndarray
    mask_shape: tuple[int, int, int]

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.num_seeing)

    @classmethod
    def of_views(cls, vertices: list[np.ndarray], pixels: list[np.ndarray], num_points: int,
                 mask_shape: tuple[int, int, int]) -> VisiblePixels:
        """Join what each view sees: V arrays (n,) of vertices and of pixels."""
        vertex, pixel = np.concatenate(vertices), np.concatenate(pixels)
        return cls(vertex, pixel, np.bincount(vertex, minlength=num_points), mask_shape)


class MaskTransfer:
    """Base of transfers: how views and superpoints vote. A subclass gives `visible_pixels` and `describe`.

    Args:
        vote: 'majority' (inside in more than half of the views that see the vertex), 'any' (in one of them), or 'mean_prob'
            (mean mask probability over these views above one half; masks of certain pixels vote as by majority).
        superpoint_vote: 'all_points' (a superpoint belongs to a mask if more than half of its points do), 'observed'
            (of its points that any view sees), 'mode' (each point first goes to the best-scored query whose mask has it,
            then each superpoint to the query that most of its points went to), or None. Without superpoints in the ground
            truth nothing is voted.

    Attributes:
        voting: arguments that `visible_pixels` does not depend on.
        alternatives: arguments of other rules, for ``rules=['all']`` of `InstanceAPMetric`; a part keeps them as attributes.
    """

    voting = ('vote', 'superpoint_vote')
    alternatives = (*({'vote': vote} for vote in VOTES), *({'superpoint_vote': vote} for vote in SUPERPOINT_VOTES))

    def __init__(self, vote: str, superpoint_vote: str | None) -> None:
        self._check_choice('vote', vote, VOTES)
        self._check_choice('superpoint_vote', superpoint_vote, SUPERPOINT_VOTES)
        self.vote = vote
        self.superpoint_vote = superpoint_vote

    def describe(self) -> dict[str, str]:
        """Return the rule in words, for tables of results."""
        return {'vote': self.vote, 'superpoint_vote': str(self.superpoint_vote).lower()}

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int], mask_size: tuple[int, int],
                       reconstruction: Reconstruction | None = None) -> VisiblePixels:
        """Find where each vertex is seen.

        Args:
            scene: mesh, poses and depth of V views.
            input_size: (H, W) of the network input, that `scene.input_from_depth` maps to.
            mask_size: (h, w) of the masks.
            reconstruction: what the model made of these views, for transfers that go through its own geometry.
        """
        raise NotImplementedError

    def lift(self, instances: Instances, scene: SceneGroundTruth, visible: VisiblePixels,
             features: Tensor | None = None) -> np.ndarray:
        """Return the vertices of each instance, (M, ceil(N / 8)) uint8 as `np.packbits(masks, axis=1)` makes them.

        `features` (V, D, h, w) are those of the reconstruction; the vote 'mean_prob' reads them.

        Raises:
            DataError: masks and ground truth are of other views.
            NotMeasured: 'mean_prob' has no logits to read.
        """
        if instances.packed.shape[1:] != visible.mask_shape:
            raise DataError(f'{scene.scene_name}: masks are {instances.packed.shape}, but the ground truth is '
                            f'for (V, h, w) = {visible.mask_shape}.')
        device = instances.scores.device
        pixel = torch.from_numpy(visible.pixel).to(device)
        masks = self._probabilities(instances, scene, features) if self.vote == 'mean_prob' else instances.packed
        inside = (mask.flatten().index_select(0, pixel) for mask in masks)               # (E,) each
        return self._transfer(inside, device, scene, visible, instances.queries.tolist())

    def lift_ids(self, instance_ids: Tensor, ids: Tensor, scene: SceneGroundTruth,
                 visible: VisiblePixels) -> np.ndarray:
        """Do the same for images of instance numbers: the oracle, an upper bound of what the transfer leaves possible.

        Args:
            instance_ids: (V, h, w) integers.
            ids: (G,) the numbers that are instances.

        Returns:
            (G, ceil(N / 8)) uint8.
        """
        if tuple(instance_ids.shape) != visible.mask_shape:
            raise DataError(f'{scene.scene_name}: id images are {tuple(instance_ids.shape)}, but the ground truth is '
                            f'for (V, h, w) = {visible.mask_shape}.')
        pixel = torch.from_numpy(visible.pixel).to(instance_ids.device)
        seen_id = instance_ids.flatten().index_select(0, pixel)                          # (E,)
        numbers = ids.tolist()
        return self._transfer((seen_id == number for number in numbers), seen_id.device, scene, visible, numbers)

    def _probabilities(self, instances: Instances, scene: SceneGroundTruth, features: Tensor | None) -> Iterator[Tensor]:
        """Yield the mask probabilities (V, h, w) of each instance."""
        if instances.embedding is None or features is None:
            raise NotMeasured("vote='mean_prob' reads mask probabilities, and the instances of this model have not the "
                              "embeddings and features that give them: use vote='majority'")
        refuse_nonfinite({'embedding': instances.embedding, 'features': features}, scene.scene_name,
                         'They give no mask probabilities: the weights are broken or of another model.')
        return (mask_logits(embedding[None], features)[0].sigmoid() for embedding in instances.embedding)

    def _check_choice(self, name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f'{type(self).__name__} has no {name} {value!r}.'
                              f'{did_you_mean(str(value), map(str, allowed))}')

    def _check_numbers(self, at_least: float | None = None, **values: float) -> None:
        """Refuse what is no number above 0, or of at least `at_least`."""
        for name, value in values.items():
            wrong = isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)
            if wrong or (value <= 0 if at_least is None else value < at_least):
                least = 'above 0' if at_least is None else f'of at least {at_least:g}'
                raise ConfigError(f'{type(self).__name__}: {name} must be a number {least}, got {value!r}.')

    def _transfer(self, inside: Iterable[Tensor], device: torch.device, scene: SceneGroundTruth, visible: VisiblePixels,
                  owners: list[int]) -> np.ndarray:
        """Vote over views and superpoints; one mask is unpacked at a time.

        Args:
            inside: one (E,) per mask, best mask first: bool, or probabilities.
            owners: the query of each mask, M numbers; only the mode of superpoints asks.
        """
        vertex = torch.from_numpy(visible.vertex).to(device)
        threshold = np.zeros(visible.num_points) if self.vote == 'any' else visible.num_seeing / 2
        votes = (_sums(vertex, values, visible.num_points).cpu().numpy() for values in inside)       # (N,) each
        masks = (counts > threshold for counts in votes)
        if self.superpoint_vote == 'mode' and scene.superpoints is not None:
            masks = _superpoint_mode(masks, scene.superpoints, owners)
        else:
            masks = map(self._superpoint_majority(scene.superpoints, visible.num_seeing), masks)
        packed = [np.packbits(mask) for mask in masks]
        return np.stack(packed) if packed else np.zeros((0, -(-visible.num_points // 8)), dtype=np.uint8)

    def _superpoint_majority(self, superpoints: np.ndarray | None,
                             num_seeing: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return what turns a mask (N,) into one of whole superpoints: those of which more than half is inside."""
        if self.superpoint_vote is None or superpoints is None:
            return lambda mask: mask
        voters = superpoints[num_seeing > 0] if self.superpoint_vote == 'observed' else superpoints
        half = 0.5 * np.bincount(voters, minlength=superpoints.max() + 1)
        return lambda mask: (np.bincount(superpoints[mask], minlength=len(half)) > half)[superpoints]


@POSTPROCESSORS.register_module()
class PosedTransfer(MaskTransfer):
    """Moves masks from views to the benchmark mesh through its true poses and depth images.

    The defaults are the released program's (segvggt_release.md section 10), used for every row of the paper's
    tables; `depth_tolerance_m=0.05, relative_tolerance=0.02` is the stricter rule that others use. Predicted geometry is
    not used.

    Args:
        depth_tolerance_m: a vertex is visible where its depth is less than this from the sensor's reading.
        relative_tolerance: share of the reading that the tolerance grows to; 0 = absolute only.
        vote: as `MaskTransfer` says.
        rounding: 'nearest' takes the pixel whose centre is nearest; 'floor' cuts projected coordinates off and
            scales pixel corners, as programs do that multiply pixel numbers by the ratio of sizes.
        superpoint_vote: as `MaskTransfer` says.
        edge_m: pixels show nothing where readings among their eight neighbours and themselves differ by more than this;
            None = depth edges count like all other pixels.
    """

    alternatives = (
        *MaskTransfer.alternatives, *({'depth_tolerance_m': tolerance} for tolerance in TOLERANCES_M),
        {'depth_tolerance_m': 0.05, 'relative_tolerance': 0.02}, *({'rounding': rounding} for rounding in ROUNDINGS))

    def __init__(self, depth_tolerance_m: float = 0.10, relative_tolerance: float = 0.0, vote: str = 'majority',
                 rounding: str = 'nearest', superpoint_vote: str | None = 'all_points',
                 edge_m: float | None = None) -> None:
        super().__init__(vote, superpoint_vote)
        self._check_choice('rounding', rounding, ROUNDINGS)
        self._check_numbers(depth_tolerance_m=depth_tolerance_m, edge_m=1 if edge_m is None else edge_m)
        self._check_numbers(relative_tolerance=relative_tolerance, at_least=0)
        self.depth_tolerance_m = depth_tolerance_m
        self.relative_tolerance = relative_tolerance
        self.rounding = rounding
        self.edge_m = edge_m

    def describe(self) -> dict[str, str]:
        """Return the rule in words, for tables of results."""
        relative = f' or {self.relative_tolerance:g} of depth' if self.relative_tolerance else ''
        edges = '' if self.edge_m is None else f', no edges above {self.edge_m:g} m'
        return {'transfer': 'posed: true poses and sensor depth',
                'depth_tolerance': f'{self.depth_tolerance_m:g} m{relative}{edges}', 'rounding': self.rounding,
                **super().describe()}

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int], mask_size: tuple[int, int],
                       reconstruction: Reconstruction | None = None) -> VisiblePixels:
        """Find where each vertex is seen; arguments as `MaskTransfer` says. `reconstruction` is not read.

        Raises:
            DataError: poses, intrinsics and depth images of different numbers of views.
        """
        check_views(scene)
        num_views, (height, width) = len(scene.depth_m), mask_size
        vertices, pixels = [], []
        for view in range(num_views):
            vertex, u, v = self._seen_in_view(scene, view)
            row, column = self._mask_pixel(scene.input_from_depth[view], u, v, input_size, mask_size)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)      # cropped pixels show nothing
            vertices.append(vertex[inside])
            pixels.append((view * height + row[inside]) * width + column[inside])
        return VisiblePixels.of_views(vertices, pixels, len(scene.vertices), (num_views, height, width))

    def _seen_in_view(self, scene: SceneGroundTruth, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the vertices that `view` sees and their depth-image pixel: (n,) each of vertex, column, row."""
        depth_m = scene.depth_m[view]
        height, width = depth_m.shape
        projected, z = project_points(*(torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in
                                        (scene.vertices, scene.depth_intrinsics[view], scene.cam_from_world[view])))
        half = 0.5 if self.rounding == 'nearest' else 0.0
        u, v, z = projected[:, 0].numpy() + half, projected[:, 1].numpy() + half, z.numpy()          # (N,) each
        vertex = np.flatnonzero((z > NEAREST_M) & (u >= 0) & (u < width) & (v >= 0) & (v < height))
        u, v, z = u[vertex].astype(np.int64), v[vertex].astype(np.int64), z[vertex]                  # (n,), floored
        reading = depth_m[v, u].astype(np.float64)
        tolerance = np.maximum(self.depth_tolerance_m, self.relative_tolerance * reading)
        seen = (reading > 0) & (np.abs(z - reading) < tolerance)
        if self.edge_m is not None:
            seen &= ~_depth_edges(depth_m, self.edge_m)[v, u]
        return vertex[seen], u[seen], v[seen]

    def _mask_pixel(self, input_from_depth: np.ndarray, u: np.ndarray, v: np.ndarray, input_size: tuple[int, int],
                    mask_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of the mask pixel that holds each depth pixel (its centre, or its corner for 'floor').

        Measured from the corner of the image, sizes scale plainly; centre-based coordinates are half a pixel less.
        """
        corner = 0.0 if self.rounding == 'nearest' else -0.5
        depth_pixel = np.stack([u + corner, v + corner, np.ones(len(u))])                # (3, n)
        x, y, _ = input_from_depth @ depth_pixel
        row = np.floor((y + 0.5) * mask_size[0] / input_size[0] + 1e-9).astype(np.int64)
        column = np.floor((x + 0.5) * mask_size[1] / input_size[1] + 1e-9).astype(np.int64)
        return row, column


def _sums(vertex: Tensor, values: Tensor, num_points: int) -> Tensor:
    """Return the sum of `values` (E,) over each vertex, (N,); of bools, how many are True."""
    if values.dtype == torch.bool:
        return torch.bincount(vertex[values], minlength=num_points)
    return torch.bincount(vertex, weights=values.double(), minlength=num_points)


def _superpoint_mode(masks: Iterable[np.ndarray], superpoints: np.ndarray, owners: list[int]) -> Iterator[np.ndarray]:
    """Return for each mask (N,) the superpoints that its query wins: masks of one query share them.

    A point goes to the first query, best first, that has it. A superpoint goes to the query of most of its points, the
    better one of equals; points of no query do not vote.
    """
    rank_of_owner = {owner: rank for rank, owner in enumerate(dict.fromkeys(owners))}
    ranks = [rank_of_owner[owner] for owner in owners]
    taken = np.full(len(superpoints), -1)
    for rank, mask in zip(ranks, masks, strict=True):
        taken[mask & (taken < 0)] = rank
    chosen = np.flatnonzero(taken >= 0)
    pairs, counts = np.unique(superpoints[chosen] * max(1, len(rank_of_owner)) + taken[chosen], return_counts=True)
    superpoint, rank = np.divmod(pairs, max(1, len(rank_of_owner)))
    order = np.lexsort((rank, -counts, superpoint))
    first = order[np.unique(superpoint[order], return_index=True)[1]]                    # the winner of each superpoint
    winner = np.full(superpoints.max() + 1, -1)
    winner[superpoint[first]] = rank[first]
    return ((winner == rank)[superpoints] for rank in ranks)


def _depth_edges(depth_m: np.ndarray, edge_m: float) -> np.ndarray:
    """Return which pixels (H, W) have readings further than `edge_m` apart in their 3 x 3 neighbourhood."""
    nearest = ndimage.minimum_filter(np.where(depth_m > 0, depth_m, np.inf), size=3)
    return ndimage.maximum_filter(depth_m, size=3) - nearest > edge_m


def check_views(scene: SceneGroundTruth) -> None:
    """Raise a DataError where a scene has not one pose, depth image and pair of matrices per view."""
    lengths = {name: len(getattr(scene, name)) for name in
               ('depth_m', 'depth_intrinsics', 'cam_from_world', 'input_from_depth')}
    if len(set(lengths.values())) != 1 or lengths['depth_m'] == 0:
        raise DataError(f'{scene.scene_name}: ground truth must have one record per view everywhere, got {lengths}.')
