"""The dense decoder: chunks, rectified skips, positions, precision."""

import pytest
import torch
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers import dpt
from jrs.layers.dpt import DenseDecoder, ResidualConvUnit, add_positions
from jrs.structures import FeatureTaps


def some_features(views=3, grid=(2, 3), dim=16, special=2):
    torch.manual_seed(1)
    num_patches = grid[0] * grid[1]
    taps = [torch.randn(2, views, special + num_patches, dim) for _ in range(4)]
    return FeatureTaps(taps, torch.arange(special, special + num_patches), grid, (14 * grid[0], 14 * grid[1]))


def small_decoder(**options):
    torch.manual_seed(0)
    return DenseDecoder(16, features=8, out_channels=(4, 8, 8, 12), **options)


def test_skip_of_a_residual_unit_is_rectified():
    unit = ResidualConvUnit(2)
    torch.nn.init.zeros_(unit.conv2.weight)
    torch.nn.init.zeros_(unit.conv2.bias)
    maps = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(unit(maps), F.relu(maps))


@pytest.mark.parametrize('chunk', [1, 4, 100])
def test_chunks_of_views_do_not_change_the_result(chunk):
    features = some_features()
    whole = small_decoder(views_per_chunk=6).decode(features, torch.nn.Identity())
    assert whole.shape == (2, 3, 4, 28, 42)
    torch.testing.assert_close(small_decoder(views_per_chunk=chunk).decode(features, torch.nn.Identity()), whole)


def test_chunk_is_finished_before_the_next_is_decoded():
    seen = []
    small_decoder(views_per_chunk=4).decode(some_features(), lambda maps: (seen.append(len(maps)), maps[:, 0])[1])
    assert seen == [4, 2]


def test_special_tokens_are_not_decoded():
    features, changed = some_features(), some_features()
    for tap in changed.taps:
        tap[:, :, :2] = 100.0
    decoder = small_decoder()
    torch.testing.assert_close(decoder.decode(changed, torch.nn.Identity()), decoder.decode(features, torch.nn.Identity()))


def test_patch_index_says_where_the_patches_stand():
    features = some_features()
    decoder = small_decoder()
    expected = decoder.decode(features, torch.nn.Identity())
    swapped = FeatureTaps([torch.cat([tap[:, :, 2:], tap[:, :, :2]], dim=2) for tap in features.taps],
                          torch.arange(6), features.patch_grid, features.image_size)
    torch.testing.assert_close(decoder.decode(swapped, torch.nn.Identity()), expected)


def test_decoder_ignores_the_autocast_of_its_caller():
    features, decoder = some_features(), small_decoder()
    expected = decoder.decode(features, torch.nn.Identity())
    with torch.autocast('cpu', torch.bfloat16):
        maps = decoder.decode(features, torch.nn.Identity())
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16      # and leaves it as it was
    torch.testing.assert_close(maps, expected, rtol=0, atol=0)


def test_positions_are_odd_in_the_sines_and_even_in_the_cosines():
    positions = add_positions(torch.zeros(1, 8, 4, 6), (28, 42))[0]
    sin_x, cos_x, sin_y, cos_y = positions.split(2)
    torch.testing.assert_close(sin_x, -sin_x.flip(2))
    torch.testing.assert_close(cos_x, cos_x.flip(2))
    torch.testing.assert_close(sin_y, -sin_y.flip(1))
    torch.testing.assert_close(cos_y, cos_y.flip(1))
    assert positions.abs().max() <= 0.1


def test_positions_use_the_aspect_ratio_of_the_image():
    positions = add_positions(torch.zeros(1, 4, 2, 2), (3, 4))[0]
    torch.testing.assert_close(positions[0, 0, 1], torch.tensor(0.1) * torch.tensor(0.8 / 2).sin())
    torch.testing.assert_close(positions[2, 1, 0], torch.tensor(0.1) * torch.tensor(0.6 / 2).sin())


@pytest.mark.parametrize('sizes', [dict(out_channels=(4, 8, 8)), dict(out_channels=(4, 8, 8, 10)), dict(features=12)])
def test_widths_that_positions_do_not_fit_are_refused(sizes):
    with pytest.raises(ConfigError, match='four multiples of 4'):
        DenseDecoder(16, **{'features': 8, 'out_channels': (4, 8, 8, 12), **sizes})


def test_recomputed_chunks_give_the_same_gradients():
    features = some_features()
    gradients = []
    for recompute in (False, True):
        decoder = small_decoder(views_per_chunk=2)
        decoder.activation_checkpointing = recompute
        decoder.train().decode(features, torch.nn.Identity()).square().sum().backward()
        gradients.append({name: value.grad for name, value in decoder.named_parameters() if value.grad is not None})
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_cpu_decodes_fewerviews_at_a_time_where_they_are_large():
    decoder = small_decoder(views_per_chunk=6)
    values = decoder.scratch.output_conv1.out_channels
    assert decoder.views_at_a_time(torch.device('cpu'), (10, 10)) == 6
    side = int((dpt.CPU_VALUES // values // 2) ** 0.5)
    assert decoder.views_at_a_time(torch.device('cpu'), (side, side)) == 2
    assert decoder.views_at_a_time(torch.device('cpu'), (10 * side, 10 * side)) == 1
    assert decoder.views_at_a_time(torch.device('cuda'), (10 * side, 10 * side)) == 6
