"""Where the queries of true instances look, from the assembled model."""

import pytest
import torch

from jrs.errors import ConfigError, DataError
from jrs.models.attention import matched_attention, patch_maps, watch_tokens
from jrs.models.targets import instance_targets
from jrs.registry import MODELS, build
from jrs.structures import LayerState
from tests._data import random_batch
from tests.test_registered import GEOMETRY, MODEL, D, Q


def _model(**changes):
    torch.manual_seed(0)
    return build(MODELS, {**MODEL, **changes}, 'model').eval()


def test_view_marginals_of_the_maps_are_those_that_the_queries_report():
    model, batch = _model(queries=dict(MODEL['queries'], token_std=1.0, init_values=0.5)), random_batch(3, 2)
    model.reports_matches = True
    matched, seen = model(batch, mode='predict')[0].matched, {}
    watch_tokens(model, batch.images, matched.queries, matched.layers,
                 lambda layer, maps: seen.update({layer.index: (layer.view_index, maps[0])}))
    assert tuple(seen) == matched.layers == (0, 1)
    for index, (view_index, maps) in seen.items():
        torch.testing.assert_close(maps.sum(-1), torch.ones(2))
        per_view = torch.stack([maps[:, view_index == view].sum(-1) for view in range(3)], dim=-1)
        torch.testing.assert_close(per_view, matched.view_attention[index], rtol=0, atol=1e-6)
        assert (per_view - 1 / 3).abs().max() > 1e-4                            # not even: the comparison says something


def test_a_pair_is_the_one_that_the_training_matcher_makes():
    model, batch = _model(), random_batch(3, 3, num_scenes=2)
    model.reports_matches = True
    found = [scene.matched for scene in model(batch, mode='predict')]
    with torch.no_grad():
        queries = model.forward_images(batch.images, track_views=True).queries
    targets = instance_targets(batch, (28, 28))
    for index, (match, target) in enumerate(zip(model.match(queries, targets), targets, strict=True)):
        assert found[index].queries.equal(match.queries)
        assert found[index].target.ids.equal(target.ids[match.instances])
        assert found[index].target.masks.equal(target.masks[match.instances])


def test_matches_are_reported_on_request_only():
    scene = _model()(random_batch(), mode='predict')[0]
    assert scene.matched is None and scene.view_attention is None


def test_layers_are_numbered_as_the_backbone_counts_them():
    model, batch = _model(queries=dict(MODEL['queries'], insertion=dict(type='ListedLayers', layers=[1]))), random_batch()
    model.reports_matches = True
    matched = model(batch, mode='predict')[0].matched
    assert matched.layers == (1,) and matched.view_attention.shape == (1, 3, 3)
    with pytest.raises(ConfigError, match=r'do not read at the layers \[0\]; they read at \[1\]'):
        watch_tokens(model, batch.images, matched.queries, (0, 1), print)


def test_maps_over_patches_leave_special_tokens_out_whatever_the_order():
    view_index, is_patch = torch.tensor([1, 0, 1, -1, 0, 1, 0]), torch.tensor([1, 0, 1, 0, 1, 0, 1]).bool()
    layer = LayerState(5, torch.zeros(1, 7, 4), view_index, is_patch, 2)
    assert patch_maps(torch.arange(7.0)[None], layer, (1, 2)).tolist() == [[[[4, 6]], [[0, 2]]]]     # (n, V, 1, 2)
    with pytest.raises(ConfigError, match='one token per patch, 2 x 2 in each view, and layer 5'):
        patch_maps(torch.zeros(1, 7), layer, (2, 2))


def test_what_cannot_be_compared_is_said():
    model, batch = _model(), random_batch()
    model.reports_matches = True
    with pytest.raises(DataError, match='no true instances'):
        batch.instances = None
        model(batch, mode='predict')
    outside = _model(queries=dict(type='MaskDecoder', num_queries=Q, num_heads=2, embedding_dim=D, layers=1, width=8))
    with pytest.raises(ConfigError, match='MaskDecoder has no attention_maps'):
        watch_tokens(outside, batch.images, torch.tensor([0]), (), print)
    with torch.no_grad(), pytest.raises(ConfigError, match='these queries report none'):
        matched_attention(outside, outside.forward_images(batch.images, track_views=True).queries, random_batch())
    with pytest.raises(ConfigError, match='model.matcher is None'):
        matched_attention(build(MODELS, GEOMETRY, 'model'), None, batch)
