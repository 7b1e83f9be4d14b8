"""Known cameras and depth come to the pixels of the network input; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from jrs.errors import DataError
from jrs.io.known_geometry import UNITS, known_geometry, not_used, read_cameras
from jrs.io.names import distinct_names
from jrs.io.png import write_png8, write_png16
from jrs.postprocess.export import cameras_record
from tests.small_scene import HEIGHT, VIEWS, WIDTH, small_photos, small_scene

SCENE = small_scene()
PHOTOS = small_photos(SCENE)                   # of (40, 48) pixels, halved, the lowest input rows cut off
NAMES = SCENE.view_names


def record(**changes) -> dict:
    return {**json.loads(json.dumps(cameras_record(SCENE, PHOTOS))), **changes}


def changed(**entry) -> dict:
    """A record whose second camera has other values."""
    found = record()
    found['cameras'][1].update(entry)
    return found


def write(folder, found) -> str:
    (folder / 'cameras.json').write_text(json.dumps(found))
    return folder / 'cameras.json'


@pytest.mark.parametrize('scale', UNITS)
@pytest.mark.parametrize('words', [lambda scale: UNITS[scale], lambda scale: scale])
def test_cameras_come_back_as_they_were_written(tmp_path, scale, words):
    found = known_geometry(PHOTOS, read_cameras(write(tmp_path, record(scale=words(scale)))))
    torch.testing.assert_close(found.intrinsics, SCENE.intrinsics.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.cam_from_world, SCENE.cam_from_world.double())
    assert found.scale == scale and found.depth is None and found.given == ('cameras',)


def test_more_cameras_than_views_in_any_order_are_matched_by_name(tmp_path):
    whole = record()
    other = dict(whole['cameras'][0], name='not among the photos')
    found = known_geometry(PHOTOS, read_cameras(write(tmp_path, record(cameras=[other, *whole['cameras'][::-1]]))))
    torch.testing.assert_close(found.cam_from_world, SCENE.cam_from_world.double())


def test_cameras_and_depth_of_photos_whose_names_are_no_text_are_found(tmp_path):
    """By the photo's own name, as somebody else writes it, and by what results call it."""
    stems = [os.fsdecode(b'\xff'), 'a\nb', '照 #%']
    photos = dataclasses.replace(PHOTOS, names=distinct_names([f'{stem}.jpg' for stem in stems]))
    (tmp_path / 'depth').mkdir()
    for names in (stems, photos.names):
        found = record()
        for number, (name, camera) in enumerate(zip(names, found['cameras'], strict=True)):
            camera['name'] = name
            np.save(tmp_path / 'depth' / f'{name}.npy', np.full((40, 48), number + 1.0))
        known = known_geometry(photos, read_cameras(write(tmp_path, found)), tmp_path / 'depth')
        assert known.depth[:, 5, 10].tolist() == [1, 2, 3]
        torch.testing.assert_close(known.cam_from_world, SCENE.cam_from_world.double())
        for file in (tmp_path / 'depth').iterdir():
            file.unlink()


