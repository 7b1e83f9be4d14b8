"""What a folder holds beside photos is named with its reason; content decides, then the suffix."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from jrs.errors import DataError
from jrs.io.images import LoadedPhotos, each_photo, find_photos, load_photos
from jrs.io.photo_files import is_video, not_read, remarks_on, why_not_read

HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'


def save(path, kind='JPEG', seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path, kind)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of which half is not read, as cases/left_out_silently and more."""
    monkeypatch.setattr('jrs.io.photo.find_spec', lambda name: None)
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    for name in ('1.jpg', '3.jfif', '4.JPE', '6.JPG', '7'):
        save(folder / name)
    save(folder / '8.jpg', 'PNG')
    (folder / '40.HEIC').write_bytes(HEIC)
    (folder / '41.jpg').write_bytes(HEIC)
    os.symlink('../objects/gone.jpg', folder / '50.jpg')
    os.mkfifo(folder / '51.jpg')
    save(folder / '52.jpg~')
    for name, content in (('.DS_Store', b'x'), ('notes.txt', b'x'), ('e.dat', b''), ('w.MOV', b'x'), ('r.dng', b'II*\0'),
                          ('p.pdf', b'%PDF')):
        (folder / name).write_bytes(content)
    return folder


def test_all_that_is_not_read_is_named_with_its_reason(folder):
    files, left_out = find_photos(folder)
    assert [path.name for path in files] == ['1.jpg', '3.jfif', '4.JPE', '6.JPG', '7', '8.jpg']
    words = {'40.HEIC': 'pillow-heif', '41.jpg': 'pillow-heif', '50.jpg': 'dangling link to ../objects/gone.jpg',
             '51.jpg': 'no regular file', '52.jpg~': 'holds a JPEG', '.DS_Store': 'hidden', 'notes.txt': 'no picture',
             'e.dat': 'empty file', 'w.MOV': 'video', 'r.dng': 'raw', 'p.pdf': 'PDF', 'sub/': 'folder'}
    assert left_out.keys() == words.keys()
    assert not {name: why for name, why in left_out.items() if words[name] not in why}


def test_what_was_not_read_goes_with_the_views(folder):
    photos = load_photos(folder, 56)
    assert photos.left_out == find_photos(folder)[1] and '12 files were not read: ' in photos.remarks[0]
    assert [view.left_out for view in each_photo(folder, 56)] == [photos.left_out] * 6
    assert LoadedPhotos.together([photos, photos]).left_out == photos.left_out


def test_photos_that_are_not_chosen_are_named(folder):
    left_out = load_photos(folder, 56, every=2, max_views=2).left_out
    assert [name for name, why in left_out.items() if why == 'not chosen: one photo in 2, at most 2, evenly spaced'] == [
        '3.jfif', '4.JPE', '6.JPG', '8.jpg']


@pytest.mark.parametrize(('name', 'why'), [('40.HEIC', 'pillow-heif'), ('w.MOV', 'video'), ('notes.txt', 'no picture'),
                                           ('sub', 'a folder'), ('p.pdf', 'PDF'), ('r.dng', 'raw')])
def test_a_file_that_is_asked_for_and_cannot_be_read_is_refused(folder, name, why):
    with pytest.raises(DataError, match=f'{name} is not a photo that can be read: .*{why}'):
        find_photos([folder / '1.jpg', folder / name])


def test_a_folder_without_photos_says_why_each_file_is_none(folder):
    for path in find_photos(folder)[0]:
        path.unlink()
    with pytest.raises(DataError, match='40.HEIC, 41.jpg .*pillow-heif'):
        find_photos(folder)


def test_pillow_heif_is_used_where_it_is_installed(folder, monkeypatch):
    monkeypatch.setattr('jrs.io.photo.find_spec', lambda name: name)
    assert why_not_read(folder / '40.HEIC') == '' == why_not_read(folder / '41.jpg')


def test_a_video_is_one_by_suffix_or_by_content(tmp_path):
    (tmp_path / 'clip').write_bytes(b'\0\0\0\x14ftypqt  \0\0\0\0qt  ')
    (tmp_path / 'walk.mov').mkdir()
    assert is_video(tmp_path / 'clip') and is_video(tmp_path / 'gone.MP4')
    assert not is_video(tmp_path / 'walk.mov') and not is_video(save(tmp_path / 'a.jpg')) and not is_video(tmp_path)


def test_frames_of_a_video_that_are_not_read_are_counted(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'walk.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (80, 60))
    for _ in range(9):
        writer.write(np.zeros((60, 80, 3), np.uint8))
    writer.release()
    assert load_photos(tmp_path / 'walk.avi', 56).remarks == []
    assert load_photos(tmp_path / 'walk.avi', 56, every=2, max_views=3).remarks == [
        'walk.avi: 3 of 9 frames read (one frame in 2, at most 3, evenly spaced)']
    assert next(each_photo(tmp_path / 'walk.avi', 56, every=3)).remarks == ['walk.avi: 3 of 9 frames read (one frame in 3)']


def test_a_video_that_ends_before_its_header_says_is_said_to(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'whole.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (80, 60))
    for number in range(20):
        writer.write(np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    writer.release()
    data = (tmp_path / 'whole.avi').read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[:len(data) // 2])
    assert load_photos(tmp_path / 'whole.avi', 56).remarks == []
    remarks = load_photos(tmp_path / 'cut.avi', 56).remarks
    assert len(remarks) == 1 and 'announces 20 frames, and ' in remarks[0] and 'cut off?' in remarks[0]


def test_what_was_understood_of_pictures_is_said_of_all_at_once(tmp_path):
    for name in ('a', 'b'):
        pages = [Image.new('RGB', (32, 24), (20 * number, 9, 9)) for number in range(3)]
        pages[0].save(tmp_path / f'{name}.gif', save_all=True, append_images=pages[1:])
    assert load_photos(tmp_path, 56).remarks == ['a.gif, b.gif: first of 3 frames read']


def test_a_reduced_photo_keeps_the_size_and_pixels_of_its_file(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.png', 'PNG')
    whole = load_photos(path, 28, 7)
    monkeypatch.setattr('jrs.io.images.open_photo', lambda path, bits: open_photo(path, bits, 200))
    from jrs.io.photo import open_photo
    small = load_photos(path, 28, 7)
    assert small.original_sizes == whole.original_sizes == [(24, 32)]
    np.testing.assert_allclose(small.input_from_original, whole.input_from_original)


def test_many_names_are_cut_short_on_the_terminal_only():
    left_out = {f'{number}.txt': 'no picture' for number in range(50)}
    assert not_read(left_out).endswith('19.txt and 30 more (no picture)') and '49.txt' in not_read(left_out, shown=None)
    assert not_read({}) == '' and not_read({'a': 'x'}) == '1 file was not read: a (x)'
    assert remarks_on([('', 'one'), ('b', 'two'), ('c', 'two')]) == ['one', 'b, c: two']
