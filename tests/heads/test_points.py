"""The point head; what it shares with the depth head is tested there."""

import torch

from jrs.heads.points import PointHead
from tests.heads._taps import some_features


def test_points_have_three_signed_coordinates_and_a_confidence_above_one():
    torch.manual_seed(0)
    head = PointHead(16, features=8, out_channels=(4, 8, 8, 12))
    points, confidence = head(some_features())
    assert points.shape == (2, 3, 28, 42, 3) and confidence.shape == (2, 3, 28, 42)
    assert (points > 0).any() and (points < 0).any()
    assert (confidence > 1).all()


def test_coordinates_grow_exponentially_on_both_sides_of_zero():
    head = PointHead(16, features=8, out_channels=(4, 8, 8, 12))
    last = head.scratch.output_conv2[2]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([2.0, -2.0, 0.0, 1.0])
    points, confidence = head(some_features(views=1))
    growth = torch.tensor(2.0).expm1()
    torch.testing.assert_close(points[0, 0, 0, 0], torch.stack([growth, -growth, torch.tensor(0.0)]))
    torch.testing.assert_close(confidence[0, 0, 0, 0], 1 + torch.tensor(1.0).exp())
