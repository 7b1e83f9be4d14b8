"""One page that shows what a model made of a scene (Figures 5 and 6): views, cloud, instances, view attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from torch import Tensor

from jrs.benchmarks import class_name
from jrs.geometry.cloud import FRUSTUM_EDGES, PointCloud, camera_corners, frustum_size, instance_map, point_cloud
from jrs.io.atomic import atomic_write
from jrs.structures import InstanceTargets, Reconstruction
from jrs.visualization import attention, html
from jrs.visualization.cloud import render_cloud, scene_frame
from jrs.visualization.depth import INVALID, depth_bar, depth_picture, shared_range
from jrs.visualization.features import feature_pictures
from jrs.visualization.overlays import colour_ids, instance_colours, overlay_masks
from jrs.visualization.pictures import scale_to, to_numpy, to_picture

MAX_VIEWS = 12                                  # rows of pictures; more views are shown evenly spaced
SHOWN_WIDTH = 336                               # small network input is enlarged to about this width
MAX_ROWS = 24                                   # instances in the attention table
SAME_OBJECT = 0.25                              # a true object and a prediction belong together from this IoU on
STILLS = {'from behind the cameras': (0, 25), 'from the side': (-55, 35), 'from above': (0, 80)}    # yaw, pitch in degrees
STILL_POINTS = 200000


@dataclass
class _Shown:
    """What all parts of a section draw from; colours are shared by predictions and the true objects they hit."""

    scene: Reconstruction
    names: list[str]
    colours: np.ndarray
    truth: InstanceTargets | None
    truth_of: np.ndarray
    overlap: np.ndarray
    truth_colours: np.ndarray
    valid: np.ndarray | None
    class_names: Sequence[str]


def scene_section(scene: Reconstruction, class_names: Sequence[str], ground_truth: InstanceTargets | None = None,
                  view_attention: Tensor | None = None, cloud: PointCloud | None = None, valid: Tensor | None = None,
                  title: str = '', note: str = '', true_geometry: Reconstruction | None = None) -> str:
    """Return the HTML of one scene: cloud, views, instances, view attention, cameras.

    Args:
        scene: the reconstruction; what is None is left out.
        class_names: K names.
        ground_truth: true objects in the same views, masks of the resolution of the predicted ones; or None.
        view_attention: (L, Q, V), rows over V sum to 1; None takes the reconstruction's, if it has one.
        cloud: from `jrs.geometry.cloud.point_cloud`; None makes it here, where there are depth and cameras.
        valid: (V, H, W) bool, False in padding; None = all.
        title, note: heading and a line below it.
        true_geometry: `scene` with depth, intrinsics and cameras replaced by true ones: drawn too, so that masks can be
            judged where predicted geometry is poor.
    """
    cloud = point_cloud(scene, valid) if cloud is None and not scene.missing_geometry else cloud
    view_attention = scene.view_attention if view_attention is None else view_attention
    shown = _prepare(scene, class_names, ground_truth, valid)
    parts = [f'<h2>{escape(title)}</h2>' if title else '', f'<p class="soft">{escape(note)}</p>' if note else '',
             _stage(shown, cloud), '' if cloud is None else _stills(shown, scene, cloud, 'stills of the cloud')]
    if true_geometry is not None:
        measured = point_cloud(true_geometry, valid, drop_percent=0)
        parts.append(_stills(shown, true_geometry, measured, 'the predicted masks on the true geometry'))
    parts += [_views(shown), _instances(shown, cloud)]
    if view_attention is not None and shown.names:
        parts.append(_attention(shown, to_numpy(view_attention)))
    parts.append(_cameras(shown))
    return '<section class="scene">' + '\n'.join(part for part in parts if part) + '</section>'


def write_report(path: str | Path, title: str, sections: Sequence[str], facts: Mapping[str, object], notice: str = '',
                 subtitle: str = '') -> Path:
    """Write one self-contained page; `sections` are HTML (`scene_section`), `facts` are shown at the top."""
    with atomic_write(path, 'w') as file:
        file.write(html.page(title, '\n'.join(sections), facts, notice, subtitle))
    return Path(path)


def match_truth(masks, true_masks) -> tuple[np.ndarray, np.ndarray]:
    """Return for each predicted mask its best true object (M,), -1 below IoU 0.25, and that IoU (M,).

    Args:
        masks: (M, V, h, w) bool.
        true_masks: (G, V, h, w) bool.
    """
    ours, true = to_numpy(masks).astype(bool), to_numpy(true_masks).astype(bool)
    best, iou = np.full(len(ours), -1), np.zeros(len(ours))
    sizes = true.sum((1, 2, 3))                                                             # (G,)
    for index, mask in enumerate(ours if len(true) else ours[:0]):
        shared = (true & mask).sum((1, 2, 3))                                               # (G,)
        overlap = shared / np.maximum(mask.sum() + sizes - shared, 1)
        iou[index] = overlap.max()
        best[index] = overlap.argmax() if iou[index] >= SAME_OBJECT else -1
    return best, iou


def match_scene(scene: Reconstruction, truth: InstanceTargets | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what `match_truth` says of the instances of a scene, (M,) each.

    Without anything to compare with no mask is unpacked: there may be gigabytes.
    """
    count = 0 if scene.instances is None else len(scene.instances)
    if not count or truth is None or not len(truth.labels):
        return np.full(count, -1), np.zeros(count)
    return match_truth(scene.instances.masks, truth.masks)


