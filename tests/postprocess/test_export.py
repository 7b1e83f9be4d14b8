"""Exported files say what the reconstruction says, in the frames and sizes that they promise."""

import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest
import torch

from jrs.errors import DataError, JrsError
from jrs.geometry.cloud import point_cloud
from jrs.io.ply import read_ply
from jrs.postprocess.export import (
    cameras_record,
    export_scene,
    instances_record,
    original_ids,
    view_in_photo,
    without_padding,
    write_glb,
)
from tests.small_scene import HEIGHT, VIEWS, WIDTH, small_photos, small_scene

NAMES = ('chair', 'table')
PALETTE = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)


def exported(folder, **options):
    scene = small_scene()
    photos = small_photos(scene)
    scene = without_padding(scene, photos)
    cloud = point_cloud(scene, photos.valid, drop_percent=0)
    export_scene(folder, scene, photos, cloud, NAMES, PALETTE, **options)
    return scene, photos, cloud


def test_ply_has_colour_instance_and_class_per_point(tmp_path):
    scene, photos, cloud = exported(tmp_path, glb=False)
    vertices, _ = read_ply(tmp_path / 'cloud.ply')
    columns = ['x', 'y', 'z', 'nx', 'ny', 'nz', 'red', 'green', 'blue', 'instance', 'class']
    assert list(vertices) == [*columns, 'view', 'confidence']
    assert len(vertices['x']) == int(photos.valid.sum())
    np.testing.assert_allclose(vertices['z'], 2.0)
    assert set(zip(vertices['instance'].tolist(), vertices['class'].tolist(), strict=True)) == {(0, -1), (1, 1), (2, 0)}
    painted, _ = read_ply(tmp_path / 'instances.ply')
    assert list(painted) == columns
    assert (painted['red'][painted['instance'] == 1] == 255).all()
    assert (painted['blue'][painted['instance'] == 2] == 255).all()


