"""Scenes at the edge of what a step can meet train with finite numbers; accumulated batches are one large batch."""

from __future__ import annotations

import pytest
import torch

from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.engine.optim import build_optimizer
from jrs.engine.step import training_step
from jrs.structures import InstanceTable, SceneBatch
from tests._data import MAIN, random_batch


def make(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(MAIN, 'debug', options)).train()


def crowded(count: int) -> SceneBatch:
    """A batch with more instances than the model has queries."""
    batch = random_batch(num_views=2)
    rows = torch.arange(56)[:, None] * 56 + torch.arange(56)
    batch.instance_ids = (rows * count // 56**2 + 1).expand(1, 2, 56, 56).clone()          # every instance is seen
    batch.instances = [InstanceTable(torch.arange(1, count + 1), torch.arange(count) % 5)]
    return batch


def lost_by_resizing() -> SceneBatch:
    """A batch whose instances are in pixels that masks of half the size, read at their centres, leave out."""
    batch = random_batch(num_views=2)
    batch.instance_ids = torch.zeros_like(batch.instance_ids)
    batch.instance_ids[..., ::2, ::2] = 1
    return batch


def nothing_known() -> SceneBatch:
    """A batch without depth readings, and with instances that are nowhere certain."""
    batch = random_batch(num_views=2)
    batch.depth_m = torch.zeros_like(batch.depth_m)
    batch.instance_ids = torch.full_like(batch.instance_ids, -1)
    return batch


BATCHES = {'no instance': lambda: random_batch(num_views=2, num_instances=0), 'one view': lambda: random_batch(num_views=1),
           'one view, no instance': lambda: random_batch(num_views=1, num_instances=0),
           'masks empty after resizing': lost_by_resizing, 'more instances than queries': lambda: crowded(40),
           'no depth, no certain pixel': nothing_known}


@pytest.mark.parametrize('case', BATCHES)
def test_a_step_gives_finite_terms_and_a_gradient_to_every_parameter(case):
    model = make()
    batch = BATCHES[case]()
    terms = model(batch, mode='loss')
    assert all(value.isfinite() for value in terms.values()), terms
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert not [name for name, grad in trained.items() if grad is None]
    assert all(grad.isfinite().all() for grad in trained.values())
    for scene in model.eval()(batch, mode='predict'):
        assert scene.instances.scores.isfinite().all() and scene.depth.isfinite().all()


def test_masks_that_resizing_empties_are_no_targets():
    from jrs.models.targets import instance_targets
    assert instance_targets(lost_by_resizing(), (28, 28))[0].labels.shape == (0,)
    assert len(instance_targets(crowded(40), (28, 28))[0].labels) == 40 > 12


@pytest.mark.parametrize('clip_norm', [None, 0.05])
def test_accumulated_batches_are_one_large_batch(clip_norm):
    """Instance terms only: their mean over scenes is the mean of the batches' (geometry counts valid pixels)."""
    off = {f'model.losses.{name}': None for name in ('depth', 'camera')} | {
        f'model.{name}': None for name in ('depth_head', 'camera_head', 'teacher')}
    both = random_batch(num_views=2, num_scenes=2)
    both.images[1] = both.images[1].flip(-1)
    both.instance_ids[1] = both.instance_ids[1].flip(-1)
    single = [SceneBatch(**{name: None if value is None else value[row:row + 1] for name, value in vars(both).items()})
              for row in range(2)]
    trained = []
    for batches in ([both], single, single[:1]):
        model = make(**off)
        groups = dict(all=dict(lr=0.1, parameters=['*']))
        optimizer = build_optimizer(model, dict(type='SGD'), groups, clip_norm)
        training_step(model, batches, optimizer)
        trained.append(dict(model.named_parameters()))
    difference, other = ([(trained[0][name] - value).abs().max().item() for name, value in run.items()]
                         for run in trained[1:])
    assert max(difference) < 1e-6 and max(other) > 1e-4, (max(difference), max(other))
