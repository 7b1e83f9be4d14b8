"""Writes one room as a raw ScanNet scan folder (data.md section 1)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import jrs
from jrs.io import scannet
from jrs.io.ply import write_ply
from jrs.io.png import encode_jpeg
from jrs.io.scannet import LabelRow, SegmentGroup
from jrs.io.sens import SensFrame, SensHeader, encode_depth, write_sens
from jrs.synth.camera_path import CameraPath, camera_path
from jrs.synth.layout import BuiltRoom, build_room
from jrs.synth.mesh import Mesh, scan_mesh
from jrs.synth.pieces import about_z
from jrs.synth.presets import GENERATOR_VERSION, Preset
from jrs.synth.primitives import apply
from jrs.synth.renderer import Renderer, at_pixels, develop
from jrs.synth.sensor import drifted, sensor_depth
from jrs.synth.styles import find_style

FRAME_MICROSECONDS = 33333
JPEG_QUALITY = 92
DEPTH_STREAM, POSE_STREAM, STYLE_STREAM = 1, 2, 3           # of random numbers, besides the room's own


def label_table() -> dict[str, LabelRow]:
    """Return raw category -> LabelRow for the 200 ScanNet200 names, of which the rooms use some forty."""
    lines = (Path(jrs.__file__).parent / 'labels' / 'scannet200.tsv').read_text(encoding='utf-8-sig').splitlines()
    columns = lines[0].split('\t')
    rows = [dict(zip(columns, line.split('\t'), strict=True)) for line in lines[1:]]
    return {row['name']: LabelRow(int(row['id']), int(row['nyu40id']), row['nyu40class']) for row in rows}


def scan_id(index: int) -> str:
    """Return the scan id of room `index`."""
    return f'scene{index:04d}_00'


def write_scan(raw_folder: str | os.PathLike, index: int, preset: Preset, seed: int) -> bool:
    """Write room `index` of a preset to `raw_folder/<scan id>`; False when it is already there.

    The folder is written under a hidden name and renamed when complete, so one that exists is finished.
    """
    final = Path(raw_folder) / scan_id(index)
    if final.is_dir():
        return False
    hidden = Path(tempfile.mkdtemp(prefix=f'.{final.name}.', dir=raw_folder))
    try:
        _write_files(hidden, final.name, [GENERATOR_VERSION, seed, index], preset)
        hidden.chmod(0o755)
        hidden.rename(final)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return True


def _write_files(folder: Path, name: str, seeds: list[int], preset: Preset) -> None:
    """Write the files of a scan. What departs from the preset draws from streams of its own, so that without it the bytes
    stay as they are."""
    random = np.random.default_rng(seeds if preset.style == 'usual' else [*seeds, STYLE_STREAM])
    room = build_room(random, find_style(preset.style))
    path = camera_path(room, preset.frames, preset.size, random)
    world_from_room = _world_from_room(room, random)
    renderer = Renderer(room)
    views = [renderer.trace_view(path, view) for view in range(preset.frames)]
    poses = np.stack([world_from_room @ pose for pose in path.world_from_cam])          # (V, 4, 4)
    if preset.poses == 'drift':
        poses = drifted(poses, np.random.default_rng([*seeds, POSE_STREAM]))
    sensor = np.random.default_rng([*seeds, DEPTH_STREAM]) if preset.depth == 'sensor' else None
    write_sens(folder / f'{name}{scannet.SENS}', _header(path), _frames(renderer, path, views, poses, random, sensor))
    mesh = scan_mesh(renderer, path, [depth for depth, _ in views], preset.spacing, preset.object_vertices, random)
    _write_mesh(folder, name, room, mesh, world_from_room)
    scannet.write_metadata(folder / f'{name}{scannet.METADATA}', _metadata(room, path, world_from_room))


def _world_from_room(room: BuiltRoom, random: np.random.Generator) -> np.ndarray:
    """Return (4, 4): the world of a scan has z up and the floor near 0, but its own origin and heading."""
    transform = np.eye(4)
    transform[:3, :3] = about_z(random.uniform(0, 360))
    transform[:3, 3] = random.uniform([1.0, 1.0, -0.05], [4.0, 4.0, 0.05]) - transform[:3, :3] @ (room.size * [0.5, 0.5, 0])
    return transform


def _header(path: CameraPath) -> SensHeader:
    intrinsics = np.eye(4, dtype=np.float32)
    intrinsics[:3, :3] = path.intrinsics
    return SensHeader(intrinsics, intrinsics.copy(), path.size, path.size)


def _frames(renderer: Renderer, path: CameraPath, views: list[tuple[np.ndarray, np.ndarray]], poses: np.ndarray,
            random: np.random.Generator, sensor: np.random.Generator | None) -> Iterator[SensFrame]:
    """Yield the encoded frames: depth in millimetres, colour with the exposure and the noise of a small sensor."""
    exposure = 1.15 + 0.08 * np.sin(np.arange(len(views)) / 5.0 + random.uniform(0, 6.3)) * random.random()
    for view, (depth, index) in enumerate(views):
        noise = random.normal(0.0, 0.008, (*path.size, 3))                              # (H, W, 3)
        colour = develop(renderer.colour(path, view, depth, index), exposure[view] * random.uniform(0.97, 1.03), noise)
        metres = at_pixels(depth)                                                       # (H, W)
        metres = np.where(np.isfinite(metres), metres, 0.0)
        if sensor is not None:
            metres = sensor_depth(metres, *renderer.reflection(path, view, depth, index), sensor)
        millimetres = np.rint(metres * 1000.0).astype(np.uint16)
        time = view * FRAME_MICROSECONDS
        yield SensFrame(poses[view].astype(np.float32), encode_jpeg(colour, JPEG_QUALITY), encode_depth(millimetres), time,
                        time)


def _write_mesh(folder: Path, name: str, room: BuiltRoom, mesh: Mesh, world_from_room: np.ndarray) -> None:
    """Write mesh, labelled mesh, segments and objects."""
    table = label_table()
    objects = np.unique(mesh.owner)                                                     # seen ones, in order
    groups = [SegmentGroup(number, room.labels[owner], tuple(np.unique(mesh.segments[mesh.owner == owner]).tolist()))
              for number, owner in enumerate(objects)]
    nyu40 = np.array([table[label].nyu40id for label in room.labels], np.uint16)[mesh.owner]
    points = apply(world_from_room[:3, :3], mesh.vertices) + world_from_room[:3, 3]
    colours = develop(mesh.colours, 1.15)
    write_ply(folder / f'{name}{scannet.MESH}', _vertex_table(points, colours), mesh.faces)
    write_ply(folder / f'{name}{scannet.MESH_LABELS}', _vertex_table(points, _PALETTE[nyu40]) | {'label': nyu40}, mesh.faces)
    scannet.write_segments(folder / f'{name}{scannet.SEGMENTS}', name, mesh.segments)
    scannet.write_aggregation(folder / f'{name}{scannet.AGGREGATION}', name, groups)


_PALETTE = np.random.default_rng(40).integers(40, 256, (41, 3)).astype(np.uint8)       # of the labelled mesh


def _vertex_table(points: np.ndarray, colours: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of a ScanNet mesh: float x y z, uchar red green blue alpha."""
    columns = {axis: points[:, index].astype(np.float32) for index, axis in enumerate('xyz')}
    columns |= {channel: colours[:, index] for index, channel in enumerate(('red', 'green', 'blue'))}
    return columns | {'alpha': np.full(len(points), 255, np.uint8)}


def _metadata(room: BuiltRoom, path: CameraPath, world_from_room: np.ndarray) -> dict[str, float | str | np.ndarray]:
    """Return the `.txt` of a scan; `axisAlignment` turns it to the room's walls, with the middle of the floor at 0."""
    alignment = np.linalg.inv(world_from_room)
    alignment[:2, 3] -= room.size[:2] / 2
    height, width = path.size
    k, count = path.intrinsics, len(path.world_from_cam)
    sizes = {'colorHeight': height, 'colorToDepthExtrinsics': np.eye(4), 'colorWidth': width, 'depthHeight': height,
             'depthWidth': width}
    cameras = {f'{key}_{sensor}': float(value) for sensor in ('color', 'depth') for key, value in
               (('fx', k[0, 0]), ('fy', k[1, 1]), ('mx', k[0, 2]), ('my', k[1, 2]))}
    counts = {'numColorFrames': count, 'numDepthFrames': count, 'numIMUmeasurements': 0}
    return {'axisAlignment': alignment, **sizes, **cameras, **counts, 'sceneType': room.scene_type}
