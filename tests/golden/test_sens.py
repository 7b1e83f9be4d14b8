"""`.sens` files against what the official reader decoded from them."""

import cv2
import numpy as np
import pytest

from jrs.io.frames import ExportedFrames
from jrs.io.sens import SensReader, write_sens
from tests.golden._golden import golden_files

FILES = golden_files('sens/*.sens')


@pytest.fixture(params=FILES)
def case(request):
    path = request.param
    official = path.with_name(f'{path.stem}_official.npz')
    with np.load(official, allow_pickle=False) as arrays, SensReader(path) as sens:
        yield sens, {name: arrays[name] for name in arrays.files}


def test_header_equals_the_official_one(case):
    sens, official = case
    header = sens.header
    for name in ('intrinsic_color', 'extrinsic_color', 'intrinsic_depth', 'extrinsic_depth', 'depth_shift'):
        np.testing.assert_array_equal(getattr(header, name), official[name], err_msg=name)
    assert header.color_size == tuple(official['color_wh'])[::-1]
    assert header.depth_size == tuple(official['depth_wh'])[::-1]
    assert header.color_compression == str(official['color_compression'])
    assert header.depth_compression == str(official['depth_compression']).split('_')[0]
    assert (header.version, header.sensor_name) == (int(official['version']), str(official['sensor_name']))


def test_poses_and_times_equal_the_official_ones(case):
    sens, official = case
    np.testing.assert_array_equal(sens.world_from_cam, official['camera_to_world'])
    np.testing.assert_array_equal(sens.records['color_time'], official['timestamp_color'])
    np.testing.assert_array_equal(sens.records['depth_time'], official['timestamp_depth'])
    np.testing.assert_array_equal(sens.records['color_bytes'], official['color_size_bytes'])
    np.testing.assert_array_equal(sens.records['depth_bytes'], official['depth_size_bytes'])


def test_depth_is_exact_and_colour_within_two_levels(case):
    sens, official = case
    assert len(sens) == len(official['depth'])
    for index in reversed(range(len(sens))):                # any order: frames are read at random
        np.testing.assert_array_equal(sens.depth(index), official['depth'][index])
        difference = sens.color(index).astype(int) - official['color'][index].astype(int)
        assert np.abs(difference).max() <= 2


def test_a_lost_pose_is_reported_as_not_tracked(case):
    sens, official = case
    np.testing.assert_array_equal(sens.tracked, np.isfinite(official['camera_to_world']).all(axis=(1, 2)))


@pytest.mark.parametrize('path', FILES)
def test_what_was_read_is_written_with_the_same_bytes(path, tmp_path):
    with SensReader(path) as sens:
        frames = (sens.frame(index) for index in range(len(sens)))
        write_sens(tmp_path / 'copy.sens', sens.header, frames, sens.imu)
    assert (tmp_path / 'copy.sens').read_bytes() == path.read_bytes()


@pytest.mark.parametrize('path', FILES)
def test_the_official_export_agrees(path):
    folder = path.with_name(f'{path.stem}_export')
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    with SensReader(path) as sens:
        for index in range(len(sens)):
            depth = cv2.imread(str(folder / 'depth' / f'{index}.png'), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(sens.depth(index), depth)
            pose = np.loadtxt(folder / 'pose' / f'{index}.txt')
            np.testing.assert_allclose(sens.world_from_cam[index], pose, atol=1e-5)


@pytest.mark.parametrize('path', FILES)
def test_the_official_export_is_read_as_the_recording_is(path):
    folder = path.with_name(f'{path.stem}_export')
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    frames = ExportedFrames(folder)
    with SensReader(path) as sens:
        assert frames.indices == list(range(len(sens)))
        np.testing.assert_allclose(frames.color_intrinsics, sens.header.intrinsic_color[:3, :3], atol=1e-5)
        np.testing.assert_allclose(frames.depth_intrinsics, sens.header.intrinsic_depth[:3, :3], atol=1e-5)
        assert (frames.color_size, frames.depth_size) == (sens.header.color_size, sens.header.depth_size)
        for index in frames.indices:
            np.testing.assert_array_equal(frames.depth_mm(index), sens.depth(index))
            np.testing.assert_allclose(frames.world_from_cam(index), sens.world_from_cam[index], atol=1e-5)
