"""COLMAP itself reads the export, and what it reads lies on the pictures that stand beside it."""

import dataclasses
import json
import os

import cv2
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from jrs.errors import DataError
from jrs.geometry.cloud import point_cloud
from jrs.io.images import load_photos
from jrs.postprocess.export import export_scene
from jrs.structures import Reconstruction

SIZE = (120, 160)                               # of the pictures: (H, W)
ODD = (b'\xff.jpg', b'a b.jpg', b'a_b.jpg', b'a#b%41.jpg', b'a\nb.jpg', b'IMG.jpg', b'img.JPG', b'd.jpg', b'd.png',
       '照'.encode() * 83 + b'.jpeg', b'x' * 250 + b'.jpeg')


def ramp(number, size=SIZE):
    """A picture whose colours say where a pixel is, (H, W, 3): red along x, green along y, blue the picture's number."""
    rows, columns = np.meshgrid(*(np.linspace(20, 220, side) for side in size), indexing='ij')
    return np.stack([columns, rows, np.full(size, 20.0 * number)], axis=-1).round().astype(np.uint8)


def save(path, picture, **options):
    options = {'quality': 95, 'subsampling': 0, **options} if path.suffix.lower() in ('.jpg', '.jpeg') else options
    Image.fromarray(picture).save(path, **options)
    return path


def exported(source, out, **changes):
    """Reconstruct a slope from photos whose cameras step aside and turn; write it with COLMAP's model."""
    photos = load_photos(source, width=56)
    views, _, height, width = photos.images.shape
    cam_from_world = torch.eye(4).repeat(views, 1, 1)
    for view in range(views):
        cam_from_world[view, :3, :3] = torch.from_numpy(cv2.Rodrigues(view * np.array([0.02, -0.05, 0.1]))[0])
    cam_from_world[:, 0, 3] = -0.1 * torch.arange(views)
    depth = torch.linspace(2, 3, height)[:, None].expand(views, height, width)
    intrinsics = torch.tensor([[50.0, 0, 27], [0, 55, 20], [0, 0, 1]]).repeat(views, 1, 1)
    scene = Reconstruction(photos.images, depth, None, intrinsics, cam_from_world, None, None, photos.names)
    photos = dataclasses.replace(photos, **changes)
    cloud = point_cloud(scene, photos.valid, drop_percent=0)
    export_scene(out, scene, photos, cloud, (), np.zeros((0, 3), np.uint8), glb=False, colmap=True)
    return photos, pycolmap.Reconstruction(str(out / 'colmap' / 'sparse' / '0'))


def images_of(model):
    return [model.images[number] for number in sorted(model.images)]


def check(out, photos, model, tolerance=6):
    """Files of one word, upright and of the stated sizes; cameras as in cameras.json; points on pixels of their colour."""
    ours = json.loads((out / 'cameras.json').read_text())['cameras']
    assert sorted(model.images) == [*range(1, len(photos.names) + 1)]
    for camera, image in zip(ours, images_of(model), strict=True):
        assert len(image.name.split()) == 1
        with Image.open(out / 'colmap' / 'images' / image.name) as file:
            assert file.mode == 'RGB' and file.getexif().get(274, 1) == 1
            picture = np.asarray(file).astype(int)                                          # (H, W, 3)
        assert picture.shape[:2] == (image.camera.height, image.camera.width) == (camera['height'], camera['width'])
        assert image.camera.model.name == 'PINHOLE'
        matrix = np.array(camera['intrinsics']) + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        np.testing.assert_allclose(image.camera.calibration_matrix(), matrix, rtol=1e-9)
        np.testing.assert_allclose(image.cam_from_world().matrix(), np.array(camera['cam_from_world'])[:3], atol=2e-6)
        assert image.num_points2D() == int(photos.valid[image.image_id - 1].sum())
        for seen in image.points2D[::97]:
            point = model.points3D[seen.point3D_id]
            place = image.project_point(point.xyz)
            np.testing.assert_allclose(place, seen.xy, atol=0.01)
            shown = picture[int(place[1]), int(place[0])]                       # the pixel [0, 1) x [0, 1) is the first
            assert np.abs(shown - point.color).max() <= tolerance
            assert point.track.length() == 1 and point.track.elements[0].image_id == image.image_id


def test_photos_of_any_name_are_found_upright_under_names_of_one_word(tmp_path):
    (tmp_path / 'in').mkdir()
    for number, name in enumerate(ODD):
        new = tmp_path / ('new.png' if name.endswith(b'png') else 'new.jpg')
        save(new, ramp(number)).rename(tmp_path / 'in' / os.fsdecode(name))
    photos, model = exported(tmp_path / 'in', tmp_path / 'out')
    check(tmp_path / 'out', photos, model)
    names = [image.name for image in images_of(model)]
    assert len(os.listdir(tmp_path / 'out' / 'colmap' / 'images')) == len(ODD) == len({name.casefold() for name in names})
    assert {'IMG.jpg', 'img-2.JPG', 'd.jpg', 'd-2.png', '_FF.jpg', 'a_b-2.jpg', '照' * 83 + '.jpeg'} < {*names}
    for name in ('a_b.jpg', 'IMG.jpg', 'd.jpg'):                                # whose name serves keeps it, and its bytes
        assert (tmp_path / 'in' / name).read_bytes() == (tmp_path / 'out' / 'colmap' / 'images' / name).read_bytes()
    files = [camera.get('file') for camera in json.loads((tmp_path / 'out' / 'cameras.json').read_text())['cameras']]
    assert {'%FF.jpg', 'a b.jpg', 'a%0Ab.jpg', 'd.jpg', 'd.png'} < {*files}