@pytest.mark.parametrize(('kind', 'shrink'), [('png', 1), ('png', 2), ('npy', 1), ('npy', 2)])
def test_depth_of_any_size_comes_to_the_pixels_that_see_it(tmp_path, kind, shrink):
    """A ramp: the depth of an input pixel is that of the same place of the photo, to half a pixel of the depth image."""
    height, width = (side // shrink for side in PHOTOS.original_sizes[0])
    v, u = np.meshgrid((np.arange(height) + 0.5) * shrink - 0.5, (np.arange(width) + 0.5) * shrink - 0.5, indexing='ij')
    ramp = 1 + 0.05 * u + 0.02 * v                                              # metres, of pixels of the photo
    ramp[:4 // shrink, :] = 0
    for name in NAMES:
        if kind == 'png':
            write_png16(tmp_path / f'{name}.png', (1000 * ramp).round().astype(np.uint16))
        else:
            np.save(tmp_path / f'{name}.npy', np.where(ramp > 0, ramp, np.nan))
    found = known_geometry(PHOTOS, depth=tmp_path)
    v, u = np.meshgrid(2 * np.arange(HEIGHT) + 0.5, 2 * np.arange(WIDTH) + 0.5, indexing='ij')
    expected = np.where(v > 3.5, 1 + 0.05 * u + 0.02 * v, 0)
    assert found.depth.shape == (VIEWS, HEIGHT, WIDTH) and found.depth.dtype == torch.float32
    np.testing.assert_allclose(found.depth[0], expected, atol=0.036 * shrink)
    assert not found.depth[~PHOTOS.valid].any() and (found.depth[0, 2:] > 0).all() and not found.depth[:, :2].any()
    assert found.scale == 'metric' and found.given == ('depth',) and found.priors().depth_views.all()


def test_what_lies_outside_the_photo_has_no_reading(tmp_path):
    photos = small_photos(SCENE)
    photos.input_from_original = photos.input_from_original.clone()
    photos.input_from_original[:, 0, 2] += 6                                    # the photo begins at input column 6
    for name in NAMES:
        np.save(tmp_path / f'{name}.npy', np.ones((40, 48)))
    found = known_geometry(photos, depth=tmp_path).depth
    assert not found[0, :, :6].any() and found[0, :, 6:].all()


@pytest.mark.parametrize(('found', 'words'), [
    ({}, 'no list "cameras"'), ([], 'no list "cameras"'), (record(cameras=[]), 'no list "cameras"'),
    (record(cameras=record()['cameras'][:1]), 'no camera for 2 of 3 views: b, c. It has: a.'),
    (record(scale='feet'), '"scale" must be one of metric, metric, approximate, arbitrary'),
    (changed(name='a'), 'number 2 must have a "name" of its own'), (changed(name=7), 'name'),
    (changed(width=47), "camera 'b' is of a photo of 47 x 40, and b has 48 x 40 pixels"),
    (changed(height=0), '"width" and "height" must be whole numbers'), (changed(width=True), 'whole numbers'),
    (changed(intrinsics=[[1, 2], [3, 4]]), '"intrinsics" must be 3 x 3 finite numbers'),
    (changed(intrinsics=[[20, 0, 12], [0, -20, 8], [0, 0, 1]]), 'fx, fy > 0'),
    (changed(intrinsics=[[20, 5, 12], [0, 20, 8], [0, 0, 1]]), r'\[\[fx, 0, cx\]'),
    (changed(cam_from_world=None), '"cam_from_world" must be 4 x 4 finite numbers'),
    (changed(cam_from_world=[[1, 0, 0, 0], [0, float('nan'), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 'finite numbers'),
    (changed(cam_from_world=(2 * np.eye(4)).tolist()), 'a rotation and a translation'),
    (changed(cam_from_world=np.diag([1, 1, -1, 1]).tolist()), 'a rotation and a translation')])
def test_cameras_that_do_not_fit_are_refused(tmp_path, found, words):
    with pytest.raises(DataError, match=words):
        known_geometry(PHOTOS, read_cameras(write(tmp_path, found)))


def test_a_file_that_is_no_json_or_not_there_is_named(tmp_path):
    (tmp_path / 'cut.json').write_text('{"cameras": [')
    for name, words in (('cut.json', 'no JSON'), ('gone.json', 'cannot be read')):
        with pytest.raises(DataError, match=f'{name}.*{words}'):
            read_cameras(tmp_path / name)


@pytest.mark.parametrize(('value', 'words'), [
    (np.ones((40, 30)), 'b.npy has 30 x 40 pixels, another aspect'), (np.ones((40, 48, 1)), 'real numbers'),
    (np.full((40, 48), -1.0), 'finite and above 0'), (np.full((40, 48), np.inf), 'finite and above 0'),
    (np.ones((40, 48), dtype=complex), 'real numbers'), (np.array([[{}]], dtype=object), 'no readable .npy'),
    (np.zeros((0, 48)), 'real numbers'), (None, 'no depth .* for 1 of 3 views: b. It has: a, c')])
def test_depth_that_does_not_fit_is_refused(tmp_path, value, words):
    for name in NAMES:
        np.save(tmp_path / f'{name}.npy', np.ones((40, 48)))
    (tmp_path / 'b.npy').unlink()
    if value is not None:
        np.save(tmp_path / 'b.npy', value, allow_pickle=True)
    with pytest.raises(DataError, match=words):
        known_geometry(PHOTOS, depth=tmp_path)


def test_other_files_of_a_depth_folder_are_refused_by_name(tmp_path):
    for name in NAMES:
        np.save(tmp_path / f'{name}.npy', np.zeros((40, 48)))
    with pytest.raises(DataError, match='has a reading'):
        known_geometry(PHOTOS, depth=tmp_path)
    with pytest.raises(DataError, match='no folder'):
        known_geometry(PHOTOS, depth=tmp_path / 'gone')
    write_png16(tmp_path / 'a.png', np.ones((40, 48), np.uint16))
    with pytest.raises(DataError, match='both \'a.npy\' and \'a.png\' for the view a'):
        known_geometry(PHOTOS, depth=tmp_path)
    (tmp_path / 'a.npy').unlink()
    write_png8(tmp_path / 'a.png', np.ones((40, 48), np.uint8))
    with pytest.raises(DataError, match=r'a.png: a depth image has 16 bits'):
        known_geometry(PHOTOS, depth=tmp_path)
    (tmp_path / 'a.png').write_bytes(b'nonsense')
    with pytest.raises(DataError, match='a.png: not a PNG'):
        known_geometry(PHOTOS, depth=tmp_path)


def test_what_belongs_to_no_view_is_named(tmp_path):
    folder = tmp_path / 'depth'
    folder.mkdir()
    for name in (*NAMES, 'other'):
        write_png16(folder / f'{name}.PNG', np.full((40, 48), 2000, np.uint16))
    (folder / 'a.exr').write_bytes(b'')
    extra = dict(record()['cameras'][0], name='door')
    cameras = read_cameras(write(tmp_path, record(scale='metric', cameras=[*record()['cameras'], extra])))
    assert known_geometry(PHOTOS, cameras, folder).given == ('cameras', 'depth')
    assert not_used(PHOTOS, cameras, folder) == [
        f'cameras.json: 1 of {VIEWS + 1} cameras are of no view and not used: door',
        'depth: 2 files are no depth of a view and not used: a.exr, other.PNG']
    assert not_used(PHOTOS, None, None) == []


def test_millimetres_and_cameras_without_a_unit_do_not_go_together(tmp_path):
    cameras = read_cameras(write(tmp_path, record()))
    for name in NAMES:
        write_png16(tmp_path / f'{name}.png', np.full((40, 48), 2000, np.uint16))
    with pytest.raises(DataError, match='share no unit'):
        known_geometry(PHOTOS, cameras, tmp_path)
    metric = known_geometry(PHOTOS, read_cameras(write(tmp_path, record(scale='metric'))), tmp_path)
    assert metric.scale == 'metric' and metric.given == ('cameras', 'depth')
    for name in NAMES:
        (tmp_path / f'{name}.png').unlink()
        np.save(tmp_path / f'{name}.npy', np.full((40, 48), 2.0))
    assert known_geometry(PHOTOS, cameras, tmp_path).scale == 'arbitrary'
