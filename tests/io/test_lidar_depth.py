"""Both encodings of `depth.bin`, LZ4 blocks included; files that lie about their size give a message."""

import struct
import zlib

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.lidar_depth import SIZE, LidarDepth, decompress_lz4

FRAMES = (np.arange(4)[:, None, None] + np.linspace(0.5, 3, SIZE[0] * SIZE[1]).reshape(SIZE)).astype('<f4')      # metres


def _deflate(data):
    stream = zlib.compressobj(6, wbits=-15)
    return stream.compress(data) + stream.flush()


def _lz4_literals(data):
    """An LZ4 block without matches, for 15 bytes and more."""
    rest = len(data) - 15
    return bytes([0xF0]) + bytes([255] * (rest // 255)) + bytes([rest % 255]) + data


def _millimetres(frame):
    return np.rint(frame * 1000).astype('<u2')


def test_one_stream_of_metres(tmp_path):
    (tmp_path / 'depth.bin').write_bytes(_deflate(FRAMES.tobytes()))
    depth = LidarDepth(tmp_path / 'depth.bin')
    for index in (0, 2, 3):                                                 # rising, with a gap
        np.testing.assert_array_equal(depth.depth_mm(index), _millimetres(FRAMES[index]))
    with pytest.raises(DataError, match='frame 4: the file ends at frame 4'):
        depth.depth_mm(4)


@pytest.mark.parametrize('kind', ['lz4', 'deflate', 'mixed'])
def test_one_payload_per_frame(tmp_path, kind):
    payloads = [_deflate(frame.tobytes()) if kind == 'deflate' or (kind == 'mixed' and index % 2)
                else _lz4_literals(_millimetres(frame).tobytes()) for index, frame in enumerate(FRAMES)]
    (tmp_path / 'depth.bin').write_bytes(b''.join(struct.pack('<I', len(data)) + data for data in payloads))
    depth = LidarDepth(tmp_path / 'depth.bin')
    for index in (3, 0):
        np.testing.assert_array_equal(depth.depth_mm(index), _millimetres(FRAMES[index]))
    with pytest.raises(DataError, match='has 4 frames'):
        depth.depth_mm(4)


def test_lz4_matches_may_overlap_what_they_write():
    """Three literals, a match of 9 at distance 3, a match of 20 at distance 1, last literals (LZ4's block format)."""
    block = bytes([0x35]) + b'abc' + bytes([3, 0]) + bytes([0x0F, 1, 0, 1]) + bytes([0x20]) + b'yz'
    assert decompress_lz4(block, 34) == b'abc' * 4 + b'c' * 20 + b'yz'


@pytest.mark.parametrize('block', [b'', bytes([0x35]) + b'ab', bytes([0x35]) + b'abc' + bytes([9, 0]),
                                   bytes([0x30]) + b'abc' + bytes([0, 0]), bytes([0xF0, 255, 255]), bytes([0x1F]) + b'a' +
                                   bytes([1, 0]) + bytes([255] * 1000) + bytes([0])])
def test_what_is_no_lz4_or_would_grow_is_refused(block):
    with pytest.raises(ValueError):
        decompress_lz4(block, 34)


def test_unusable_readings_are_no_readings(tmp_path):
    frame = np.full(SIZE, 2.0, '<f4')
    frame[0, :5] = np.nan, np.inf, -1, 100, 0
    (tmp_path / 'depth.bin').write_bytes(_deflate(frame.tobytes()))
    depth = LidarDepth(tmp_path / 'depth.bin').depth_mm(0)
    assert depth[0, :5].tolist() == [0] * 5 and (depth[1:] == 2000).all()


def test_broken_files_are_named(tmp_path):
    path = tmp_path / 'depth.bin'
    for data in (b'', b'nothing of the kind', _deflate(FRAMES.tobytes())[:4000], _deflate(bytes(100))):
        path.write_bytes(data)
        with pytest.raises(DataError, match='depth.bin, frame 0'):
            LidarDepth(path).depth_mm(0)
    path.write_bytes(struct.pack('<I', 200) + b'x' * 200)
    with pytest.raises(DataError, match='neither an LZ4 block'):
        LidarDepth(path).depth_mm(0)
    path.write_bytes(struct.pack('<I', 0) * 3)                              # empty payloads: a long file would be all index
    with pytest.raises(DataError, match='frame 0: .* not a raw deflate stream'):
        LidarDepth(path).depth_mm(0)
    with pytest.raises(DataError, match='cannot be opened'):
        LidarDepth(tmp_path / 'gone')


def test_a_stream_that_unpacks_without_end_stays_small(tmp_path):
    """A frame that inflates to a gigabyte is cut at one frame's size."""
    data = _deflate(bytes(1 << 26))
    (tmp_path / 'depth.bin').write_bytes(struct.pack('<I', len(data)) + data)
    with pytest.raises(DataError, match='bytes of depth'):
        LidarDepth(tmp_path / 'depth.bin').depth_mm(0)
