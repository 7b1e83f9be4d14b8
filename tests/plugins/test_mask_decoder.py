"""The decoder after the backbone: what its layers may see, what they supervise, what they do not assume."""

from __future__ import annotations

import dataclasses
import math
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
    first = queries._embed(queries.content).embedding.expand(B, -1, -1)
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


# What other decoders need (baseline_contract.md part 1)

def test_a_map_of_a_head_may_stand_in_the_place_of_the_taps():
    taps, features = scene()
    grid, views = taps.patch_grid, taps.taps[0].shape[1]
    torch.manual_seed(3)
    memory = torch.randn(B, views, 8, *grid)
    queries = made(width=8, memory='scaled', memory_dim=8, num_heads=2)
    assert queries.reads == ('scaled',) and queries.map_shapes(grid) == {'scaled': (8, *grid)}
    assert not [name for name, _ in queries.named_parameters() if name.startswith('tap_projections')]   # read as it is
    found = queries.finish(None, dataclasses.replace(taps, maps={'scaled': memory}), features).embedding
    other = queries.finish(None, dataclasses.replace(taps, taps=[tap + 1 for tap in taps.taps], maps={'scaled': memory}),
                           features).embedding
    assert other.equal(found)
    memory[:, :, :, 0] += 1
    assert not queries.finish(None, dataclasses.replace(taps, maps={'scaled': memory}), features).embedding.equal(found)
    with pytest.raises(ValueError, match='must be on the patch grid'):
        queries.finish(None, dataclasses.replace(taps, maps={'scaled': memory[..., :1]}), features)


def test_taps_of_several_widths_are_read_and_only_the_last_levels_where_they_are_fewer():
    taps, features = scene()
    wide = dataclasses.replace(taps, taps=[torch.cat([tap] * (1 + number), dim=-1) for number, tap in enumerate(taps.taps)])
    queries = made(tap_dims=[C, 2 * C, 3 * C, 4 * C], levels=2)
    assert [one.in_features for one in queries.tap_projections] == [3 * C, 4 * C]
    found = queries.finish(None, wide, features).embedding
    wide.taps[0] = wide.taps[0] + 1
    assert queries.finish(None, wide, features).embedding.equal(found)


def test_masks_are_resized_bilinearly_where_that_is_asked_for():
    features = torch.randn(1, 2, 3, 8, 12)
    embedding = torch.randn(1, 4, 3)
    logits = torch.einsum('bqd,bvdhw->bqvhw', embedding, features)
    expected = torch.nn.functional.interpolate(logits.flatten(1, 2), (2, 3), mode='bilinear').view(1, 4, 2, 6)
    cells = decoder.cell_features(features, (2, 3), decoder.RESIZES['bilinear'])
    torch.testing.assert_close(torch.einsum('bqd,bvdn->bqvn', embedding, cells), expected)
    assert not torch.allclose(cells, decoder.cell_features(features, (2, 3)), atol=1e-2)


def test_positions_of_mask2former_are_those_of_its_formula():
    found = decoder.POSITIONS['ends']((2, 3), 8, torch.device('cpu'))
    for row, column, channel in ((0, 0, 0), (1, 2, 3), (1, 0, 6), (0, 2, 5)):
        index, count, place = (row, 2, channel) if channel < 4 else (column, 3, channel - 4)
        u = (index + 1) / (count + 1e-6) * 2 * math.pi
        angle = u / 10000 ** (2 * (place // 2) / 4)
        expected = math.cos(angle) if place % 2 else math.sin(angle)
        assert found[3 * row + column, channel].item() == pytest.approx(expected, abs=1e-5)


def test_classes_are_read_from_what_the_layers_of_the_mask_embedding_read():
    taps, features = scene()
    found = made(mask_layers=3).finish(None, taps, features)
    assert all(level.class_embedding.shape == (B, Q, 8) and level.embedding.shape == (B, Q, D) for level in found.levels)
    projection = made(mask_layers=3).projection
    torch.testing.assert_close(projection(found.class_embedding), found.embedding)
    assert [type(part).__name__ for part in projection] == ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear']
    assert made().finish(None, taps, features).class_embedding is None


@pytest.mark.parametrize('options', [dict(mask_resize='nearest'), dict(positions='none'), dict(mask_layers=0)])
def test_options_that_do_not_exist_are_refused(options):
    with pytest.raises(ConfigError):
        made(**options)
