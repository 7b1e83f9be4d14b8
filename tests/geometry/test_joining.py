"""Reconstructions that share views, brought to one world: what was cut apart fits together again."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrs.errors import DataError
from jrs.geometry.alignment import Similarity, move_cameras
from jrs.geometry.joining import SharedViews, chain, compose, join

VIEWS, PIXELS = 20, 60
SPANS = [(0, 8), (5, 13), (10, 18), (15, 20)]


@pytest.fixture(scope='module')
def walk():
    """Cameras (20, 4, 4) along a curve, rays (20, 60, 3) and depth (20, 60), relative to the first camera."""
    rng = np.random.default_rng(0)
    cameras = np.tile(np.eye(4), (VIEWS, 1, 1))
    cameras[1:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, (VIEWS - 1, 3))).as_matrix()
    cameras[1:, :3, 3] = rng.normal(0, 2, (VIEWS - 1, 3))
    rays = np.concatenate([rng.uniform(-0.7, 0.7, (VIEWS, PIXELS, 2)), np.ones((VIEWS, PIXELS, 1))], axis=2)
    return cameras, rays, rng.uniform(1, 5, (VIEWS, PIXELS))


def cut(walk, rng, depth=True):
    """Return windows of the walk in frames and units of their own, the first as it is, and the similarity of each."""
    cameras, rays, depths = walk
    windows, truth = [], []
    for number, (start, stop) in enumerate(SPANS):
        own = Similarity(1.0, np.eye(3), np.zeros(3)) if number == 0 else Similarity(
            float(rng.uniform(0.3, 3)), Rotation.random(random_state=number).as_matrix(), rng.normal(0, 5, 3))
        truth.append(own)
        back = Similarity(1 / own.scale, own.rotation.T, -own.rotation.T @ own.translation / own.scale)
        windows.append(SharedViews(move_cameras(cameras[start:stop], back), [*(depths[start:stop] / own.scale)] if depth else
                                   None, [*rays[start:stop]] if depth else None))
    return windows, truth


def part(window, places):
    return SharedViews(window.cam_from_world[places], *(None if values is None else values[places]
                                                        for values in (window.depth, window.rays)))


def joins_of(windows):
    return [join(part(windows[k - 1], slice(SPANS[k][0] - SPANS[k - 1][0], None)),
                 part(windows[k], slice(0, SPANS[k - 1][1] - SPANS[k][0]))) for k in range(1, len(SPANS))]


@pytest.mark.parametrize('depth', [True, False])
def test_a_walk_that_was_cut_into_windows_is_found_again(walk, depth):
    windows, truth = cut(walk, np.random.default_rng(1), depth)
    joins = joins_of(windows)
    for number, (found, true) in enumerate(zip(chain(one.similarity for one in joins), truth, strict=True)):
        np.testing.assert_allclose(found.matrix, true.matrix, atol=1e-8)
        np.testing.assert_allclose(move_cameras(windows[number].cam_from_world, found), walk[0][slice(*SPANS[number])],
                                   atol=1e-8)
    assert all(one.residual < 1e-9 and one.inliers == 1 and one.rotation_degrees < 1e-5 for one in joins)


def test_noise_and_outliers_of_depth_and_cameras_move_the_join_little(walk):
    """A fifth of the depths is too large, one of three shared cameras is turned, the rest has 1 % noise."""
    rng = np.random.default_rng(2)
    windows, truth = cut(walk, rng)
    for window in windows[1:]:
        for depth in window.depth:
            depth *= rng.normal(1, 0.01, PIXELS)
            depth[rng.permutation(PIXELS)[:PIXELS // 5]] *= rng.uniform(2, 9)
        window.cam_from_world[1, :3, :3] = Rotation.from_rotvec([0.5, 0, 0]).as_matrix() @ window.cam_from_world[1, :3, :3]
    joins = joins_of(windows)
    for found, true in zip(chain(one.similarity for one in joins), truth, strict=True):
        assert found.scale == pytest.approx(true.scale, rel=0.03)
        turn = Rotation.from_matrix(found.rotation @ true.rotation.T).magnitude()
        assert np.degrees(turn) < 1.5
    assert all(0.3 < one.inliers < 0.8 and one.residual > 0 for one in joins)
    record = joins[0].record()
    assert record['scale'] == joins[0].similarity.scale and record['residual'] == joins[0].residual > 0


def test_one_shared_view_is_enough_with_depth_and_none_or_one_place_is_refused(walk):
    windows, truth = cut(walk, np.random.default_rng(3))
    last, first = part(windows[0], slice(5, 6)), part(windows[1], slice(0, 1))
    np.testing.assert_allclose(join(last, first).similarity.matrix, truth[1].matrix, atol=1e-8)
    with pytest.raises(DataError, match='without depth it takes two shared views'):
        join(SharedViews(last.cam_from_world), SharedViews(first.cam_from_world))
    with pytest.raises(DataError, match='--overlap of 1'):
        join(part(windows[0], slice(0, 0)), part(windows[1], slice(0, 0)))


def test_similarities_follow_each_other():
    one = Similarity(2.0, Rotation.random(random_state=0).as_matrix(), np.array([1.0, 2, 3]))
    two = Similarity(0.5, Rotation.random(random_state=1).as_matrix(), np.array([-1.0, 0, 4]))
    np.testing.assert_allclose(compose(one, two).matrix, one.matrix @ two.matrix, atol=1e-12)