def _prepare(scene: Reconstruction, class_names: Sequence[str], truth: InstanceTargets | None,
             valid: Tensor | None) -> _Shown:
    count = 0 if scene.instances is None else len(scene.instances.labels)
    names = [class_name(class_names, int(label)) for label in scene.instances.labels] if count else []
    true_count = 0 if truth is None else len(truth.labels)
    every = instance_colours(count + true_count)
    truth_of, overlap = match_scene(scene, truth)
    truth_colours = every[count:].copy()
    for index in reversed(range(count)):
        if truth_of[index] >= 0:
            truth_colours[truth_of[index]] = every[index]
    return _Shown(scene, names, every[:count], truth, truth_of, overlap, truth_colours,
                  None if valid is None else to_numpy(valid), class_names)


def _stage(shown: _Shown, cloud: PointCloud | None) -> str:
    """The cloud to turn, with the list of instances beside it."""
    viewer = f'<p class="soft">No cloud: the model has no {" and no ".join(shown.scene.missing_geometry)}.</p>'
    if cloud is not None:
        corners = camera_corners(shown.scene, frustum_size(cloud))                          # (V, 5, 3)
        lines = corners[:, np.array(FRUSTUM_EDGES)]                                         # (V, 8, 2, 3)
        viewer = html.cloud_viewer(cloud, shown.colours, shown.scene.cam_from_world, lines)
    items = ''.join(f'<li data-instance="{index + 1}">{html.chip(shown.colours[index])}{escape(name)}'
                    f'<span class="score">{float(shown.scene.instances.scores[index]):.2f}</span></li>'
                    for index, name in enumerate(shown.names))
    empty = '<p class="soft">No instances: the model has no queries, or none passed the score and size limits.</p>'
    side = f'<ul class="list">{items}</ul>' if items else empty
    return f'<div class="stage">{viewer}<div>{side}</div></div>'


def _stills(shown: _Shown, scene: Reconstruction, cloud: PointCloud, summary: str) -> str:
    """A cloud as still pictures, for mail and print."""
    frame, cloud = scene_frame(cloud.points, scene.cam_from_world), cloud.thinned(STILL_POINTS)
    looks = {'colours of the photos': cloud.colours}
    if shown.names:
        looks['colours of the instances'] = colour_ids(cloud.instances, shown.colours)
    figures = [html.figure(render_cloud(cloud.points, colours, *frame, *angles, (330, 440), cloud.normals),
                           f'{words}, {where}')
               for words, colours in looks.items() for where, angles in STILLS.items()]
    return f'<details open><summary>{summary}</summary><div class="stills">{"".join(figures)}</div></details>'


