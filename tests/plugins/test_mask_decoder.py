"""The decoder after the backbone: what its layers may see, what they supervise, what they do not assume."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F

from jrs.config import load_config
from jrs.errors import ConfigError
from jrs.masks import mask_logits
from jrs.plugins import load_plugins
from jrs.registry import MODELS, QUERIES, build, owner_of
from jrs.structures import FeatureTaps
from tests._data import ROOT, random_batch

load_plugins(['mask_decoder'])
MaskDecoder = QUERIES.get('MaskDecoder')
decoder = sys.modules[MaskDecoder.__module__]
CONFIG = ROOT / 'configs' / 'baselines' / 'vggt_mask2former_6l.py'
B, Q, D, C, GRID = 2, 5, 8, 12, (2, 3)
PATCHES = [1, 2, 4, 5, 6, 8]                    # of 9 tokens: two special ones between patches, one at the end


def made(layers: int = 4, **options):
    torch.manual_seed(0)
    sizes = dict(num_queries=Q, num_heads=2, width=8, hidden=16, embedding_dim=D)
    return MaskDecoder(dim_in=C, layers=layers, **dict(sizes, **options))


def scene(views: int = 3) -> tuple[FeatureTaps, torch.Tensor]:
    generator = torch.Generator().manual_seed(views)
    maps = [torch.randn(B, views, 9, C, generator=generator) for _ in range(4)]
    taps = FeatureTaps(maps, torch.tensor(PATCHES), GRID, (28, 42))
    return taps, torch.randn(B, views, D, 14, 21, generator=generator)


def test_it_belongs_to_the_plugin():
    assert owner_of(MaskDecoder) == 'mask_decoder'


@pytest.mark.parametrize('layers', [1, 3, 6])
def test_there_is_a_prediction_before_the_first_and_after_each_layer(layers):
    queries = made(layers)
    found = queries.finish(queries.start(B), *scene())
    assert len(found.auxiliary) == layers and len(found.levels) == layers + 1 and found.levels[-1] is found
    assert all(level.embedding.shape == (B, Q, D) and level.view_attention is None for level in found.levels)
    assert queries.eval().finish(None, *scene()).auxiliary == []
    first = queries._embed(queries.content).expand(B, -1, -1)
    torch.testing.assert_close(found.levels[0].embedding, first)


def test_order_of_views_means_nothing():
    queries, (taps, features) = made(), scene()
    order = [2, 0, 1]
    moved = dataclasses.replace(taps, taps=[tap[:, order] for tap in taps.taps])
    for before, after in zip(queries.finish(None, taps, features).levels,
                             queries.finish(None, moved, features[:, order]).levels, strict=True):
        torch.testing.assert_close(before.embedding, after.embedding, rtol=1e-4, atol=1e-5)


def test_order_of_patches_within_a_view_does():
    queries, (taps, features) = made(), scene()
    mirrored = dataclasses.replace(taps, patch_index=taps.patch_index.flip(0))
    before, after = (queries.finish(None, given, torch.zeros_like(features)).embedding for given in (taps, mirrored))
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_query_sees_the_patches_that_its_mask_covers_and_every_token_that_is_no_patch():
    """Against the definition: full mask logits, averaged over each patch, probability of at least one half."""
    queries, (taps, features) = made(), scene()
    embedding = torch.randn(B, Q, D)
    cells = decoder.cell_features(features, GRID)
    allowed = queries.allowed_tokens(embedding, cells, taps).view(B, Q, 3, 9)
    logits = mask_logits(embedding, features)                                   # (B, Q, V, h, w)
    pooled = F.avg_pool2d(logits.flatten(0, 2)[:, None], 7).view(B, Q, 3, len(PATCHES))
    assert torch.equal(allowed[..., PATCHES], pooled.sigmoid() >= 0.5)
    others = [index for index in range(9) if index not in PATCHES]
    assert allowed[..., others].all() and not allowed.all()


def test_tokens_that_are_hidden_have_no_influence():
    queries, (taps, features) = made(layers=1), scene()
    features[:] = 0
    features[:, 0, 0], features[:, 1:, 0] = 1.0, -1.0                           # a mask over the whole of the first view
    with torch.no_grad():
        queries.projection.weight[0], queries.projection.bias[0] = 0, 5.0
    before = queries.finish(None, taps, features).embedding
    patches = taps.taps[0][:, 1:, PATCHES]
    taps.taps[0][:, 1:, PATCHES] = patches + 100 * torch.randn_like(patches)
    torch.testing.assert_close(queries.finish(None, taps, features).embedding, before)
    taps.taps[0][:, 0, PATCHES] += 100
    assert not torch.allclose(queries.finish(None, taps, features).embedding, before)


def test_a_query_that_would_see_no_patch_sees_all():
    queries, (taps, features) = made(), scene()
    features[:] = 0
    features[:, 1, 0] = -1.0
    features[:, [0, 2], 0] = -2.0
    embedding = torch.zeros(B, Q, D)
    embedding[:, 0, 0], embedding[:, 1, 0] = 1.0, -1.0                          # covers nothing; covers everything
    assert queries.allowed_tokens(embedding, decoder.cell_features(features, GRID), taps)[:, :2].all()
    features[:, 1, 0] = 1.0
    seen = queries.allowed_tokens(embedding, decoder.cell_features(features, GRID), taps).view(B, Q, 3, 9)
    assert seen[:, 0, 1].all() and not seen[:, 0, 0, PATCHES].any()


def test_masks_are_detached_and_every_parameter_learns():
    queries, (taps, features) = made(), scene()
    features.requires_grad_()
    found = queries.finish(None, taps, features)
    sum((level.embedding * torch.randn_like(level.embedding)).sum() for level in found.levels).backward()
    lacking = [name for name, value in queries.named_parameters() if value.grad is None]
    assert not lacking and features.grad is None
    still = [name for name, value in queries.named_parameters() if not value.grad.abs().sum() > 1e-6]
    assert all(name.endswith('k_proj.bias') for name in still), still           # a bias of all keys cancels in the softmax


def test_layers_take_the_taps_in_turn():
    queries, (taps, features) = made(layers=6), scene()
    changed_from = []
    before = queries.finish(None, taps, features).levels
    for index in range(4):
        other = list(taps.taps)
        other[index] = other[index] + 1
        after = queries.finish(None, dataclasses.replace(taps, taps=other), features).levels
        changed_from.append(next(level for level in range(7) if not torch.equal(before[level].embedding,
                                                                                after[level].embedding)))
    assert changed_from == [1, 2, 3, 4]


def test_positions_are_distinct_bounded_and_the_same_fraction_of_any_grid():
    places = decoder.sine_positions((3, 5), 8, torch.device('cpu'))
    assert places.shape == (15, 8) and len(places.unique(dim=0)) == 15 and places.abs().max() <= 1
    torch.testing.assert_close(places[7], decoder.sine_positions((1, 1), 8, torch.device('cpu'))[0])    # both centres


@pytest.mark.parametrize('options', [dict(width=10), dict(num_heads=3), dict(layers=0), dict(mask_threshold=1.0)])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match='MaskDecoder'):
        made(**options)


def test_another_number_of_taps_is_refused_with_what_to_do():
    taps, features = scene()
    with pytest.raises(ValueError, match='model.queries.levels'):
        made().finish(None, dataclasses.replace(taps, taps=taps.taps[:3]), features)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(CONFIG, 'debug').model, num_classes=5), 'model')


def test_every_level_is_matched_and_counts(model):
    batch = random_batch(2)
    predictions = model.forward_images(batch.images)
    assert len(predictions.queries.auxiliary) == 6
    assert all(level.class_logits.shape == (1, 12, 6) and level.features is predictions.features
               for level in predictions.queries.levels)
    terms = model(batch, mode='loss')
    assert terms['loss_mask_dice'] > 3 * terms['mask_dice/final'] > 0


def test_levels_have_mask_logits_where_the_final_one_has(model):
    found = model(random_batch(2), mode='tensor').queries
    assert all(level.mask_logits.shape == found.mask_logits.shape for level in found.levels)
    assert not torch.equal(found.auxiliary[0].mask_logits, found.mask_logits)


def test_what_memory_a_run_needs_can_be_estimated(model):
    from jrs.engine.memory import inference_memory, training_memory
    cpu = torch.device('cpu')
    assert 0 < inference_memory(model, 2, (56, 56), cpu).total
    small, large = (training_memory(build(MODELS, dict(load_config(CONFIG, 'debug', {'model.queries.layers': layers}).model),
                                          'model'), 2, (56, 56), cpu) for layers in (6, 12))
    assert large.per_view - small.per_view >= 4 * 16 * 3 * 6 * 32               # 16 patches, 6 layers of width 32


def test_one_scene_is_learned(model):
    """Overfits: the loss of a fixed batch falls by half in 30 steps."""
    batch = random_batch(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        total = sum(value for name, value in model(batch, mode='loss').items() if name.startswith('loss_mask'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.5 * totals[0], totals
