"""Pixel values follow the file, and what cannot be read is broken, too large, or not supported: known values in and out."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from jrs.errors import DataError
from jrs.io import photo
from jrs.io.photo import common_bits, open_photo, photo_size, read_photo, sniff
from tests.io._tiff import write_png, write_tiff

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)                      # what each picture below shows
RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
WIDE = {np.uint16: 257, np.uint32: 0x01010101}                                  # white of the type / 255


def widened(values, kind=np.uint16):
    return values.astype(kind) * kind(WIDE[kind])


def of_bits(values, bits):
    return np.rint(values * (((1 << bits) - 1) / 255)).astype(np.uint16)


def packed(values, bits):
    """Return (H, W) integers as a TIFF's rows of `bits` bits a sample."""
    return b''.join(np.packbits([int(bit) for value in row for bit in f'{value:0{bits}b}']).tobytes() for row in values)


TWELVE = of_bits(GREY, 12)
CASES = {                                       # writes a file that shows GREY, or RGB where it says so
    '16-bit PNG': lambda p: write_png(p, widened(GREY)),
    '16-bit RGB PNG': lambda p: write_png(p, widened(RGB)),
    '16-bit PNG of a 12-bit camera': lambda p: write_png(p, TWELVE),
    '16-bit PNG of a 10-bit camera': lambda p: write_png(p, of_bits(GREY, 10)),
    '16-bit PNG that declares 12 bits and holds them high': lambda p: write_png(p, widened(GREY), chunks=[
        (b'sBIT', b'\x0c')]),
    '1-bit PNG': lambda p: write_png(p, np.array([[0b01000000]], np.uint8), 1),
    '16-bit TIFF': lambda p: write_tiff(p, widened(GREY)),
    '16-bit TIFF, big-endian': lambda p: write_tiff(p, widened(GREY), order='>'),
    '16-bit RGB TIFF': lambda p: write_tiff(p, widened(RGB), 2),
    '16-bit RGB TIFF of a 12-bit camera': lambda p: write_tiff(p, of_bits(RGB, 12), 2),
    '8-bit TIFF, 0 is white': lambda p: write_tiff(p, 255 - GREY, 0),
    '16-bit TIFF, 0 is white': lambda p: write_tiff(p, 65535 - widened(GREY), 0),
    '16-bit TIFF of 12 bits, 0 is white': lambda p: write_tiff(p, 4095 - TWELVE, 0),
    '16-bit TIFF, 0 is white, big-endian': lambda p: write_tiff(p, 65535 - widened(GREY), 0, order='>'),
    '12-bit TIFF': lambda p: write_tiff(p, TWELVE, data=packed(TWELVE, 12), bits=12),
    '12-bit TIFF, 0 is white': lambda p: write_tiff(p, TWELVE, 0, data=packed(4095 - TWELVE, 12), bits=12),
    '16-bit TIFF that declares its white': lambda p: write_tiff(p, of_bits(GREY, 14), tags={281: (3, [16383])}),
    '32-bit TIFF': lambda p: write_tiff(p, widened(GREY, np.uint32)),
    '32-bit TIFF of 16-bit values': lambda p: write_tiff(p, widened(GREY).astype(np.uint32)),
    '32-bit RGB TIFF of 8-bit values': lambda p: write_tiff(p, RGB.astype(np.int32), 2),
    'signed 16-bit TIFF': lambda p: write_tiff(p, (GREY * (32767 / 255)).astype(np.int16)),
    'float TIFF': lambda p: write_tiff(p, (GREY / 255).astype(np.float32)),
    'float RGB TIFF': lambda p: write_tiff(p, (RGB / 255).astype(np.float32), 2),
    'double TIFF': lambda p: write_tiff(p, GREY / 255),
    'float TIFF of a declared range': lambda p: write_tiff(p, GREY.astype(np.float32) * 4 - 20, tags={
        340: (11, [-20.0]), 341: (11, [1000.0])}),
    'YCbCr TIFF with fewer colours': lambda p: write_tiff(p, np.zeros((2, 2, 3), np.uint8), 6, data=bytes(
        [0, 100, 200, 255, 128, 128])),
    'CMYK TIFF': lambda p: write_tiff(p, np.dstack([255 - RGB, np.zeros_like(GREY)]), 5),
    'TIFF with colours times alpha': lambda p: write_tiff(p, np.array([[[51, 25, 0, 102]]], np.uint8), 2, {338: (3, [1])}),
    '16-bit TIFF with colours times alpha': lambda p: write_tiff(
        p, widened(np.array([[[51, 25, 0, 102]]], np.uint8)), 2, {338: (3, [1])}),
    'grey PNG with alpha': lambda p: Image.fromarray(np.array([[[51, 255], [51, 0]]], np.uint8), 'LA').save(p, 'PNG'),
    '16-bit grey PNG with alpha': lambda p: write_png(p, widened(np.array([[[51, 255], [51, 0]]], np.uint8))),
    '16-bit RGB PNG with alpha': lambda p: write_png(p, widened(np.array([[[51, 51, 51, 255], [9, 9, 9, 0]]], np.uint8))),
    '16-bit grey PNG with a transparent grey': lambda p: write_png(p, np.array([[51 * 257, 900]], np.uint16), chunks=[
        (b'tRNS', struct.pack('>H', 900)), (b'sBIT', b'\x10')]),
    '1-bit PNG with a transparent black': lambda p: write_png(p, np.array([[0b01000000]], np.uint8), 1, [
        (b'tRNS', b'\0\0')]),
}
SHOWN = {'1-bit PNG': [[0, 255] + [0] * 6], 'YCbCr TIFF with fewer colours': [[0, 100], [200, 255]],
         'TIFF with colours times alpha': [[[204, 178, 153]]], '16-bit TIFF with colours times alpha': [[[204, 178, 153]]],
         'grey PNG with alpha': [[51, 255]], '16-bit grey PNG with alpha': [[51, 255]],
         '16-bit RGB PNG with alpha': [[51, 255]], '16-bit grey PNG with a transparent grey': [[51, 255]],
         '1-bit PNG with a transparent black': [[255] * 8]}


