"""Superpoints of meshes that come without: ScanNet's over-segmentation of the mesh, computed, and said so in the notes.

ScanNet++ publishes none (data.md section 5.1), test scans of ScanNet and own scans need not have any. Methods on points need
them. The vote of superpoints in scoring is the benchmark's affair (`Benchmark.has_superpoints`) and does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from jrs.datasets.prepare.driver import scenes_in
from jrs.datasets.scene import Mesh, SceneFolder, write_mesh, write_record
from jrs.errors import DataError
from jrs.geometry.oversegmentation import cloud_superpoints, mesh_superpoints
from jrs.io.progress import Progress


def compute_superpoints(mesh: Mesh) -> str:
    """Give a mesh superpoints; returns how, for people. Without triangles they are those of its vertices as points.

    Raises:
        DataError: a vertex is not finite.
    """
    if not np.isfinite(mesh.vertices).all():
        raise DataError('The mesh has vertices that are not finite, which can be in no superpoint: repair it.')
    found = mesh_superpoints(mesh.vertices, mesh.faces) if len(mesh.faces) else cloud_superpoints(mesh.vertices)
    mesh.superpoints = found
    way = "ScanNet's over-segmentation of the mesh" if len(mesh.faces) else 'over-segmentation of the vertices as points'
    return f'superpoints are computed ({way}): {len(set(found.tolist()))} of {len(found)} vertices; the data set has none'


def add_superpoints(folder: Path, progress: Callable[[str], None]) -> int:
    """Give superpoints to scene folders whose mesh has none; returns how many scenes got them.

    Mesh and notes of a scene are rewritten; all else stays.

    Args:
        folder: a scene folder, or the folder of a data set.
        progress: receives lines for people.

    Raises:
        DataError: no scenes there, or a file of one that cannot be read.
    """
    scenes = scenes_in(folder)
    done, pieces = 0, Progress(len(scenes), 'scenes')
    for path in scenes:
        added, words = _add(SceneFolder(path))
        done += added
        progress(pieces.step(f'{path.name}: {words}'))
    return done


def _add(scene: SceneFolder) -> tuple[bool, str]:
    """Return whether a scene got superpoints, and what there is to say of it."""
    path = scene.path / 'mesh.ply'
    if not path.is_file():
        return False, 'has no mesh, so that there is nothing to do'
    mesh = scene.mesh()
    if mesh.superpoints is not None:
        return False, 'has superpoints, which stay'
    try:
        note = compute_superpoints(mesh)
    except DataError as error:
        raise DataError(f'{path}: {error}') from None
    write_mesh(path, mesh)
    write_record(scene.path / 'scene.json', replace(scene.record, notes=[*scene.record.notes, note]))
    return True, note
