import numpy as np

from jrs.synth.sensor import drifted, sensor_depth

SHAPE = (60, 80)


def sensed(depth, cosine=1.0, brightness=0.5):
    full = (np.full(SHAPE, value) if np.isscalar(value) else value for value in (depth, cosine, brightness))
    return sensor_depth(*full, np.random.default_rng(0))


def test_noise_and_steps_grow_with_distance_and_readings_stay_true_on_average():
    spread = []
    for metres in (0.8, 2.0, 4.0):
        found = sensed(metres)
        assert (found > 0).all() and abs(found.mean() - metres) < 0.004 * metres
        spread.append(found.std())
    assert spread[0] < 0.004 and spread[0] < spread[1] < spread[2] < 0.06
    assert len(np.unique(sensed(4.0))) < 8 and len(np.unique(sensed(4.0))) > 2


def test_too_near_and_too_far_have_no_reading():
    assert (sensed(0.3) == 0).all() and (sensed(5.5) == 0).all()


def test_holes_lie_at_edges_grazing_angles_and_dark_surfaces():
    left = np.arange(SHAPE[1]) < 40
    plain = np.broadcast_to(left, SHAPE)
    for cause in ({'cosine': np.where(plain, 0.1, 1.0)}, {'brightness': np.where(plain, 0.03, 0.5)}):
        lost = sensed(2.0, **cause) == 0
        assert lost[plain].mean() > 0.4 and not lost[~plain].any()
        neighbours = lost[:, 1:40] == lost[:, :39]
        assert neighbours.mean() > 0.7                      # blobs, no pepper
    step = sensed(np.where(plain, 1.5, 3.0)) == 0
    assert 0.2 < step[:, 39:41].mean() < 0.8 and not step[:, :39].any() and not step[:, 41:].any()


def test_drift_starts_at_zero_grows_and_keeps_poses_rigid():
    poses = np.tile(np.eye(4), (60, 1, 1))
    ends = np.stack([drifted(poses, np.random.default_rng(seed)) for seed in range(50)])         # (50, V, 4, 4)
    np.testing.assert_allclose(ends[:, 0], poses[:50], atol=1e-12)
    rotation = ends[..., :3, :3]
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-9)
    offset = ends[..., :3, 3].std(axis=(0, 2))              # (V,)
    assert 0.03 < offset[-1] < 0.06 and offset[15] < 0.75 * offset[-1]
