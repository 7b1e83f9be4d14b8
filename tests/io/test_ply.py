import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.ply import read_ply, write_ply


def mesh():
    random = np.random.default_rng(0)
    vertices = {name: random.normal(size=5).astype(np.float32) for name in 'xyz'}
    vertices |= {'red': random.integers(0, 256, 5).astype(np.uint8), 'label': np.arange(5, dtype=np.uint16)}
    return vertices, np.array([[0, 1, 2], [2, 3, 4]], np.int32)


def test_a_mesh_comes_back_with_its_types(tmp_path):
    vertices, faces = mesh()
    write_ply(tmp_path / 'a.ply', vertices, faces)
    found, found_faces = read_ply(tmp_path / 'a.ply')
    assert list(found) == list(vertices)
    for name, values in vertices.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found_faces, faces)


def test_a_cloud_has_no_faces(tmp_path):
    write_ply(tmp_path / 'a.ply', {'x': np.zeros(2), 'y': np.zeros(2), 'z': np.ones(2)})
    found, faces = read_ply(tmp_path / 'a.ply')
    assert faces is None and found['z'].dtype == np.float64


def test_ascii_polygons_become_triangles_and_other_elements_are_skipped(tmp_path):
    (tmp_path / 'a.ply').write_text(
        'ply\r\nformat ascii 1.0\r\ncomment by hand\r\nelement vertex 4\r\nproperty float x\r\nproperty int n\r\n'
        'element edge 1\r\nproperty int a\r\nelement face 2\r\nproperty list uchar int vertex_indices\r\n'
        'property uchar flag\r\nend_header\r\n0.5 1\r\n1 2\r\n2 3\r\n3 4\r\n7\r\n4 0 1 2 3 9\r\n3 1 2 3 9\r\n')
    vertices, faces = read_ply(tmp_path / 'a.ply')
    np.testing.assert_array_equal(vertices['n'], [1, 2, 3, 4])
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3], [1, 2, 3]])


def test_big_endian_quads_are_read(tmp_path):
    head = (b'ply\nformat binary_big_endian 1.0\nelement vertex 4\nproperty short x\nelement face 1\n'
            b'property list uchar int vertex_index\nend_header\n')
    body = np.array([1, 2, 3, 4], '>i2').tobytes() + b'\x04' + np.arange(4, dtype='>i4').tobytes()
    (tmp_path / 'a.ply').write_bytes(head + body)
    vertices, faces = read_ply(tmp_path / 'a.ply')
    np.testing.assert_array_equal(vertices['x'], [1, 2, 3, 4])
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3]])


def test_every_cut_is_a_data_error(tmp_path):
    path = tmp_path / 'a.ply'
    write_ply(path, *mesh())
    data = path.read_bytes()
    for end in range(0, len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match='a.ply'):
            read_ply(path)


@pytest.mark.parametrize(('old', 'new'), [
    (b'vertex 5', b'vertex 500000000000'), (b'vertex 5', b'vertex -5'), (b'face 2', b'face 99999999'),
    (b'property float x', b'property quad x'), (b'format binary', b'format funny'), (b'ply\n', b'plx\n'),
])
def test_a_corrupt_header_is_a_data_error(tmp_path, old, new):
    path = tmp_path / 'a.ply'
    write_ply(path, *mesh())
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match='a.ply'):
        read_ply(path)


def test_an_index_beyond_the_vertices_is_refused(tmp_path):
    vertices, faces = mesh()
    with pytest.raises(DataError, match='0 to 5; there are 5'):
        write_ply(tmp_path / 'a.ply', vertices, faces + [[0, 0, 1]])


def test_a_type_that_ply_lacks_is_refused(tmp_path):
    with pytest.raises(DataError, match="'x' .int64."):
        write_ply(tmp_path / 'a.ply', {'x': np.arange(3)})
