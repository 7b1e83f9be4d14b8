"""Raw ScanNet scans -> scene folders (data.md sections 1, 2, 4 and 6); built-in rooms take this road too."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from jrs.datasets.prepare import masks
from jrs.datasets.scene import (
    MAX_ID,
    RGB,
    Camera,
    Frame,
    Mesh,
    SceneFolder,
    SceneInstance,
    SceneRecord,
    SceneWriter,
    is_rigid,
)
from jrs.errors import DataError
from jrs.io import scannet as files
from jrs.io.ply import read_ply
from jrs.io.sens import SensHeader, SensReader

LOG = logging.getLogger('jrs')
SPLITS = ('train', 'val', 'test')
OVERHEAD = 1.1                          # our files over the raw payloads they come from


@dataclass(frozen=True)
class Summary:
    """What a run of `prepare_scannet` did: scenes written, scenes that were there, and scan -> why it failed."""

    written: list[str]
    kept: list[str]
    failed: dict[str, str]


def prepare_scannet(raw: Path, out: Path, every: int = 20, jobs: int = 1, min_mask_pixels: int | None = None,
                    progress: Callable[[str], None] = LOG.info) -> Summary:
    """Write a scene folder for every scan under `raw`, and the split lists. Finished scenes are kept as they are.

    Args:
        raw: folder with scans, or with `scans` and `scans_test`; holds the label table and, if any, split lists.
        out: folder of the data set.
        every: take each n-th frame of the recording; frames without a pose are dropped afterwards.
        jobs: processes.
        min_mask_pixels: smaller masks of a view are marked "ignore"; None scales 20 pixels of 640 x 480.
        progress: receives lines for people.

    Raises:
        DataError: no scans, no label table, or too little disk space. Scans that fail are reported, not raised.
    """
    raw, out = Path(raw), Path(out)
    if every < 1 or jobs < 1:
        raise DataError(f'--every and --jobs must be at least 1, got {every} and {jobs}.')
    scans = find_scans(raw)
    labels = files.read_label_table(_find_label_table(raw))
    settings = {'every': every, 'min_mask_pixels': min_mask_pixels}
    kept = [scan.name for scan in scans if _is_done(out / scan.name, settings)]
    todo = [scan for scan in scans if scan.name not in set(kept)]
    out.mkdir(parents=True, exist_ok=True)
    _check_disk(todo, every, out, progress)
    written, failed = [], {}
    start = time.monotonic()
    for name, notes, fault in _run([(scan, out, labels, settings) for scan in todo], jobs):
        if fault:
            failed[name] = fault
        else:
            written.append(name)
        done = len(written) + len(failed)
        rate = done / max(time.monotonic() - start, 1e-3)
        progress(f'{len(kept) + done}/{len(scans)} {name}{": " + fault if fault else ""} '
                 f'({60 * rate:.1f} scenes/min, {_clock((len(todo) - done) / rate)} left)')
        for note in notes:
            LOG.info('%s: %s', name, note)
    _write_splits(raw, out, [scan.name for scan in scans], progress)
    return Summary(sorted(written), kept, failed)


def find_scans(raw: Path) -> list[Path]:
    """Return the scan folders: those with a `.sens` of their own name, in `raw`, `raw/scans` or `raw/scans_test`."""
    roots = [raw, raw / 'scans', raw / 'scans_test']
    scans = [folder for root in roots if root.is_dir() for folder in root.iterdir()
             if files.scan_file(folder, files.SENS).is_file()]
    if not scans:
        raise DataError(f'{raw}: no scans. A scan is a folder like scene0000_00 with a scene0000_00.sens, here or in '
                        f'{raw}/scans or {raw}/scans_test.')
    return sorted(scans, key=lambda folder: folder.name)


def prepare_scan(scan: Path, out: Path, labels: dict[str, files.LabelRow], settings: dict) -> list[str]:
    """Write the scene folder of one scan.

    Args:
        scan: raw scan folder.
        out: folder of the data set.
        labels: raw category -> label table row.
        settings: `every` and `min_mask_pixels`, as of `prepare_scannet`; kept in the scene.

    Returns:
        What was dropped or repaired, for people.
    """
    notes: list[str] = []
    with SensReader(files.scan_file(scan, files.SENS)) as reader, SceneWriter(out, scan.name) as writer:
        frames = _choose_frames(reader, settings['every'], notes)
        camera = _camera(reader.header, notes)
        mesh, instances = _read_mesh(scan, labels, notes)
        renderer = None if instances is None else masks.MeshRenderer(mesh.vertices, mesh.faces)
        for frame in frames:
            depth_mm = _write_images(reader, frame, writer)
            if renderer is not None:
                ids = _render_ids(renderer, mesh, camera, frame, depth_mm, settings['min_mask_pixels'])
                writer.instances(frame.name, ids)
        writer.mesh(mesh)
        writer.finish(SceneRecord(scan.name, 'scannet', [camera], frames, instances, settings, notes))
    return notes


def _choose_frames(reader: SensReader, every: int, notes: list[str]) -> list[Frame]:
    """Apply the every-n rule to frame numbers, then drop frames without a pose: this order changes results."""
    frames, lost = [], 0
    for index in range(0, len(reader), every):
        world_from_cam = reader.world_from_cam[index].astype(np.float64)
        if not is_rigid(world_from_cam):
            lost += 1
            continue
        cam_from_world = np.linalg.inv(world_from_cam)
        cam_from_world[3] = [0, 0, 0, 1]
        frames.append(Frame(str(index), index, 0, cam_from_world))
    if lost:
        notes.append(f'{lost} of {lost + len(frames)} frames dropped: no valid pose')
    if not frames:
        raise DataError(f'{reader.path}: none of {lost} frames has a valid pose; the scan cannot be used.')
    return frames


def _camera(header: SensHeader, notes: list[str]) -> Camera:
    for name in ('extrinsic_color', 'extrinsic_depth'):
        if not np.allclose(getattr(header, name), np.eye(4), atol=1e-4):
            notes.append(f'{name} is not the identity and was not applied')
    return Camera(header.color_size, _pinhole(header.intrinsic_color), header.depth_size,
                  _pinhole(header.intrinsic_depth))


def _pinhole(matrix: np.ndarray) -> np.ndarray:
    return np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]], np.float64)


def _write_images(reader: SensReader, frame: Frame, writer: SceneWriter) -> np.ndarray:
    """Write colour (its bytes as they are) and depth of a frame; return the depth (Hd, Wd) uint16 in millimetres."""
    if reader.header.color_compression in ('jpeg', 'png'):
        suffix = {'jpeg': '.jpg', 'png': '.png'}[reader.header.color_compression]
        writer.color(frame.name, reader.frame(frame.index).color, suffix)
    else:
        writer.color_pixels(frame.name, reader.color(frame.index))
    depth = reader.depth(frame.index)
    if reader.header.depth_shift != 1000:
        depth = np.clip(np.rint(depth * (1000.0 / reader.header.depth_shift)), 0, 65535).astype(np.uint16)
    writer.depth(frame.name, depth)
    return depth


def _read_mesh(scan: Path, labels: dict[str, files.LabelRow],
               notes: list[str]) -> tuple[Mesh, list[SceneInstance] | None]:
    """Return the mesh with ids and superpoints, and the table of instances (None for a scan without annotation)."""
    path = files.scan_file(scan, files.MESH)
    values, faces = read_ply(path)
    if faces is None or not {*'xyz', *RGB} <= set(values):
        raise DataError(f'{path}: needs x y z, red green blue and faces, has {sorted(values)}.')
    vertices = np.stack([values[axis] for axis in 'xyz'], axis=1).astype(np.float64)               # (N, 3)
    colors = np.stack([values[name] for name in RGB], axis=1).astype(np.uint8)                 # (N, 3)
    mesh = Mesh(vertices, colors, faces, None, None)
    segments_path = files.scan_file(scan, files.SEGMENTS)
    if not segments_path.is_file() and not files.scan_file(scan, files.AGGREGATION).is_file():
        return mesh, None
    segments = files.read_segments(segments_path, len(vertices))
    mesh.superpoints = np.unique(segments, return_inverse=True)[1].reshape(-1)                     # (N,)
    return mesh, _read_objects(scan, segments, mesh, labels, notes)


def _read_objects(scan: Path, segments: np.ndarray, mesh: Mesh, labels: dict[str, files.LabelRow],
                  notes: list[str]) -> list[SceneInstance] | None:
    """Set `mesh.instances` and return the table. Labels come from aggregation and table, never from labels.ply, which
    is broken in some scans (data.md section 1.3)."""
    path = files.scan_file(scan, files.AGGREGATION)
    if not path.is_file():
        return None
    groups = files.read_aggregation(path)
    listed = len(json.loads(path.read_text(encoding='utf-8'))['segGroups'])
    if listed > len(groups):
        notes.append(f'{listed - len(groups)} of {listed} objects dropped: repeated')
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


def _render_ids(renderer: masks.MeshRenderer, mesh: Mesh, camera: Camera, frame: Frame, depth_mm: np.ndarray,
                min_pixels: int | None) -> np.ndarray:
    """Return the ids that a frame sees, (H, W) of the colour camera: 0 none, -1 ignore."""
    rendered, face, corner = renderer.render(camera.color_intrinsics, camera.color_size, frame.cam_from_world)
    ids = masks.pixel_ids(face, corner, mesh.faces, mesh.instances)
    ids = masks.reject_by_depth(ids, rendered, depth_mm.astype(np.float32) / 1000, camera.color_from_depth)
    if min_pixels is None:
        min_pixels = masks.default_min_pixels(camera.color_size)
    return masks.reject_slivers(ids, min_pixels)


def _run(tasks: list[tuple], jobs: int) -> Iterator[tuple[str, list[str], str | None]]:
    """Yield (scan, notes, why it failed or None) as scans finish."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(_attempt, tasks)
        return
    # Fresh processes: forking after OpenCV or torch started threads can hang.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        futures = [pool.submit(_attempt, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError('A process that prepared scans was killed, probably for want of memory. Scenes that are '
                            'done stay; run the same command again with fewer --jobs.') from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _attempt(task: tuple) -> tuple[str, list[str], str | None]:
    try:
        return task[0].name, prepare_scan(*task), None
    except DataError as error:
        return task[0].name, [], str(error)


