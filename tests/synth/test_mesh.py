import numpy as np
import pytest

from jrs.synth import mesh as meshes
from jrs.synth.camera_path import camera_path
from jrs.synth.layout import build_room
from jrs.synth.mesh import Mesh, bleed, scan_mesh, tessellate
from jrs.synth.renderer import Renderer, at_pixels, develop, trace


@pytest.fixture(scope='module')
def scanned():
    random = np.random.default_rng(5)
    room = build_room(random)
    path = camera_path(room, 8, (42, 56), random)
    renderer = Renderer(room)
    depths = [renderer.trace_view(path, view)[0] for view in range(8)]
    return room, path, renderer, scan_mesh(renderer, path, depths, 0.15, 300, random)


def test_a_ray_to_a_vertex_ends_at_the_vertex(scanned):
    room, path, _, mesh = scanned
    chosen = np.random.default_rng(0).choice(len(mesh.vertices), 120, replace=False)
    best = np.full(len(chosen), np.inf)
    for pose in path.world_from_cam:
        local = (mesh.vertices[chosen] - pose[:3, 3]) @ pose[:3, :3]
        for number in np.flatnonzero(local[:, 2] > 0.05):
            x, y, z = local[number]
            depth, _ = trace(room.solids, pose[:3, :3], pose[:3, 3], x / z + np.array([-1e-6, 0, 1e-6]),
                             y / z + np.array([-1e-6, 0, 1e-6]))
            best[number] = min(best[number], abs(depth[1, 1] - z))
    assert (best < 1e-6).mean() > 0.8 and (best < 0.06).mean() > 0.97      # seen to within the tolerance of half a pixel


def test_vertices_lie_on_the_surface_of_their_solid(scanned):
    room, _, _, _ = scanned
    mesh = tessellate(room.solids, 0.2, 200)
    local = room.solids.to_local(mesh.solid, mesh.vertices)
    kind, taper = room.solids.kind[mesh.solid], room.solids.taper[mesh.solid]
    radius = (1 + taper) / 2 + (taper - 1) / 2 * local[:, 2]
    round_off = np.maximum(np.hypot(local[:, 0], local[:, 1]) - radius, np.abs(local[:, 2]) - 1)
    off = np.select([kind == 0, kind == 1], [np.abs(local).max(axis=1) - 1, round_off], np.linalg.norm(local, axis=1) - 1)
    assert np.abs(off).max() < 1e-9


def test_a_segment_has_one_object_and_20_vertices(scanned):
    mesh = scanned[-1]
    for segment in np.unique(mesh.segments):
        owners = mesh.owner[mesh.segments == segment]
        assert len(np.unique(owners)) == 1 and len(owners) >= 20
    np.testing.assert_array_equal(mesh.segments[np.unique(mesh.segments)], np.unique(mesh.segments))


def test_a_vertex_has_the_colour_that_the_camera_sees(scanned):
    room, path, renderer, mesh = scanned
    depth, index = renderer.trace_view(path, 0)
    image, pose = develop(renderer.colour(path, 0, depth, index), 1.0).astype(int), path.world_from_cam[0]
    local = (mesh.vertices - pose[:3, 3]) @ pose[:3, :3]
    pixel = np.rint(local @ path.intrinsics.T / local[:, 2:])[:, :2].astype(int)
    good = (local[:, 2] > 0.05) & (pixel >= 0).all(axis=1) & (pixel < [56, 42]).all(axis=1)
    column, row = pixel[good].T
    close = np.abs(at_pixels(depth)[row, column] - local[good, 2]) < 0.01
    difference = np.abs(image[row, column][close] - develop(mesh.colours, 1.0)[good][close])
    assert close.sum() > 100 and np.median(difference) < 12


def flat(side, owner, first, shift):
    """A sheet of side x side vertices, 5 cm apart, as one segment."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    points = np.stack([x.ravel() * 0.05 + shift, y.ravel() * 0.05, np.zeros(side * side)], axis=1)
    count = len(points)
    return points, np.tile([0.0, 0.0, 1.0], (count, 1)), np.full(count, owner), np.full(count, first)


def two_sheets(gap=0.05, up=0.0, more=9):
    """A large sheet of object 0 and, beside it in the same plane, a sheet of object 1 that has more elsewhere."""
    sheets = [flat(10, 0, 0, 0.0), flat(5, 1, 100, 0.45 + gap), flat(more, 1, 125, 5.0)]
    points, normals, owner, segments = (np.concatenate(arrays) for arrays in zip(*sheets, strict=True))
    points[100:125, 2] += up
    return Mesh(points, normals, np.zeros((0, 3), int), owner, owner, segments)


@pytest.mark.parametrize(('changes', 'bleeds'), [
    ({}, True), ({'gap': 0.2}, False), ({'up': 0.05}, False), ({'more': 5}, False)])
def test_a_segment_bleeds_into_a_larger_one_beside_it_in_its_plane_unless_its_object_loses_too_much(
        changes, bleeds, monkeypatch):
    monkeypatch.setattr(meshes, 'BLEED', 1.0)
    monkeypatch.setattr(meshes, 'BLEED_SHARE', 0.3)
    mesh = two_sheets(**changes)
    bleed(mesh, np.random.default_rng(0))
    assert (mesh.owner[100:125] == (0 if bleeds else 1)).all() and (mesh.owner[125:] == 1).all()
    assert len(np.unique(mesh.segments)) == (2 if bleeds else 3)
    for segment in np.unique(mesh.segments):
        assert len(np.unique(mesh.owner[mesh.segments == segment])) == 1


def test_hardly_anything_of_a_room_bleeds(scanned):
    mesh = scanned[-1]
    assert 0.95 < (mesh.owner == scanned[0].solids.owner[mesh.solid]).mean() <= 1.0
