"""Raw ScanNet scans -> scene folders (data.md sections 1, 2, 4 and 6); built-in rooms take this road too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from jrs.benchmarks import PREPARED_EVERY
from jrs.datasets.prepare import masks
from jrs.datasets.prepare.driver import Summary, Task, file_bytes, prepare_scenes, write_splits
from jrs.datasets.prepare.recordings import ExportedRecording, Recording, SensRecording
from jrs.datasets.prepare.superpoints import compute_superpoints
from jrs.datasets.scene import MAX_ID, Camera, Frame, Mesh, SceneInstance, SceneRecord, SceneWriter, is_rigid, read_mesh
from jrs.datasets.transforms import sample_nearest
from jrs.errors import DataError
from jrs.io import scannet as files
from jrs.io.frames import is_exported
from jrs.io.images import resize_map
from jrs.io.instance_zip import InstanceZip, find_instance_zip
from jrs.io.names import some

LOG = logging.getLogger('jrs')
SPLITS = ('train', 'val', 'test')
MASKS = ('rendered', 'official')
DEFECTS = {                             # data.md section 1.3; scene0217_00's repeated objects are found by their segments
    'scene0270_00': 'its labels.ply has label 50, which does not exist',
    'scene0270_02': 'its labels.ply has label 50, which does not exist',
    'scene0384_00': 'its labels.ply has label 149, which does not exist',
}


def prepare_scannet(raw: Path, out: Path, every: int | None = None, jobs: int = 1, min_mask_pixels: int | None = None,
                    progress: Callable[[str], None] = LOG.info, frames: Path | None = None,
                    mask_source: str = 'rendered') -> Summary:
    """Write a scene folder for every scan under `raw`, and the split lists. Finished scenes are kept as they are.

    Args:
        raw: folder with scans, or with `scans` and `scans_test`; holds the label table and, if any, split lists.
        out: folder of the data set.
        every: take each n-th frame of the recording, None = `PREPARED_EVERY`; frames without a pose are dropped afterwards.
        jobs: processes.
        min_mask_pixels: smaller masks of a view are marked "ignore"; None scales 20 pixels of 640 x 480.
        progress: receives lines for people.
        frames: folder of `<scan>/color` …, to be read in place of `.sens`; without it a scan's own exported frames are
            read where it has no `.sens`.
        mask_source: 'rendered' from the labelled mesh, or 'official', the zips of data.md section 1.6: without a test
            against the sensor's depth, not aligned with the mesh, and filtered; for comparison only.

    Raises:
        DataError: no scans, no label table, or too little disk space. Scans that fail are reported, not raised.
    """
    raw, out, every = Path(raw), Path(out), PREPARED_EVERY if every is None else every
    if every < 1 or jobs < 1:
        raise DataError(f'--every and --jobs must be at least 1, got {every} and {jobs}.')
    if mask_source not in MASKS:
        raise DataError(f'--masks must be one of {", ".join(MASKS)}, got {mask_source!r}.')
    scans = find_scans(raw, frames)
    if others := [folder.name for folder in _folders(raw) if folder not in {*scans, *_roots(raw)}]:
        progress(f'{len(others)} folders are no scans and left out (no {"exported frames" if frames else ".sens"}): '
                 f'{some(others)}')
    labels = files.read_label_table(_find_label_table(raw))
    settings = {'every': every, 'min_mask_pixels': min_mask_pixels}
    if mask_source != 'rendered':
        settings['masks'] = mask_source
    tasks = [Task(scan.name, settings, partial(_estimate, scan, frames, every),
                  partial(prepare_scan, scan, out, labels, settings, frames)) for scan in scans]
    summary = prepare_scenes(tasks, out, jobs, progress)
    write_splits(out, _split_lists(raw), [scan.name for scan in scans], f'For the official splits put '
                 f'scannetv2_train.txt, scannetv2_val.txt and scannetv2_test.txt in {raw} and run this again.', progress)
    return summary


def find_scans(raw: Path, frames: Path | None = None) -> list[Path]:
    """Return the scan folders of `raw`, `raw/scans` and `raw/scans_test`: those with frames that can be read."""
    scans = [folder for folder in _folders(raw) if _frames_of(folder, frames)]
    if not scans:
        where = f'frames in {frames}/<scan>/color' if frames else 'a scene0000_00.sens or exported frames (color, depth, ' \
            'pose, intrinsic)'
        raise DataError(f'{raw}: no scans. A scan is a folder like scene0000_00 with {where}, here or in {raw}/scans or '
                        f'{raw}/scans_test.')
    names = [scan.name for scan in scans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f'{raw}: {some(twice)} stands there twice, in {" and ".join(map(str, _roots(raw)))}: leave one of '
                        'each.')
    return sorted(scans, key=lambda folder: folder.name)


def _roots(raw: Path) -> list[Path]:
    return [root for root in (raw, raw / 'scans', raw / 'scans_test') if root.is_dir()]


def _folders(raw: Path) -> list[Path]:
    """Return what may be scans, by name."""
    return sorted((folder for root in _roots(raw) for folder in root.iterdir() if folder.is_dir()),
                  key=lambda folder: folder.name)


def _frames_of(scan: Path, frames: Path | None) -> Path | None:
    """Return the `.sens`, or the folder of exported frames, that a scan is read from; None without."""
    sens, exported = files.scan_file(scan, files.SENS), scan if frames is None else Path(frames) / scan.name
    if frames is None and sens.is_file():
        return sens
    return exported if is_exported(exported) else None


def prepare_scan(scan: Path, out: Path, labels: dict[str, files.LabelRow], settings: dict,
                 frames: Path | None = None) -> list[str]:
    """Write the scene folder of one scan.

    Args:
        scan: raw scan folder.
        out: folder of the data set.
        labels: raw category -> label table row.
        settings: `every`, `min_mask_pixels` and, where they are official, `masks`; kept in the scene.
        frames: as of `prepare_scannet`.

    Returns:
        What was dropped or repaired, for people.
    """
    notes = [f'{DEFECTS[scan.name]}; labels come from aggregation and label table'] if scan.name in DEFECTS else []
    with ExitStack() as stack:
        recording = stack.enter_context(closing(_open(scan, frames)))
        writer = stack.enter_context(SceneWriter(out, scan.name))
        chosen = _choose_frames(recording, settings['every'], notes)
        notes += recording.notes
        mesh, instances = _read_mesh(scan, labels, notes)
        images = None
        if instances is None:
            notes.append(f'not annotated: no {files.scan_file(scan, files.AGGREGATION).name}')
        else:
            official = settings.get('masks') == 'official'
            images = (OfficialIds(stack.enter_context(InstanceZip(find_instance_zip(scan))), scan, recording.camera, notes)
                      if official else RenderedIds(mesh, recording.camera))
        for frame in chosen:
            writer.color(frame.name, *recording.color(frame.index))
            depth_mm = recording.depth_mm(frame.index)
            writer.depth(frame.name, depth_mm)
            if images is not None:
                ids = images.ids(frame, depth_mm)
                writer.instances(frame.name, masks.reject_slivers(ids, _min_pixels(settings, ids.shape)))
        writer.mesh(mesh)
        writer.finish(SceneRecord(scan.name, 'scannet', [recording.camera], chosen, instances, settings, notes))
    return notes


def _open(scan: Path, frames: Path | None) -> Recording:
    source = _frames_of(scan, frames)
    if source is None:
        raise DataError(f'{scan}: no frames.')
    return ExportedRecording(source, files.scan_file(scan, files.METADATA)) if source.is_dir() else SensRecording(source)


def _min_pixels(settings: dict, size: tuple[int, int]) -> int:
    least = settings['min_mask_pixels']
    return masks.default_min_pixels(size) if least is None else least


def _choose_frames(recording: Recording, every: int, notes: list[str]) -> list[Frame]:
    """Apply the every-n rule to frame numbers, then drop frames without a pose: this order changes results."""
    frames, lost = [], 0
    for index in (index for index in recording.indices if index % every == 0):
        world_from_cam = recording.world_from_cam(index)
        if not is_rigid(world_from_cam):
            lost += 1
            continue
        cam_from_world = np.linalg.inv(world_from_cam)
        cam_from_world[3] = [0, 0, 0, 1]
        frames.append(Frame(str(index), index, 0, cam_from_world))
    if lost:
        notes.append(f'{lost} of {lost + len(frames)} frames dropped: no valid pose')
    if not frames:
        raise DataError(f'{recording.path}: of {len(recording.indices)} frames {lost} have a number that is a multiple of '
                        f'{every}, none of them a valid pose; the scan cannot be used so.')
    return frames


def _read_mesh(scan: Path, labels: dict[str, files.LabelRow],
               notes: list[str]) -> tuple[Mesh, list[SceneInstance] | None]:
    """Return the mesh with ids and superpoints, and the table of instances (None for a scan without annotation)."""
    mesh = read_mesh(files.scan_file(scan, files.MESH))
    segments_path = files.scan_file(scan, files.SEGMENTS)
    if not segments_path.is_file() and not files.scan_file(scan, files.AGGREGATION).is_file():
        notes.append(compute_superpoints(mesh))
        return mesh, None
    segments = files.read_segments(segments_path, len(mesh.vertices))
    mesh.superpoints = np.unique(segments, return_inverse=True)[1].reshape(-1)                     # (N,)
    return mesh, _read_objects(scan, segments, mesh, labels, notes)


def _read_objects(scan: Path, segments: np.ndarray, mesh: Mesh, labels: dict[str, files.LabelRow],
                  notes: list[str]) -> list[SceneInstance] | None:
    """Set `mesh.instances` and return the table. Labels come from aggregation and table, never from labels.ply, which
    is broken in some scans (data.md section 1.3)."""
    path = files.scan_file(scan, files.AGGREGATION)
    if not path.is_file():
        return None
    groups, repeated = files.read_aggregation(path), files.repeated_objects(path)
    if repeated:
        notes.append(f'{len(repeated)} of {len(groups) + len(repeated)} objects dropped: repeated')
    ids = np.array([group.object_id + 1 for group in groups] + [0], np.int64)
    if ids.max() > MAX_ID:
        raise DataError(f'{path}: object id {ids.max() - 1}; ids up to {MAX_ID - 1} can be scored.')
    mesh.instances = ids[files.vertex_objects(segments, groups)]            # -1, unannotated, takes the last entry: 0
    unknown = sorted({group.label for group in groups if group.label not in labels})
    if unknown:
        notes.append(f'labels that the label table does not have, left without class: {", ".join(unknown)}')
    table = {group.object_id + 1: SceneInstance(group.object_id + 1, group.label, _classes(labels.get(group.label)))
             for group in groups}
    return [table[number] for number in sorted(table)]


def _classes(row: files.LabelRow | None) -> dict[str, int]:
    """Return benchmark -> class id; scannet20 counts in nyu40 ids, scannet200 in ids of the label table."""
    return {} if row is None else {'scannet20': row.nyu40id, 'scannet200': row.id}


class RenderedIds:
    """The ids that a frame sees, rendered from the labelled mesh and tested against the sensor's depth."""

    def __init__(self, mesh: Mesh, camera: Camera) -> None:
        self.mesh, self.camera = mesh, camera
        self.renderer = masks.MeshRenderer(mesh.vertices, mesh.faces)

    def ids(self, frame: Frame, depth_mm: np.ndarray) -> np.ndarray:
        """Return (H, W) of the colour camera: 0 none, -1 ignore."""
        rendered, face, corner = self.renderer.render(self.camera.color_intrinsics, self.camera.color_size,
                                                      frame.cam_from_world)
        ids = masks.pixel_ids(face, corner, self.mesh.faces, self.mesh.instances)
        return masks.reject_by_depth(ids, rendered, depth_mm.astype(np.float32) / 1000, self.camera.color_from_depth)


