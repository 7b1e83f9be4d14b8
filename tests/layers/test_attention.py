"""Self-attention: the key bias that is masked, and the door."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers.attention import ReadingAttention, SelfAttention, fused_attention
from jrs.layers.block import Block, SwiGLU


def masked() -> Block:
    torch.manual_seed(0)
    return Block(16, 2, qk_norm=True, key_bias=False)


def put_key_bias(block: Block) -> None:
    with torch.no_grad():
        block.attn.qkv.bias.normal_()


@pytest.mark.parametrize('put', ['copy', 'load', 'assign', 'meta'])
def test_whatever_brings_a_key_bias_it_has_no_effect_and_no_gradient(put):
    block, x = masked(), torch.randn(2, 5, 16)
    put_key_bias(block)
    expected = copy.deepcopy(block)
    with torch.no_grad():
        expected.attn.qkv.bias[16:32] = 0
    expected.attn.key_bias = True
    state = {name: value.clone() for name, value in block.state_dict().items()}
    if put == 'load':
        block = masked()
        block.load_state_dict(state)
    elif put == 'assign':
        block = masked()
        block(x)
        block.load_state_dict(state, assign=True)
    elif put == 'meta':
        with torch.device('meta'):
            block = masked()
        block.load_state_dict(state, assign=True)
    found, wanted = block(x), expected(x)
    assert torch.equal(found, wanted)
    for part in (block, expected):
        for value in part.parameters():
            value.requires_grad_()
    block(x).square().sum().backward()
    expected(x).square().sum().backward()
    gradient, full = block.attn.qkv.bias.grad, expected.attn.qkv.bias.grad
    assert gradient[16:32].abs().sum() == 0 and full[16:32].abs().sum() > 0
    assert torch.equal(gradient[:16], full[:16]) and torch.equal(gradient[32:], full[32:])


def test_training_leaves_a_masked_key_bias_at_zero():
    block = masked()
    copied = copy.deepcopy(block)
    for part in (block, copied):
        optimizer = torch.optim.AdamW(part.parameters(), lr=0.1)
        for _ in range(3):
            part(torch.randn(2, 5, 16)).square().sum().backward()
            optimizer.step()
        assert part.attn.qkv.bias[16:32].abs().sum() == 0 and part.attn.qkv.bias[:16].abs().sum() > 0


def test_the_door_gets_normed_heads_and_their_tokens_and_decides_what_is_attended():
    torch.manual_seed(0)
    attention, x = SelfAttention(16, 2, qk_norm=True), torch.randn(2, 5, 16)
    seen = []

    def mix(q, k, v, tokens):
        seen.extend([q, k, v, tokens])
        return fused_attention(q, k, v, tokens) * 3
    plain, changed = attention(x), attention(x, None, mix)
    torch.testing.assert_close(changed - attention.proj.bias, 3 * (plain - attention.proj.bias))
    assert torch.equal(seen[3], x) and [part.shape for part in seen[:3]] == 3 * [(2, 2, 5, 8)]
    assert all(torch.equal(*pair) for pair in zip(seen, attention.project(x), strict=False))


@pytest.mark.parametrize(('dim', 'hidden'), [(1536, 4096), (24, 64), (384, 1024), (128, 344)])
def test_swiglu_is_as_wide_as_the_formula_says_and_gates_the_second_half_by_the_first(dim, hidden):
    with torch.device('meta'):
        assert Block(dim, 2, mlp=SwiGLU).mlp.w3.in_features == hidden == 8 * -(-int(8 * dim / 3) // 8)
    layer, x = SwiGLU(8, 32), torch.randn(3, 8)
    first, second = layer.w12(x).chunk(2, dim=-1)
    torch.testing.assert_close(layer(x), layer.w3(F.silu(first) * second))


def test_every_epsilon_of_a_block_can_be_set():
    block = Block(16, 2, norm_eps=1e-3, qk_norm=True, qk_norm_eps=1e-2)
    found = {name: part.eps for name, part in block.named_modules() if isinstance(part, nn.LayerNorm)}
    assert found == {'norm1': 1e-3, 'norm2': 1e-3, 'attn.q_norm': 1e-2, 'attn.k_norm': 1e-2}


@pytest.mark.parametrize('bias', [False, True])
def test_others_that_are_hidden_are_not_read_and_heads_divide_the_width(bias):
    torch.manual_seed(0)
    read, tokens, others = ReadingAttention(16, 2, bias), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    allowed = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    torch.testing.assert_close(read(tokens, others, allowed.expand(3, 5)), read(tokens, others[:, allowed]))
    assert not torch.allclose(read(tokens, others), read(tokens, others[:, allowed]), atol=1e-3)
    assert [name for name, _ in read.named_parameters() if 'bias' in name] == (
        ['projq.bias', 'projk.bias', 'projv.bias', 'proj.bias'] if bias else ['proj.bias'])
    for attention in (ReadingAttention, SelfAttention):
        with pytest.raises(ConfigError, match='5 attention heads do not divide a width of 16'):
            attention(16, 5)
