"""The depth head, and what it shares with the point head."""

import pytest
import torch

from jrs.heads.depth import DepthHead
from jrs.heads.points import PointHead
from jrs.registry import HEADS, build
from tests.heads._memory import alive_bytes
from tests.heads._taps import permute, some_features
from tests.seeded_weights import fill_module_

SIZE = dict(features=8, out_channels=(4, 8, 8, 12))
DENSE_HEADS = pytest.mark.parametrize('part', [DepthHead, PointHead])


def dense_head(part, **options):
    head = part(16, **SIZE, **options)
    fill_module_(head, prefix='head.')
    return head


@DENSE_HEADS
def test_dense_heads_take_the_width_the_model_offers(part):
    head = build(HEADS, dict(type=part.__name__, **SIZE), 'model.head', dim_in=16, dim=99)
    assert head.projects[0].in_channels == 16


def test_depth_and_points_are_decoded_by_one_implementation():
    assert DepthHead.__init__ is PointHead.__init__ and DepthHead.forward is PointHead.forward


def test_depth_is_positive_and_confidence_above_one():
    depth, confidence = dense_head(DepthHead)(some_features())
    assert depth.shape == confidence.shape == (2, 3, 28, 42)
    assert (depth > 0).all() and (confidence > 1).all()


@pytest.mark.parametrize('width', [16, 96])
def test_narrow_decoders_take_the_memory_that_they_say(width):
    head, features = DepthHead(16, features=width, out_channels=(8, 8, 8, 8)), some_features()
    said = head.memory(6, (28, 42), torch.device('cpu')).chunk
    assert said == pytest.approx(alive_bytes(head, features), rel=0.1)


@DENSE_HEADS
def test_chunks_of_views_do_not_change_the_result(part):
    features = some_features()
    for one, other in zip(dense_head(part)(features), dense_head(part, views_per_chunk=4)(features), strict=True):
        torch.testing.assert_close(other, one)


@DENSE_HEADS
def test_views_are_independent(part):
    head, features = dense_head(part), some_features()
    for before, after in zip(head(features), head(permute(features, [2, 2, 1])), strict=True):
        torch.testing.assert_close(after, before[:, [2, 2, 1]])


@DENSE_HEADS
def test_dense_heads_run_in_float32_whatever_the_autocast(part):
    head, features = dense_head(part), some_features()
    expected = head(features)
    with torch.autocast('cpu', torch.bfloat16):
        actual = head(features)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@DENSE_HEADS
def test_half_precision_taps_are_read_in_float32(part):
    features = some_features()
    features.taps = [tap.to(torch.bfloat16) for tap in features.taps]
    assert dense_head(part)(features)[0].dtype == torch.float32


@DENSE_HEADS
def test_gradients_reach_every_parameter_and_the_features(part):
    head, features = dense_head(part), some_features()
    sum(output.square().mean() for output in head(features)).backward()
    assert not [name for name, parameter in head.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert all(tap.grad.abs().sum() > 0 for tap in features.taps)
