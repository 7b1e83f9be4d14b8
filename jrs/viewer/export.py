"""The points of a selection as a file: PLY for point tools, GLB for everything that shows scenes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from jrs.errors import DataError, JrsError
from jrs.io.ply import write_ply
from jrs.postprocess.export import GLTF_FROM_OPENCV
from jrs.viewer.result import Result

KINDS = ('ply', 'glb')


def selection_file(result: Result, chosen: np.ndarray, colours: np.ndarray, kind: str) -> bytes:
    """Return a file of the chosen points of a result, in its own world and unit.

    Args:
        result: the whole.
        chosen: (N,) bool, at least one.
        colours: (N, 3) uint8, as shown.
        kind: one of `KINDS`; GLB is turned to glTF's axes (y up) as `infer` turns it.

    Raises:
        DataError: no point is chosen. JrsError: trimesh, which writes GLB, is not installed.
    """
    if not chosen.any():
        raise DataError('no point is shown: there is nothing to export')
    points, colours = result.points[chosen], colours[chosen]
    if kind == 'ply':
        columns = dict(zip('xyz', points.T, strict=True))
        columns |= dict(zip(('red', 'green', 'blue'), colours.T, strict=True)) | {'instance': result.instances[chosen]}
        with tempfile.TemporaryDirectory() as folder:
            write_ply(Path(folder) / 'selection.ply', columns, comment=f'unit: {result.scale}')
            return (Path(folder) / 'selection.ply').read_bytes()
    try:
        import trimesh
    except ImportError as error:
        raise JrsError('GLB needs trimesh: pip install trimesh; PLY needs nothing.') from error
    scene = trimesh.Scene(metadata={'unit': result.scale})
    scene.add_geometry(trimesh.PointCloud(points, colors=colours), geom_name='points')
    scene.apply_transform(GLTF_FROM_OPENCV)
    return scene.export(file_type='glb')


def file_name(result: Result, number: int, kind: str) -> str:
    """Return how the exported file is called: of the whole (`number` 0), or of an instance."""
    what = f'_{number:03d}_{result.found[number - 1].name}' if number else ''
    return re.sub(r'[^\w.+-]+', '-', f'{result.name}{what}') + f'.{kind}'
