"""Superpoints of points: surfaces that a sharp edge parts stay apart, and nothing depends on who is listed first."""

import numpy as np
import pytest

from jrs.geometry.oversegmentation import cell_superpoints, cloud_superpoints, mesh_superpoints, numbered, vertex_normals


def corner(step: float = 0.05, noise: float = 0.0):
    """Return the points of a floor and a wall that meet at a right angle, and which of them are the wall's."""
    along, across = np.mgrid[0:20, 0:20].reshape(2, -1) * step
    floor = np.stack([along, across + step, np.zeros_like(along)], axis=1)
    wall = np.stack([along, np.zeros_like(along), across + step], axis=1)
    points = np.concatenate([floor, wall]) + noise * np.random.default_rng(0).standard_normal((800, 3))
    return points, np.arange(800) >= 400


@pytest.mark.parametrize('noise', [0.0, 0.002])
def test_a_floor_and_a_wall_are_two(noise):
    points, wall = corner(noise=noise)
    found = cloud_superpoints(points, towards=np.broadcast_to([0.5, 5.0, 5.0], points.shape))
    inner = (points[:, 1:].max(axis=1) > 0.15) & (points[:, 1:].max(axis=1) < 0.9)
    counts = [np.bincount(found[inner & side], minlength=found.max() + 1) for side in (wall, ~wall)]
    assert not (np.minimum(*counts) > 0).any() and np.bincount(found).min() >= 20
    assert max(counts[0].max(), counts[1].max()) > 200


def test_sparse_points_have_fewer_of_whom_normals_are_made():
    points, wall = corner(step=0.3)
    found = cloud_superpoints(points, normal_neighbours=6, min_size=3)
    lost = [sum(np.bincount(parts[wall], minlength=900)[np.bincount(parts[~wall], minlength=900) > 0])
            for parts in (found, cloud_superpoints(points, normal_neighbours=40, min_size=3))]
    assert lost[0] <= 40 and lost[0] <= lost[1]


def test_the_order_of_points_and_where_they_lie_change_nothing():
    points, _ = corner(noise=0.003)
    towards = np.broadcast_to([0.5, 5.0, 5.0], points.shape)
    order = np.random.default_rng(1).permutation(len(points))
    first, other = cloud_superpoints(points, towards), np.empty(len(points), np.int64)
    other[order] = cloud_superpoints(points[order], towards[order])
    assert np.array_equal(first, numbered(other))
    moved = cloud_superpoints(points + [64.0, 0, 0], towards + [64.0, 0, 0])
    assert (np.bincount(first * 1000 + moved) > 0).sum() <= 1.2 * (first.max() + 1)           # but for rounding


@pytest.mark.parametrize('count', [0, 1, 2, 3, 9, 25])
def test_few_points_have_superpoints_without_gaps(count):
    points = np.random.default_rng(count).uniform(0, 1, (count, 3))
    found = cloud_superpoints(points)
    assert np.array_equal(np.unique(found), np.arange(found.max(initial=-1) + 1)) and len(found) == count


def test_cells_stand_in_where_there_are_no_normals():
    assert cell_superpoints(np.array([[0.05, 0, 0], [0.15, 0, 0], [0.01, 0.09, 0.02]])).tolist() == [0, 1, 0]
    assert cloud_superpoints(np.array([[5.0, 0, 0], [0.0, 0, 0]])).tolist() == [0, 1]


def test_equal_points_and_faces_without_area_are_survived():
    points = np.repeat(corner()[0], 2, axis=0)
    assert len(np.unique(cloud_superpoints(points))) >= 2
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [9, 9, 9]])
    faces = np.array([[0, 1, 2], [0, 0, 3]])
    assert np.array_equal(vertex_normals(vertices.astype(np.float32), faces)[[0, 3, 4]], [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert mesh_superpoints(vertices, faces, min_size=1).max() == 2                          # vertices 3 and 4 alone
    assert mesh_superpoints(vertices, faces).tolist() == [0, 0, 0, 0, 1]                     # a small one joins
