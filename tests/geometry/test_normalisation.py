"""Normalised scenes have one frame and one unit."""

import torch

from jrs.geometry.camera import rigid_from_rotation_translation, rotation_from_quaternion
from jrs.geometry.normalisation import normalise_scene
from jrs.geometry.projection import project_points, unproject_depth

INTRINSICS = torch.tensor([[50., 0, 3], [0, 40, 2], [0, 0, 1]])


def some_scene(unit=1.0):
    torch.manual_seed(0)
    cam_from_world = rigid_from_rotation_translation(rotation_from_quaternion(torch.randn(2, 3, 4)),
                                                     unit * torch.randn(2, 3, 3))
    depth = unit * (torch.rand(2, 3, 4, 6) + 0.5)
    _, world_points = unproject_depth(depth, INTRINSICS, cam_from_world)
    return cam_from_world, world_points, depth, torch.rand(2, 3, 4, 6) > 0.3


def test_first_camera_is_the_origin_and_the_mean_distance_is_one():
    *_, valid = some_scene()
    scene = normalise_scene(*some_scene())
    torch.testing.assert_close(scene.cam_from_world[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-6)
    for points, mask in zip(scene.world_points, valid, strict=True):
        torch.testing.assert_close(points[mask].norm(dim=-1).mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_unit_of_the_input_does_not_matter():
    small, large = normalise_scene(*some_scene()), normalise_scene(*some_scene(unit=100.0))
    torch.testing.assert_close(large.depth, small.depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(large.cam_from_world, small.cam_from_world, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(large.scale, 100 * small.scale, rtol=1e-4, atol=0)


def test_normalised_points_still_project_to_their_pixels():
    scene = normalise_scene(*some_scene())
    _, z = project_points(scene.world_points.flatten(2, 3), INTRINSICS.expand(2, 3, 3, 3), scene.cam_from_world)
    torch.testing.assert_close(z, scene.depth.flatten(2), rtol=1e-4, atol=1e-4)


def test_invalid_points_that_are_not_finite_do_not_spread():
    cam_from_world, world_points, depth, valid = some_scene()
    expected = normalise_scene(cam_from_world, world_points, depth, valid)
    broken = world_points.clone()
    broken[~valid] = float('nan')
    scene = normalise_scene(cam_from_world, broken, depth, valid)
    torch.testing.assert_close(scene.scale, expected.scale)
    assert (scene.world_points[~valid] == 0).all()


def test_scene_without_valid_pixels_stays_finite():
    cam_from_world, world_points, depth, valid = some_scene()
    scene = normalise_scene(cam_from_world, world_points, depth, torch.zeros_like(valid))
    assert all(part.isfinite().all() for part in scene)
