"""What a scene without a mesh is scored against: the true depth of its views as points, with the ids that the views show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from jrs.errors import DataError
from jrs.geometry.projection import unproject_depth
from jrs.structures import SceneGroundTruth

VOXEL_M = 0.02                                 # edge of the voxels: about the spacing of ScanNet's mesh vertices
_ID_BITS, _AXIS_BITS = 10, 17                  # of a key: an instance number below 1024, a voxel's place along an axis


def ground_truth_of_views(scene_name: str, depth_m: np.ndarray, instance_ids: np.ndarray | None,
                          class_of: Mapping[int, int], depth_intrinsics: np.ndarray, cam_from_world: np.ndarray,
                          input_from_depth: np.ndarray, voxel_m: float = VOXEL_M) -> SceneGroundTruth:
    """Return ground truth whose vertices are the depth pixels of all views, back-projected and thinned.

    The rule: space is cut into voxels of edge `voxel_m`, aligned with the world's axes and origin. A voxel that holds a
    point gives one vertex: of the id that most of its points have (the smallest of equals), at the mean of the points of
    that id. Vertices are in the order of x, then y, then z of their voxels.

    Args:
        scene_name: for messages and result files.
        depth_m: (V, Hd, Wd) z-depth in metres, 0 = no reading.
        instance_ids: (V, Hd, Wd) integers at the pixels of the depth images; what `class_of` does not name is void. None =
            all void: geometry can be scored, instances cannot.
        class_of: instance id, 1 .. 999 -> class id of the benchmark.
        depth_intrinsics: (V, 3, 3) of the depth images, pixel centres at integers.
        cam_from_world: (V, 4, 4), metres.
        input_from_depth: (V, 3, 3) affine map of depth pixels to pixels of the network input.
        voxel_m: metres.

    Raises:
        DataError: no view has a reading, ids out of range, or a scene of more than a kilometre.
    """
    if not all(0 < number < 1000 for number in class_of):
        raise DataError(f'{scene_name}: instance ids must be in 1..999, got {min(class_of)} to {max(class_of)}.')
    known = np.zeros(1 << _ID_BITS, np.int64)
    known[list(class_of)] = list(class_of)
    found = []
    for view, depth in enumerate(depth_m):                  # one view at a time bounds memory
        _, world = unproject_depth(*(torch.from_numpy(np.asarray(array, np.float64)) for array in
                                     (depth, depth_intrinsics[view], cam_from_world[view])))
        seen = depth > 0                                                                    # (Hd, Wd)
        ids = np.zeros(int(seen.sum()), np.int64) if instance_ids is None else instance_ids[view][seen]
        ids = np.where((ids > 0) & (ids < 1000), ids, 0)
        found.append(_pooled(_keys(scene_name, world.numpy()[seen], voxel_m) << _ID_BITS | known[ids],
                             np.ones(len(ids)), world.numpy()[seen]))
    keys, counts, sums = _pooled(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if not len(keys):
        raise DataError(f'{scene_name}: no view has a depth reading, so that there is nothing to score against.')
    order = np.lexsort((keys, -counts, keys >> _ID_BITS))
    first = order[np.unique(keys[order] >> _ID_BITS, return_index=True)[1]]                 # the winner of each voxel
    numbers = keys[first] & ((1 << _ID_BITS) - 1)
    of_class = np.zeros(1 << _ID_BITS, np.int64)
    of_class[list(class_of)] = list(class_of.values())
    return SceneGroundTruth(
        scene_name, sums[first] / counts[first, None], np.where(numbers > 0, of_class[numbers] * 1000 + numbers, 0), None,
        np.asarray(depth_m, np.float32), np.asarray(depth_intrinsics), np.asarray(cam_from_world),
        np.asarray(input_from_depth), source=f'true depth of the views, one point per {voxel_m:g} m voxel')


def _keys(scene_name: str, points: np.ndarray, voxel_m: float) -> np.ndarray:
    """Return the voxel of each point (n, 3) as one number, (n,) int64, rising with x, then y, then z."""
    places = np.floor(points / voxel_m).astype(np.int64) + (1 << _AXIS_BITS - 1)            # (n, 3)
    if places.size and not 0 <= places.min() <= places.max() < 1 << _AXIS_BITS:
        raise DataError(f'{scene_name}: depth and cameras give points {np.abs(points).max():.0f} m from the origin: units '
                        'must be metres.')
    return (places[:, 0] << _AXIS_BITS | places[:, 1]) << _AXIS_BITS | places[:, 2]


def _pooled(keys: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct keys (m,), rising, with their added counts (m,) and sums (m, 3)."""
    keys, owner = np.unique(keys, return_inverse=True)
    added = [np.bincount(owner, values, len(keys)) for values in (counts, *sums.T)]
    return keys, added[0], np.stack(added[1:], axis=1)
