import copy

import pytest
import torch
from torch import nn

from jrs.errors import ConfigError
from jrs.layers.attention import SelfAttention
from jrs.layers.block import Block
from jrs.layers.lora import LoRALinear, add_lora, merge_lora

TARGETS = r'.*attn\.(qkv|proj)'


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(32, 4, qk_norm=True), Block(32, 4))


def _adapted(seed: int = 1, **options) -> nn.Module:
    model = _model()
    names = add_lora(model, TARGETS, **{'rank': 4, 'alpha': 6.0, **options})
    torch.manual_seed(seed)
    for name in names:
        nn.init.normal_(model.get_submodule(name).lora_b, std=0.3)
    return model


def test_output_is_the_same_at_the_start():
    x, model = torch.randn(2, 5, 32), _model()
    before = model(x)
    names = add_lora(model, TARGETS, rank=4, alpha=8.0)
    assert names == ['0.attn.qkv', '0.attn.proj', '1.attn.qkv', '1.attn.proj']
    assert torch.equal(model(x), before)


def test_base_keys_keep_their_names_and_are_frozen():
    model, base = _model(), set(_model().state_dict())
    names = add_lora(model, TARGETS, rank=4, alpha=8.0)
    assert set(model.state_dict()) == base | {f'{name}.lora_{part}' for name in names for part in 'ab'}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f'{name}.{part}' for name in names for part in ('weight', 'bias')}
    assert model[0].attn.qkv.lora_a.shape == (4, 32) and model[0].attn.qkv.lora_b.shape == (96, 4)


def test_every_adapted_layer_changes_the_output_by_the_formula():
    x = torch.randn(2, 5, 32)
    base = _model()(x)
    for name in add_lora(_model(), TARGETS, rank=4, alpha=6.0):
        model = _model()
        add_lora(model, TARGETS, rank=4, alpha=6.0)
        layer = model.get_submodule(name)
        nn.init.ones_(layer.lora_b)
        assert (model(x) - base).abs().max() > 1e-4, name
        expected = nn.functional.linear(x, layer.weight + 1.5 * layer.lora_b @ layer.lora_a, layer.bias)
        torch.testing.assert_close(layer(x), expected)


def test_merging_keeps_the_output_and_restores_plain_layers():
    x, model = torch.randn(2, 5, 32), _adapted()
    before = model(x)
    assert (before - _model()(x)).abs().max() > 1e-3
    assert len(merge_lora(model)) == 4
    assert (model(x) - before).abs().max() <= 2e-6 * before.abs().max()
    assert set(model.state_dict()) == set(_model().state_dict())
    assert not any(isinstance(layer, LoRALinear) for layer in model.modules())


def test_gradients_reach_the_factors_only():
    model = _adapted()
    model(torch.randn(2, 5, 32)).sum().backward()
    layer = model[0].attn.qkv
    assert layer.weight.grad is None and layer.lora_a.grad.abs().max() > 0 and layer.lora_b.grad.abs().max() > 0


def test_dropout_acts_in_training_only():
    x, model = torch.randn(2, 5, 32), _adapted(dropout=0.5)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), _adapted().eval()(x))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(pattern='attn', rank=4), 'matches no linear layer'),
    (dict(pattern=TARGETS, rank=0), 'at least 1')])
def test_errors_say_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(_model(), alpha=8.0, **options)


def test_adapting_twice_is_an_error():
    model = _adapted()
    with pytest.raises(ConfigError, match='already has LoRA'):
        add_lora(model, r'0\.attn\.qkv', rank=4, alpha=8.0)


def test_a_single_attention_can_be_adapted():
    assert add_lora(SelfAttention(16, 2), 'qkv', rank=2, alpha=2.0) == ['qkv']


class Doubled(nn.Linear):
    """A linear layer whose own part must survive."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_subclass_of_linear_keeps_what_it_does_when_adapted_and_merged():
    torch.manual_seed(0)
    x, model = torch.randn(5, 8), nn.Sequential(Doubled(8, 6), nn.Linear(6, 4))
    before = model[0](x)
    add_lora(model, r'\d', rank=2, alpha=2.0)
    assert isinstance(model[0], LoRALinear) and isinstance(model[0], Doubled) and type(model[1]) is LoRALinear
    assert torch.equal(model[0](x), before)
    nn.init.normal_(model[1].lora_b)
    adapted = copy.deepcopy(model)(x)
    assert merge_lora(model) == ['0', '1'] and type(model[0]) is Doubled and type(model[1]) is nn.Linear
    assert torch.equal(model[0](x), before)
    torch.testing.assert_close(model(x), adapted)


def test_a_masked_key_bias_stays_masked_under_adapters():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 32)
    block = Block(32, 4, qk_norm=True, key_bias=False)
    before = block(x)
    nn.init.normal_(block.attn.qkv.bias[32:64].detach())
    add_lora(block, TARGETS, rank=2, alpha=2.0)
    assert torch.equal(block(x), before)
    merge_lora(block)
    assert torch.equal(block(x), before)