def test_frames_of_a_video_are_written(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'walk.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, SIZE[::-1])
    for number in range(10):
        writer.write(np.ascontiguousarray(ramp(number)[..., ::-1]))
    writer.release()
    photos, model = exported(tmp_path / 'walk.avi', tmp_path / 'out')
    check(tmp_path / 'out', photos, model, tolerance=20)                        # a codec of coarse colours
    assert [image.name for image in images_of(model)][3] == 'frame_000003.jpg'
    record = json.loads((tmp_path / 'out' / 'cameras.json').read_text())['cameras'][3]
    assert (record['file'], record['frame']) == ('walk.avi', 3)


@pytest.mark.parametrize(('orientation', 'turns'), [(3, 2), (6, 1), (8, 3)])
def test_turned_photos_are_written_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / 'in').mkdir()
    for number, name in enumerate(('a.jpg', 'b.png')):
        save(tmp_path / 'in' / name, np.rot90(ramp(number, (160, 120)), turns).copy(), exif=exif)
    photos, model = exported(tmp_path / 'in', tmp_path / 'out')
    assert photos.original_sizes == [(160, 120)] * 2
    check(tmp_path / 'out', photos, model)


def test_pictures_that_others_may_not_read_are_written_as_they_were_read(tmp_path):
    (tmp_path / 'in').mkdir()
    alpha = np.dstack([ramp(2), np.full(SIZE, 200, np.uint8)])
    deep = ramp(4)[..., :1].repeat(1, 2)[..., 0].astype(np.uint16) * 257
    for name, picture in (('a.bmp', ramp(0)), ('b.webp', ramp(1)), ('c.png', alpha), ('d.tif', ramp(3)), ('e.png', deep),
                          ('f.png', ramp(5)[..., 0])):
        Image.fromarray(picture).save(tmp_path / 'in' / name, **({'quality': 100} if name.endswith('webp') else {}))
    Image.fromarray(ramp(6)).convert('CMYK').save(tmp_path / 'in' / 'g.jpg', quality=95)
    save(tmp_path / 'x.png', ramp(7)).rename(tmp_path / 'in' / 'h.jpg')                     # a PNG that is named like a JPEG
    photos, model = exported(tmp_path / 'in', tmp_path / 'out')
    check(tmp_path / 'out', photos, model, tolerance=12)
    names = [image.name for image in images_of(model)]
    assert names == ['a.png', 'b.png', 'c.png', 'd.png', 'e.png', 'f.png', 'g.jpg', 'h.png']


def test_a_picture_that_was_read_reduced_is_written_so_with_its_camera(tmp_path):
    photo = save(tmp_path / 'a.bmp', ramp(1))
    photos = load_photos(photo, width=56)
    small = dataclasses.replace(photos.originals[0], read=lambda: ramp(1, (60, 80)))
    _, model = exported(photo, tmp_path / 'out', originals=[small])
    camera = model.images[1].camera
    with Image.open(tmp_path / 'out' / 'colmap' / 'images' / 'a.png') as file:
        assert file.size == (camera.width, camera.height) == (80, 60)
    whole = json.loads((tmp_path / 'out' / 'cameras.json').read_text())['cameras'][0]['intrinsics']
    np.testing.assert_allclose(camera.calibration_matrix()[:2], (np.array(whole) + [[0, 0, 0.5]] * 3)[:2] / 2, rtol=1e-9)


def test_a_photo_that_was_changed_meanwhile_is_named(tmp_path):
    photo = save(tmp_path / 'a.jpg', ramp(1))
    photos = load_photos(photo, width=56)
    save(photo, ramp(1, (90, 90)))
    with pytest.raises(DataError, match=r'a.jpg has 90 x 90 pixels, and had 160 x 120'):
        exported(photo, tmp_path / 'out', original_sizes=photos.original_sizes)


def test_of_an_earlier_export_nothing_is_left_that_would_be_read(tmp_path):
    for name in ('a.jpg', 'b.jpg'):
        save(tmp_path / name, ramp(1))
    exported([tmp_path / 'a.jpg', tmp_path / 'b.jpg'], tmp_path / 'out')
    images, model = tmp_path / 'out' / 'colmap' / 'images', tmp_path / 'out' / 'colmap' / 'sparse' / '0'
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    (model / 'points3D.ply').write_bytes(b'of a trainer')
    (images / 'own.jpg').write_bytes(b'of the user')
    _, read = exported([tmp_path / 'b.jpg'], tmp_path / 'out')
    assert sorted(os.listdir(images)) == ['b.jpg', 'own.jpg'] and [image.name for image in images_of(read)] == ['b.jpg']
    assert sorted(os.listdir(model)) == ['cameras.txt', 'images.txt', 'points3D.txt']
