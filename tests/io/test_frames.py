"""Exported frames: order by number, sizes from headers, lost poses; the official exporter's folder is read."""

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.frames import ExportedFrames, is_exported
from jrs.io.png import encode_jpeg, write_png16

K = '60 0 31.5 0\n0 60 23.5 0\n0 0 1 0\n0 0 0 1\n'


def _write(folder, numbers, size=(48, 64)):
    for part in ('color', 'depth', 'pose', 'intrinsic'):
        (folder / part).mkdir()
    for number in numbers:
        (folder / 'color' / f'{number}.jpg').write_bytes(encode_jpeg(np.full((*size, 3), 90, np.uint8)))
        write_png16(folder / 'depth' / f'{number}.png', np.full((48, 64), number, np.uint16))
        (folder / 'pose' / f'{number}.txt').write_text('1 0 0 2\n0 1 0 0\n0 0 1 0\n0 0 0 1\n')
    for what in ('color', 'depth'):
        (folder / 'intrinsic' / f'intrinsic_{what}.txt').write_text(K)
    return folder


def test_frames_are_ordered_by_number(tmp_path):
    frames = ExportedFrames(_write(tmp_path, (0, 100, 20, 1000)))
    assert frames.indices == [0, 20, 100, 1000] and frames.stride == 20
    assert (frames.depth_mm(100) == 100).all() and frames.world_from_cam(20)[0, 3] == 2


def test_lost_frames_have_no_finite_pose(tmp_path):
    _write(tmp_path, (0, 1))
    (tmp_path / 'pose' / '0.txt').write_text('-inf ' * 16)
    (tmp_path / 'pose' / '1.txt').unlink()
    frames = ExportedFrames(tmp_path)
    assert not np.isfinite(frames.world_from_cam(0)).any() and not np.isfinite(frames.world_from_cam(1)).any()


def test_intrinsics_of_other_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'principal point \(31.5, 23.5\)'):
        ExportedFrames(_write(tmp_path, (0,), size=(30, 96))).color_intrinsics     # noqa: B018


def test_a_frame_of_another_size_is_named(tmp_path):
    _write(tmp_path, (0, 1))
    (tmp_path / 'color' / '1.jpg').write_bytes(encode_jpeg(np.zeros((20, 20, 3), np.uint8)))
    write_png16(tmp_path / 'depth' / '1.png', np.zeros((20, 20), np.uint16))
    frames = ExportedFrames(tmp_path)
    for read in (frames.color, frames.depth_mm):
        with pytest.raises(DataError, match='1.(jpg|png): is'):
            read(1)


def test_broken_files_are_named(tmp_path):
    _write(tmp_path, (0,))
    frames = ExportedFrames(tmp_path)
    (tmp_path / 'pose' / '0.txt').write_text('1 2 three')
    with pytest.raises(DataError, match='0.txt'):
        frames.world_from_cam(0)
    (tmp_path / 'color' / '0.jpg').write_bytes(b'no picture')
    with pytest.raises(DataError, match='0.jpg'):
        frames.color_size               # noqa: B018
    (tmp_path / 'color' / '0.jpg').unlink()
    with pytest.raises(DataError, match='no frames'):
        ExportedFrames(tmp_path)


def test_folders_are_recognised(tmp_path):
    assert not is_exported(tmp_path)
    assert is_exported(_write(tmp_path, (0,)))
