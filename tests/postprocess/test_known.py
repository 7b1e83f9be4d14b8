"""What is known takes the place of what is predicted, and the rest follows in its unit and world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jrs.errors import DataError
from jrs.geometry.camera import rigid_from_rotation_translation, rotation_from_quaternion
from jrs.geometry.cloud import point_cloud
from jrs.geometry.scale import with_longer_translations
from jrs.postprocess.export import cameras_record
from jrs.postprocess.known import check_usable, with_known
from jrs.structures import KnownGeometry, Reconstruction
from jrs.visualization.report import scene_section
from tests.small_scene import small_photos, small_scene

FACTOR = 3.5
TURN = rotation_from_quaternion(torch.tensor([0.3, -0.1, 0.5, 0.7]))
WORLD = rigid_from_rotation_translation(TURN, torch.tensor([4.0, 5.0, 6.0]))


def truth() -> Reconstruction:
    """A scene in a world and a unit of its own, with depth that is not flat."""
    scene = small_scene()
    depth = scene.depth + torch.rand(scene.depth.shape, generator=torch.Generator().manual_seed(1))
    cameras = with_longer_translations(scene.cam_from_world, FACTOR) @ WORLD
    return replace(scene, cam_from_world=cameras.double(), intrinsics=scene.intrinsics.double(), depth=FACTOR * depth)


def predicted() -> Reconstruction:
    """The same, in the first camera's world, shorter by `FACTOR`, with other lenses."""
    scene, true = small_scene(), truth()
    lenses = scene.intrinsics.clone()
    lenses[:, :2, :2] *= 1.3
    return replace(scene, depth=true.depth / FACTOR, intrinsics=lenses)


def known(*parts: str) -> KnownGeometry:
    true = truth()
    cameras = dict(intrinsics=true.intrinsics, cam_from_world=true.cam_from_world) if 'cameras' in parts else {}
    return KnownGeometry(true.depth if 'depth' in parts else None, scale='metric', **cameras)


@pytest.mark.parametrize('parts', [('cameras',), ('cameras', 'depth')])
def test_points_lie_where_the_given_cameras_see_them(parts):
    found = with_known(predicted(), known(*parts))
    assert found.given == parts and found.scale == 'metric'
    torch.testing.assert_close(found.depth, truth().depth)
    expected = point_cloud(truth(), drop_percent=0)
    actual = point_cloud(found, drop_percent=0)
    torch.testing.assert_close(torch.from_numpy(actual.points), torch.from_numpy(expected.points), rtol=1e-4, atol=1e-4)
    assert (actual.instances == expected.instances).all()


def test_given_depth_brings_predicted_cameras_to_its_unit():
    found = with_known(predicted(), known('depth'))
    assert found.given == ('depth',) and found.depth_conf is None and torch.equal(found.depth, truth().depth)
    torch.testing.assert_close(found.cam_from_world, with_longer_translations(predicted().cam_from_world, FACTOR))
    assert torch.equal(found.intrinsics, predicted().intrinsics)


def test_pixels_without_a_reading_give_no_points_and_do_not_count():
    given = known('depth')
    given.depth[:, :3] = 0
    found = with_known(predicted(), given)
    torch.testing.assert_close(found.cam_from_world, with_longer_translations(predicted().cam_from_world, FACTOR))
    assert len(point_cloud(found, drop_percent=20).points) == (given.depth > 0).sum()


@pytest.mark.parametrize(('own', 'scale'), [('arbitrary', 'arbitrary'), ('metric, approximate', 'metric, approximate')])
def test_cameras_in_one_place_leave_the_scale_of_depth(own, scale):
    given = known('cameras')
    given.cam_from_world = given.cam_from_world[:1].repeat(3, 1, 1)
    found = with_known(replace(predicted(), scale=own), given)
    assert torch.equal(found.depth, predicted().depth) and found.scale == scale


def test_what_cannot_be_brought_to_one_unit_is_refused():
    scene = predicted()
    together = replace(scene, cam_from_world=scene.cam_from_world[:1].repeat(3, 1, 1))
    with pytest.raises(DataError, match='all stand in one place'):
        with_known(together, known('cameras'))
    with pytest.raises(DataError, match='No pixel has both'):
        with_known(replace(scene, depth=torch.zeros_like(scene.depth)), known('depth'))
    with pytest.raises(DataError, match='Give depth too'):
        check_usable(known('cameras'), scene.images, predicts_cameras=False, predicts_depth=True)
    with pytest.raises(DataError, match='Give cameras too'):
        check_usable(known('depth'), scene.images, predicts_cameras=True, predicts_depth=False)


def test_what_is_known_of_other_views_is_refused():
    for other, words in ((replace(known('depth'), depth=torch.ones(3, 8, 12)), r'depth must be of shape \(3, 16, 24\)'),
                         (replace(known('cameras'), cam_from_world=torch.eye(4)[None]), 'cam_from_world must be of shape'),
                         (replace(known('cameras'), intrinsics=None), 'one of them is None')):
        with pytest.raises(DataError, match=words):
            with_known(predicted(), other)


def test_a_model_without_geometry_gets_points_from_what_is_known():
    bare = replace(predicted(), depth=None, depth_conf=None, intrinsics=None, cam_from_world=None)
    found = with_known(bare, known('cameras', 'depth'))
    assert not found.missing_geometry and len(point_cloud(found).points)


def test_files_and_report_say_what_was_given():
    found = with_known(predicted(), known('cameras', 'depth'))
    record = cameras_record(found, small_photos(found))
    assert record['source'] == {'cameras': 'given', 'depth': 'given'} and record['scale'] == 'metres'
    assert 'that of the given cameras' in record['convention']
    page = scene_section(found, ('x', 'y'))
    assert 'given depth' in page and 'centres in their own world' in page
    plain = cameras_record(predicted(), small_photos(found))
    assert plain['source'] == {'cameras': 'predicted', 'depth': 'predicted'} and 'first camera' in plain['convention']
