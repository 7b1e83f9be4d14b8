import pytest
import torch
from torch import nn

from jrs.errors import WeightsError
from jrs.io.lean_build import build_on_meta, build_some
from jrs.layers.lora import add_lora


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.full((8,), 0.25), requires_grad=False)
        self.register_buffer('mean', torch.tensor([0.5]), persistent=False)


def make():
    model = nn.ModuleDict(dict(first=Part(), second=Part()))
    add_lora(model, r'second\.linear', rank=2, alpha=2)
    return model


def test_parameters_have_no_values_and_buffers_keep_theirs():
    model, order = build_on_meta(make)
    assert all(parameter.is_meta for parameter in model.parameters()) and model['first'].mean == 0.5
    assert sorted(order) == sorted(name for name, _ in model.named_parameters())
    plain = make()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == \
           {name: parameter.requires_grad for name, parameter in plain.named_parameters()}


def test_wanted_parameters_start_as_their_constructors_start_them():
    _, order = build_on_meta(make)
    wanted = {'second.scale', 'second.linear.lora_a', 'second.linear.lora_b', 'first.norm.weight', 'first.linear.weight'}
    model = build_some(make, order, wanted)
    values = dict(model.named_parameters())
    assert {name for name, value in values.items() if not value.is_meta} == wanted
    assert (values['second.scale'] == 0.25).all() and not values['second.scale'].requires_grad
    assert (values['second.linear.lora_b'] == 0).all() and (values['first.norm.weight'] == 1).all()
    for name in ('second.linear.lora_a', 'first.linear.weight'):
        assert 0.1 < values[name].std() < 0.4 and values[name].requires_grad


def test_what_starts_from_values_that_are_not_there_is_named():
    def copying():
        model = nn.Linear(3, 3)
        model.average = nn.Parameter(model.weight.detach().clone())
        return model
    with pytest.raises(WeightsError, match='average starts from the values of another'):
        build_some(copying, build_on_meta(copying)[1], {'average'})


def test_modules_made_before_and_afterwards_are_real():
    finished = nn.Linear(2, 2)
    assert build_on_meta(lambda: finished)[0] is finished
    with pytest.raises(ZeroDivisionError):
        build_on_meta(lambda: 1 / 0)
    assert not finished.weight.is_meta and not nn.Linear(2, 2).weight.is_meta