def test_points_keep_where_they_come_from_for_viewers(tmp_path):
    scene = small_scene()
    photos = small_photos(scene)
    colours = np.arange(VIEWS * (HEIGHT // 2) * (WIDTH // 2) * 3).reshape(VIEWS, HEIGHT // 2, WIDTH // 2, 3) % 251
    cloud = point_cloud(scene, photos.valid, drop_percent=0, feature_colours=colours.astype(np.uint8))
    export_scene(tmp_path, scene, photos, cloud, NAMES, PALETTE, glb=False)
    found, _ = read_ply(tmp_path / 'cloud.ply')
    assert np.bincount(found['view']).tolist() == photos.valid.flatten(1).sum(1).tolist()
    valid = photos.valid.numpy()
    np.testing.assert_array_equal(found['confidence'], scene.depth_conf.numpy()[valid])
    grown = colours.repeat(2, axis=1).repeat(2, axis=2)[valid]                              # (N, 3)
    np.testing.assert_array_equal(np.stack([found[f'feature_{name}'] for name in ('red', 'green', 'blue')], 1), grown)
    assert all(len(values) == 7 for values in (cloud.thinned(7).confidence, cloud.thinned(7).feature_colours))
    plain = point_cloud(dataclasses.replace(scene, depth_conf=None), drop_percent=0).thinned(5)
    assert plain.confidence is None and plain.feature_colours is None


def test_pictures_of_views_lie_where_they_are_in_the_photo(tmp_path):
    scene, photos, _ = exported(tmp_path, glb=False)
    assert sorted(path.name for path in (tmp_path / 'views').iterdir()) == ['a.jpg', 'b.jpg', 'c.jpg']
    picture = view_in_photo(photos, 1)                      # twice the size, eight rows below the crop
    assert picture.shape == (HEIGHT + 4, WIDTH, 3)
    np.testing.assert_array_equal(picture[:HEIGHT], (scene.images[1].permute(1, 2, 0) * 255).round().byte().numpy())
    assert (picture[HEIGHT + 1:] == [225, 227, 231]).all()


def test_intrinsics_are_those_of_the_original_image():
    scene = small_scene()
    record = cameras_record(scene, small_photos(scene))
    camera = record['cameras'][1]
    assert (camera['height'], camera['width']) == (2 * HEIGHT + 8, 2 * WIDTH)
    point = np.array([0.3, -0.2, 2.0, 1.0])
    seen = np.array(camera['intrinsics']) @ (np.array(camera['cam_from_world']) @ point)[:3]
    small = scene.intrinsics[1].numpy() @ (scene.cam_from_world[1].numpy() @ point)[:3]
    # pixel centres at integers: input pixel x covers original pixels 2x and 2x + 1
    np.testing.assert_allclose(seen[:2] / seen[2], 2 * small[:2] / small[2] + 0.5, rtol=1e-6)
    assert 'world to camera' in record['convention']
    assert 'arbitrary' in record['scale']


def test_masks_have_the_original_size_and_end_at_the_crop(tmp_path):
    scene, photos, _ = exported(tmp_path, glb=False)
    mask = cv2.imread(str(tmp_path / 'masks' / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint16 and mask.shape == (2 * HEIGHT + 8, 2 * WIDTH)
    assert (mask[4:16, 8:24] == 1).all()
    assert mask[20, 30] == 2
    assert not mask[2 * HEIGHT:].any()
    full = original_ids(torch.ones(HEIGHT // 2, WIDTH // 2, dtype=torch.int64), photos, 0)
    assert full[:2 * HEIGHT].all() and not full[2 * HEIGHT:].any()


def test_masks_of_an_earlier_run_are_removed(tmp_path):
    (tmp_path / 'masks').mkdir()
    (tmp_path / 'masks' / 'old.png').write_bytes(b'old')
    exported(tmp_path, glb=False)
    assert sorted(path.name for path in (tmp_path / 'masks').iterdir()) == ['a.png', 'b.png', 'c.png']


def test_padding_belongs_to_no_instance():
    scene = small_scene()
    photos = small_photos(scene)
    cleared = without_padding(scene, photos)
    assert not cleared.instances.masks[:, 2, :, :4].any()
    assert torch.equal(cleared.instances.masks[:, :2], scene.instances.masks[:, :2])
    photos.valid[:] = False
    assert len(without_padding(scene, photos).instances.scores) == 0


def test_instances_are_counted_and_boxed(tmp_path):
    scene, photos, cloud = exported(tmp_path, glb=False)
    record = json.loads((tmp_path / 'instances.json').read_text())
    first, second = record['instances']
    assert (first['class'], first['class_index'], first['query']) == ('table', 1, 4)
    assert first['mask_pixels_per_view'] == {'a': 12, 'b': 12, 'c': 6}
    assert second['points'] == int((cloud.instances == 2).sum()) == 4 * (30 - 4)
    own = cloud.points[cloud.instances == 1]
    np.testing.assert_allclose(first['bounding_box']['max'], own.max(0), rtol=1e-6)


def test_best_scored_instance_owns_an_overlap():
    scene = small_scene()
    owners = point_cloud(scene, drop_percent=0).instances.reshape(VIEWS, HEIGHT, WIDTH)
    assert owners[0, 5, 9] == 1 and owners[0, 8, 9] == 2 and owners[1, 8, 9] == 0


def test_least_confident_points_are_left_out():
    scene = small_scene()
    kept = point_cloud(scene, drop_percent=25)
    assert len(kept.points) == 0.75 * VIEWS * HEIGHT * WIDTH
    limit = np.percentile(scene.depth_conf.numpy(), 25)
    assert len(kept.points) == (scene.depth_conf.numpy() >= limit).sum()
    assert len(point_cloud(scene, max_points=100).points) == 100


def test_normals_turn_to_the_camera():
    normals = point_cloud(small_scene(), drop_percent=0).normals
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1], normals.shape), atol=1e-5)


def test_glb_holds_points_and_one_frustum_per_camera(tmp_path):
    trimesh = pytest.importorskip('trimesh')
    scene, _, cloud = exported(tmp_path, glb=True)
    world = trimesh.load(tmp_path / 'scene.glb')
    assert sum('camera' in name for name in world.geometry) == VIEWS
    points = next(item for item in world.geometry.values() if isinstance(item, trimesh.PointCloud))
    assert len(points.vertices) == len(cloud.points)
    np.testing.assert_allclose(world.bounds[0][2], -2.0, atol=1e-3)         # glTF looks along -z


def test_missing_trimesh_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'trimesh', None)
    scene = small_scene()
    with pytest.raises(JrsError, match='pip install'):
        write_glb(tmp_path / 'scene.glb', scene, point_cloud(scene))


@pytest.mark.parametrize('field', ['depth', 'cam_from_world', 'intrinsics'])
def test_values_that_are_not_finite_stop_the_export(tmp_path, field):
    scene = small_scene()
    cloud = point_cloud(scene)
    getattr(scene, field)[1, 0, 0] = float('nan')
    with pytest.raises(DataError, match=f"{field} of view 'b'"):
        export_scene(tmp_path / 'out', scene, small_photos(scene), cloud, NAMES, PALETTE, glb=False)
    assert not (tmp_path / 'out').exists()
    with pytest.raises(DataError, match="of view 'b'"):
        point_cloud(scene)


def test_geometry_alone_and_no_instances_export(tmp_path):
    scene = small_scene()
    scene.instances = None
    photos = small_photos(scene)
    export_scene(tmp_path, scene, photos, point_cloud(scene, photos.valid), NAMES, PALETTE[:0], glb=False)
    assert not (tmp_path / 'instances.json').exists()
    empty = small_scene()
    empty.instances.masks = torch.zeros_like(empty.instances.masks)
    empty.depth[:] = 0
    cloud = point_cloud(empty)
    assert len(cloud.points) == 0
    record = instances_record(empty, cloud, NAMES, PALETTE)
    assert [entry['bounding_box'] for entry in record['instances']] == [None, None]
    export_scene(tmp_path / 'empty', empty, photos, cloud, NAMES, PALETTE, glb='trimesh' in sys.modules)
