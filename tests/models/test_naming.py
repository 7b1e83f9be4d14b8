"""Masks that no query made get the class of their mean feature; true masks teach it."""

from __future__ import annotations

import pytest
import torch

from jrs.errors import ConfigError
from jrs.heads.text_class import TextClassHead
from jrs.models.naming import mean_features, named, named_regions
from jrs.registry import MODELS, build
from jrs.structures import Instances, InstanceTargets
from tests._data import random_batch
from tests.test_registered import DENSE, GEOMETRY, D


def head():
    """Classes are the axes of features."""
    part = TextClassHead(text_dim=3, embedding_dim=3, classes='softmax', vocabulary=torch.eye(3).tolist())
    with torch.no_grad():
        part.projection.weight.copy_(torch.eye(3))
        part.projection.bias.zero_()
        part.no_object.fill_(-1.0)
    return part


def stripes():
    """Features (2, 3, 4, 6) of axis 0, 1, 2 in two columns each, and the three stripes as masks (3, 2, 4, 6)."""
    masks = torch.zeros(3, 2, 4, 6, dtype=torch.bool)
    for number in range(3):
        masks[number, :, :, 2 * number:2 * number + 2] = True
    return masks.float().transpose(0, 1), masks


def test_the_mean_feature_of_a_mask_is_that_of_its_pixels_and_0_without_any():
    features, masks = stripes()
    torch.testing.assert_close(mean_features(features, masks), torch.eye(3))
    half = masks[0] | masks[1]
    found = mean_features(features, torch.stack([half, torch.zeros_like(half)]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0], [0, 0, 0]]))


def test_instances_are_named_and_keep_their_scores():
    features, masks = stripes()
    order, scores = [2, 0, 1], torch.tensor([0.9, 0.5, 0.1])
    clusters = Instances(masks[order], torch.zeros(3, dtype=torch.int64), scores, torch.arange(3), ranking='cohesion')
    found = named(head(), clusters, features)
    assert found.labels.tolist() == order and found.scores.equal(scores) and 'names by the mean feature' in found.ranking
    large = Instances(masks[order].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), clusters.labels, scores,
                      torch.arange(3))
    assert named(head(), large, features).labels.tolist() == order
    empty = clusters.select([])
    assert named(head(), empty, features) is empty


def test_true_masks_are_their_own_matches_also_where_a_scene_has_none():
    features, masks = stripes()
    targets = [InstanceTargets(torch.tensor([0, 1, 2]), masks, torch.ones(3, 2) / 2),
               InstanceTargets(torch.zeros(0, dtype=torch.int64), masks[:0], torch.zeros(0, 2))]
    queries, matches = named_regions(head(), torch.stack([features, features]), targets)
    assert queries.scene(0).class_probabilities()[0].argmax(dim=1).tolist() == [0, 1, 2]
    assert [match.queries.tolist() for match in matches] == [[0, 1, 2], []] and queries.class_logits[1].shape == (0, 4)
    queries.say_only(torch.tensor([[True, False, True], [True, True, True]]))
    assert queries.scene(0).class_probabilities()[0][1, 1] == 0


def test_a_model_without_queries_learns_names_and_gives_them():
    words = dict(type='TextClassHead', embedding_dim=D, classes='softmax', text_dim=4, vocabulary=torch.eye(4)[:3].tolist())
    features = dict(type='InstanceFeatureHead', embedding_dim=D, **DENSE)
    torch.manual_seed(0)
    model = build(MODELS, dict(GEOMETRY, num_classes=3, feature_head=features, class_head=words, weights=dict(names=1.0),
                               losses=dict(names=dict(type='ClassLoss'))), 'model')
    batch = random_batch(num_classes=3)
    terms = model.loss(batch)
    terms['loss_names'].backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.class_head.parameters())
    assert model.feature_head is not None and any(value.grad.abs().sum() > 0 for value in model.feature_head.parameters()
                                                  if value.grad is not None)
    empty = random_batch(num_instances=0, num_classes=3)
    assert model.loss(empty)['loss_names'].item() == 0


def test_names_without_features_are_refused():
    words = dict(type='TextClassHead', text_dim=2, embedding_dim=D, vocabulary=[[1.0, 0.0]])
    with pytest.raises(ConfigError, match='needs model.feature_head'):
        build(MODELS, dict(GEOMETRY, class_head=words), 'model')
