"""Figure 5: three views of a scene far enough apart: input, depth, instance features, masks, true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from jrs.benchmarks import class_name
from jrs.geometry.cloud import instance_map
from jrs.report.figures.queries import CELL_PIXELS
from jrs.report.figures.sheet import Cell, Row
from jrs.structures import InstanceTargets, Reconstruction
from jrs.visualization.depth import depth_picture, shared_range
from jrs.visualization.features import feature_pictures
from jrs.visualization.overlays import instance_colours, overlay_masks
from jrs.visualization.pictures import scale_to, to_numpy, to_picture
from jrs.visualization.report import match_scene

SHARED = 0.01                                   # of a view's pixels that an instance takes where it counts as shown
RICH = 3                                        # so many instances a view shows where it has something to say
SEPARATION = ('Three views: of all triples in which each view shows at least three instances, and one is in all of them '
              '(1 % of the pixels), the one whose nearest two are farthest apart, by the distance of the cameras over the '
              'median true depth plus their turn in quarters of a circle. Where there is no such triple, of those that '
              'share an instance; else of all.')
COLOURS = 'Depth: near is warm, far is cold, one scale. A prediction has the colour of the true instance that it hits.'


def separation(cam_from_world: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """Return how far apart each two views are, (V, V): distance over the median depth, plus turn over 90 degrees.

    Args:
        cam_from_world: (V, 4, 4), metres.
        depth_m: (V, H, W), 0 = no reading.
    """
    rotations = cam_from_world[:, :3, :3].astype(np.float64)
    centres = -(rotations.transpose(0, 2, 1) @ cam_from_world[:, :3, 3:])[..., 0]           # (V, 3)
    away = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    cosine = (np.einsum('aij,bij->ab', rotations, rotations) - 1) / 2
    readings = depth_m[depth_m > 0]
    scale = float(np.median(readings)) if len(readings) else 1.0
    return away / scale + np.degrees(np.arccos(np.clip(cosine, -1, 1))) / 90


def separated_views(apart: np.ndarray, shares: np.ndarray) -> tuple[tuple[int, ...], float]:
    """Return three views by the rule of `SEPARATION`, all where there are fewer, and how far the nearest two are apart.

    Args:
        apart: (V, V) from `separation`.
        shares: (G, V) share of each view's pixels that an instance takes.
    """
    views = len(apart)
    if views < 3:
        return tuple(range(views)), float(apart[0, -1]) if views else 0.0
    triples = np.array(list(combinations(range(views), 3)))                                 # (n, 3)
    shown = (shares >= SHARED)[:, triples]                                                  # (G, n, 3)
    common, rich = shown.all(-1).any(0), (shown.sum(0) >= RICH).all(-1)                     # (n,) each
    triples = next(triples[kept] for kept in (common & rich, common, np.ones(len(triples), bool)) if kept.any())
    nearest = np.minimum.reduce([apart[triples[:, a], triples[:, b]] for a, b in ((0, 1), (0, 2), (1, 2))])
    best = int(nearest.argmax())
    return tuple(triples[best].tolist()), float(nearest[best])


@dataclass
class Drawn:
    """Figure 5: its rows, and a row of numbers per predicted instance."""

    rows: list[Row]
    numbers: list[dict]


def view_rows(scene: Reconstruction, truth: InstanceTargets, views: Sequence[int], class_names: Sequence[str]) -> Drawn:
    """Return the rows of Figure 5 for some views, a column each.

    A prediction has the colour of the true instance that it hits with IoU 0.25 or more; others have colours of their own.

    Args:
        scene: what a model made of all views; what it lacks has no row.
        truth: true instances, masks at the resolution of the predicted ones.
        views: numbers of the views.
        class_names: K names.
    """
    photos = [scale_to(photo := to_picture(scene.images[view]), round(CELL_PIXELS * photo.shape[0] / photo.shape[1]),
                       CELL_PIXELS) for view in views]
    size = photos[0].shape[:2]
    rows = [Row([Cell(photo) for photo in photos], 'input', [f'view {scene.view_names[view]}' for view in views])]
    if scene.depth is not None:
        near, far = shared_range(scene.depth, to_numpy(scene.depth) > 0)
        rows.append(Row([Cell(scale_to(depth_picture(scene.depth[view], near, far), *size)) for view in views], 'depth'))
    if scene.features is not None:
        pictures = feature_pictures(scene.features)
        rows.append(Row([Cell(scale_to(pictures[view], *size)) for view in views], 'features (PCA)'))
    count, true_count = 0 if scene.instances is None else len(scene.instances), len(truth.labels)
    every = instance_colours(true_count + count)
    true_colours, colours = every[:true_count], every[true_count:].copy()
    hit, overlap = match_scene(scene, truth)
    colours[hit >= 0] = true_colours[hit[hit >= 0]]
    if scene.instances is not None:
        rows.append(Row(_masked(photos, scene.instances.packed, views, colours), 'masks'))
    if true_count:
        rows.append(Row(_masked(photos, truth.masks, views, true_colours), 'true masks'))
    return Drawn(rows, [_numbers(scene, truth, views, class_names, index, int(hit[index]), float(overlap[index]))
                        for index in range(count)])


def _masked(photos: Sequence[np.ndarray], masks, views: Sequence[int], colours: np.ndarray) -> list[Cell]:
    """Return the photos with masks (M, V, h, w) in `colours` (M, 3)."""
    ids = to_numpy(instance_map(masks))
    return [Cell(overlay_masks(photo, ids[view], colours)) for photo, view in zip(photos, views, strict=True)]


def _numbers(scene: Reconstruction, truth: InstanceTargets, views: Sequence[int], class_names: Sequence[str], index: int,
             hit: int, overlap: float) -> dict:
    found = scene.instances
    pixels = to_numpy(found.packed[[index]].pixels())[0]
    return dict(instance=index + 1, label=class_name(class_names, int(found.labels[index])),
                score=float(found.scores[index]),
                true_instance=int(truth.ids[hit]) if hit >= 0 and truth.ids is not None else '',
                true_label=class_name(class_names, int(truth.labels[hit])) if hit >= 0 else '', iou=overlap,
                **{f'pixels_view_{scene.view_names[view]}': int(pixels[view]) for view in views})
