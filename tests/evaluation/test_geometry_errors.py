"""Depth and camera errors against values known by construction."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrs.evaluation.cameras import area_under_curve, camera_scores, relative_pose_errors
from jrs.evaluation.depth import SCALES, depth_errors


@pytest.mark.parametrize('scale', sorted(set(SCALES) - {'metric'}))
def test_one_scale_for_the_whole_sequence_is_found_and_no_shift(scale):
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 5, (3, 8, 9))
    errors = depth_errors(true / 2.5, true, scale)
    assert errors['scale'] == pytest.approx(2.5) and errors['abs_rel'] == pytest.approx(0, abs=1e-12)
    per_view = depth_errors(true / np.array([1, 2, 3])[:, None, None], true, scale)
    assert per_view['abs_rel'] > 0.1                                    # views of different scale cannot be repaired
    assert depth_errors(true + 1, true, scale)['abs_rel'] > 0.05


def test_pixels_without_reading_do_not_count():
    true = np.array([[[2.0, 0.0, np.nan, 4.0, 12.0]]])
    predicted = np.array([[[2.0, 9.0, 9.0, 2.0, 1.0]]])
    errors = depth_errors(predicted, true, 'metric', max_depth_m=10)
    assert errors['valid_pixels'] == 2 and errors['abs_rel'] == 0.25 and errors['delta_1.25'] == 0.5
    nothing = depth_errors(predicted, np.zeros_like(true))
    assert nothing['valid_pixels'] == 0 and np.isnan(nothing['abs_rel'])


def test_delta_is_strict():
    assert depth_errors(np.full((1, 1, 1), 1.25), np.ones((1, 1, 1)), 'metric')['delta_1.25'] == 0.0


def test_the_two_medians_differ():
    predicted, true = np.array([[[1.0, 2.0, 4.0]]]), np.array([[[5.0, 2.0, 4.0]]])
    assert depth_errors(predicted, true, 'median')['scale'] == 4 / 2
    assert depth_errors(predicted, true, 'median_ratio')['scale'] == 1.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match='must be of one shape'):
        depth_errors(np.ones((1, 2, 2)), np.ones((1, 4, 4)))


def _poses(count, seed=0):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return poses


def test_world_and_scale_do_not_matter():
    true = _poses(5)
    moved = true @ _poses(1, seed=3)[0]                                 # another world frame
    moved[:, :3, 3] *= 7
    rotation, translation, _ = relative_pose_errors(moved, true)
    # the scale applies after the change of world, so only rotations and scaled translations stay comparable
    np.testing.assert_allclose(rotation, 0, atol=1e-6)
    np.testing.assert_allclose(translation, 0, atol=1e-5)


@pytest.mark.parametrize('degrees', [0.01, 10.0, 179.0])
def test_rotation_error_is_the_angle(degrees):
    true = _poses(2)
    predicted = true.copy()
    predicted[1, :3, :3] = Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix() @ true[1, :3, :3]
    assert relative_pose_errors(predicted, true)[0] == pytest.approx([degrees], abs=1e-6)


def test_translation_error_ignores_the_sign():
    true = np.tile(np.eye(4), (2, 1, 1))
    true[1, :3, 3] = [1.0, 0, 0]
    predicted = true.copy()
    for direction, degrees in (([-1.0, 0, 0], 0), ([1.0, 1.0, 0], 45), ([0, 0, 0], 90)):
        predicted[1, :3, 3] = direction
        assert relative_pose_errors(predicted, true)[1] == pytest.approx([degrees])


def test_static_pairs_are_left_out_and_counted():
    true = np.tile(np.eye(4), (3, 1, 1))
    true[2, :3, 3] = [1.0, 0, 0]
    scores = camera_scores(true, true)
    assert scores['pairs'] == 2 and scores['static_pairs'] == 1 and scores['auc30'] == 1.0
    assert np.isnan(camera_scores(true[:1], true[:1])['auc30'])


def test_auc_is_the_mean_of_cumulative_shares_and_its_last_bin_is_closed():
    errors = np.array([0.5, 2.0, 3.0, 3.5])
    assert area_under_curve(errors, np.zeros(4), 3) == pytest.approx((1 + 1 + 3) / 4 / 3)


def test_the_error_of_identity_cameras_stands_beside():
    true = np.tile(np.eye(4), (3, 1, 1))
    true[:, :3, :3] = Rotation.from_euler('y', [[0], [10], [40]], degrees=True).as_matrix()
    true[:, 0, 3] = [0, 1, 2]
    scores = camera_scores(true, true)
    assert scores['rotation_median'] == pytest.approx(0, abs=1e-6)
    assert scores['rotation_median_identity'] == pytest.approx(30)      # of 10, 40 and 30 degrees
