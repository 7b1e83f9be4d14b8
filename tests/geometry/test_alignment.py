"""The similarity between two sets of points: found again, best in the least squares, and honest about what is open."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from jrs.geometry.alignment import Similarity, fit_similarity, nearest_rotation, spread


def random_similarity(rng):
    return Similarity(rng.uniform(0.05, 20), Rotation.random(random_state=int(rng.integers(10 ** 6))).as_matrix(),
                      rng.normal(0, 10, 3))


@pytest.mark.parametrize('seed', range(20))
def test_similarity_of_three_and_more_points_is_found_again(seed):
    rng = np.random.default_rng(seed)
    true, points = random_similarity(rng), rng.normal(0, rng.uniform(0.1, 10), (rng.integers(3, 40), 3))
    if seed % 2:
        points[:, 2] = 1.0                                                       # a plane is enough
    found = fit_similarity(points, true.apply(points))
    for name, value in zip(found._fields, found, strict=True):
        np.testing.assert_allclose(value, getattr(true, name), rtol=1e-7, atol=1e-7, err_msg=name)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_no_other_similarity_has_a_smaller_error():
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))

    def error(numbers):
        other = Similarity(np.exp(numbers[0]), Rotation.from_rotvec(numbers[1:4]).as_matrix(), numbers[4:])
        return np.square(other.apply(source) - target).sum()
    found = fit_similarity(source, target)
    best = np.square(found.apply(source) - target).sum()
    starts = [np.r_[0.0, Rotation.random(random_state=seed).as_rotvec(), np.zeros(3)] for seed in range(8)]
    assert best == pytest.approx(min(minimize(error, start).fun for start in starts), rel=1e-6)


def test_mirrored_points_get_a_rotation_not_a_reflection():
    points = np.random.default_rng(0).normal(size=(9, 3))
    assert np.linalg.det(fit_similarity(points, points * [1, 1, -1]).rotation) == pytest.approx(1)
    assert np.linalg.det(nearest_rotation(np.diag([1.0, 1.0, -0.5]))) == pytest.approx(1)


def test_matrix_and_apply_agree():
    true, point = random_similarity(np.random.default_rng(1)), np.array([0.3, -2, 5])
    np.testing.assert_allclose((true.matrix @ [*point, 1])[:3], true.apply(point))


def test_spread_tells_points_from_lines_and_planes():
    steps = np.arange(5.0)
    line = np.outer(steps, [1, 2, 2])
    np.testing.assert_allclose(spread(line), [3 * steps.std(), 0, 0], atol=1e-12)
    assert (spread(np.ones((4, 3))) == 0).all() and spread(np.ones((1, 3))).tolist() == [0, 0, 0]
    assert spread(line[:2])[0] == pytest.approx(1.5) and len(spread(line[:2])) == 3
