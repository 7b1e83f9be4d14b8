"""The transformer block and its attention against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers import block as block_module
from jrs.layers.attention import SelfAttention
from jrs.layers.block import Block, LayerScale, Mlp, SwiGLU
from jrs.layers.rope import GridRotation


def test_attention_equals_a_loop_over_heads():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, qk_norm=True)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, 5, 12)
    rope = GridRotation(torch.randint(0, 4, (5, 2)), 4)
    query, key, value = F.linear(tokens, attention.qkv.weight, attention.qkv.bias).split(12, dim=-1)
    outputs = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        q = rope(attention.q_norm(query[..., part])[:, None])[:, 0]
        k = rope(attention.k_norm(key[..., part])[:, None])[:, 0]
        outputs.append((q @ k.mT / 2).softmax(dim=-1) @ value[..., part])
    torch.testing.assert_close(attention(tokens, rope), attention.proj(torch.cat(outputs, dim=-1)))


def test_attention_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ConfigError, match='5 attention heads do not divide a width of 12'):
        SelfAttention(12, 5)


def test_block_is_two_scaled_residual_branches():
    torch.manual_seed(0)
    block = Block(8, 2, mlp_ratio=2, init_values=0.5)
    tokens = torch.randn(1, 3, 8)
    middle = tokens + 0.5 * block.attn(block.norm1(tokens))
    torch.testing.assert_close(block(tokens), middle + 0.5 * block.mlp(block.norm2(middle)))


def test_block_without_layer_scale_has_no_gamma():
    assert not [name for name in Block(8, 2, init_values=None).state_dict() if 'gamma' in name]


def test_half_precision_branch_leaves_layer_scale_in_float32():
    assert LayerScale(4, 1.0)(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_residual_stream_stays_float32_under_autocast():
    block = Block(8, 2, qk_norm=True)
    with torch.autocast('cpu', torch.bfloat16):
        assert block(torch.randn(1, 3, 8), GridRotation(torch.ones(3, 2), 4)).dtype == torch.float32


def test_queries_and_keys_are_normalised_and_turned_in_float32_under_autocast():
    attention, seen = SelfAttention(8, 2, qk_norm=True), []

    def rope(heads):
        seen.append(heads.dtype)
        return heads
    with torch.autocast('cpu', torch.bfloat16):
        attended = attention(torch.randn(1, 3, 8), rope)
    assert seen == [torch.float32, torch.float32]
    assert attended.dtype == torch.bfloat16


def test_block_cast_to_half_precision_runs_in_it():
    block = Block(8, 2, qk_norm=True).to(torch.bfloat16)
    assert block(torch.randn(1, 3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_mlp_can_change_the_width():
    assert Mlp(8, 4, 9)(torch.randn(2, 8)).shape == (2, 9)


@torch.no_grad()
@pytest.mark.parametrize('kind', [Mlp, SwiGLU])
def test_without_gradients_the_wide_middle_is_made_for_few_tokens_at_a_time(kind, monkeypatch):
    torch.manual_seed(0)
    mlp, tokens, widest = kind(6, 24), torch.randn(3, 7, 6), []
    expected = mlp(tokens)
    first = next(mlp.children())
    first.register_forward_hook(lambda module, inputs, output: widest.append(output.numel()))
    monkeypatch.setattr(block_module, 'HIDDEN_VALUES', 4 * first.out_features)
    torch.testing.assert_close(mlp(tokens), expected)
    assert len(widest) == 6 and max(widest) <= 4 * first.out_features


@pytest.mark.parametrize('init_values', [None, 0.3])
@pytest.mark.parametrize('autocast', [False, True])
def test_without_gradients_a_block_gives_the_same_numbers_and_leaves_what_it_reads(init_values, autocast):
    torch.manual_seed(0)
    block, tokens = Block(8, 2, init_values=init_values), torch.randn(2, 5, 8)
    given = tokens.clone()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        expected = block(tokens)
        with torch.no_grad():
            found = block(tokens)
    assert torch.equal(found, expected) and found.dtype == expected.dtype and torch.equal(tokens, given)