def _views(shown: _Shown) -> str:
    """One row per view: input, depth, features, masks, and the true masks where known."""
    scene = shown.scene
    zoom = max(round(SHOWN_WIDTH / scene.images.shape[-1]), 1)
    height, width = (size * zoom for size in scene.images.shape[-2:])
    views = np.unique(np.linspace(0, len(scene.images) - 1, min(len(scene.images), MAX_VIEWS)).round().astype(int))
    pictures = [scale_to(to_picture(scene.images[view]), height, width) for view in views]
    columns, bar = {'input': pictures}, ''
    if scene.depth is not None:
        depths, bar = _depths(shown)
        name = 'given depth' if 'depth' in scene.given else 'depth'
        columns[name] = [scale_to(depths[view], height, width) for view in views]
    if scene.features is not None:
        features = _features(scene.features, shown.valid)
        columns['instance features (PCA)'] = [scale_to(features[view], height, width) for view in views]
    if shown.names:
        ids = to_numpy(instance_map(scene.instances.packed))
        columns['masks'] = [overlay_masks(*pair, shown.colours) for pair in zip(pictures, ids[views], strict=True)]
    if shown.truth is not None and len(shown.truth.labels):
        true = to_numpy(instance_map(shown.truth.masks))
        columns['true masks'] = [overlay_masks(picture, true[view], shown.truth_colours)
                                 for picture, view in zip(pictures, views, strict=True)]
    rows = [[html.image(column[row], f'{name}, view {scene.view_names[view]}') for name, column in columns.items()]
            for row, view in enumerate(views)]
    some = f' ({len(views)} of {len(scene.images)}, evenly spaced)' if len(views) < len(scene.images) else ''
    return f'<h3>Views{some}</h3>{html.picture_grid(list(columns), rows)}{bar}'


def _depths(shown: _Shown) -> tuple[list[np.ndarray], str]:
    """Depth pictures of all views, (H, W, 3) each, and the bar that explains their colours."""
    depth = to_numpy(shown.scene.depth)
    reading = (depth > 0) if shown.valid is None else (depth > 0) & shown.valid
    near, far = shared_range(depth, reading)
    bar = html.image(depth_bar(near, far), 'colours of depth', lossless=True)
    return ([depth_picture(view, near, far, inside) for view, inside in zip(depth, reading, strict=True)],
            f'<figure class="scale">{bar}<figcaption>z-depth, one scale for all views</figcaption></figure>')


def _features(features: Tensor, valid: np.ndarray | None) -> np.ndarray:
    """Feature pictures (V, h, w, 3) whose colours ignore padding, which is grey."""
    if valid is None:
        return feature_pictures(features)
    inside = np.stack([scale_to(view.astype(np.uint8), *features.shape[-2:], smooth=False) > 0 for view in valid])
    pictures = feature_pictures(features, inside)
    pictures[~inside] = INVALID
    return pictures


def _instances(shown: _Shown, cloud: PointCloud | None) -> str:
    """What was found, in numbers."""
    if not shown.names:
        return ''
    found = shown.scene.instances
    pixels = to_numpy(found.packed.pixels())                                                # (M, V)
    points = ['–'] * len(shown.names) if cloud is None else np.bincount(
        cloud.instances, minlength=len(shown.names) + 1)[1:].tolist()
    head, rows = ['', 'id', 'class', 'score', 'views', 'mask pixels', 'points'], []
    with_truth = shown.truth is not None
    for index, name in enumerate(shown.names):
        row = [html.chip(shown.colours[index]), index + 1, name, float(found.scores[index]),
               int((pixels[index] > 0).sum()), int(pixels[index].sum()), points[index]]
        if with_truth:
            hit = shown.truth_of[index]
            row += [class_name(shown.class_names, int(shown.truth.labels[hit])) if hit >= 0 else '–',
                    float(shown.overlap[index])]
        rows.append(row)
    said = ''
    if with_truth:
        head += ['true object', 'IoU']
        hits = {limit: len(set(shown.truth_of[shown.overlap >= limit].tolist()) - {-1}) for limit in (0.25, 0.5)}
        said = (f'<p>{hits[0.25]} of {len(shown.truth.labels)} true objects are hit with IoU ≥ 0.25, '
                f'{hits[0.5]} with IoU ≥ 0.5.</p>')
    return f'<h3>Instances</h3>{said}<details{" open" if len(rows) <= 15 else ""}><summary>{len(rows)} instances</summary>' \
           f'{html.table(head, rows)}</details>'


