"""COLMAP's text model: half-pixel convention, empty lines of points, quaternions, and what is refused."""

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.colmap import is_model, read_lenses, read_poses

CAMERAS = '# comment\n1 OPENCV 640 480 500 501 320 240 0.1 -0.2 0.003 0.004\n2 SIMPLE_PINHOLE 10 20 30 5 10\n'
HALF = 0.5 ** 0.5


def _write(folder, images, cameras=CAMERAS):
    (folder / 'cameras.txt').write_text(cameras)
    (folder / 'images.txt').write_text(images)
    return folder


def test_lenses_have_pixel_centres_at_integers(tmp_path):
    lenses = read_lenses(_write(tmp_path, '') / 'cameras.txt')
    assert lenses[1].size == (480, 640) and lenses[1].distortion.tolist() == [0.1, -0.2, 0.003, 0.004]
    assert lenses[1].intrinsics.tolist() == [[500, 0, 319.5], [0, 501, 239.5], [0, 0, 1]]
    assert lenses[2].intrinsics.tolist() == [[30, 0, 4.5], [0, 30, 9.5], [0, 0, 1]] and len(lenses[2].distortion) == 0


def test_every_second_line_is_points_even_when_it_is_empty(tmp_path):
    text = f'# header\n# header\n5 {HALF} {HALF} 0 0 1 2 3 1 iphone/frame_000000.jpg\n\n' \
           '6 1 0 0 0 4 5 6 1 frame 10.jpg\n1 2 3 4 5 6\n7 nan 0 0 0 0 0 0 1 c.jpg\n\n'
    images = read_poses(_write(tmp_path, text) / 'images.txt')
    assert [image.name for image in images] == ['iphone/frame_000000.jpg', 'frame 10.jpg', 'c.jpg']
    np.testing.assert_allclose(images[0].cam_from_world, [[1, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1]],
                               atol=1e-12)                                  # a quarter turn about x
    np.testing.assert_allclose(images[1].cam_from_world[:3, 3], [4, 5, 6])
    assert not np.isfinite(images[2].cam_from_world).all()


@pytest.mark.parametrize(('cameras', 'message'), [
    ('1 FULL_OPENCV 640 480 1 2 3 4', 'FULL_OPENCV'), ('1 OPENCV 640 480 1 2 3 4', 'parameters'),
    ('1 PINHOLE 640 480 -1 2 3 4', 'parameters'), ('1 PINHOLE x', 'line 1'), ('1 PINHOLE 0 480 1 2 3 4', 'parameters')])
def test_wrong_cameras_are_named(tmp_path, cameras, message):
    with pytest.raises(DataError, match=message):
        read_lenses(_write(tmp_path, '', cameras) / 'cameras.txt')


def test_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match='images.txt, line 1: must be'):
        read_poses(_write(tmp_path, '1 2 3\n\n') / 'images.txt')
    with pytest.raises(DataError, match='cannot be read'):
        read_poses(tmp_path / 'gone.txt')
    (tmp_path / 'images.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='not UTF-8'):
        read_poses(tmp_path / 'images.txt')
    assert is_model(tmp_path) and not is_model(tmp_path / 'gone')
    assert read_poses(_write(tmp_path, '# no images\n') / 'images.txt') == []
