"""The image encoder: positions, frozen parts, and the table of sizes."""

import math

import pytest
import torch
from torch import nn

from jrs.errors import ConfigError
from jrs.layers.vit import VIT_SIZES, PatchEmbed, VisionTransformer, build_patch_embed, table_by_factor


def test_position_table_is_used_unchanged_at_its_own_size():
    encoder = VisionTransformer(8, 1, 2, img_size=42)
    assert encoder.position_table(3, 3) is encoder.pos_embed


def test_resizing_keeps_the_class_row_and_a_constant_table():
    encoder = VisionTransformer(8, 1, 2, img_size=42)
    nn.init.constant_(encoder.pos_embed, 0.25)
    nn.init.constant_(encoder.pos_embed[:, :1], 7.0)
    table = encoder.position_table(2, 5)
    assert table.shape == (1, 11, 8)
    torch.testing.assert_close(table[:, 0], torch.full((1, 8), 7.0))
    torch.testing.assert_close(table[:, 1:], torch.full((1, 10, 8), 0.25))


def test_table_with_the_same_count_but_another_shape_is_resized():
    encoder = VisionTransformer(8, 1, 2, img_size=56)                           # 4 x 4
    assert not torch.equal(encoder.position_table(2, 8), encoder.pos_embed)


def test_tokens_stay_float32_under_autocast():
    encoder = VisionTransformer(8, 2, 2, img_size=42).train()
    images = torch.randn(1, 3, 28, 42)
    with torch.autocast('cpu', torch.bfloat16):
        tokens = encoder(images)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, encoder(images), rtol=0.1, atol=0.1)


def test_mask_token_never_learns():
    assert not VisionTransformer(8, 1, 2, img_size=28).mask_token.requires_grad


def test_patches_are_row_major():
    embed = PatchEmbed(2, 1)
    nn.init.constant_(embed.proj.weight, 1 / 12)
    nn.init.zeros_(embed.proj.bias)
    image = torch.arange(6.).view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1).expand(1, 3, 4, 6)
    torch.testing.assert_close(embed(image), torch.arange(6.).view(1, 6, 1))


@pytest.mark.parametrize('name', VIT_SIZES)
def test_every_named_encoder_builds_at_its_size(name):
    with torch.device('meta'):
        encoder = build_patch_embed(name, VIT_SIZES[name].embed_dim, 518, 14)
    assert len(encoder.blocks) == VIT_SIZES[name].depth
    assert encoder.pos_embed.shape == (1, 1370, VIT_SIZES[name].embed_dim)


def test_unknown_encoder_is_met_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'dinov2_vits14_reg'"):
        build_patch_embed('dinov2_vits14', 384, 518, 14)


def test_encoder_of_another_width_is_refused():
    with pytest.raises(ConfigError, match='width 384'):
        build_patch_embed('dinov2_vits14_reg', 64, 518, 14)


def test_an_encoder_of_any_size_knows_where_a_patch_stands():
    encoder = build_patch_embed('vit', 16, 56, 14, depth=1, num_heads=2)
    with torch.no_grad():
        encoder.pos_embed.normal_()
        tokens = encoder(torch.zeros(1, 3, 42, 56))                     # one colour everywhere: 3 x 4 equal patches
    assert tokens.shape == (1, 12, 16)
    assert torch.pdist(tokens[0]).min() > 0.1


def test_a_table_resized_by_factor_reads_where_the_factor_says_and_keeps_its_own_grid():
    def weights(count: int, side: int) -> torch.Tensor:                         # (count, side), cubic with a = -0.75
        matrix = torch.zeros(count, side, dtype=torch.float64)
        for row in range(count):
            source = (row + 0.5) * side / (count + 0.1) - 0.5
            for place in range(math.floor(source) - 1, math.floor(source) + 3):
                t = abs(source - place)
                near, far = (1.25 * t - 2.25) * t * t + 1, ((-0.75 * t + 3.75) * t - 6) * t + 3
                matrix[row, min(max(place, 0), side - 1)] += near if t <= 1 else far
        return matrix
    table = torch.randn(1, 1 + 7 * 7, 2, generator=torch.Generator().manual_seed(0))
    assert table_by_factor(table, (7, 7)) is table
    found = table_by_factor(table, (4, 9))
    assert torch.equal(found[:, 0], table[:, 0])
    expected = torch.einsum('is,jt,stc->ijc', weights(4, 7), weights(9, 7), table[0, 1:].view(7, 7, 2).double())
    torch.testing.assert_close(found[0, 1:].view(4, 9, 2), expected.float())
