"""A tiny ScanNet-like recording of boxes; its depth is analytic, so that renderers can be compared to it."""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from jrs.io import scannet as files
from jrs.io.ply import write_ply
from jrs.io.png import encode_jpeg, write_png16
from jrs.io.sens import SensFrame, SensHeader, SensReader, encode_depth, write_sens

COLOR_SIZE, DEPTH_SIZE = (72, 96), (48, 64)
COLOR_K = np.array([[80.0, 0, 48.3], [0, 81.0, 35.1], [0, 0, 1]])
DEPTH_K = np.array([[52.0, 0, 31.5], [0, 52.0, 23.5], [0, 0, 1]])
BOXES = {                                                   # label -> lower and upper corner, metres
    'floor': ((-2, -2, -0.1), (2, 2, 0)), 'wall': ((-2, 2, -0.1), (2, 2.1, 2.5)),
    'chair': ((-1.2, 0.6, 0), (-0.7, 1.1, 0.9)), 'table': ((-0.3, 0.9, 0), (0.8, 1.6, 0.7)),
    'strange thing': ((1.1, 0.5, 0), (1.5, 0.9, 0.6)), 'office chair': ((1.3, 1.3, 0), (1.7, 1.8, 1.0)),
}
LABELS = {'floor': files.LabelRow(3, 2, 'floor'), 'wall': files.LabelRow(1, 1, 'wall'),
          'chair': files.LabelRow(2, 5, 'chair'), 'office chair': files.LabelRow(10, 5, 'chair'),
          'table': files.LabelRow(4, 7, 'table')}


def write_raw(raw: Path, scans=('scene0000_00',), num_frames=9, lost=(4,), repeat_objects=False) -> Path:
    """Write `scans` with one recording each, the label table, and split lists with the last scan in val."""
    for number, scan in enumerate(scans):
        _write_scan(raw / 'scans' / scan, num_frames, lost, 0.05 * number, repeat_objects)
    files.write_label_table(raw / files.LABEL_TABLE, LABELS)
    files.write_list(raw / 'scannetv2_train.txt', scans[:-1] or scans)
    files.write_list(raw / 'scannetv2_val.txt', scans[-1:])
    return raw


def world_from_cam(step: float) -> np.ndarray:
    """Return a camera that walks along x and looks at the boxes."""
    centre = np.array([-0.8 + 0.2 * step, -1.6, 1.4])
    forward = np.array([0.1, 1.1, 0.4]) - centre
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, centre], axis=1)
    return pose