def _is_done(folder: Path, settings: dict) -> bool:
    scene = SceneFolder(folder)
    if not scene.exists():
        return False
    try:
        return scene.record.settings == settings
    except DataError:                                                       # an older format: prepare it again
        return False


def _find_label_table(raw: Path) -> Path:
    places = [raw / files.LABEL_TABLE, raw.parent / files.LABEL_TABLE]
    for path in places:
        if path.is_file():
            return path
    raise DataError(f'{raw}: no {files.LABEL_TABLE}. It comes with the data set; put it there.')


def _check_disk(scans: list[Path], every: int, out: Path, progress: Callable[[str], None]) -> None:
    """Say how much disk space is needed, and stop when there is less."""
    need = sum(files.scan_file(scan, files.SENS).stat().st_size / every + _size(files.scan_file(scan, files.MESH))
               for scan in scans) * OVERHEAD
    free = shutil.disk_usage(out).free
    progress(f'{len(scans)} scenes to prepare, about {need / 1e9:.2f} GB; {free / 1e9:.1f} GB are free in {out}')
    if need > free:
        raise DataError(f'{out}: about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. Make room, use '
                        'another --out, or a larger --every.')


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _write_splits(raw: Path, out: Path, scans: list[str], progress: Callable[[str], None]) -> None:
    """Write the split lists of `raw`, restricted to scenes that are there; without any, `all.txt`."""
    there = {path.parent.name for path in out.glob('*/scene.json')}
    found = False
    for split in SPLITS:
        names = [raw / f'scannetv2_{split}.txt', raw / f'{split}.txt']
        path = next((name for name in names if name.is_file()), None)
        if path is None:
            continue
        found = True
        listed = files.read_list(path)
        present = [name for name in listed if name in there]
        files.write_list(out / f'{split}.txt', present)
        progress(f'split {split}: {len(present)} of {len(listed)} scenes')
    if not found:
        files.write_list(out / 'all.txt', [name for name in scans if name in there])
        progress(f'no split lists in {raw}: all scenes are in the split "all". For the official splits put '
                 'scannetv2_train.txt, scannetv2_val.txt and scannetv2_test.txt there and run this again.')


def _clock(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f'{minutes // 60} h {minutes % 60:02d} min' if minutes >= 60 else f'{minutes} min {int(seconds % 60):02d} s'
