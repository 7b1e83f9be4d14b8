"""The dense decoder: chunks, rectified skips, positions, precision."""

import pytest
import torch
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers import dpt
from jrs.layers.dpt import DenseDecoder, DenseFusion, ResidualConvUnit, add_positions, resize_map, resize_through
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


def test_positions_that_were_kept_in_inference_serve_training():
    maps = torch.randn(1, 8, 3, 7, requires_grad=True)
    with torch.inference_mode():
        expected = add_positions(maps, (30, 70))
    found = add_positions(maps, (30, 70))
    assert torch.equal(found, expected)
    found.relu().square().sum().backward()
    torch.testing.assert_close(maps.grad, 2 * found.detach().relu())


def test_what_an_export_traces_with_is_not_kept_for_later_passes():
    class Placed(torch.nn.Module):
        def forward(self, maps):
            return add_positions(maps.square(), (50, 90))
    maps = torch.rand(1, 8, 5, 9)
    for _ in range(2):                                                          # nor for the next export
        exported = torch.export.export(Placed(), (maps,), strict=False).module()
    found = Placed()(maps)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(exported(maps), found)
    assert (found - maps.square()).abs().max() > 0.05


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


def test_a_plain_skip_of_a_residual_unit_is_its_input():
    unit = ResidualConvUnit(2, skip='plain')
    torch.nn.init.zeros_(unit.conv2.weight)
    torch.nn.init.zeros_(unit.conv2.bias)
    maps = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(unit(maps), maps)


@pytest.mark.parametrize('growth', ['size', 'double'])
@pytest.mark.parametrize(('last_doubles', 'side'), [(True, 8), (False, 4)])
@pytest.mark.parametrize('grid', [(2, 3), (3, 5), (1, 1)])
def test_the_fused_map_has_the_size_that_its_switches_say_on_any_grid(growth, last_doubles, side, grid):
    torch.manual_seed(0)
    decoder = DenseFusion(16, 8, (4, 8, 8, 12), growth=growth, last_doubles=last_doubles)
    found = decoder.read(some_features(grid=grid), decoder.scratch.fuse)
    assert found.shape == (2, 3, 8, side * grid[0], side * grid[1])


def test_two_chains_read_the_same_levels_and_have_weights_of_their_own():
    torch.manual_seed(0)
    decoder = DenseFusion(16, 8, (4, 8, 8, 12), skip='plain')
    decoder.scratch.add_chain('_aux')
    features = some_features()
    names = [name for name in decoder.state_dict() if 'refinenet' in name]
    assert sorted(name.replace('_aux', '') for name in names if '_aux' in name) == [name for name in sorted(names)
                                                                                    if '_aux' not in name]
    main, aux = (decoder.read(features, lambda branches, name=name: decoder.scratch.fuse(branches, name))
                 for name in ('', '_aux'))
    assert not torch.allclose(main, aux, atol=1e-3)
    for name in names:
        if '_aux' in name:
            decoder.get_parameter(name).data.copy_(decoder.get_parameter(name.replace('_aux', '')))
    assert torch.equal(decoder.read(features, lambda branches: decoder.scratch.fuse(branches, '_aux')), main)


def test_without_norm_and_positions_widths_are_free_and_a_pass_scales():
    torch.manual_seed(0)
    decoder = DenseFusion(16, 6, (3, 5, 5, 7), norm=False, positions=False, skip='plain')
    assert not [name for name in decoder.state_dict() if name.startswith('norm')]
    for name, value in decoder.named_parameters():
        if name.endswith('bias'):
            torch.nn.init.zeros_(value)
    features = some_features()
    found = decoder.read(features, decoder.scratch.fuse)
    features.taps = [2 * tap for tap in features.taps]
    torch.testing.assert_close(decoder.read(features, decoder.scratch.fuse), 2 * found)


@pytest.mark.parametrize('wrong', [dict(skip='relu'), dict(growth='half')])
def test_a_switch_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ConfigError, match='is one of'):
        DenseFusion(16, 8, (4, 8, 8, 12), **wrong)


def test_taps_of_other_widths_are_refused_with_what_to_do():
    features = some_features()
    features.taps[0] = features.taps[0][..., :8]
    with pytest.raises(ConfigError, match='DenseDecoder reads .*16, 16, 16, 16.* leaves 8, 16, 16, 16.*feature_layers'):
        small_decoder().decode(features, torch.nn.Identity())


def test_a_tap_may_have_a_grid_of_its_own():
    features, decoder = some_features(grid=(4, 6)), small_decoder()
    finer = torch.randn(2, 3, 8 * 12, 16)
    features.taps[0], features.tap_grids = finer, [(8, 12), None, None, None]
    found = []
    decoder.projects[0].register_forward_hook(lambda module, inputs, output: found.append(inputs[0]))
    decoder.decode(features, torch.nn.Identity())
    torch.testing.assert_close(found[0], decoder.norm(finer.flatten(0, 1)).mT.unflatten(2, (8, 12))[:len(found[0])])


def test_several_maps_of_one_pass_and_every_stage_of_the_fusion_leave_together():
    decoder, features = small_decoder(views_per_chunk=2), some_features(views=3, grid=(2, 3))

    def finish(branches):
        stages = []
        whole = decoder.enlarged(decoder.scratch.fuse(branches, stages=stages), features.image_size)
        return whole, *stages
    whole, *stages = decoder.read(features, finish)
    assert whole.equal(decoder.decode(features, lambda maps: maps))
    assert [tuple(stage.shape[-2:]) for stage in stages] == [(2, 3), (4, 6), (8, 12), (16, 24)]
    torch.testing.assert_close(decoder.enlarged(stages[-1].flatten(0, 1), features.image_size), whole.flatten(0, 1))


@pytest.mark.parametrize('size', [(9, 12), (18, 7), (20, 30)])
def test_two_resizings_are_one_with_positions_that_were_added_between(size):
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 5, 6, requires_grad=True)
    with torch.inference_mode():
        resize_through(maps.detach(), (20, 30), size)           # what it keeps serves training, too
    expected = resize_map(add_positions(resize_map(maps, (20, 30)), (40, 60)), size)
    found = add_positions(resize_through(maps, (20, 30), size), (40, 60), between=(20, 30))
    torch.testing.assert_close(found, expected)
    pull = torch.randn(expected.shape)
    for one, other in zip(*(torch.autograd.grad(value, maps, pull) for value in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)
