"""Methods that are not SegVGGT's: instances without queries, maps between heads, classes apart from masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError
from jrs.heads.query_class import QueryClassHead
from jrs.registry import HEADS, LOSSES, POSTPROCESSORS, QUERIES
from jrs.structures import Instances, LayerState, QueryPredictions
from tests._data import MAIN, ROOT, random_batch
from tests.models.test_optional_heads import NO_QUERIES

NO_QUERIES_BUT_FEATURES = {**NO_QUERIES, 'model.losses.spread': dict(type='Spread'), 'model.weights.spread': 1.0,
                           'model.postprocessor': dict(type='Halves')}


class Spread:
    reads = 'features'

    def __call__(self, features, target):
        return features.var() if len(target.labels) else None


class Halves:
    """Two instances, the left and the right half of all views; remembers what it saw."""

    reads = ('features', 'depth', 'cameras')

    def __call__(self, scene):
        self.scene = scene
        masks = torch.zeros(2, len(scene.features), *scene.features.shape[-2:], dtype=torch.bool)
        masks[0, ..., ::2], masks[1, ..., 1::2] = True, True
        return Instances(masks, torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 0.5]), torch.arange(2))


class Coarse(nn.Linear):
    """Points per image, of the mean of its patches, which it leaves."""

    leaves = ('mean_patch', 'nobody_asks')

    def __init__(self, dim_in):
        super().__init__(dim_in, 3)

    def forward(self, features):
        mean = features.taps[-1].mean(dim=2)                                    # (B, V, dim_in)
        features.leave('mean_patch', mean)
        features.leave('nobody_asks', mean)
        points = super().forward(mean)[:, :, None, None].expand(-1, -1, *features.image_size, -1)
        return points, points.new_full(points.shape[:-1], 2.0)


class Colours(nn.Linear):
    """Instance features of the colours of the images and of what `Coarse` leaves."""

    reads = ('images', 'mean_patch')

    def __init__(self, dim_in):
        super().__init__(dim_in, 13)

    def forward(self, features):
        self.seen = set(features.maps)
        images, mean = features.maps['images'], super().forward(features.maps['mean_patch'])
        return torch.cat([images, mean[..., None, None].expand(-1, -1, -1, *images.shape[-2:])], dim=2)     # D = 16


class Apart(nn.Module):
    """Queries whose classes are read from other numbers than their masks."""

    num_queries = 4

    def __init__(self):
        super().__init__()
        self.masks, self.classes = nn.Parameter(torch.randn(1, 4, 16)), nn.Parameter(torch.randn(1, 4, 7))

    def start(self, num_scenes, track_views):
        return num_scenes

    def read(self, state, layer):
        return state

    def finish(self, state, taps, features):
        return QueryPredictions(self.masks.expand(state, -1, -1), class_embedding=self.classes.expand(state, -1, -1))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for slot, part in ((LOSSES, Spread), (POSTPROCESSORS, Halves), (HEADS, Coarse), (HEADS, Colours), (QUERIES, Apart)):
        slot.names()
        monkeypatch.setitem(slot._module_dict, part.__name__, part)


def model_of(overrides: dict) -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(MAIN, 'debug', overrides))


def test_features_train_and_instances_come_out_without_queries():
    model = model_of(NO_QUERIES_BUT_FEATURES)
    assert model.reads_maps >= {'instance_ids'}
    model(random_batch(), mode='loss')['loss_spread'].backward()
    assert all(value.grad is not None for value in model.feature_head.parameters())
    batch = random_batch()
    batch.valid = torch.ones(1, 3, 56, 56, dtype=torch.bool)
    scene = model.eval()(batch, mode='predict')[0]
    assert scene.instances.masks.shape == (2, 3, 28, 28) and scene.view_attention is None
    seen = model.postprocessor.scene
    assert seen.queries is None and seen.image_size == (56, 56) and seen.scene_name == batch.scene_names[0]
    for name in ('features', 'depth', 'depth_conf', 'intrinsics', 'cam_from_world'):
        assert getattr(seen, name).equal(getattr(scene, name))
    assert seen.valid.shape == (3, 56, 56) and seen.points is None


@pytest.mark.parametrize(('overrides', 'words'), [
    (NO_QUERIES | {'model.postprocessor': dict(type='QueryMasks')}, 'QueryMasks reads queries, and there is no'),
    (NO_QUERIES_BUT_FEATURES | {'model.depth_head': None, 'model.losses.depth': None},
     'Halves reads depth, and there is no model.depth_head or model.geometry_head'),
    ({'model.feature_head': dict(type='Colours', _delete_=True)},
     r"model.feature_head: Colours reads the map 'mean_patch', and there are 'images'"),
])
def test_what_a_part_reads_must_be_there_before_anything_runs(overrides, words):
    with pytest.raises(ConfigError, match=words):
        model_of(overrides)


def test_heads_read_images_and_what_heads_before_them_leave_and_nothing_else_is_kept():
    model = model_of({'model.feature_head': dict(type='Colours', _delete_=True), 'model.point_head': dict(type='Coarse'),
                      'model.losses.points': dict(type='PointLoss'), 'model.weights.points': 1.0})
    terms = model(random_batch(), mode='loss')
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    assert model.feature_head.seen == {'images', 'mean_patch'} and model.point_head.weight.grad.abs().sum() > 0
    batch = random_batch()
    with torch.no_grad():
        predictions = model.eval()(batch)
    assert predictions.features[:, :, :3].equal(batch.unpacked().images)
    assert predictions.points.shape == (1, 3, 56, 56, 3) and predictions.points_conf.shape == (1, 3, 56, 56)


def test_points_stand_beside_geometry_heads_that_give_none():
    with pytest.raises(ConfigError, match='model.geometry_head gives cameras, depth and points'):
        model_of({'model.camera_head': None, 'model.depth_head': None, 'model.point_head': dict(type='Coarse'),
                  'model.geometry_head': dict(type='Coarse')})


def test_the_class_head_reads_its_own_side_of_a_query():
    model = model_of({'model.queries': dict(type='Apart', _delete_=True), 'model.class_head.embedding_dim': 7,
                      'model.alignment': None, 'model.matcher.costs.fada': None, 'model.losses.fada': None})
    assert isinstance(model.class_head, QueryClassHead)
    predictions = model(random_batch())
    expected = model.class_head(model.queries.classes)
    assert predictions.queries.class_logits.equal(expected) and predictions.queries.scene(0).class_embedding.shape == (4, 7)
    assert predictions.queries.mask_logits.shape == (1, 4, 3, 28, 28)
    assert 'loss_classification' in model(random_batch(), mode='loss')


# Key views


@pytest.mark.parametrize('queries', ['InsertedQueries', 'MaskDecoder'])
def test_queries_read_key_views_in_prediction_and_masks_are_made_in_all(queries):
    config = MAIN if queries == 'InsertedQueries' else ROOT / 'configs/baselines/vggt_mask2former_6l.py'
    torch.manual_seed(0)
    model = build_model(load_config(config, 'debug', {'model.key_views': 2})).eval()
    batch = random_batch(4)
    with torch.no_grad():
        found, whole = model(batch), model.train()(batch)
        model.eval()
        taps = model.read_layers(batch.images), model.backbone.features()
        changed = taps[1].select(torch.tensor([0, 3]))
        for tap, other in zip(taps[1].taps, changed.taps, strict=True):
            assert other.equal(tap[:, [0, 3]])
        model.key_views = 9
        everything = model(batch)
    assert found.queries.mask_logits.shape[2] == 4 and found.depth.shape[1] == 4
    assert not torch.allclose(found.queries.embedding, everything.queries.embedding)
    torch.testing.assert_close(whole.queries.embedding, everything.queries.embedding)       # training reads all views


def test_queries_pay_no_attention_to_views_that_they_do_not_read():
    model = model_of({'model.key_views': 3}).eval()
    with torch.no_grad():
        attention = model.predict_all(random_batch(6), track_views=True).queries.view_attention         # (L, B, Q, V)
    assert attention.shape[-1] == 6 and attention[..., [1, 3, 4]].eq(0).all() and attention[..., [0, 2, 5]].gt(0).all()
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))


def test_tokens_of_chosen_views_are_counted_anew_and_those_of_no_view_stay():
    layer = LayerState(3, torch.arange(7.0).view(1, 7, 1), torch.tensor([-1, 0, 0, 1, 1, 2, 2]),
                       torch.tensor([False, True, False, True, True, True, True]), 3)
    found = layer.select(torch.tensor([2, 0]))
    assert found.tokens.flatten().tolist() == [0, 1, 2, 5, 6] and found.view_index.tolist() == [-1, 1, 1, 0, 0]
    assert found.is_patch.tolist() == [False, True, False, True, True] and (found.index, found.num_views) == (3, 2)


def test_one_key_view_is_refused():
    with pytest.raises(ConfigError, match='at least 2'):
        model_of({'model.key_views': 1})