def _attention(shown: _Shown, view_attention: np.ndarray) -> str:
    """One heat row per instance, beside the views in which the object can be seen."""
    found = shown.scene.instances
    rows = min(len(shown.names), MAX_ROWS)
    looked = attention.query_attention(view_attention, found.queries)[:rows]                # (n, V)
    seen = attention.mask_visibility(found.masks)[:rows]
    heading = 'share of its mask'
    if shown.truth is not None:
        heading = 'visibility of the true object (its own mask where none fits)'
        true = to_numpy(shown.truth.view_visibility)
        seen = np.stack([true[hit] if hit >= 0 else seen[row] for row, hit in enumerate(shown.truth_of[:rows])])
    thumbs = ''.join(f'<th>{html.image(scale_to(to_picture(view), 48, 64), name)}</th>'
                     for view, name in zip(shown.scene.images, shown.scene.view_names, strict=True))
    views = len(shown.scene.images)
    lines = [f'<tr><th></th><th colspan="{views}">view attention, mean over layers</th><th class="gap"></th>'
             f'<th colspan="{views}">{heading}</th><th>on these views</th></tr>'
             f'<tr><th></th>{thumbs}<th class="gap"></th>{thumbs}<th></th></tr>']
    for row in range(rows):
        on_visible = looked[row][seen[row] > 0].sum()
        name = f'{html.chip(shown.colours[row])} {escape(shown.names[row])}'
        lines.append(f'<tr data-instance="{row + 1}"><td class="name">{name}</td>{_heat(looked[row])}<td class="gap"></td>'
                     f'{_heat(seen[row])}<td class="number">{on_visible:.0%} '
                     f'<span class="soft">(uniform {(seen[row] > 0).mean():.0%})</span></td></tr>')
    return ('<h3>View attention</h3><p class="soft">How the query of each instance spreads its attention over the views, '
            'bright = most; hover for numbers. The last column is the share that falls on views where the object can be '
            'seen, and what an even spread would give.</p>'
            f'<div class="scroll"><table class="heat">{"".join(lines)}</table></div>')


def _heat(shares: np.ndarray) -> str:
    colours = attention.heat_colours(shares[None])[0]
    return ''.join(f'<td class="cell" title="{share:.1%}"><span style="background:{html.css_colour(colour)}"></span></td>'
                   for share, colour in zip(shares, colours, strict=True))


def _cameras(shown: _Shown) -> str:
    """Where the cameras stand and how wide they see."""
    scene = shown.scene
    if scene.cam_from_world is None:
        return ''
    height, width = scene.images.shape[-2:]
    centres = np.linalg.inv(to_numpy(scene.cam_from_world).astype(np.float64))[:, :3, 3]     # (V, 3)
    focal = to_numpy(scene.intrinsics).astype(np.float64)[:, [0, 1], [0, 1]]                # (V, 2)
    angles = np.degrees(2 * np.arctan(np.array([width, height]) / 2 / focal))
    numbers = np.hstack([centres, angles]).round(3).tolist()
    rows = [[name, *row] for name, row in zip(scene.view_names, numbers, strict=True)]
    head = ['view', 'x', 'y', 'z', 'field of view across (°)', 'down (°)']
    world = 'given, centres in their own world' if 'cameras' in scene.given else 'centres in the frame of the first'
    summary = f'{len(rows)} cameras: {world}'
    return f'<details><summary>{summary}</summary>{html.table(head, rows)}</details>'
