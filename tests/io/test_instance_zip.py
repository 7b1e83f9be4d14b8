"""Official 2D images are read from their zip; nothing is unpacked to disk, and bombs stay whole."""

import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.instance_zip import MAX_BYTES, InstanceZip

IDS = np.arange(48, dtype=np.uint8).reshape(6, 8)
PNG = cv2.imencode('.png', IDS)[1].tobytes()


def _zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as target:
        for name, data in members:
            target.writestr(name, data)
    return InstanceZip(path)


@pytest.mark.parametrize('folder', ['instance', 'instance-filt'])
def test_a_frame_is_found_by_its_number(tmp_path, folder):
    with _zip(tmp_path / 'a.zip', [(f'{folder}/', b''), (f'{folder}/20.png', PNG)]) as images:
        np.testing.assert_array_equal(images.ids(20), IDS)
        with pytest.raises(DataError, match='not in the zip, which has 1 images'):
            images.ids(0)


def test_names_that_lead_elsewhere_are_never_used(tmp_path):
    inside = tmp_path / 'inside'
    inside.mkdir()
    names = ['../instance/1.png', '/instance/2.png', 'instance/../3.png', 'instance/x/../4.png', 'instance/007.png',
             'instance/5.png.exe', 'label/6.png']
    with _zip(inside / 'a.zip', [(name, PNG) for name in names]) as images:
        for index in range(8):
            with pytest.raises(DataError, match='which has 0 images'):
                images.ids(index)
    assert [path.name for path in tmp_path.rglob('*')] == ['inside', 'a.zip']


def test_an_entry_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with _zip(tmp_path / 'a.zip', [('instance/0.png', PNG + bytes(MAX_BYTES))]) as images, \
            pytest.raises(DataError, match='bytes are announced'):
        images.ids(0)


def test_an_entry_that_understates_its_size_is_refused(tmp_path):
    path = tmp_path / 'a.zip'
    _zip(path, [('instance/0.png', bytes(MAX_BYTES * 2))]).close()
    data = bytearray(path.read_bytes())
    for signature, offset in ((b'PK\x03\x04', 22), (b'PK\x01\x02', 24)):
        at = data.index(signature) + offset
        data[at:at + 4] = struct.pack('<I', len(PNG))
    path.write_bytes(data)
    with InstanceZip(path) as images, pytest.raises(DataError, match='cannot be unpacked|not a PNG'):
        images.ids(0)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    header = b'IHDR' + struct.pack('>IIBBBBB', 12000, 12000, 8, 0, 0, 0, 0)
    png = PNG[:8] + struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header)) + PNG[33:]
    with _zip(tmp_path / 'a.zip', [('instance/0.png', png)]) as images, pytest.raises(DataError, match='12000 x 12000'):
        images.ids(0)


def test_broken_zips_are_named(tmp_path):
    (tmp_path / 'b.zip').write_bytes(b'PK nothing')
    for path in (tmp_path / 'b.zip', tmp_path / 'gone.zip'):
        with pytest.raises(DataError, match=path.name):
            InstanceZip(path)
    path = tmp_path / 'c.zip'
    _zip(path, [('instance/0.png', PNG)]).close()
    data = path.read_bytes()
    path.write_bytes(data.replace(PNG[40:60], bytes(20)) if PNG[40:60] in data else data[:50] + bytes(8) + data[58:])
    with InstanceZip(path) as images, pytest.raises(DataError, match='unpacked|PNG'):
        images.ids(0)


def test_a_frame_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match='twice'):
        _zip(tmp_path / 'a.zip', [('instance/0.png', PNG), ('instance-filt/0.png', PNG)])
