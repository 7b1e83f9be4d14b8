import struct

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.png import encode_jpeg
from jrs.io.sens import IMU, SensFrame, SensHeader, SensReader, encode_depth, write_sens

HEADER_BYTES = 304 + len('StructureSensor')


def frames(count=3, height=12, width=16):
    random = np.random.default_rng(0)
    for index in range(count):
        color = np.full((height, width, 3), 40 * index, np.uint8)
        depth = random.integers(0, 65536, (height // 2, width // 2)).astype(np.uint16)
        pose = np.eye(4, dtype=np.float32) * (index + 1)
        yield SensFrame(pose, encode_jpeg(color), encode_depth(depth), index, index)


def header(**changes):
    intrinsic = np.diag([20, 20, 1, 1]).astype(np.float32)
    return SensHeader(intrinsic, intrinsic / 2, (12, 16), (6, 8), **changes)


@pytest.fixture
def path(tmp_path):
    write_sens(tmp_path / 'a.sens', header(), frames(), np.zeros(2, IMU))
    return tmp_path / 'a.sens'


def test_frames_come_back_in_any_order(path):
    with SensReader(path) as sens:
        assert len(sens) == 3 and len(sens.imu) == 2
        expected = list(frames())
        for index in (2, 0, 1):
            assert sens.frame(index).depth == expected[index].depth
            assert np.abs(sens.color(index).astype(int) - 40 * index).max() <= 2
            np.testing.assert_array_equal(sens.world_from_cam[index], expected[index].world_from_cam)


def test_version_3_has_no_imu_block(tmp_path):
    write_sens(tmp_path / 'a.sens', header(version=3), frames())
    write_sens(tmp_path / 'b.sens', header(version=4), frames())
    assert (tmp_path / 'b.sens').stat().st_size == (tmp_path / 'a.sens').stat().st_size + 8
    with SensReader(tmp_path / 'a.sens') as sens:
        assert sens.header.version == 3 and len(sens) == 3 and len(sens.imu) == 0


def test_raw_payloads_are_read(tmp_path):
    color = np.arange(12 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(12, 16, 3)
    depth = np.arange(48, dtype=np.uint16).reshape(6, 8)
    frame = SensFrame(np.full((4, 4), -np.inf), color.tobytes(), depth.tobytes())
    write_sens(tmp_path / 'a.sens', header(color_compression='raw', depth_compression='raw'), [frame])
    with SensReader(tmp_path / 'a.sens') as sens:
        np.testing.assert_array_equal(sens.color(0), color)
        np.testing.assert_array_equal(sens.depth(0), depth)
        assert not sens.tracked[0]


def test_occi_depth_is_refused_by_name(tmp_path):
    write_sens(tmp_path / 'a.sens', header(depth_compression='occi'), frames(1))
    with SensReader(tmp_path / 'a.sens') as sens, pytest.raises(DataError, match="'occi'.*raw and zlib"):
        sens.depth(0)


def test_every_cut_is_a_data_error_except_the_one_before_the_imu_block(path):
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=path.name), SensReader(path):
            pass
    path.write_bytes(data[:len(data) - 8 - 2 * IMU.itemsize])
    with SensReader(path) as sens:
        assert len(sens) == 3 and len(sens.imu) == 0


@pytest.mark.parametrize(('offset', 'layout', 'value', 'message'), [
    (0, '<I', 7, 'version 7'),
    (4, '<Q', 1 << 60, 'sensor name'),
    (HEADER_BYTES - 36, '<i', 9, 'colour compression 9'),
    (HEADER_BYTES - 28, '<I', 1 << 31, 'image sides'),
    (HEADER_BYTES - 12, '<f', -1.0, 'depth shift'),
    (HEADER_BYTES - 8, '<Q', 1 << 61, 'announces'),
    (HEADER_BYTES + 80, '<Q', 1 << 62, 'announces'),
])
def test_absurd_sizes_are_refused_before_anything_is_allocated(path, offset, layout, value, message):
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, value)
    path.write_bytes(data)
    with pytest.raises(DataError, match=message), SensReader(path):
        pass


def test_a_corrupt_payload_is_a_data_error(tmp_path):
    bad = SensFrame(np.eye(4), b'\xff\xd8 not a jpeg', b'not zlib')
    small = SensFrame(np.eye(4), encode_jpeg(np.zeros((4, 4, 3), np.uint8)), encode_depth(np.zeros((60, 80))))
    write_sens(tmp_path / 'a.sens', header(), [bad, small])
    with SensReader(tmp_path / 'a.sens') as sens:
        for index, message in ((0, 'not a readable image'), (1, '4 x 4, the header says 16 x 12')):
            with pytest.raises(DataError, match=message):
                sens.color(index)
            with pytest.raises(DataError, match='depth of frame'):
                sens.depth(index)
