"""Cameras survive encoding and decoding."""

import math

import torch

from jrs.geometry.camera import (
    decode_cameras,
    encode_cameras,
    invert_rigid,
    quaternion_from_rotation,
    relative_to_first,
    rigid_from_rotation_translation,
    rotation_from_quaternion,
)


def random_rotations(*shape):
    torch.manual_seed(0)
    return rotation_from_quaternion(torch.randn(*shape, 4, dtype=torch.float64))


def test_encoding_round_trip_returns_the_cameras():
    cam_from_world = rigid_from_rotation_translation(random_rotations(2, 30), torch.randn(2, 30, 3).double()).float()
    intrinsics = torch.tensor([[50., 0, 21], [0, 40, 14], [0, 0, 1]]).expand(2, 30, 3, 3)
    decoded, decoded_intrinsics = decode_cameras(encode_cameras(cam_from_world, intrinsics, (28, 42)), (28, 42))
    torch.testing.assert_close(decoded, cam_from_world, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoded_intrinsics, intrinsics, rtol=1e-5, atol=1e-5)


def test_decoding_round_trip_returns_the_quaternion_up_to_sign_and_length():
    torch.manual_seed(0)
    quaternion = torch.randn(200, 4, dtype=torch.float64)
    again = quaternion_from_rotation(rotation_from_quaternion(3 * quaternion))
    expected = quaternion / quaternion.norm(dim=-1, keepdim=True) * quaternion[:, 3:].sign()
    torch.testing.assert_close(again, expected)
    assert (again[:, 3] >= 0).all()


def test_rotations_are_orthonormal():
    rotation = random_rotations(50)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50).double())


def test_quarter_turn_about_the_viewing_axis_moves_x_to_y():
    half = math.sqrt(0.5)
    rotation = rotation_from_quaternion(torch.tensor([0, 0, half, half]))
    torch.testing.assert_close(rotation @ torch.tensor([1., 0, 0]), torch.tensor([0., 1, 0]))


def test_half_turns_and_the_identity_have_their_quaternions():
    turns = torch.diag_embed(torch.tensor([[1., 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    expected = torch.eye(4).roll(1, 0)                      # identity is w, then x, y, z
    torch.testing.assert_close(quaternion_from_rotation(turns), expected)


def test_quaternion_has_a_finite_gradient_at_the_identity():
    rotation = torch.eye(3, requires_grad=True)
    quaternion_from_rotation(rotation).sum().backward()
    assert rotation.grad.isfinite().all()


def test_vertical_field_of_view_comes_first():
    intrinsics = torch.tensor([[10., 0, 0], [0, 1, 0], [0, 0, 1]])
    encoding = encode_cameras(torch.eye(4), intrinsics, (2, 20))
    torch.testing.assert_close(encoding[7:], torch.tensor([math.pi / 2, math.pi / 2]))


def test_field_of_view_of_zero_decodes_to_a_finite_camera():
    encoding = torch.zeros(9)
    encoding[6] = 1
    _, intrinsics = decode_cameras(encoding, (28, 42))
    assert intrinsics.isfinite().all()
    assert intrinsics[0, 0] > 1000


def test_quaternion_of_zero_decodes_to_finite_numbers():
    cam_from_world, _ = decode_cameras(torch.zeros(2, 9), (28, 42))
    assert cam_from_world.isfinite().all()


def test_inverse_undoes_a_rigid_transform():
    transform = rigid_from_rotation_translation(random_rotations(5), torch.randn(5, 3).double())
    torch.testing.assert_close(invert_rigid(transform) @ transform, torch.eye(4).double().expand(5, 4, 4))


def test_the_first_camera_becomes_the_world_and_the_others_keep_their_place_beside_it():
    torch.manual_seed(0)
    encoding = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    moved = relative_to_first(encoding)
    before, after = (decode_cameras(each, (28, 42))[0] for each in (encoding, moved))
    torch.testing.assert_close(after, before @ invert_rigid(before[:, :1]))
    torch.testing.assert_close(after[:, 0], torch.eye(4).double().expand(2, 4, 4))
    torch.testing.assert_close(moved[..., 3:7].norm(dim=-1), torch.ones(2, 4).double())
    assert (moved[..., 6] >= 0).all() and torch.equal(moved[..., 7:], encoding[..., 7:])
    torch.testing.assert_close(relative_to_first(moved), moved)
    moved.sum().backward()
    assert encoding.grad.isfinite().all() and (encoding.grad[:, 1:, :7].abs().sum(-1) > 0).all()
