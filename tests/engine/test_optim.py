"""Parameter groups: every trainable parameter in one, no group empty; the schedule warms up and decays."""

import pytest
import torch
from torch import nn

from jrs.config import load_config
from jrs.engine.build import build_runner
from jrs.engine.optim import build_optimizer, build_schedule, parameter_groups
from jrs.errors import ConfigError, NonFiniteError
from tests._data import MAIN


def model() -> nn.ModuleDict:
    return nn.ModuleDict(dict(backbone=nn.Linear(3, 3), queries=nn.Linear(3, 2)))


GROUPS = dict(new=dict(lr=1e-3, parameters=['queries.*']), pretrained=dict(lr=1e-4, parameters=['backbone.*']))


def test_each_parameter_joins_the_first_group_with_a_matching_pattern():
    groups = parameter_groups(model(), dict(GROUPS, rest=dict(lr=0.0, parameters=['*.bias'], optional=True)))
    found = [(group['name'], len(group['params']), group['lr']) for group in groups]
    assert found == [('new', 2, 1e-3), ('pretrained', 2, 1e-4)]


def test_a_trainable_parameter_that_no_group_takes_is_named():
    with pytest.raises(ConfigError, match="'backbone.weight'.*queries"):
        parameter_groups(model(), dict(new=GROUPS['new'], pretrained=None))


def test_a_frozen_parameter_needs_no_group_and_a_group_of_nothing_is_refused_unless_optional():
    frozen = model()
    frozen['backbone'].requires_grad_(False)
    assert len(parameter_groups(frozen, dict(new=GROUPS['new']))) == 1
    with pytest.raises(ConfigError, match='parameter_groups.pretrained matches no trainable parameter'):
        parameter_groups(frozen, GROUPS)
    assert len(parameter_groups(frozen, dict(GROUPS, pretrained=dict(GROUPS['pretrained'], optional=True)))) == 1


def test_a_gradient_that_is_not_finite_is_named_and_leaves_the_weights():
    net = model()
    optimizer = build_optimizer(net, dict(type='AdamW'), GROUPS, clip_norm=1.0)
    before = net['queries'].weight.detach().clone()
    loss = (net['queries'](torch.ones(3)) * 0).abs().sqrt().sum() + net['backbone'].weight.sum()
    with pytest.raises(NonFiniteError, match=r"group 'new', shape \(2, 3\)"):
        optimizer.update_params(loss)
    assert net['queries'].weight.equal(before)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine_to_its_factor():
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    schedule, rates = build_schedule(optimizer, iterations=100, warmup=0.1, final=1e-2), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for part in schedule:
            part.step()
    assert rates[0] < 0.01 and max(rates) == pytest.approx(1.0) and rates.index(max(rates)) in (9, 10, 11)
    assert rates[55] == pytest.approx(0.505, abs=0.02) and rates[-1] == pytest.approx(1e-2, abs=2e-3)


def clipped_norms(**settings) -> dict[str, float]:
    """Return the norm of each part's gradient in the step of a model whose backbone has the larger ones."""
    net, norms = model(), {}
    optimizer = build_optimizer(net, dict(type='SGD'), GROUPS, clip_norm=1.0, **settings)
    (1000 * net['backbone'](torch.ones(3)).sum() + 2 * net['queries'](torch.ones(3)).sum()).backward()
    optimizer.step()
    for name, part in net.named_children():
        norms[name] = torch.stack([value.grad.norm() for value in part.parameters()]).norm().item()
    return norms


def test_gradients_are_clipped_together_or_by_group_or_by_module():
    together = clipped_norms()
    assert together['backbone'] == pytest.approx(1, abs=1e-4) and together['queries'] < 0.01      # drowned by the backbone
    for way in ('groups', 'modules'):
        assert clipped_norms(clip_by=way) == pytest.approx(dict(backbone=1, queries=1), abs=1e-4)
    one = dict(clip_by='groups')
    joined = dict(all=dict(lr=1e-3, parameters=['*']))
    net = model()
    assert set(build_optimizer(net, dict(type='SGD'), joined, 1.0, **one).parts.values()) == {'all'}


def test_a_run_clips_and_decays_as_its_config_says(debug_data, tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def see(model, optimizer, groups, *settings):
        raise SeenError(*settings)
    monkeypatch.setattr('jrs.engine.build.build_optimizer', see)
    overrides = {'data_root': str(debug_data), 'hooks.pictures': None, 'train.validate_every': 0}
    for own, expected in (({}, (1.0, 'all', True)),
                          ({'train.clip_by': 'modules', 'train.decay_vectors': False}, (1.0, 'modules', False))):
        with pytest.raises(SeenError) as seen:
            build_runner(load_config(MAIN, 'debug', {**overrides, **own}), tmp_path)
        assert seen.value.args == expected


def test_vectors_may_go_without_weight_decay():
    net, decayed = model(), {}
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for decay_vectors in (True, False):
        net.load_state_dict(before)
        optimizer = build_optimizer(net, dict(type='AdamW', weight_decay=0.5), GROUPS, None, decay_vectors=decay_vectors)
        net.zero_grad()
        sum((value * 0).sum() for value in net.parameters()).backward()                            # nothing but decay
        optimizer.step()
        decayed[decay_vectors] = {name for name, value in net.named_parameters() if not value.equal(before[name])}
    assert decayed == {True: set(before), False: {'backbone.weight', 'queries.weight'}}
    groups = parameter_groups(net, GROUPS, decay_vectors=False)
    assert [(group['name'], group['lr'], group.get('weight_decay')) for group in groups] == [
        ('new', 1e-3, None), ('new_vectors', 1e-3, 0.0), ('pretrained', 1e-4, None), ('pretrained_vectors', 1e-4, 0.0)]
