"""Loading photos and videos: what people really have in a folder."""

import os
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from jrs.errors import DataError
from jrs.io.images import list_photos, load_photos, resize_lanczos, resize_to_area
from jrs.io.photo import read_photo


def picture(height=60, width=80, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_folder_is_read_in_the_order_people_count(tmp_path):
    for name in ('view10.png', 'view2.png', 'View1.png'):
        save(tmp_path / name, picture())
    (tmp_path / 'notes.txt').write_text('not a photo')
    photos = load_photos(tmp_path, width=56)
    assert photos.names == ['View1', 'view2', 'view10']
    assert photos.images.shape == (3, 3, 42, 56)
    assert photos.valid.all()
    assert 0 <= photos.images.min() and photos.images.max() <= 1


def test_exif_rotation_is_applied(tmp_path):
    upright = picture(40, 80)
    turned = Image.fromarray(np.rot90(upright).copy())          # stored lying on its side; tag 6 turns it back
    exif = Image.Exif()
    exif[274] = 6
    turned.save(tmp_path / 'phone.png', exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / 'phone.png'), upright)
    assert load_photos(tmp_path / 'phone.png', width=56).original_sizes == [(40, 80)]


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.dstack([picture(), np.full((60, 80), 255, np.uint8)])
    rgba[:, 40:, 3] = 0
    read = read_photo(save(tmp_path / 'cut.png', rgba))
    assert (read[:, 40:] == 255).all()
    np.testing.assert_array_equal(read[:, :40], rgba[:, :40, :3])


def test_sixteen_bit_grey_and_palette_pictures_become_rgb(tmp_path):
    grey = np.linspace(0, 65535, 60 * 80).reshape(60, 80).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'deep.png'), grey)
    np.testing.assert_allclose(read_photo(tmp_path / 'deep.png')[..., 0], grey / 257, atol=0.5)
    Image.fromarray(picture()).convert('P').save(tmp_path / 'palette.png')
    Image.fromarray(picture()).convert('L').save(tmp_path / 'grey.png')
    assert load_photos(tmp_path, width=56).images.shape == (3, 3, 42, 56)


def test_mixed_sizes_are_padded_and_marked(tmp_path):
    save(tmp_path / 'a.png', picture(60, 80, 1))
    save(tmp_path / 'b.png', picture(80, 60, 2))
    save(tmp_path / 'c.png', picture(30, 80, 3))
    photos = load_photos(tmp_path, width=56)
    assert photos.images.shape == (3, 3, 56, 56)
    assert photos.valid.flatten(1).sum(1).tolist() == [42 * 56, 56 * 56, 28 * 56]
    assert (photos.images.permute(0, 2, 3, 1)[~photos.valid] == 1).all()


