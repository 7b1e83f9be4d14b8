"""Windows of one scene, read from disk one after the other and written as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from jrs.engine.inference import Reconstructor, Scene
from jrs.engine.windows import Plan, StoredWindows, stored_scene, words_of_window
from jrs.errors import DataError
from jrs.geometry.alignment import Similarity, move_cameras
from jrs.geometry.cloud import PointCloud, instance_map, point_cloud
from jrs.geometry.joining import Join, SharedViews, chain, inverse, join
from jrs.geometry.pixels import at_centres
from jrs.io.images import LoadedPhotos, SourceViews
from jrs.io.known_geometry import unit_in_words
from jrs.io.png import write_jpeg, write_png16
from jrs.postprocess.export import (
    MOST_IDS,
    cameras_record,
    instances_record,
    original_ids,
    remove_old,
    view_in_photo,
    write_clouds,
    write_glb,
    write_json,
)
from jrs.postprocess.merging import MergedInstances, Overlap, WindowInstances, merge_windows, same_instances
from jrs.structures import Instances, PackedMasks, Reconstruction
from jrs.visualization.overlays import instance_colours
from jrs.visualization.report import MAX_VIEWS, scene_section


@dataclass
class Joined:
    """How windows become one scene.

    Attributes:
        similarities: one per window, from its own world to that of the first.
        joins: how each window but the first is brought to the one before.
        merged: the instances of all; None from a geometry-only model.
        queries: (G,), the query of the best part of each.
        pairs: per join, how many instances are one on both sides.
        input_size: (H, W), the largest height and width of the windows' views: photos of other shapes are padded to others.
    """

    similarities: list[Similarity]
    joins: list[Join]
    merged: MergedInstances | None
    queries: np.ndarray
    pairs: list[int]
    input_size: tuple[int, int]

    def record(self, plan: Plan) -> dict:
        """Return what windows.json holds."""
        windows = []
        for number, ((start, stop), owned, whole) in enumerate(zip(plan.spans, plan.owned, self.similarities, strict=True)):
            to_before = None
            if number:
                to_before = self.joins[number - 1].record() | {'same_instances': self.pairs[number - 1]}
            windows.append({'window': number, 'views': [start, stop - 1], 'taken_from_it': [owned[0], owned[1] - 1],
                            'scale': whole.scale, 'to_the_one_before': to_before})
        return {'windows': windows, 'size': plan.size, 'overlap': plan.overlap, 'anchors': plan.anchored, 'note':
                'Views count from 0, both ends included. scale: what depth and translations of the window were multiplied '
                'by. to_the_one_before: x -> scale * rotation @ x + translation; residual is the median distance of shared '
                'points and cameras after it, in the unit of the window before; residual_over_distance is that over their '
                'median distance from the shared cameras; inliers the share of pairs that the fit used.'}


@dataclass
class _Gathered:
    """What is left of all windows when each has been read once."""

    cameras: list[torch.Tensor] = field(default_factory=list)
    intrinsics: list[torch.Tensor] = field(default_factory=list)
    to_input: list[torch.Tensor] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: list[torch.Tensor] = field(default_factory=list)
    clouds: list[PointCloud] = field(default_factory=list)
    shown: list[tuple[Reconstruction, torch.Tensor | None, torch.Tensor]] = field(default_factory=list)
    notes: list = field(default_factory=list)
    mask_size: tuple[int, int] = (1, 1)
    scale: str = 'arbitrary'
    ranking: str = ''


def join_windows(store: StoredWindows, plan: Plan, say: Callable[[str], None] = print) -> Joined:
    """Return how the kept windows become one scene; two of them are in memory, with what they share alone.

    Raises:
        DataError: a window is damaged, or two cannot be joined.
    """
    spans, joins, windows, pairs, before, anchors = plan.spans, [], [], [], None, None
    queries, sizes = [], []
    for number, (start, stop) in enumerate(spans):
        with store.open(number) as arrays:
            sizes.append(arrays['valid'].shape[1:])
            if 'scores' in arrays:
                windows.append(WindowInstances(arrays['scores'], arrays['labels'],
                                               arrays['embedding'] if 'embedding' in arrays else None))
                queries.append(arrays['queries'])
            if number:
                count, far = spans[number - 1][1] - start, len(plan.places(number)) - (stop - start)
                earlier, later = before[0], _shared(arrays, slice(0, count))
                if far:
                    earlier += anchors.some(far).moved(inverse(chain(one.similarity for one in joins)[-1]))
                    later += _shared(arrays, slice(stop - start, None))
                found = join(earlier, later)
                joins.append(found)
                pairs.append(_same(before[1], _shared_masks(arrays, slice(0, count)), windows[-2:]))
                say(f'window {number} joined to {number - 1} on {count} views{f" and {far} anchors" if far else ""}: '
                    f'scale {found.similarity.scale:.4f}, residual {found.residual:.3g} ({found.relative:.2%} of the '
                    f'distance), {found.inliers:.0%} of {found.pairs} pairs, {len(pairs[-1])} instances in both')
            else:
                anchors = _shared(arrays, plan.anchored)
            if number + 1 < len(spans):
                places = slice(spans[number + 1][0] - start, stop - start)
                before = _shared(arrays, places), _shared_masks(arrays, places)
    merged = merge_windows(windows, pairs) if windows else None
    best = np.full(0 if merged is None else len(merged.scores), -1, np.int64)
    for window, own, of_window in zip(windows, queries, merged.of_window if merged else (), strict=True):
        wins = (best[of_window] < 0) & (window.scores >= merged.scores[of_window])
        best[of_window[wins]] = own[wins]
    return Joined(chain(one.similarity for one in joins), joins, merged, best, [len(some) for some in pairs],
                  tuple(max(sides) for sides in zip(*sizes, strict=True)))


def write_joined(out: Path, reconstruct: Reconstructor, views: SourceViews, store: StoredWindows, plan: Plan, joined: Joined,
                 confidence: float = 20.0, max_points: int = 500_000, glb: bool = True, title: str = 'Reconstruction',
                 facts: dict | None = None) -> list[Path]:
    """Write the files of `Scene.save` and windows.json from the kept windows, one of which is in memory at a time.

    Each view is that of the window which has it farther from its ends. `confidence` percent of the points of each window are
    left out, and each has its share of `max_points` by its views; masks and views are read and written one window at a time.
    The report shows 12 views at most.

    Raises:
        DataError: a window is damaged, or there are more instances than 16-bit masks have numbers.
    """
    merged = joined.merged
    count = 0 if merged is None else len(merged.scores)
    if count > MOST_IDS:
        raise DataError(f'{out}: {count} instances do not fit into 16-bit masks; give a larger --min-score.')
    folders = [out / 'views'] + ([] if merged is None else [out / 'masks'])
    for folder, pattern in zip(folders, ('*.jpg', '*.png'), strict=False):
        folder.mkdir(parents=True, exist_ok=True)
        remove_old(folder, pattern)
    names, originals = views.names, views.originals
    wanted = set(np.linspace(0, plan.views - 1, min(plan.views, MAX_VIEWS)).round().astype(int).tolist())
    gathered = _Gathered()
    for number, ((first, _), (start, stop)) in enumerate(zip(plan.spans, plan.owned, strict=True)):
        with store.open(number) as arrays:
            scene, photos = stored_scene(arrays, slice(start - first, stop - first), names[start:stop],
                                         originals[start:stop])
            words = words_of_window(arrays)
        scene, photos = _at_size(_in_the_first(scene, joined.similarities[number]), photos, joined.input_size)
        own = None
        if merged is not None:
            scene.instances, own = _as_merged(scene.instances, merged, number)
        _gather(gathered, scene, photos, words, start, own, count, wanted, confidence,
                max(max_points * (stop - start) // plan.views, 1))
        _write_pictures(out, scene, photos, own)
        del scene, photos
    return _write_all(out, reconstruct, views, plan, joined, gathered, glb, title, facts or {})


def _shared(arrays, places: slice | list[int]) -> SharedViews:
    """Return the geometry of some views of a window at pixels that are no padding, which is around the same in every window.

    The half that the model is less sure of has no depth here.
    """
    valid = arrays['valid'][places]                                             # (S, H, W)
    depth, rays = None, None
    if 'depth' in arrays:
        depth, rays, maps = [], [], arrays['depth'][places].astype(np.float64)
        sure = arrays['depth_conf'][places] if 'depth_conf' in arrays else None
        for view, (inside, intrinsics) in enumerate(zip(valid, arrays['intrinsics'][places], strict=True)):
            own = maps[view][inside]
            if sure is not None:
                own[sure[view][inside] < np.median(sure[view][inside])] = 0
            rows, columns = np.nonzero(inside)
            pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)       # (3, n)
            depth.append(own)
            rays.append(np.linalg.solve(intrinsics.astype(np.float64), pixels).T)
    return SharedViews(arrays['cam_from_world'][places].astype(np.float64), depth, rays)


def _shared_masks(arrays, places: slice) -> list[np.ndarray]:
    """Return the masks (M, n_s) bool of some views of a window, at the pixels of `_shared`; empty without instances."""
    masks, valid = [], arrays['valid'][places]                                  # (S, H, W)
    if 'scores' in arrays:
        packed = PackedMasks(torch.from_numpy(arrays['bits'][:, places]), torch.from_numpy(arrays['rows']),
                             tuple(arrays['mask_size'].tolist()))
        for view, inside in enumerate(valid):
            one = dataclasses.replace(packed, bits=packed.bits[:, view:view + 1]).dense()[:, 0]     # (M, h, w)
            masks.append(at_centres(one, valid.shape[1:]).numpy()[:, inside])
    return masks


def _same(earlier: list[np.ndarray], later: list[np.ndarray], windows: Sequence[WindowInstances]) -> list[tuple[int, int]]:
    """Return which instances of two windows are one, by their masks in the shared views."""
    if not windows:
        return []
    overlap = Overlap(*map(len, windows))
    for masks in zip(earlier, later, strict=True):
        overlap.add(*masks)
    return same_instances(overlap.iou, *(window.embedding for window in windows))


def _in_the_first(scene: Reconstruction, similarity: Similarity) -> Reconstruction:
    """Return views of a window in the world and unit of the first one."""
    cameras = torch.from_numpy(move_cameras(scene.cam_from_world.numpy(), similarity)).float()
    depth = None if scene.depth is None else scene.depth * similarity.scale
    return dataclasses.replace(scene, cam_from_world=cameras, depth=depth)


def _at_size(scene: Reconstruction, photos: LoadedPhotos, size: tuple[int, int]) -> tuple[Reconstruction, LoadedPhotos]:
    """Return views of a window centred on white at `size` (H, W), as views of one pass are at the largest of them."""
    own = tuple(scene.images.shape[-2:])
    if own == size:
        return scene, photos
    top, left = ((whole - part) // 2 for whole, part in zip(size, own, strict=True))
    around = (left, size[1] - own[1] - left, top, size[0] - own[0] - top)
    moved = torch.eye(3, dtype=torch.float64)
    moved[:2, 2] = torch.tensor([left, top])
    images, valid = pad(scene.images, around, value=1.0), pad(photos.valid, around)
    maps = {name: None if values is None else pad(values, around)
            for name, values in (('depth', scene.depth), ('depth_conf', scene.depth_conf))}
    instances = scene.instances
    if instances is not None:                                                   # through pixels of the input: no half ones
        mask_size = tuple(part * whole // before
                          for part, whole, before in zip(instances.packed.size, size, own, strict=True))
        masks = at_centres(pad(at_centres(instances.packed.dense(), own), around), mask_size)
        instances = dataclasses.replace(instances, packed=PackedMasks.pack(masks))
    found = dataclasses.replace(scene, images=images, **maps, intrinsics=moved.to(scene.intrinsics) @ scene.intrinsics,
                                instances=instances)
    return found, dataclasses.replace(photos, images=images, valid=valid,
                                      input_from_original=moved.to(photos.input_from_original) @ photos.input_from_original)


def _as_merged(instances: Instances, merged: MergedInstances, number: int) -> tuple[Instances, np.ndarray]:
    """Return the M instances of a window in the order of the merged ones, with their labels; and which those are, (M,).

    Where masks overlap the first has the pixel: the one whose merged instance has the better score.
    """
    order = np.argsort(merged.of_window[number], kind='stable')
    own = merged.of_window[number][order]
    return dataclasses.replace(instances.select(torch.from_numpy(order)), labels=torch.from_numpy(merged.labels[own])), own


def _gather(all_: _Gathered, scene: Reconstruction, photos: LoadedPhotos, words: dict, start: int, own: np.ndarray | None,
            count: int, wanted: set[int], confidence: float, max_points: int) -> None:
    """Keep of the views of a window what the result has of them; `own` (M,) of the `count` merged instances are here."""
    all_.scale, all_.ranking = words['scale'], words['ranking']
    all_.cameras.append(scene.cam_from_world)
    all_.intrinsics.append(scene.intrinsics)
    all_.to_input.append(photos.input_from_original)
    all_.sizes += photos.original_sizes
    all_.notes += [tuple(note) for note in words['notes'] if tuple(note) not in all_.notes]
    if own is not None:
        all_.mask_size = scene.instances.packed.size
        pixels = torch.zeros(count, len(scene.images), dtype=torch.int64)
        pixels[torch.from_numpy(own)] = scene.instances.packed.pixels()
        all_.pixels.append(pixels)
    if not scene.missing_geometry:
        cloud = point_cloud(scene, photos.valid, confidence, max_points)
        if own is not None:
            cloud.instances = np.concatenate([[0], own + 1]).astype(np.int32)[cloud.instances]
        cloud.views = cloud.views + np.int32(start)
        all_.clouds.append(cloud)
    places = [view - start for view in sorted(wanted) if start <= view < start + len(scene.images)]
    if places:
        bits = None
        if own is not None:                                                     # all of the scene's, most of them not here
            packed = scene.instances.packed
            bits = packed.bits.new_zeros(count, len(places), packed.bits.shape[2])
            bits[torch.from_numpy(own)] = packed.bits[packed.rows][:, places]
        shown = Reconstruction(scene.images[places], None if scene.depth is None else scene.depth[places], None,
                               scene.intrinsics[places], scene.cam_from_world[places],
                               view_names=[scene.view_names[place] for place in places])
        all_.shown.append((shown, bits, photos.valid[places]))


def _write_pictures(out: Path, scene: Reconstruction, photos: LoadedPhotos, own: np.ndarray | None) -> None:
    """Write masks/NAME.png and views/NAME.jpg of the views of a window, whose M instances are `own` (M,) of the merged."""
    ids = None
    if own is not None:
        table = torch.from_numpy(np.concatenate([[0], own + 1]))
        ids = table[instance_map(scene.instances.packed)]                       # (V, h, w)
    for view, name in enumerate(photos.names):
        write_jpeg(out / 'views' / f'{name}.jpg', view_in_photo(photos, view))
        if ids is not None:
            write_png16(out / 'masks' / f'{name}.png', original_ids(ids[view], photos, view))


def _write_all(out: Path, reconstruct: Reconstructor, views: SourceViews, plan: Plan, joined: Joined, all_: _Gathered,
               glb: bool, title: str, facts: dict) -> list[Path]:
    merged, height, width = joined.merged, *joined.input_size
    instances, palette, written = None, None, [out / 'views']
    if merged is not None:
        nothing = PackedMasks(torch.zeros(0, plan.views, 0, dtype=torch.uint8), torch.arange(len(merged.scores)),
                              all_.mask_size)                                   # the masks are on disk
        instances = Instances(nothing, torch.from_numpy(merged.labels), torch.from_numpy(merged.scores).float(),
                              torch.from_numpy(joined.queries), ranking=all_.ranking)
        palette = instance_colours(len(instances))
    cloud = _one_cloud(all_.clouds) if all_.clouds else None
    blank = torch.zeros(1).expand(plan.views, 3, height, width)                 # of the size, without memory
    scene = Reconstruction(blank, None if cloud is None else blank[:, 0], None, torch.cat(all_.intrinsics),
                           torch.cat(all_.cameras), instances=instances, view_names=views.names, scale=all_.scale)
    photos = LoadedPhotos(blank, torch.ones(1, dtype=torch.bool).expand(plan.views, height, width), views.names, all_.sizes,
                          torch.cat(all_.to_input), views.originals, dict(views.left_out), all_.notes)
    if cloud is not None:
        written += write_clouds(out, cloud, f'unit: {unit_in_words(scene.scale)}', palette)
        written += [write_glb(out / 'scene.glb', scene, cloud)] if glb else []
    if merged is not None:
        record = instances_record(scene, cloud, reconstruct.class_names, palette, reconstruct.weights, reconstruct.novel,
                                  torch.cat(all_.pixels, dim=1))
        for index, entry in enumerate(record['instances']):
            entry['windows'] = [number for number, own in enumerate(merged.of_window) if index in own]
        written += [out / 'masks', write_json(out / 'instances.json', record)]
    written.append(write_json(out / 'cameras.json', cameras_record(scene, photos)))
    written.append(write_json(out / 'windows.json', joined.record(plan)))
    worst = max((one.relative for one in joined.joins), default=0.0)
    facts = {'views': plan.views, 'windows': len(plan.spans),
             **({'largest residual of a join': f'{worst:.2%} of the distance'} if joined.joins else {}), **facts}
    whole = reconstruct.with_facts(scene, photos, facts)
    return [*written, whole.write_report(out, title, _section(whole, all_, cloud), cloud)]


def _one_cloud(clouds: Sequence[PointCloud]) -> PointCloud:
    parts = {name: [getattr(cloud, name) for cloud in clouds] for name in PointCloud.__dataclass_fields__}
    return PointCloud(**{name: None if values[0] is None else np.concatenate(values) for name, values in parts.items()})


def _section(whole: Scene, all_: _Gathered, cloud: PointCloud | None) -> str:
    """Return what the report shows: some of the views."""
    parts, masks, valid = zip(*all_.shown, strict=True)
    stacked = {name: torch.cat([getattr(part, name) for part in parts])
               for name in ('images', 'intrinsics', 'cam_from_world')}
    instances = whole.instances
    if instances is not None:
        bits = torch.cat(masks, dim=1)
        instances = dataclasses.replace(instances, packed=PackedMasks(bits, torch.arange(len(bits)), all_.mask_size))
    depth = None if parts[0].depth is None else torch.cat([part.depth for part in parts])
    shown = Reconstruction(**stacked, depth=depth, instances=instances, scale=whole.scale,
                           view_names=[name for part in parts for name in part.view_names])
    note = (f'{len(shown.view_names)} of {len(whole.photos.names)} views are shown; cameras, views and mask pixels below '
            'are theirs. cameras.json, instances.json and masks/ have all.')
    return scene_section(shown, whole.shown_names, cloud=cloud, valid=torch.cat(valid), note=note)