@pytest.mark.parametrize('case', CASES)
def test_pixels_are_those_that_the_file_shows(case, tmp_path):
    CASES[case](tmp_path / 'a')
    shown = np.array(SHOWN.get(case, RGB if 'RGB' in case or 'CMYK' in case else GREY), np.uint8)
    expected = shown if shown.ndim == 3 else np.dstack([shown] * 3)
    np.testing.assert_allclose(read_photo(tmp_path / 'a').astype(int), expected, atol=0.5 + ('alpha' in case))


@pytest.mark.parametrize('form', ['GIF', 'PNG'])
def test_a_palette_keeps_its_colours_and_its_holes_are_white(form, tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), 'P')
    picture.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
    picture.save(tmp_path / 'a', form, transparency=2)
    assert read_photo(tmp_path / 'a').tolist() == [[[10, 20, 30], [200, 100, 0], [255, 255, 255]]]


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new('CMYK', (16, 16), (0, 255, 255, 0)).save(tmp_path / 'a.jpg', quality=95)
    assert np.abs(read_photo(tmp_path / 'a.jpg')[8, 8].astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize('write', [lambda p: write_tiff(p, GREY, tags={274: (3, [6])}),
                                   lambda p: write_tiff(p, widened(GREY), tags={274: (3, [6])}),
                                   lambda p: write_png(p, widened(GREY), chunks=[(b'eXIf', _exif(6))]),
                                   lambda p: Image.fromarray(GREY).save(p, 'PNG', exif=b'Exif\0\0' + _exif(6)),
                                   lambda p: Image.fromarray(GREY).save(p, 'WEBP', lossless=True,
                                                                        exif=b'Exif\0\0' + _exif(6))])
def test_every_kind_of_file_is_turned_as_it_says(write, tmp_path):
    write(tmp_path / 'a')
    found = open_photo(tmp_path / 'a')
    assert found.size == (3, 2) and found.notes == ()
    np.testing.assert_array_equal(found.pixels[..., 0], np.rot90(GREY, -1))


def _exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes().removeprefix(b'Exif\0\0')


def test_exif_that_cannot_be_read_does_not_make_a_picture_broken(tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'a', 'PNG', exif=b'Exif\0\0nonsense')
    found = open_photo(tmp_path / 'a')
    np.testing.assert_array_equal(found.pixels, RGB)
    assert 'EXIF' in found.notes[0]


def test_a_colour_profile_is_not_applied(tmp_path):
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    Image.fromarray(RGB).save(tmp_path / 'a', 'PNG', icc_profile=profile.replace(b'XYZ ', b'XYZ!'))
    np.testing.assert_array_equal(read_photo(tmp_path / 'a'), RGB)


def test_a_depth_that_was_assumed_is_said(tmp_path):
    write_png(tmp_path / 'a', TWELVE)
    assert open_photo(tmp_path / 'a').notes == ('16-bit samples whose values need 12 bits: read as such',)
    write_png(tmp_path / 'a', widened(GREY))
    assert open_photo(tmp_path / 'a').notes == ()


def test_dark_pictures_of_one_scene_stay_darker_than_the_others(tmp_path):
    write_png(tmp_path / 'light', TWELVE)
    write_png(tmp_path / 'dark', TWELVE // 16)
    bits = common_bits([tmp_path / 'light', tmp_path / 'dark'])
    assert bits == 12 and common_bits([]) is None
    np.testing.assert_allclose(open_photo(tmp_path / 'dark', bits).pixels[..., 0], GREY / 16, atol=1)


def test_a_dark_picture_that_was_made_wide_of_8_bits_is_not_made_lighter(tmp_path):
    for step in (256, 257):
        write_png(tmp_path / 'a', np.array([[0, 3, 7]], np.uint16) * step)
        assert read_photo(tmp_path / 'a')[0, :, 0].tolist() == [0, 3, 7]


@pytest.mark.parametrize(('kind', 'count', 'said'), [('GIF', 12, 'frames'), ('WEBP', 3, 'frames'), ('PNG', 4, 'frames'),
                                                     ('TIFF', 2, 'pages')])
def test_further_frames_and_pages_are_counted(kind, count, said, tmp_path):
    pages = [Image.new('RGB', (8, 8), (20 * number, 9, 9)) for number in range(count)]
    pages[0].save(tmp_path / 'a', kind, save_all=True, append_images=pages[1:])
    found = open_photo(tmp_path / 'a')
    assert found.notes == (f'first of {count} {said} read',) and found.pixels[0, 0, 0] < 5


def test_pages_of_a_wide_tiff_are_counted_without_its_reduced_copies(tmp_path):
    write_tiff(tmp_path / 'a', widened(GREY), pages=3)
    assert open_photo(tmp_path / 'a').notes == ('first of 3 pages read',)
    write_tiff(tmp_path / 'a', widened(GREY), pages=3, tags={254: (4, [1])})
    assert open_photo(tmp_path / 'a').notes == ()


def encoded(kind='JPEG', size=(64, 48), **options):
    stream = io.BytesIO()
    Image.new('RGB', size, (90, 120, 60)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(('kind', 'most', 'expected'), [
    ('JPEG', 800, (24, 32)), ('PNG', 800, (24, 32)), ('JPEG', 3071, (24, 32)), ('JPEG', 3072, (48, 64)),
    ('PNG', 100, (8, 11))])
def test_a_picture_of_too_many_pixels_is_read_reduced_and_says_so(kind, most, expected, tmp_path):
    (tmp_path / 'a').write_bytes(encoded(kind))
    found = open_photo(tmp_path / 'a', most=most)
    assert found.pixels.shape == (*expected, 3) and found.size == (48, 64)
    assert np.abs(found.pixels.astype(int) - [90, 120, 60]).max() < 4
    assert len(found.notes) == (expected != (48, 64)) and all('read reduced' in note for note in found.notes)


def test_a_jpeg_of_200_megapixels_is_read_reduced(tmp_path):
    """cases/photo_200mp, in grey, which takes a third of the time."""
    Image.new('L', (16320, 12240), 90).save(tmp_path / 'a.jpg', quality=20)
    found = open_photo(tmp_path / 'a.jpg')
    assert found.size == (12240, 16320) and found.pixels.shape == (6120, 8160, 3)
    assert found.notes == ('16320 x 12240 are 199.8 million pixels: read reduced to 8160 x 6120',)


def test_a_turned_and_reduced_picture_has_the_size_of_the_upright_file(tmp_path):
    (tmp_path / 'a').write_bytes(encoded(exif=b'Exif\0\0' + _exif(8)))
    found = open_photo(tmp_path / 'a', most=800)
    assert found.size == (64, 48) and found.pixels.shape == (32, 24, 3)


def with_marker(old, new):
    return encoded().replace(bytes([0xFF, old]), bytes([0xFF, new]), 1)


REFUSED = {
    'too large': (lambda p: write_png(p, GREY, 8, size=(40000, 40000)),
                  ['too large', '1600.0 million', '268 million', 'smaller']),
    'too large of 16 bits': (lambda p: write_png(p, widened(RGB), size=(40000, 40000)), ['too large', '178 million']),
    'progressive': (encoded(progressive=True).replace(struct.pack('>HH', 48, 64), struct.pack('>HH', 48000, 64000), 1),
                    ['too large', '3072.0 million', '357 million', 'baseline']),
    'lossless JPEG': (with_marker(0xC0, 0xC3), ['not supported', 'lossless', 'save it as']),
    '12-bit JPEG': (encoded().replace(b'\xff\xc0\x00\x11\x08', b'\xff\xc0\x00\x11\x0c'), ['not supported', '12-bit']),
    'HEIC': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', ['HEIC', 'pillow-heif', 'convert']),
    'JPEG 2000': (b'\0\0\0\x0cjP  \r\n\x87\n', ['JPEG 2000', 'convert']),
    'PDF': (b'%PDF-1.7', ['PDF', 'convert']),
    'video': (b'\0\0\0\x18ftypisom\0\0\0\0isommp42', ['video']),
    'floats without a range': (lambda p: write_tiff(p, GREY.astype(np.float32)), ['not supported', 'floats from 0 to 255',
                                                                                  '[0, 1]', 'SMaxSampleValue']),
    'floats that are not finite': (lambda p: write_tiff(p, np.full((2, 2), np.nan, np.float32)), ['not supported', 'nan']),
    'floats outside what they declare': (
        lambda p: write_tiff(p, np.float32(GREY), tags={340: (11, [0.0]), 341: (11, [100.0])}),
        ['not supported', '255', 'from 0 to 100']),
    'half floats': (lambda p: write_tiff(p, GREY.astype(np.float16)), ['not supported', '16-bit float']),
    'negative integers': (lambda p: write_tiff(p, GREY.astype(np.int16) - 9), ['not supported', 'from -9 to 246']),
    'negative bytes': (lambda p: write_tiff(p, GREY.view(np.int8)), ['not supported', 'below 0']),
    'planes': (lambda p: write_tiff(p, widened(RGB), 2, {284: (3, [2])}), ['not supported', 'one plane after the other']),
    'Lab': (lambda p: write_tiff(p, RGB, 8), ['not supported', 'CIELab']),
    'five channels': (lambda p: write_tiff(p, np.zeros((2, 2, 5), np.uint8), 2), ['not supported']),
    'colour filter array': (lambda p: write_tiff(p, widened(GREY), 32803), ['not supported', 'colour filter array']),
}
BROKEN = {
    'cut off JPEG': encoded()[:-30], 'cut off PNG': encoded('PNG')[:-40], 'text': b'hello', 'empty': b'',
    'cut off TIFF': lambda p: p.write_bytes(write_tiff(p, widened(RGB), 2).read_bytes()[:-8]),
    'cut off 16-bit PNG': lambda p: p.write_bytes(write_png(p, widened(RGB)).read_bytes()[:-12]),
    'TIFF without a page': b'II*\0\0\0\0\0',
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_sound_file_is_never_called_broken(case, tmp_path, monkeypatch):
    monkeypatch.setattr(photo, 'find_spec', lambda name: None)
    content, expected = REFUSED[case]
    content(tmp_path / 'a') if callable(content) else (tmp_path / 'a').write_bytes(content)
    with pytest.raises(DataError) as error:
        read_photo(tmp_path / 'a')
    said = str(error.value)
    assert not [word for word in expected if word not in said] and str(tmp_path / 'a') in said, said
    assert 'copy it again' not in said and 'broken' not in said


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_file_is_called_so(case, tmp_path, capfd):
    content = BROKEN[case]
    content(tmp_path / 'a') if callable(content) else (tmp_path / 'a').write_bytes(content)
    with pytest.raises(DataError, match='copy it again'):
        read_photo(tmp_path / 'a')
    assert capfd.readouterr().err == ''                                         # of Pillow's and OpenCV's libraries


def test_the_size_of_a_picture_is_read_from_its_header(tmp_path):
    (tmp_path / 'a').write_bytes(encoded())
    assert photo_size(tmp_path / 'a') == (48, 64)
    (tmp_path / 'a').write_bytes(b'hello')
    with pytest.raises(DataError, match='cannot be read'):
        photo_size(tmp_path / 'a')


@pytest.mark.parametrize(('head', 'kind'), [
    (b'\0\0\0\x1cftypavif\0\0\0\0mif1avif', 'AVIF'), (b'\0\0\0\x1cftypmif1\0\0\0\0avifmif1', 'AVIF'), (b'', ''),
    (b'\0\0\0\x1cftypmif1\0\0\0\0heicmif1', 'HEIF'), (b'\0\0\0\x14ftypqt  \0\0\0\0qt  ', 'video'),
    (b'RIFF....AVI ', 'video'), (b'RIFF....WAVE', ''), (b'P6\n3 2', 'portable anymap'), (b'hello', '')])
def test_the_first_bytes_tell_the_kind(head, kind):
    assert sniff(head) == kind
