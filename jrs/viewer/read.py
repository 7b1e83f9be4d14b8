"""Folders -> what the viewer shows: outputs of `infer`, scene folders, prediction files on the meshes of scenes.

Nothing outside the named folders is read, wherever a file in them points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from jrs.benchmarks import Benchmark
from jrs.datasets.scene import MAX_ID, Frame, SceneFolder
from jrs.errors import DataError
from jrs.geometry.projection import project_points
from jrs.io.known_geometry import UNITS, read_cameras
from jrs.io.names import readable
from jrs.io.photo import read_photo
from jrs.io.ply import read_ply
from jrs.io.png import read_png16
from jrs.io.submission import ORIGIN, submission_format
from jrs.io.submission_arrays import SUFFIX as ARRAYS
from jrs.io.submission_arrays import read_either
from jrs.io.text import read_json
from jrs.viewer.result import Found, Result, ShownView, shared_out
from jrs.visualization.overlays import instance_colours

FEATURES = ('feature_red', 'feature_green', 'feature_blue')
RGB = ('red', 'green', 'blue')
OCCLUDED_M = 0.1                                # a vertex further behind the measured depth than this is not seen
PROJECTED_WIDTH = 320                           # of masks that are projected from vertices


@dataclass(frozen=True)
class Source:
    """A result that can be shown: its name and what reads it; `truth` reads the true instances on the same points."""

    name: str
    read: Callable[[], Result]
    truth: Callable[[], Result] | None = None


def find_sources(folders: Sequence[Path], scenes: Path | None, benchmark: Benchmark,
                 truth: Path | None = None) -> list[Source]:
    """Return what can be shown of `folders`, in their order, at least one each.

    Args:
        folders: outputs of `infer` (windows of a stream each by itself), scene folders, data sets of such, or prediction
            files.
        scenes: data set whose meshes prediction files are of.
        benchmark: whose class ids and format prediction files have.
        truth: scene folder with the true instances of outputs of `infer`.

    Raises:
        DataError: a folder holds none of these; says what it lacks.
    """
    found = [source for folder in folders for source in _sources_of(folder, scenes, benchmark, truth)]
    names = [source.name for source in found]
    twice = {name for name in names if names.count(name) > 1}
    return [replace(source, name=f'{source.name} ({number})') if source.name in twice else source
            for number, source in enumerate(found, start=1)]


def _sources_of(folder: Path, scenes: Path | None, benchmark: Benchmark, truth: Path | None) -> list[Source]:
    if not folder.is_dir():
        raise DataError(f'There is no folder {readable(folder)} to view.')
    if folder.name in ('', '..'):                                           # '.' has no name to be shown by
        folder = folder.resolve()
    if (folder / 'scene.json').is_file():
        return [Source(readable(folder.name), partial(read_scene, folder))]
    if (folder / 'cloud.ply').is_file():
        return [Source(readable(folder.name), partial(read_output, folder),
                       None if truth is None else partial(read_scene, truth))]
    windows = sorted(path for path in folder.glob('window_*') if (path / 'cloud.ply').is_file())
    if windows:
        return [Source(f'{folder.name}/{window.name}', partial(read_output, window)) for window in windows]
    rooms = sorted(path.parent for path in folder.glob('*/scene.json') if not path.parent.name.startswith('.'))
    if rooms:
        return [Source(readable(room.name), partial(read_scene, room)) for room in rooms]
    files = [path for suffix in ('.txt', ARRAYS) for path in folder.glob(f'*{suffix}') if not path.name.startswith('.')]
    if files:
        return [_prediction_source(path, scenes, benchmark) for path in sorted(files)]
    raise DataError(f'{readable(folder)}: nothing to view. It must be an output of tools/infer.py (cloud.ply), a scene '
                    f'folder or a data set of such (scene.json), or prediction files (<scene>.txt or .npz)'
                    f'{_of_a_run(folder)}.')


def _of_a_run(folder: Path) -> str:
    if not (folder / 'results.json').is_file():
        return ''
    return ('. This is a test\'s output without its predictions: test again with --save-predictions DIR, then view DIR with '
            '--scenes')


def _prediction_source(file: Path, scenes: Path | None, benchmark: Benchmark) -> Source:
    folder, name = file.parent, file.stem
    if scenes is None:
        raise DataError(f'{readable(folder)} holds prediction files, which are masks of the vertices of meshes: name the '
                        'data set of scene folders that they are of with --scenes.')
    scene = scenes / name
    if not (scene / 'scene.json').is_file():
        raise DataError(f'{readable(file)}: there is no scene {readable(scene)} (--scenes).')
    return Source(f'{folder.name}: {name}', partial(read_predictions, folder, scene, benchmark), partial(read_scene, scene))


def inside(folder: Path, *parts: str) -> Path:
    """Return the file `parts` below `folder`.

    Raises:
        DataError: it, or what it links to, lies elsewhere.
    """
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f'{readable(path)}: leads out of the folder {readable(folder)}; only what is inside is shown.')
    return path


def read_output(folder: Path) -> Result:
    """Return an output of `infer`.

    Raises:
        DataError: a file of it is broken, or leads elsewhere.
    """
    vertices, _ = read_ply(inside(folder, 'cloud.ply'))
    missing = {*'xyz', *RGB} - set(vertices)
    if missing:
        raise DataError(f'{folder / "cloud.ply"}: lacks {sorted(missing)}; it must be as tools/infer.py writes it.')
    count = len(vertices['x'])
    record = read_json(inside(folder, 'instances.json')) if (folder / 'instances.json').is_file() else {}
    found = _found_of(record, folder / 'instances.json')
    instances = vertices.get('instance', np.zeros(count, np.int32)).astype(np.int32)
    if count and not 0 <= instances.min() <= instances.max() <= len(found):
        raise DataError(f'{folder / "cloud.ply"}: instances {instances.min()} to {instances.max()}, instances.json has '
                        f'{len(found)}: the files are of different runs.')
    views, scale, metric = _views_of(folder)
    lacks = [] if any(view.picture for view in views) else ['no pictures: views/ is missing (outputs of older versions)']
    lacks += [] if views else ['no cameras: cameras.json is missing']
    features = np.stack([vertices[name] for name in FEATURES], 1).astype(np.uint8) if FEATURES[0] in vertices else None
    return Result(readable(folder.name), _columns(vertices, 'xyz', np.float32), _columns(vertices, RGB, np.uint8), instances,
                  found, views, vertices.get('confidence'), features, scale, metric, notes=lacks)


def _columns(vertices: dict[str, np.ndarray], names: Sequence[str], dtype: type) -> np.ndarray:
    """Return properties of `vertices` (N,) each as (N, n)."""
    return np.stack([vertices[name] for name in names], axis=1).astype(dtype)


def _found_of(record: object, where: Path) -> list[Found]:
    try:
        entries = record.get('instances', []) if isinstance(record, dict) else None
        found = [Found(str(entry['class']), float(entry['score']), np.array(entry['colour'], np.uint8).reshape(3))
                 for entry in entries]
        if not all(math.isfinite(one.score) for one in found):
            raise ValueError('a score is not finite')
        return found
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f'{where}: an entry of "instances" is not as tools/infer.py writes it ({error!r}).') from error


def _views_of(folder: Path) -> tuple[list[ShownView], str, bool]:
    """Return the views of an output, the unit in words, and whether it is metres."""
    if not (folder / 'cameras.json').is_file():
        return [], 'unknown', False
    known = read_cameras(inside(folder, 'cameras.json'))
    views = []
    for name, camera in known.cameras.items():
        picture, ids = (inside(folder, part, f'{name}{suffix}') for part, suffix in (('views', '.jpg'), ('masks', '.png')))
        views.append(ShownView(name, camera.cam_from_world, camera.intrinsics, camera.size,
                               partial(read_photo, picture) if picture.is_file() else None,
                               partial(read_png16, ids) if ids.is_file() else None))
    return views, UNITS[known.scale], known.scale.startswith('metric')


def read_scene(folder: Path) -> Result:
    """Return a scene folder: its mesh's vertices with the annotated instances, and its frames.

    Raises:
        DataError: a file of it is broken, it has no mesh (photos without geometry), or one leads elsewhere.
    """
    inside(folder, 'scene.json')
    scene = SceneFolder(folder)
    if not scene.has_geometry or not (folder / 'mesh.ply').is_file():
        raise DataError(f'{readable(folder)}: a scene of photos, without cameras and mesh: there is nothing to view before '
                        'tools/infer.py has reconstructed it.')
    inside(folder, 'mesh.ply')
    mesh, annotated = scene.mesh(), scene.instances or []
    number = np.zeros(MAX_ID + 1, np.int32)
    for index, one in enumerate(annotated, start=1):
        number[one.id] = index
    colours = instance_colours(len(annotated))
    found = [Found(one.label, None, colour) for one, colour in zip(annotated, colours, strict=True)]
    instances = np.zeros(len(mesh.vertices), np.int32) if mesh.instances is None else number[mesh.instances]
    return Result(readable(folder.name), mesh.vertices.astype(np.float32), mesh.colors, instances, found,
                  [_frame(scene, frame, partial(_true_ids, scene, frame, number)) for frame in scene.frames],
                  scale='metres', metric=True, true=True, notes=[] if annotated else ['the scene is not annotated'])


def _frame(scene: SceneFolder, frame: Frame, instances: Callable[[], np.ndarray | None]) -> ShownView:
    camera = scene.camera(frame)
    inside(scene.path, 'color', scene.color_path(frame).name)
    return ShownView(frame.name, frame.cam_from_world, camera.color_intrinsics, camera.color_size,
                     partial(scene.color, frame), instances)


def _true_ids(scene: SceneFolder, frame: Frame, number: np.ndarray) -> np.ndarray | None:
    """Return the annotated ids (H, W) of a frame as numbers of instances; `number` (1000,) has them by id."""
    if scene.instances is None:
        return None
    inside(scene.path, 'instances', f'{frame.name}.png')
    ids = scene.instance_ids(frame)
    return number[np.where((ids < 0) | (ids > MAX_ID), 0, ids)]


def read_predictions(folder: Path, scene: Path, benchmark: Benchmark) -> Result:
    """Return the prediction files of one scene on its mesh; points of several masks belong to the best-scored one.

    Raises:
        DataError: a file is broken or does not fit the mesh.
    """
    for suffix in ('.txt', ARRAYS):
        inside(folder, f'{scene.name}{suffix}')
    true = read_scene(scene)
    read = read_either(folder, scene.name, submission_format(benchmark.submission_format), len(true.points))
    for file in read.files:
        inside(folder, file)
    order = np.argsort(-read.scores, kind='stable')
    masks, names = read.masks[order], benchmark.name_of_id
    instances = shared_out(masks, len(true.points))
    found = [Found(names.get(label, f'class {label}'), score, colour) for label, score, colour in
             zip(read.labels[order].tolist(), read.scores[order].tolist(), instance_colours(len(order)), strict=True)]
    folder_of = SceneFolder(scene)
    views = [replace(view, instances=partial(_projected, folder_of, frame, true.points, instances))
             for view, frame in zip(true.views, folder_of.frames, strict=True)]
    return replace(true, name=f'{folder.name}: {scene.name}', instances=instances, found=found, views=views, true=False,
                   masks=masks, notes=_notes_of(folder))


def _notes_of(folder: Path) -> list[str]:
    if not (folder / ORIGIN).is_file():
        return []
    facts = read_json(inside(folder, ORIGIN))
    facts = facts.get('facts') if isinstance(facts, dict) else None
    return [f'{name}: {facts[name]}' for name in ('config', 'profile', 'checkpoint') if name in facts] \
        if isinstance(facts, dict) else []


def _projected(scene: SceneFolder, frame: Frame, points: np.ndarray, instances: np.ndarray) -> np.ndarray | None:
    """Return ids (h, w) of a frame, at most `PROJECTED_WIDTH` wide: vertices that the measured depth does not hide.

    A vertex fills the pixels around it, so that surfaces close; the nearer one stays. None without depth.

    Args:
        scene: the folder.
        frame: of it.
        points: (N, 3) vertices, world.
        instances: (N,) int32, their instances.
    """
    depth, camera = scene.depth_m(frame), scene.camera(frame)
    if depth is None:
        return None
    owned = np.flatnonzero(instances)
    z, (u, v) = _pixels(points[owned], camera.depth_intrinsics, frame.cam_from_world)
    inside_depth = (z > 0) & (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
    seen = np.flatnonzero(inside_depth)
    seen = seen[np.abs(depth[v[seen], u[seen]] - z[seen]) < OCCLUDED_M]
    seen = owned[seen[np.argsort(-z[seen])]]                                # far ones first
    shrink = min(1.0, PROJECTED_WIDTH / camera.color_size[1])
    height, width = (max(round(side * shrink), 1) for side in camera.color_size)
    grow = np.diag([shrink, shrink, 1.0])
    grow[:2, 2] = shrink / 2 - 0.5                                          # pixel centres are at integers
    _, (u, v) = _pixels(points[seen], grow @ camera.color_intrinsics, frame.cam_from_world)
    around, ids = max(1, round(width / 160)), np.zeros((height, width), np.int32)
    for dv, du in product(range(-around, around + 1), repeat=2):
        x, y = u + du, v + dv
        good = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        ids[y[good], x[good]] = instances[seen[good]]
    return ids


def _pixels(points: np.ndarray, intrinsics: np.ndarray, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return z (n,) and the nearest pixels (2, n) int64 of points (n, 3)."""
    pixels, z = project_points(*map(torch.from_numpy, (points.astype(np.float64), intrinsics, cam_from_world)))
    return z.numpy(), np.rint(pixels.numpy().clip(-1e6, 1e6)).astype(np.int64).T