@pytest.mark.parametrize('size', [(60, 80), (120, 70), (33, 91)])
def test_map_takes_original_pixels_to_the_pixels_that_show_them(tmp_path, size):
    height, width = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(20, 230, width)[None]
    ramp[..., 1] = np.linspace(20, 230, height)[:, None]
    save(tmp_path / 'a.png', ramp)
    save(tmp_path / 'wide.png', picture(28, 80))
    photos = load_photos(tmp_path, width=112)
    view = photos.images[0].permute(1, 2, 0).numpy() * 255
    for u, v in [(width // 2, height // 2), (width // 3, height // 2), (width // 2, int(height * 0.6))]:
        x, y, _ = photos.input_from_original[0].numpy() @ [u, v, 1]
        assert np.abs(view[round(y), round(x), :2] - ramp[v, u, :2]).max() < 6


def test_resize_keeps_centres_of_pixels(tmp_path):
    _, to_input = resize_lanczos(picture(60, 80), 160, 10)
    np.testing.assert_allclose(to_input @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    np.testing.assert_allclose(to_input @ [79.5, 59.5, 1], [159.5, 119.5, 1])


def test_one_photo_and_lists_with_equal_names_work(tmp_path):
    (tmp_path / 'other').mkdir()
    first, second = save(tmp_path / 'a.png', picture()), save(tmp_path / 'other' / 'a.jpg', picture())
    assert load_photos(first, width=56).images.shape[0] == 1
    both = load_photos([first, str(second)], width=56)
    assert both.names == ['a', 'a-2'] and both.sources == [{'file': 'a.png'}, {'file': 'other/a.jpg'}]


ODD_NAMES = (b'\xff\xfe.jpg', *(name.encode() for name in (
    'a b.jpg', 'a#b%41.jpg', 'a\nb.jpg', '-c.jpg', 'IMG.jpg', 'img.JPG', 'it\'s "q".jpg', 'd.jpg', 'd.png', 'é.jpg',
    'e\u0301.jpg', 'm².jpg', '²1.jpg', 'x' * 251 + '.jpg', '照' * 83 + '.jpeg', 'e\\f.jpg')))


def odd_photos(folder):
    """Make `folder` of small photos of `ODD_NAMES`, each of a colour of its own."""
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        Image.new('RGB', (40, 30), (10 * number, 99, 99)).save(folder / 'new.png')
        (folder / 'new.png').rename(folder / os.fsdecode(name))
    return folder


def test_any_file_name_gives_a_view_of_its_own_name_whatever_else_is_picked(tmp_path):
    photos = load_photos(odd_photos(tmp_path / 'in'), width=56)
    assert len(photos.names) == len(ODD_NAMES) == len({unicodedata.normalize('NFC', name).lower() for name in photos.names})
    assert {'a b', 'a#b%41', 'a%0Ab', '-c', '%FF%FE', 'd', 'd-2', 'x' * 251, '照' * 83, 'IMG', 'img-2'} < {*photos.names}
    for name in photos.names:
        (tmp_path / f'{name}.png').write_bytes(name.encode())
    assert len([*tmp_path.glob('*.png')]) == len(ODD_NAMES)
    for every in (2, 5):
        picked = load_photos(tmp_path / 'in', width=56, every=every)
        assert picked.names == photos.names[::every] and torch.equal(picked.images, photos.images[::every])


def test_max_views_are_evenly_spaced(tmp_path):
    for index in range(9):
        save(tmp_path / f'{index}.png', picture())
    assert load_photos(tmp_path, width=56, max_views=3).names == ['0', '4', '8']
    assert load_photos(tmp_path, width=56, every=4).names == ['0', '4', '8']


def write_video(path, frames=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (80, 60))
    for index in range(frames):
        writer.write(np.full((60, 80, 3), index * 10, np.uint8))
    writer.release()
    return path


def test_video_gives_evenly_spaced_frames(tmp_path):
    video = write_video(tmp_path / 'walk.avi')
    photos = load_photos(video, width=56, max_views=3)
    assert photos.names == ['frame_000000', 'frame_000010', 'frame_000019']
    torch.testing.assert_close(photos.images.mean((1, 2, 3)) * 255, torch.tensor([0.0, 100, 190]), atol=3, rtol=0)
    assert load_photos(video, width=56, every=8).names == ['frame_000000', 'frame_000008', 'frame_000016']


@pytest.mark.parametrize('name, content, said', [
    ('broken.jpg', b'\xff\xd8\xff\xe0 and then nothing', 'broken.jpg'),
    ('empty.png', b'', '0 bytes'),
    ('scan.heic', b'heic', 'not a photo that can be read'),
    ('walk.mp4', b'not a video', 'No frame of the video'),
])
def test_unreadable_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_photos(tmp_path / name, width=56)
    assert name in str(caught.value)


def test_truncated_photo_is_an_error_not_a_grey_half(tmp_path):
    path = save(tmp_path / 'half.png', picture(200, 200))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match='half.png'):
        read_photo(path)


def test_missing_and_empty_sources_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match='There is no file or folder'):
        load_photos(tmp_path / 'nowhere')
    with pytest.raises(DataError, match='It is empty'):
        list_photos(tmp_path)
    (tmp_path / 'notes.txt').write_text('x')
    with pytest.raises(DataError, match='It holds notes.txt'):
        list_photos(tmp_path)
    with pytest.raises(DataError, match='the list is empty'):
        load_photos([])
    with pytest.raises(DataError, match='multiple of the patch size'):
        load_photos(tmp_path, width=500)


@pytest.mark.parametrize(('size', 'width', 'expected'), [
    ((1920, 1080), 518, (672, 378)), ((640, 480), 518, (574, 434)), ((480, 640), 518, (434, 574)),
    ((504, 504), 518, (504, 504)), ((640, 480), 112, (126, 84)),
    ((4000, 20), 56, (210, 14)), ((20, 4000), 56, (14, 210)), ((30, 30), 14, (14, 14))])
def test_pi3s_rule_keeps_the_aspect_within_an_area_of_whole_patches(size, width, expected):
    picture = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    resized, to_input = resize_to_area(picture, width)
    assert resized.shape == (*expected[::-1], 3) and resized.dtype == np.uint8
    corners = to_input @ np.array([[-0.5, size[0] - 0.5], [-0.5, size[1] - 0.5], [1, 1]])
    np.testing.assert_allclose(corners[:2], [[-0.5, expected[0] - 0.5], [-0.5, expected[1] - 0.5]])
    assert (expected != size) or np.array_equal(resized, picture)
