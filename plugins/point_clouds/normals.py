"""Normals of the vertices of a mesh, an input of Relation3D (baselines.md section 3.8)."""

from __future__ import annotations

import numpy as np

from jrs.datasets.scene import Mesh
from jrs.errors import DataError


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """Return the unit mean (N, 3) of the normals of the faces around each vertex; 0 where there is none.

    Faces count alike whatever their area, as in ScanNet's over-segmentation (ours, the sources do not say).

    Raises:
        DataError: the mesh has no faces.
    """
    if not len(mesh.faces):
        raise DataError('normals are made of the faces of a mesh, and this one has none: leave "normal" out of '
                        'dataset.features, or take a mesh.')
    corners = mesh.vertices[mesh.faces]                                                     # (M, 3, 3)
    normals = unit_rows(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    flat = mesh.faces.reshape(-1)
    return unit_rows(np.stack([np.bincount(flat, np.repeat(column, 3), len(mesh.vertices)) for column in normals.T], axis=1))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return `vectors` (n, 3) with length 1; those shorter than 1e-12 stay about 0."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