class OfficialIds:
    """The ids of the official 2D images, taken as they are but for objects that the annotation repeats or lacks."""

    def __init__(self, images: InstanceZip, scan: Path, camera: Camera, notes: list[str]) -> None:
        path = files.scan_file(scan, files.AGGREGATION)
        repeated, groups = files.repeated_objects(path), files.read_aggregation(path)
        self.images, self.camera = images, camera
        self.table = np.full(1 << 16, -1, np.int64)                         # value of a pixel -> id, unknown ones ignored
        self.table[0] = 0
        for group in groups:
            self.table[group.object_id + 1] = group.object_id + 1
        for object_id, first in repeated.items():
            self.table[object_id + 1] = first + 1
        notes.append(f'2D instances are from {images.path.name}, which is filtered, not tested against the depth, and not '
                     'aligned with the mesh')

    def ids(self, frame: Frame, depth_mm: np.ndarray) -> np.ndarray:
        """Return (H, W) of the colour camera: 0 none, -1 ignore; images of resized frames are resized with them."""
        ids = self.table[self.images.ids(frame.index)]
        (height, width), (old_height, old_width) = self.camera.color_size, ids.shape
        return sample_nearest(ids, resize_map(width / old_width, height / old_height, 0, 0), self.camera.color_size)


def _find_label_table(raw: Path) -> Path:
    places = [raw / files.LABEL_TABLE, raw.parent / files.LABEL_TABLE]
    for path in places:
        if path.is_file():
            return path
    raise DataError(f'{raw}: no {files.LABEL_TABLE}. It comes with the data set; put it there.')


def _estimate(scan: Path, frames: Path | None, every: int) -> float:
    """Return about how many bytes the scene of a scan takes."""
    source, mesh = _frames_of(scan, frames), file_bytes(files.scan_file(scan, files.MESH))
    if source.is_file():
        return source.stat().st_size / every + mesh
    return sum(_exported_bytes(source / part, every) for part in ('color', 'depth')) + mesh


def _exported_bytes(folder: Path, every: int) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.stem.isdecimal() and int(path.stem) % every == 0)


def _split_lists(raw: Path) -> dict[str, Path]:
    """Return split -> its list, of those that are there."""
    places = {split: (raw / f'scannetv2_{split}.txt', raw / f'{split}.txt') for split in SPLITS}
    found = {split: next((path for path in paths if path.is_file()), None) for split, paths in places.items()}
    return {split: path for split, path in found.items() if path is not None}
