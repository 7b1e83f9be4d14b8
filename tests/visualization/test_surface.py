"""A mesh as a picture: the nearest triangle that faces the viewer, in every pixel, at any zoom."""

import numpy as np
import pytest

from jrs.visualization.cloud import Shot, render_cloud, shot_of
from jrs.visualization.surface import facing_of, rasterised

SIZE = (60, 80)


def shot(focal=60.0):
    """Return a camera on the z axis at (0, 0, 2.5), looking down it, right x and up y."""
    return Shot(np.eye(3), np.zeros(3), 1.0, focal, np.zeros(2), SIZE)


def traced(vertices, faces, focal=60.0):
    """Return depth and face of each pixel by rays through their centres, one triangle after the other."""
    rows, columns = np.indices(SIZE).reshape(2, -1)
    rays = np.stack([(columns + 0.5 - SIZE[1] / 2) / focal, -(rows + 0.5 - SIZE[0] / 2) / focal, -np.ones(len(rows))], 1)
    depth, face = np.full(len(rows), np.inf), np.full(len(rows), -1)
    for number, corners in enumerate(vertices[faces]):
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        z = normal @ (corners[0] - [0, 0, 2.5]) / (rays @ normal)
        points = rays * z[:, None] + [0, 0, 2.5]
        sides = [np.cross(corners[i - 2] - corners[i], points - corners[i]) @ normal >= 0 for i in range(3)]
        hit = np.all(sides, 0) & (rays @ normal < 0) & (z > 0.15) & (z < depth)
        depth[hit], face[hit] = z[hit], number
    return depth.reshape(SIZE), face.reshape(SIZE)


def test_each_pixel_shows_what_a_ray_through_it_meets():
    rng = np.random.default_rng(2)
    vertices = rng.uniform(-1, 1, (60, 3))
    faces = np.arange(60).reshape(20, 3)
    raster = rasterised(shot(), vertices, faces)
    depth, face = traced(vertices, faces)
    assert 0.3 < (face >= 0).mean() < 0.9 and len(np.unique(face)) > 5
    assert (raster.face == face).mean() > 0.9                              # edges fall to either side
    inner = (raster.face == face) & (face >= 0)
    assert np.median(np.abs(raster.depth[inner] - depth[inner])) < 0.02         # the nearest in a pixel, not its middle
    np.testing.assert_allclose(raster.weights[inner].sum(-1), 1, atol=1e-6)


@pytest.fixture
def wall():
    """Two triangles that fill a square at z = 0, and a smaller one before it; colours by vertex."""
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-0.3, -0.3, 0.5], [0.3, -0.3, 0.5], [0, 0.3, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]])
    return vertices, faces


def test_nearer_ones_hide_others_and_backs_are_not_there(wall):
    vertices, faces = wall
    raster = rasterised(shot(), vertices, faces)
    assert raster.face[30, 40] == 2 and raster.depth[30, 40] == pytest.approx(2.0)
    assert raster.depth[10, 40] == pytest.approx(2.5) and raster.face[0, 0] == -1 and np.isinf(raster.depth[0, 0])
    assert rasterised(shot(), vertices, faces[:, ::-1]).face.max() == -1
    assert facing_of(shot(), vertices, faces)[2] == pytest.approx(1.0, abs=0.01)
    assert (raster.numbers(faces, np.array([1, 1, 1, 1, 7, 7, 7]))[[30, 10, 0], [40, 40, 0]] == [7, 1, 0]).all()


def test_colours_run_between_vertices_or_are_those_of_the_nearest(wall):
    vertices, faces = wall[0][:4], wall[1][:2]
    raster = rasterised(shot(), vertices, faces)
    colours = np.array([[0, 0, 0], [200, 0, 0], [200, 0, 0], [0, 0, 0]], np.uint8)
    smooth, patches = raster.picture(faces, colours)[30, 20:60, 0].astype(int), raster.patches(faces, colours)[30, :, 0]
    assert (np.diff(smooth) >= 0).all() and 90 < smooth[20] < 110
    assert set((patches[20:60] // 10).tolist()) <= {0, 19, 20} and np.ptp(patches[20:60]) > 190 and patches[0] == 255


def test_a_zoomed_shot_shows_that_part(wall):
    vertices, faces = wall
    whole, part = (rasterised(one, vertices, faces) for one in (shot(), shot().zoomed((20, 15, 40, 30))))
    assert (part.face[1::2, 1::2] == whole.face[15:45, 20:60]).mean() > 0.93


def test_a_shot_holds_the_cloud_as_its_picture_does():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (4000, 3))
    frame = (np.eye(3), np.zeros(3), 1.0)
    u, v = (one := shot_of(points, *frame, 20.0, 30.0, SIZE)).pixels(one.local(points))
    assert ((u > 0) & (u < 80) & (v > 0) & (v < 60)).mean() > 0.98
    nearest = one.local(points)[:, 2].argmin()
    colours = np.where((np.arange(4000) == nearest)[:, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    drawn = render_cloud(points, colours, *frame, 20.0, 30.0, SIZE)[int(v[nearest]), int(u[nearest])]
    assert drawn[0] > 100 and drawn[2] == 0
