import cv2
import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.png import encode_jpeg, read_depth_mm, read_png16, write_jpeg, write_png8, write_png16


def test_depth_and_ids_are_exact(tmp_path):
    image = np.array([[0, 1, 255], [256, 1357, 65535]], np.uint16)
    write_png16(tmp_path / 'a.png', image)
    np.testing.assert_array_equal(read_png16(tmp_path / 'a.png'), image)


def test_an_8_bit_id_image_is_read(tmp_path):
    image = np.array([[0, 200]], np.uint8)
    write_png8(tmp_path / 'a.png', image)
    np.testing.assert_array_equal(read_png16(tmp_path / 'a.png'), image)


def test_jpeg_keeps_red_red(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :8, 0] = 200
    write_jpeg(tmp_path / 'a.jpg', image)
    found = cv2.imread(str(tmp_path / 'a.jpg'))[..., ::-1]
    assert np.abs(found.astype(int) - image).max() <= 12
    assert encode_jpeg(image) == (tmp_path / 'a.jpg').read_bytes()


def test_every_cut_is_a_data_error(tmp_path):
    path = tmp_path / 'a.png'
    write_png16(path, np.arange(600, dtype=np.uint16).reshape(20, 30))
    data = path.read_bytes()
    for end in range(0, len(data), 5):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match='a.png'):
            read_png16(path)


def test_an_absurd_size_is_refused(tmp_path):
    path = tmp_path / 'a.png'
    write_png16(path, np.zeros((2, 2), np.uint16))
    data = bytearray(path.read_bytes())
    data[16:24] = b'\x00\x10\x00\x00' * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match='1048576 x 1048576'):
        read_png16(path)


def test_wrong_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match='uint16'):
        write_png16(tmp_path / 'a.png', np.zeros((2, 2), np.int32))
    with pytest.raises(DataError, match='uint8'):
        encode_jpeg(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(('image', 'got'), [
    (np.full((2, 2), 9, np.uint8), '8 bits and 1 channel'), (np.zeros((2, 2, 3), np.uint8), '8 bits and 3 channels'),
    (np.zeros((2, 2, 3), np.uint16), '16 bits and 3 channels')])
def test_a_depth_image_of_other_bits_is_refused(tmp_path, image, got):
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    with pytest.raises(DataError, match=rf'a.png: a depth image has 16 bits and one channel \(millimetres\), got {got}\.'):
        read_depth_mm(tmp_path / 'a.png')


def test_millimetres_are_read_as_they_are(tmp_path):
    write_png16(tmp_path / 'a.png', np.array([[0, 1, 65535]], np.uint16))
    assert read_depth_mm(tmp_path / 'a.png').tolist() == [[0, 1, 65535]]
