"""Unprojecting and projecting are inverse; pixels are integers."""

import torch

from jrs.geometry.camera import rigid_from_rotation_translation, rotation_from_quaternion
from jrs.geometry.projection import project_points, transform_points, unproject_depth


def some_views():
    torch.manual_seed(0)
    cam_from_world = rigid_from_rotation_translation(rotation_from_quaternion(torch.randn(2, 3, 4)),
                                                     torch.randn(2, 3, 3))
    intrinsics = torch.tensor([[50., 0, 3], [0, 40, 2], [0, 0, 1]]).expand(2, 3, 3, 3)
    return torch.rand(2, 3, 4, 6) + 0.5, intrinsics, cam_from_world


def test_unprojected_pixels_project_back_to_themselves():
    depth, intrinsics, cam_from_world = some_views()
    _, world_points = unproject_depth(depth, intrinsics, cam_from_world)
    pixels, z = project_points(world_points.flatten(2, 3), intrinsics, cam_from_world)
    v, u = torch.meshgrid(torch.arange(4.), torch.arange(6.), indexing='ij')
    expected = torch.stack([u, v], dim=-1).flatten(0, 1).expand(2, 3, 24, 2)
    torch.testing.assert_close(pixels, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z, depth.flatten(2), rtol=1e-4, atol=1e-4)


def test_depth_is_along_the_viewing_axis():
    cam_points, _ = unproject_depth(*some_views())
    torch.testing.assert_close(cam_points[..., 2], some_views()[0])


def test_principal_pixel_looks_straight_ahead():
    cam_points, _ = unproject_depth(*some_views())
    torch.testing.assert_close(cam_points[:, :, 2, 3, :2], torch.zeros(2, 3, 2))


def test_depth_of_zero_gives_the_camera_centre():
    depth, intrinsics, cam_from_world = some_views()
    _, world_points = unproject_depth(torch.zeros_like(depth), intrinsics, cam_from_world)
    centre = transform_points(cam_from_world, world_points)
    torch.testing.assert_close(centre, torch.zeros_like(centre), rtol=0, atol=1e-5)


def test_point_in_the_camera_centre_projects_to_finite_numbers():
    pixels, z = project_points(torch.zeros(1, 3), torch.eye(3), torch.eye(4))
    assert pixels.tolist() == [[0, 0]] and z.tolist() == [0]
