"""Raw ScanNet++ scenes -> scene folders (data.md section 5): undistorted views of the iPhone or the DSLR."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from jrs.benchmarks import LABELS_DIR
from jrs.datasets.prepare import masks
from jrs.datasets.prepare.devices import DEVICES, Dslr, Iphone, Shot, count_shots
from jrs.datasets.prepare.driver import Summary, Task, file_bytes, prepare_scenes, write_splits
from jrs.datasets.prepare.superpoints import compute_superpoints
from jrs.datasets.prepare.undistort import Undistorter
from jrs.datasets.scene import MAX_ID, Camera, Frame, Mesh, SceneInstance, SceneRecord, SceneWriter, is_rigid, read_mesh
from jrs.errors import DataError
from jrs.io import scannetpp as files
from jrs.io.names import some
from jrs.io.png import encode_jpeg
from jrs.io.scannet import SegmentGroup, read_groups, read_segments
from jrs.io.submission import read_vertex_numbers

LOG = logging.getLogger('jrs')
BENCHMARK = 'scannetpp'
GROUPS_PER_VERTEX = 3                   # the official preparation keeps so many, first come first served
COLOR_BYTES, RENDERED_BYTES, ID_BYTES = 0.5, 0.3, 0.02       # of a pixel of our JPEG and PNG; LiDAR depth is small


def prepare_scannetpp(raw: Path, out: Path, camera: str = 'iphone', every: int | None = None, jobs: int = 1,
                      min_mask_pixels: int | None = None, depth: str | None = None,
                      progress: Callable[[str], None] = LOG.info) -> Summary:
    """Write a scene folder for every scene under `raw/data`, and the split lists. Finished scenes are kept as they are.

    Args:
        raw: folder with `data`, `splits` and `metadata`.
        out: folder of the data set.
        camera: 'iphone' or 'dslr'.
        every: take frames whose number in the video (of a DSLR: place among the pictures) is a multiple of this; None
            takes 10, that is all posed frames, of an iPhone and all pictures of a DSLR.
        jobs: processes.
        min_mask_pixels: smaller masks of a view are marked "ignore"; None scales 20 pixels of 640 x 480.
        depth: 'sensor' (LiDAR; iPhone only) or 'rendered' from the mesh; None takes the sensor's where there is one.
        progress: receives lines for people.

    Raises:
        DataError: no scenes, unknown camera, or too little disk space. Scenes that fail are reported, not raised.
    """
    raw, out = Path(raw), Path(out)
    if camera not in DEVICES:
        raise DataError(f'--camera must be one of {", ".join(DEVICES)}, got {camera!r}.')
    if depth not in (None, 'rendered', 'sensor') or (camera, depth) == ('dslr', 'sensor'):
        raise DataError(f'--depth must be rendered or, with an iPhone, sensor; got {depth!r} with {camera}.')
    every = DEVICES[camera].every if every is None else every
    if every < 1:
        raise DataError(f'--every must be at least 1, got {every}.')
    scenes = find_scenes(raw)
    if others := [folder.name for folder in sorted((raw / 'data').iterdir()) if folder.is_dir() and folder not in scenes]:
        progress(f'{len(others)} folders of {raw / "data"} are left out (no {files.MESH}): {some(others)}')
    class_of_name = read_classes(raw, progress)
    settings = {'camera': camera, 'every': every, 'min_mask_pixels': min_mask_pixels, 'depth': depth}
    tasks = [Task(scene.name, settings, partial(_estimate, scene, settings),
                  partial(prepare_scene, scene, out, class_of_name, settings)) for scene in scenes]
    summary = prepare_scenes(tasks, out, jobs, progress)
    lists = {split: raw / name for split, name in files.SPLITS.items() if (raw / name).is_file()}
    write_splits(out, lists, [scene.name for scene in scenes], f'For the official splits put the folder splits in {raw} and '
                 'run this again.', progress)
    return summary


def find_scenes(raw: Path) -> list[Path]:
    """Return the folders of `raw/data` that hold a benchmark mesh."""
    scenes = sorted(path.parent.parent for path in (raw / 'data').glob(f'*/{files.MESH}'))
    if not scenes:
        raise DataError(f'{raw}: no scenes. A scene is a folder data/<scene> with {files.MESH}.')
    return scenes


def read_classes(raw: Path, progress: Callable[[str], None] = LOG.info) -> dict[str, int | None]:
    """Return raw object name -> class id 0 .. 99; None for names that the benchmark's table drops.

    Without the table the names of the classes themselves are known.
    """
    with open(LABELS_DIR / 'scannetpp100.tsv', encoding='utf-8-sig', newline='') as file:
        classes = {row['name']: int(row['id']) for row in csv.DictReader(file, delimiter='\t')}
    path = raw / files.LABEL_MAP
    if not path.is_file():
        progress(f'{path} is not there: objects get a class only where their name is that of one')
        return classes
    table = files.read_label_map(path)
    return classes | {name: classes.get(target) for name, target in table.items()}


def prepare_scene(scene: Path, out: Path, class_of_name: Mapping[str, int | None], settings: dict) -> list[str]:
    """Write the scene folder of one scene.

    Args:
        scene: raw folder.
        out: folder of the data set.
        class_of_name: as `read_classes` returns it.
        settings: `camera`, `every`, `min_mask_pixels` and `depth`, as of `prepare_scannetpp`; kept in the scene.

    Returns:
        What was dropped or repaired, for people.
    """
    notes: list[str] = []
    with ExitStack() as stack:
        device = stack.enter_context(closing(DEVICES[settings['camera']](scene)))
        writer = stack.enter_context(SceneWriter(out, scene.name))
        shots = _choose_shots(device, settings['every'], notes)
        mesh, instances = _read_scan(scene, class_of_name, notes)
        if instances is None:
            notes.append(f'not annotated: no {files.ANNOTATION}')
        views = _Views(device, mesh, settings['depth'], settings['min_mask_pixels'], notes)
        for shot in shots:
            views.write(shot, writer)
        notes += views.left_aside(len(shots))
        frames = [Frame(shot.name, shot.index, 0, shot.cam_from_world) for shot in shots]
        writer.mesh(mesh)
        writer.finish(SceneRecord(scene.name, BENCHMARK, [views.camera], frames, instances, settings, notes))
    return notes


def _choose_shots(device: Iphone | Dslr, every: int, notes: list[str]) -> list[Shot]:
    """Apply the every-n rule to numbers, then drop what cannot be used, counted by reason."""
    listed = [shot for shot in device.shots if shot.index % every == 0]
    posed = [shot for shot in listed if is_rigid(shot.cam_from_world)]
    good = [shot for shot in posed if not shot.bad]
    there = [shot for shot in good if device.has(shot)]
    for before, after, why in ((listed, posed, 'no valid pose'), (posed, good, 'marked as bad'),
                               (good, there, 'no picture')):
        if len(after) < len(before):
            notes.append(f'{len(before) - len(after)} of {len(listed)} frames dropped: {why}')
    if unposed := device.unposed():
        notes.append(f'{len(unposed)} pictures without a pose: {some(unposed)}')
    if not there:
        raise DataError(f'{device.folder}: of {len(device.shots)} posed frames {len(listed)} have a number that is a '
                        f'multiple of {every}, none of them can be used ({"; ".join(notes) or "nothing was dropped"}).')
    return there


class _Views:
    """Writes the views of a scene: undistorted colour, depth of the sensor or the mesh, and rendered ids.

    Pixels that are anonymised, or that the lens did not see, are "ignore" and have no rendered depth.
    """

    def __init__(self, device: Iphone | Dslr, mesh: Mesh, depth: str | None, min_pixels: int | None,
                 notes: list[str]) -> None:
        self.device, self.mesh = device, mesh
        self.color = Undistorter(device.lens)
        self.sensor = None
        if depth != 'rendered' and device.depth_lens is not None:
            self.sensor = Undistorter(device.depth_lens)
        elif depth == 'sensor':
            raise DataError(f'{device.folder}: has neither depth nor depth.bin; --depth rendered does without.')
        else:
            notes.append('depth is rendered from the mesh')
        size = device.lens.size
        depth_size, depth_intrinsics = (size, self.color.intrinsics) if self.sensor is None else \
            (device.depth_lens.size, self.sensor.intrinsics)
        self.camera = Camera(size, self.color.intrinsics, depth_size, depth_intrinsics)
        self.min_pixels = masks.default_min_pixels(size) if min_pixels is None else min_pixels
        self.unmasked = 0
        needed = self.sensor is None or mesh.instances is not None
        self.renderer = masks.MeshRenderer(mesh.vertices, mesh.faces) if needed else None

    def left_aside(self, count: int) -> list[str]:
        """Return what was not there for the `count` views that were written, for people."""
        return [f'{self.unmasked} of {count} frames have no mask: nothing of them counts as anonymised'] \
            if self.unmasked else []

    def write(self, shot: Shot, writer: SceneWriter) -> None:
        """Write one view."""
        picture, mask = self.device.picture(shot), self.device.mask(shot)
        self.unmasked += mask is None
        valid = self.color.valid(mask)
        writer.color(shot.name, encode_jpeg(self.color.picture(picture)))
        rendered = face = corner = None
        if self.renderer is not None:
            rendered, face, corner = self.renderer.render(self.camera.color_intrinsics, self.camera.color_size,
                                                          shot.cam_from_world)
        if self.sensor is None:
            depth_mm = np.rint(np.where(valid, rendered, 0) * 1000).astype(np.uint16)
        else:
            depth_mm = self.sensor.nearest(self.device.depth_mm(shot))
        writer.depth(shot.name, depth_mm)
        if self.mesh.instances is None:
            return
        ids = masks.pixel_ids(face, corner, self.mesh.faces, self.mesh.instances)
        if self.sensor is not None:
            sensor_m = depth_mm.astype(np.float32) / 1000
            ids = masks.reject_by_depth(ids, rendered, sensor_m, self.camera.color_from_depth)
        writer.instances(shot.name, masks.reject_slivers(np.where(valid, ids, -1), self.min_pixels))


def _read_scan(scene: Path, class_of_name: Mapping[str, int | None],
               notes: list[str]) -> tuple[Mesh, list[SceneInstance] | None]:
    """Return the mesh with ids, computed superpoints and excluded vertices, and the table of instances.

    The table is None for a scene without annotation.
    """
    mesh = read_mesh(scene / files.MESH)
    mesh.excluded = _read_excluded(scene / files.EXCLUDED, len(mesh.vertices))
    notes.append(compute_superpoints(mesh))
    path = scene / files.ANNOTATION
    if not path.is_file():
        return mesh, None
    _check_segments(scene / files.SEGMENTS, len(mesh.vertices))
    groups = read_groups(path)
    if len(groups) > MAX_ID:
        raise DataError(f'{path}: {len(groups)} objects; up to {MAX_ID} can be scored.')
    known = np.array([class_of_name.get(group.label) is not None for group in groups], bool)
    owner = vertex_owner(groups, known, len(mesh.vertices), str(path))
    mesh.instances = owner + 1
    unknown = sorted({group.label for group in groups if group.label not in class_of_name})
    if unknown:
        notes.append(f'{len(unknown)} names that are no class, left without one: {", ".join(unknown[:8])}'
                     f'{", …" if len(unknown) > 8 else ""}')
    return mesh, [SceneInstance(index + 1, group.label, _classes(class_of_name.get(group.label)))
                  for index, group in enumerate(groups)]


def _check_segments(path: Path, num_vertices: int) -> None:
    """Objects list segments; raise unless each vertex is its own segment, so that they can be read as vertices."""
    if path.is_file() and (read_segments(path, num_vertices) != np.arange(num_vertices)).any():
        raise DataError(f'{path}: segIndices must be 0 .. {num_vertices - 1} in order, one segment per vertex; else objects '
                        'are put on the wrong vertices.')


def _classes(class_id: int | None) -> dict[str, int]:
    return {} if class_id is None else {BENCHMARK: class_id}


def _read_excluded(path: Path, num_vertices: int) -> np.ndarray | None:
    """Return (N,) bool, the vertices that do not count for scoring; None where there are none."""
    listed = read_vertex_numbers(path) if path.is_file() else np.zeros(0, np.int64)
    if not len(listed):
        return None
    if not 0 <= listed.min() <= listed.max() < num_vertices:
        raise DataError(f'{path}: names vertices {listed.min()} .. {listed.max()}, the mesh has {num_vertices}.')
    excluded = np.zeros(num_vertices, bool)
    excluded[listed] = True
    return excluded


def vertex_owner(groups: Sequence[SegmentGroup], known: np.ndarray, num_vertices: int, where: str) -> np.ndarray:
    """Return the place in `groups` of each vertex's object, (N,) int64, -1 = none.

    Vertices may belong to several objects. Of the first three in file order the one with the fewest vertices has it
    (data.md section 5.4). Objects without a class have only vertices that no other object wants.

    Args:
        groups: objects; in ScanNet++ a segment is a vertex.
        known: (G,) bool, whether an object has a class.
        where: for messages.
    """
    owner = np.full(num_vertices, -1, np.int64)
    for places in (np.flatnonzero(known), np.flatnonzero(~known)):
        free = owner < 0
        size, seen = np.full(num_vertices, np.iinfo(np.int64).max), np.zeros(num_vertices, np.int8)
        for place in places:
            vertices = np.unique(np.array(groups[place].segments, np.int64))
            if len(vertices) and vertices[-1] >= num_vertices:
                raise DataError(f'{where}: segGroups[{place}] names vertex {vertices[-1]}, the mesh has {num_vertices}.')
            count = len(vertices)
            vertices = vertices[free[vertices] & (seen[vertices] < GROUPS_PER_VERTEX)]
            seen[vertices] += 1
            smaller = vertices[count < size[vertices]]
            owner[smaller], size[smaller] = place, count
    return owner


def _estimate(scene: Path, settings: dict) -> float:
    """Return about how many bytes a scene takes."""
    count, pixels = count_shots(scene / settings['camera'], settings['every'])
    rendered = settings['depth'] == 'rendered' or settings['camera'] == 'dslr'
    return count * pixels * (COLOR_BYTES + ID_BYTES + rendered * RENDERED_BYTES) + file_bytes(scene / files.MESH)