def trace(pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return z-depth (H, W) in metres and box number + 1 (H, W) by intersecting rays with the boxes; 0 = nothing."""
    v, u = np.mgrid[:size[0], :size[1]]
    return trace_rays(pose, np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T)


def trace_rays(pose: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do the same for rays (H, W, 3) with z = 1 in the camera's frame."""
    size, rays = rays.shape[:2], rays @ pose[:3, :3].T
    depth, owner = np.full(size, np.inf), np.zeros(size, int)
    for number, (low, high) in enumerate(BOXES.values(), start=1):
        with np.errstate(divide='ignore'):
            t = (np.array([low, high])[:, None, None] - pose[:3, 3]) / rays
        enter, leave = t.min(axis=0).max(axis=-1), t.max(axis=0).min(axis=-1)
        nearer = (enter <= leave) & (enter > 0) & (enter < depth)
        depth, owner = np.where(nearer, enter, depth), np.where(nearer, number, owner)
    return np.where(owner > 0, depth, 0), owner


def _write_scan(folder: Path, num_frames: int, lost: tuple, shift: float, repeat_objects: bool) -> None:
    poses = [world_from_cam(step + shift) for step in range(num_frames)]
    frames = []
    for index, pose in enumerate(poses):
        _, owner = trace(pose, COLOR_K, COLOR_SIZE)
        depth, _ = trace(pose, DEPTH_K, DEPTH_SIZE)
        color = np.random.default_rng(7).integers(40, 255, (len(BOXES) + 1, 3)).astype(np.uint8)[owner]
        stored = np.full((4, 4), -np.inf) if index in lost else pose
        frames.append(SensFrame(stored.astype(np.float32), encode_jpeg(color),
                                encode_depth(np.rint(depth * 1000).astype(np.uint16))))
    color_k, depth_k = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    color_k[:3, :3], depth_k[:3, :3] = COLOR_K, DEPTH_K
    write_sens(files.scan_file(folder, files.SENS), SensHeader(color_k, depth_k, COLOR_SIZE, DEPTH_SIZE), frames)
    vertices, faces, owner = box_mesh()
    values = {axis: vertices[:, column].astype(np.float32) for column, axis in enumerate('xyz')}
    values |= {name: np.full(len(vertices), 128, np.uint8) for name in ('red', 'green', 'blue', 'alpha')}
    write_ply(files.scan_file(folder, files.MESH), values, faces)
    segments = owner * 100 + (vertices[:, 0] > 0)                           # two per box, ids with gaps
    files.write_segments(files.scan_file(folder, files.SEGMENTS), folder.name, segments)
    groups = [files.SegmentGroup(number, label, (number * 100, number * 100 + 1))
              for number, label in enumerate(BOXES)]
    if repeat_objects:
        groups += [files.SegmentGroup(group.object_id + len(groups), group.label, group.segments) for group in groups]
    files.write_aggregation(files.scan_file(folder, files.AGGREGATION), folder.name, groups)


def box_mesh(cells: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vertices, triangles and the box of each vertex; each side of a box is a grid of its own."""
    vertices, faces, owner = [], [], []
    for number, (low, high) in enumerate(BOXES.values()):
        low, high = np.array(low, float), np.array(high, float)
        for axis in range(3):
            for side in (low, high):
                start = sum(map(len, vertices))
                a, b = np.mgrid[:cells + 1, :cells + 1].reshape(2, -1) / cells
                points = np.empty((len(a), 3))
                points[:, axis] = side[axis]
                for other, along in zip([i for i in range(3) if i != axis], (a, b), strict=True):
                    points[:, other] = low[other] + along * (high - low)[other]
                corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel() + start
                faces += [np.stack([corner, corner + 1, corner + cells + 1], 1),
                          np.stack([corner + 1, corner + cells + 2, corner + cells + 1], 1)]
                vertices.append(points)
                owner += [number] * len(points)
    return np.concatenate(vertices), np.concatenate(faces).astype(np.int32), np.array(owner)


def export_frames(scan: Path, target: Path, skip: int = 1, shrink: int = 1) -> None:
    """Write a scan's `.sens` as the Python exporter does; colour `shrink` times smaller, with the old intrinsics."""
    with SensReader(files.scan_file(scan, files.SENS)) as reader:
        for part in ('color', 'depth', 'pose', 'intrinsic'):
            (target / part).mkdir(parents=True)
        for index in range(0, len(reader), skip):
            color = reader.color(index)
            color = cv2.resize(color, (color.shape[1] // shrink, color.shape[0] // shrink), interpolation=cv2.INTER_AREA)
            (target / 'color' / f'{index}.jpg').write_bytes(encode_jpeg(color))
            write_png16(target / 'depth' / f'{index}.png', reader.depth(index))
            np.savetxt(target / 'pose' / f'{index}.txt', reader.world_from_cam[index], fmt='%f')
        for name in ('intrinsic_color', 'extrinsic_color', 'intrinsic_depth', 'extrinsic_depth'):
            np.savetxt(target / 'intrinsic' / f'{name}.txt', getattr(reader.header, name), fmt='%f')


def write_instance_zip(scan: Path, members: dict[str, bytes]) -> Path:
    """Write `<scan>_2d-instance-filt.zip` with these members."""
    path = files.scan_file(scan, '_2d-instance-filt.zip')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return path


def true_instance_images(num_frames: int) -> dict[str, bytes]:
    """Return the members of an official zip with the analytic ids of frames 0 .. num_frames - 1."""
    images = (trace(world_from_cam(index), COLOR_K, COLOR_SIZE)[1].astype(np.uint8) for index in range(num_frames))
    return {f'instance-filt/{index}.png': cv2.imencode('.png', image)[1].tobytes() for index, image in enumerate(images)}
