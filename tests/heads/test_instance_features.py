import pytest
import torch

from jrs.errors import ConfigError
from jrs.registry import HEADS, build
from jrs.structures import FeatureTaps

GRID, SIZE = (2, 3), (28, 42)


def _head(**options):
    torch.manual_seed(0)
    cfg = dict(type='InstanceFeatureHead', features=32, out_channels=(8, 8, 16, 16), embedding_dim=16)
    return build(HEADS, {**cfg, **options}, 'model.feature_head', dim_in=12)


def _taps(num_views=3, special=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    tokens = special + GRID[0] * GRID[1]
    maps = [torch.randn(2, num_views, tokens, 12, generator=generator).to(dtype) for _ in range(4)]
    return FeatureTaps(maps, torch.arange(special, tokens), GRID, SIZE)


@pytest.mark.parametrize(('down_ratio', 'size'), [(1, (28, 42)), (2, (14, 21)), (4, (7, 10))])
def test_features_have_the_rounded_down_size(down_ratio, size):
    assert _head(down_ratio=down_ratio)(_taps()).shape == (2, 3, 16, *size)


def test_another_embedding_width_than_half_the_features_is_possible():
    assert _head(embedding_dim=24)(_taps()).shape == (2, 3, 24, 14, 21)


def test_the_map_is_full_size_before_it_is_reduced():
    full, half = _head(down_ratio=1)(_taps()), _head()(_taps())
    expected = torch.nn.functional.interpolate(full.flatten(0, 1), (14, 21), mode='bilinear', align_corners=True)
    torch.testing.assert_close(half.flatten(0, 1), expected)


def test_chunks_of_views_do_not_change_the_features():
    torch.testing.assert_close(_head(views_per_chunk=1)(_taps()), _head(views_per_chunk=8)(_taps()), rtol=1e-5, atol=1e-6)


def test_views_are_independent_and_special_tokens_are_not_read():
    head, taps = _head(), _taps()
    before = head(taps)
    for tap in taps.taps:
        tap[:, 1] = 0
        tap[:, :, :2] = 7
    after = head(taps)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-3


def test_autocast_is_off_inside():
    head, taps = _head(), _taps()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = head(taps)
    assert features.dtype == torch.float32 and torch.equal(features, head(taps))


def test_gradients_reach_every_parameter():
    head = _head()
    head(_taps()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in head.parameters())


@pytest.mark.parametrize('options', [dict(down_ratio=0), dict(embedding_dim=18)], ids=str)
def test_impossible_sizes_are_an_error(options):
    with pytest.raises(ConfigError, match='got down_ratio'):
        _head(**options)
