"""The assembled model: what saves memory changes no number."""

import copy
import dataclasses

import pytest
import torch

from jrs.config import load_config
from jrs.errors import NonFiniteError
from jrs.layers import block
from jrs.registry import MODELS, build
from jrs.structures import Instances, SceneBatch
from tests._data import random_batch

CONFIG = 'configs/segvggt/all24_fada.py'


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    cfg = load_config(CONFIG, 'debug')
    return build(MODELS, dict(cfg.model, autocast='bfloat16'), 'model').eval()


@pytest.fixture
def batch():
    images = torch.rand(1, 3, 3, 42, 56, generator=torch.Generator().manual_seed(0))
    return SceneBatch(images, ['scene'], [['0', '1', '2']])


@torch.no_grad()
def test_narrow_weights_give_the_same_numbers_as_autocast(model, batch):
    narrow = copy.deepcopy(model).narrow()
    kept = {name for name, value in narrow.named_parameters() if value.dtype == torch.float32}
    assert 'queries.projection.weight' in kept and 'backbone.frame_blocks.0.norm1.weight' in kept
    assert 'depth_head.projects.0.weight' in kept and 'backbone.global_blocks.0.mlp.fc1.weight' not in kept
    expected, found = model.predict_all(batch), narrow.predict_all(batch)
    assert torch.equal(found.depth, expected.depth)
    assert torch.equal(found.queries.mask_logits, expected.queries.mask_logits)
    assert torch.equal(found.queries.class_logits, expected.queries.class_logits)


def test_without_autocast_nothing_is_narrowed(batch):
    model = build(MODELS, load_config(CONFIG, 'debug').model, 'model').narrow()
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert any(value.requires_grad for value in model.backbone.parameters())


@torch.no_grad()
def test_chunks_of_tokens_change_nothing(model, batch, monkeypatch):
    model = copy.deepcopy(model)
    model.autocast_dtype = None
    whole = model.predict_all(batch)
    monkeypatch.setattr(block, 'HIDDEN_VALUES', 5 * model.backbone.embed_dim * 4)
    chunked = model.predict_all(batch)
    torch.testing.assert_close(chunked.depth, whole.depth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chunked.queries.mask_logits, whole.queries.mask_logits, rtol=1e-4, atol=1e-4)


def test_reconstruct_keeps_no_graph_and_frees_the_taps(model, batch):
    scene = model.reconstruct(batch)[0]
    assert not scene.depth.requires_grad and not scene.features.requires_grad
    with pytest.raises(RuntimeError, match='features'):
        model.backbone.features()


def test_packed_and_unpacked_batches_give_the_same_numbers_through_every_door():
    """The data preprocessor's road, and direct calls with either kind."""
    torch.manual_seed(0)
    model = build(MODELS, load_config(CONFIG, 'debug').model, 'model').eval()
    whole = random_batch()
    packed = dataclasses.replace(whole, images=(whole.images * 255).to(torch.uint8), instance_ids=whole.instance_ids.short())
    batch = dataclasses.replace(whole, images=packed.images.float() / 255)
    given = model.data_preprocessor(packed)['batch']
    assert torch.equal(given.images, batch.images) and torch.equal(given.instance_ids, batch.instance_ids)
    losses = [{name: value.item() for name, value in model.loss(one).items()} for one in (packed, given, batch)]
    assert losses[0] == losses[1] == losses[2]
    with torch.no_grad():
        scenes = [model(one, mode='predict')[0] for one in (packed, batch)]
        assert torch.equal(scenes[0].images, scenes[1].images) and torch.equal(scenes[0].depth, scenes[1].depth)
        assert torch.equal(model(packed).depth, model.forward_images(packed.images).depth)


@pytest.mark.parametrize('name', ['cameras', 'depth', 'depth_conf', 'features', 'class_logits', 'embedding'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_predictions_that_are_not_finite_are_refused_before_they_are_ranked(model, batch, monkeypatch, name, bad):
    predictions = model.forward_images(batch.images)
    owner = predictions.queries if name in ('class_logits', 'embedding') else predictions
    values = owner.pose_encodings[-1] if name == 'cameras' else getattr(owner, name)
    values[(0,) * (values.ndim - 1)][:2] = bad
    monkeypatch.setattr(model, 'forward_images', lambda *arguments: predictions)
    monkeypatch.setattr(model, 'postprocessor', None)                            # nothing is ranked
    with pytest.raises(NonFiniteError, match=rf'model predicts for scene: not finite: {name} 2 of {values.numel()} values'):
        model(batch, mode='predict')


def test_scores_of_a_postprocessor_that_are_not_finite_are_refused(model, batch, monkeypatch):
    found = Instances(torch.ones(2, 3, 4, 4, dtype=torch.bool), torch.zeros(2, dtype=torch.int64),
                      torch.tensor([0.5, float('nan')]), torch.arange(2))
    monkeypatch.setattr(model, 'postprocessor', lambda *arguments: found)
    with pytest.raises(NonFiniteError, match='reconstruction of scene: not finite: scores of instances 1 of 2 values'):
        model(batch, mode='predict')
