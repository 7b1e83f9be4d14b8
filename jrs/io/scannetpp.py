"""ScanNet++'s own files: nerfstudio cameras and the table of label names (data.md sections 5.3 and 5.4)."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass

import numpy as np

from jrs.errors import DataError
from jrs.io.colmap import Lens, PosedImage, make_lens
from jrs.io.text import read_json

MESH, EXCLUDED = 'scans/mesh_aligned_0.05.ply', 'scans/mesh_aligned_0.05_mask.txt'
SEGMENTS, ANNOTATION = 'scans/segments.json', 'scans/segments_anno.json'
LABEL_MAP = 'metadata/semantic_benchmark/map_benchmark.csv'
SPLITS = {'train': 'splits/nvs_sem_train.txt', 'val': 'splits/nvs_sem_val.txt', 'test': 'splits/sem_test.txt'}
DISTORTION_KEYS = {'OPENCV_FISHEYE': ('k1', 'k2', 'k3', 'k4'), 'OPENCV': ('k1', 'k2', 'p1', 'p2'), 'PINHOLE': ()}
NOTHING = 'None'                                            # in the table: objects of this name are dropped


@dataclass(frozen=True)
class Transforms:
    """What a nerfstudio `transforms.json` says: the lens, the posed images, and the names marked as bad."""

    lens: Lens
    images: list[PosedImage]
    bad: frozenset[str]


def read_transforms(path: str | os.PathLike) -> Transforms:
    """Read `transforms.json`; poses come back as `cam_from_world` in the frame of the mesh, OpenCV axes."""
    data = read_json(path)
    try:
        model = data['camera_model']
        parameters = [data[key] for key in ('fl_x', 'fl_y', 'cx', 'cy', *DISTORTION_KEYS.get(model, ()))]
        lens = make_lens(model, (int(data['h']), int(data['w'])), [*map(float, parameters)], str(path))
        listed = [*data['frames'], *data.get('test_frames', ())]
        images = [PosedImage(str(frame['file_path']), 0, _cam_from_world(frame['transform_matrix'])) for frame in listed]
        bad = frozenset(str(frame['file_path']) for frame in listed if frame.get('is_bad'))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f'{path}: an entry is missing or has the wrong type ({error!r}).') from error
    return Transforms(lens, images, bad)


def _cam_from_world(rows: list) -> np.ndarray:
    """Undo nerfstudio's axes and its permuted world (data.md section 5.3); not finite where the matrix is no pose."""
    world_from_cam = np.array(rows, np.float64)
    if world_from_cam.shape != (4, 4):
        raise ValueError(f'a transform_matrix must be 4 x 4, got {world_from_cam.shape}')
    world_from_cam[2] *= -1
    world_from_cam = world_from_cam[[1, 0, 2, 3]]
    world_from_cam[:3, 1:3] *= -1
    try:
        return np.linalg.inv(world_from_cam)
    except np.linalg.LinAlgError:
        return np.full((4, 4), np.nan)


def read_label_map(path: str | os.PathLike) -> dict[str, str]:
    """Return raw name -> name in the instance benchmark, `NOTHING` for those that are dropped, of `map_benchmark.csv`."""
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}).') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path}: not a table of comma-separated values ({error}).') from error
    missing = {'class', 'instance_map_to'} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f'{path}: the first line lacks the columns {sorted(missing)}.')
    return {row['class']: row['instance_map_to'] or row['class'] for row in rows}
