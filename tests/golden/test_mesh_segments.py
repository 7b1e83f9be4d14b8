"""ScanNet's over-segmentation against the published program's: the same partitions, before and after small ones join."""

from __future__ import annotations

import numpy as np
import pytest

from jrs.geometry.oversegmentation import (
    edge_weights,
    face_edges,
    joined_components,
    mesh_superpoints,
    numbered,
    vertex_normals,
)
from tests.golden._golden import golden_files, load_npz, relative_error


@pytest.mark.parametrize('path', golden_files('baseline_mesh_segments*.npz'))
def test_partitions_of_meshes_are_exactly_the_published_ones(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        vertices, faces, normals, before, segments = (
            arrays[f'c{number}_{name}'] for name in ('vertices', 'faces', 'normals', 'before_merge', 'segments'))
        found = vertex_normals(vertices, faces)
        assert relative_error(found, normals) <= 1e-5
        tails, heads = face_edges(faces)
        weights = edge_weights(vertices, found, tails, heads)
        order = weights.argsort(kind='stable')
        component = joined_components(tails[order], heads[order], weights[order], len(vertices), case['threshold'])
        assert np.array_equal(numbered(component), numbered(before))
        result = mesh_superpoints(vertices, faces, case['threshold'], case['min_vertices'])
        assert np.array_equal(result, segments)
