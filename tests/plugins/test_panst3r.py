"""PanSt3R: released names and shapes, features of any backbone, classes, one set of masks that fits together, and a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jrs.cli.convert import expand
from jrs.config import load_config
from jrs.engine.build import build_model, how_to_get
from jrs.errors import ConfigError, NonFiniteError
from jrs.plugins import load_plugins, manager
from jrs.registry import COSTS, HEADS, LOSSES, POSTPROCESSORS, build
from jrs.structures import UNNAMED, FeatureTaps, InstanceTargets, Match, QueryPredictions, SceneContext
from tests._data import ROOT, command, random_batch
from tests.engine._ranks import start_ranks, wait
from tests.engine.test_processes import distance
from tests.heads._memory import alive_bytes, saved_bytes, some_taps

load_plugins(['must3r', 'mask_decoder', 'panst3r'])
from jrs_plugins.panst3r import qubo  # noqa: E402
from jrs_plugins.panst3r.guidance import FourierFeatures, colour_range, scaled_colours  # noqa: E402
from jrs_plugins.panst3r.selection import Probabilities, overlap_weights  # noqa: E402
from jrs_plugins.panst3r.weights import in_our_layout  # noqa: E402

CONFIG = ROOT / 'configs/baselines/panst3r.py'
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys'
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')


# Weights

@pytest.mark.parametrize(('name', 'words'), [
    ('panst3r', 'released PanSt3R'), ('panst3r_v2', 'released PanSt3R'), ('panst3r_style', 'official VGGT-1B'),
    ('pano3d_style', 'yyfz233/Pi3')])
def test_weights_that_are_not_there_are_said_to_be_where_they_are(name, words):
    cfg = load_config(CONFIG.with_stem(name))
    assert words in how_to_get(cfg, cfg.weights)


@needs_keys
@pytest.mark.parametrize('version', [1, 2])
def test_the_full_model_has_every_key_and_shape_of_the_released_file(version, capsys):
    listed, config = KEYS / f'panst3r_v{version}.txt', CONFIG if version == 1 else CONFIG.with_name('panst3r_v2.py')
    assert command('convert', '--keys', listed, config, '--cfg-options', 'model.class_head.vocabulary=None') == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in ('     0 missing in the list', '     0 unknown to the model', 'agree in name'))
    keys = [key for line in listed.read_text().splitlines() if line[0] != '#' for key in expand(line.split('  ')[0])]
    packed = sum('.in_proj_' in key for key in keys) - sum('.attention.attention.' in key for key in keys) // 3
    assert f'{len(keys) + 2 * packed} agree' in printed                         # all of them; none is dropped


def test_packed_attention_is_taken_apart_and_that_of_dino_is_packed_under_the_names_of_either_program():
    torch.manual_seed(0)
    mask, layer = 'panoptic_decoder.mask_transformer.', 'dino_encoder.dinov2.encoder.layer.0.attention'
    packed, parts, out = torch.randn(12, 4), torch.randn(3, 4, 4), torch.randn(4, 4)
    others = {f'{mask}query_feat.weight': torch.randn(5, 4), f'{mask}lang_embed.weight': out,
              f'{mask}self_attn_layers.2.self_attn.in_proj_weight': packed}
    old = {f'{layer}.attention.{name}.weight': part for name, part in zip(('query', 'key', 'value'), parts, strict=True)}
    new = {f'{layer}.{letter}_proj.weight': part for letter, part in zip('qkv', parts, strict=True)}
    for dino in (old | {f'{layer}.output.dense.weight': out}, new | {f'{layer}.o_proj.weight': out}):
        state = in_our_layout(others | dino)
        names = manager().hook.jrs_weight_names(keys=list(state))
        ours = {names[key]: value for key, value in state.items()}
        assert ours['queries.layers.2.self_attention.k_proj.weight'].equal(packed[4:8])
        assert ours['feature_head.dino.vit.blocks.0.attn.qkv.weight'].equal(parts.flatten(0, 1))
        assert ours['feature_head.dino.vit.blocks.0.attn.proj.weight'].equal(out)
        assert ours['queries.content'].shape == (1, 5, 4)


# Features

def taps(dims=(8, 12), grid=(2, 3), views=3) -> FeatureTaps:
    torch.manual_seed(0)
    patches = torch.arange(1, 1 + grid[0] * grid[1])                            # behind one special token
    maps = {'images': torch.rand(1, views, 3, 16 * grid[0], 16 * grid[1])}
    return FeatureTaps([torch.randn(1, views, 1 + len(patches), dim) for dim in dims], patches, grid,
                       (16 * grid[0], 16 * grid[1]), wanted=frozenset({'mask_memory'}), maps=maps)


DINO = dict(embed_dim=8, depth=1, num_heads=2, img_size=28)
SHUFFLED = dict(type='PanSt3RFeatures', memory_dim=6, widths=(8, 8, 5))
GUIDED = dict(type='PanSt3RGuidedFeatures', width=8, num_heads=2, layers=1,
              upsampler=dict(dim=8, num_heads=2, layers=1, frequencies=3, patch_frequencies=2))
each_head = pytest.mark.parametrize('config', [SHUFFLED, GUIDED], ids=['version 1', 'version 2'])


def head(config: dict, **options):
    torch.manual_seed(1)
    return build(HEADS, dict(config, **options), 'model.feature_head', dim_in=0, tap_dims=(8, 12))


@each_head
@pytest.mark.parametrize('dino', [None, DINO])
def test_patches_of_chosen_taps_become_a_memory_and_masks_of_half_the_size(config, dino):
    part, given = head(config, taps=(1,), dino=dino), taps()
    maps = part(given)
    assert maps.shape == (1, 3, part.embedding_dim, 16, 24) and given.maps['mask_memory'].shape[-2:] == (2, 3)
    assert part.joined_dim == 12 + (8 if dino else 0)
    changed = taps()
    changed.taps[0] += 1
    assert part(changed).equal(maps)                                            # the other tap is not read
    changed.taps[1][:, :, 0] += 1
    assert part(changed).equal(maps)                                            # nor are special tokens


@each_head
def test_views_in_chunks_and_recomputed_give_the_same_maps_and_gradients(config):
    whole = head(config, dino=DINO, views_per_chunk=3).train()
    chunked = head(config, dino=DINO, views_per_chunk=1, activation_checkpointing=True).train()
    torch.testing.assert_close(whole(taps()), chunked(taps()), atol=1e-5, rtol=1e-4)
    for part in (whole.double(), chunked.double()):        # some gradients are 0 but for the rounding of large terms
        given = taps()
        found = [part(given), given.maps['mask_memory']]
        sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in found).backward()
    for (name, value), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        assert value.requires_grad != name.startswith('dino.')                  # DINOv2 is frozen
        if value.requires_grad:
            torch.testing.assert_close(value.grad, other.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_patches_of_fourteen_pixels_make_masks_with_eight_pixels_to_a_patch():
    given = taps()
    given.image_size, given.maps['images'] = (28, 42), torch.rand(1, 3, 3, 28, 42)
    assert head(SHUFFLED)(given).shape[-2:] == (16, 24) and head(GUIDED)(given).shape[-2:] == (14, 21)


@pytest.mark.parametrize(('config', 'dim'), [
    (dict(SHUFFLED, widths=(32, 24, 16)), 64), (dict(SHUFFLED, widths=(8, 8, 8)), 256),
    (dict(GUIDED, upsampler=dict(dim=32, num_heads=2)), 64)])
def test_a_head_says_the_memory_that_it_takes(config, dim):
    size, views = (96, 128), 2
    features = some_taps(views, size, 16, dim)
    features.maps['images'] = torch.rand(1, views, 3, *size)
    config = dict(config, views_per_chunk=views)
    part = build(HEADS, config, 'model.feature_head', dim_in=dim, tap_dims=(dim,), patch_size=16)
    said = part.memory(views, size, torch.device('cpu'))
    assert saved_bytes(part, features) == pytest.approx(views * said.saved, rel=0.15)
    assert alive_bytes(part, features) == pytest.approx(said.chunk, rel=0.25)
    many = some_taps(8, size, 16, dim)
    many.maps['images'] = torch.rand(1, 8, 3, *size)
    part.views_per_chunk = 1
    stays = 4 * part(many).numel()                                              # once: no chunk waits beside the whole
    assert alive_bytes(part, many) == pytest.approx(part.memory(8, size, torch.device('cpu')).chunk + stays, rel=0.25)


def test_phases_are_read_flat_and_frequencies_are_slow():
    features, values = FourierFeatures(2, 3), torch.randn(1, 2, 1, 1)
    found = features(values).flatten()
    flat = features.biases.flatten(1)                                           # (2, 6)
    for place in range(6):
        frequency, channel = divmod(place, 2)
        phase = torch.exp(torch.tensor(-2.0 + 6 * frequency)) * values[0, channel, 0, 0]
        torch.testing.assert_close(found[place], (phase + flat[0, place]).sin())
        torch.testing.assert_close(found[6 + place], (phase + flat[1, place]).cos())


def test_colours_are_scaled_by_each_picture_or_by_all():
    images = torch.rand(2, 3, 8, 8) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    own, all_ = (scaled_colours(images, colour_range(images, joint)) for joint in (False, True))
    torch.testing.assert_close(own.amax(dim=(2, 3)), torch.full((2, 3), 0.5))
    assert all_[1].max() < 0.3 and all_.amax(dim=(0, 2, 3)).allclose(torch.tensor(0.5))
    flat = scaled_colours(torch.ones(1, 3, 4, 4), colour_range(torch.ones(1, 3, 4, 4), False))
    assert flat.eq(-0.5).all()                                                  # one colour: nothing is divided by 0


def test_a_tap_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match='0 .. 1'):
        head(SHUFFLED, taps=(0, 2))
    with pytest.raises(ConfigError, match='widths are three'):
        head(SHUFFLED, widths=(8, 8))


# Classes

def said(logits: torch.Tensor, classes: str = 'sigmoid') -> QueryPredictions:
    return QueryPredictions(torch.zeros(len(logits), 1), logits, classes=classes)


def target(*labels: int) -> InstanceTargets:
    count = len(labels)
    return InstanceTargets(torch.tensor(labels, dtype=torch.int64), torch.zeros(count, 1, 2, 2, dtype=torch.bool),
                           torch.ones(count, 1))


def by_hand(logit: float, true: bool) -> float:
    p = 1 / (1 + np.exp(-logit))
    return float(0.25 * (1 - p) ** 2 * -np.log(p) if true else 0.75 * p ** 2 * -np.log(1 - p))


def pairs(queries: list[int], instances: list[int], **options) -> Match:
    return Match(torch.tensor(queries, dtype=torch.int64), torch.tensor(instances, dtype=torch.int64), **options)


LOGITS = torch.tensor([[2.0, -1.0], [0.5, 0.0], [-3.0, 1.0]])


def test_the_focal_loss_is_that_of_a_loop_and_is_divided_by_the_pairs():
    loss = build(LOSSES, dict(type='FocalLoss'), 'model.losses.classification')
    wanted = {(0, 1), (2, 0)}                                                           # query, class
    total = sum(by_hand(LOGITS[query, label].item(), (query, label) in wanted) for query in range(3) for label in range(2))
    found = loss(said(LOGITS), target(0, 1), pairs([2, 0], [0, 1]))
    assert found.item() == pytest.approx(total / 2)
    nobody = sum(by_hand(value, False) for value in LOGITS.flatten().tolist())
    assert loss(said(LOGITS), target(), pairs([], [])).item() == pytest.approx(nobody)
    pooled = loss.pooled([(said(LOGITS), target(0, 1), pairs([2, 0], [0, 1])), (said(LOGITS), target(), pairs([], []))])
    assert pooled.item() == pytest.approx((total + nobody) / 2)


def test_instances_of_which_nobody_knows_the_class_say_nothing_and_weights_count():
    loss, cost = build(LOSSES, dict(type='FocalLoss'), 'l'), build(COSTS, dict(type='FocalCost', weight=2.0), 'c')
    found = loss(said(LOGITS), target(0, UNNAMED), pairs([2, 0], [0, 1]))
    assert found.item() == pytest.approx(sum(by_hand(LOGITS[query, label].item(), (query, label) == (2, 0))
                                             for query in (1, 2) for label in range(2)))
    twice = loss(said(LOGITS), target(0, 1), pairs([2, 0], [0, 1], weights=torch.tensor([1.0, 0.0])))
    torch.testing.assert_close(twice, found)
    costs = cost(said(LOGITS), target(1, UNNAMED))
    assert costs[:, 1].eq(0).all()
    assert costs[0, 0].item() == pytest.approx(2 * (by_hand(-1.0, True) - by_hand(-1.0, False)))


@pytest.mark.parametrize('part', [dict(type='FocalLoss'), dict(type='FocalCost', weight=1.0)], ids=['loss', 'cost'])
def test_classes_with_no_object_are_refused(part):
    slot, more = (COSTS, ()) if 'weight' in part else (LOSSES, (pairs([], []),))
    with pytest.raises(ConfigError, match="classes='sigmoid'"):
        build(slot, part, 'part')(said(LOGITS, 'softmax'), target(0), *more)


def test_learned_words_are_compared_by_their_direction():
    part = build(HEADS, dict(type='LearnedClassHead', num_classes=3, embedding_dim=4, dim=5), 'model.class_head')
    embedding = torch.randn(2, 6, 4)
    expected = F.cosine_similarity(part.projection(embedding)[..., None, :], part.vectors, dim=-1)
    torch.testing.assert_close(part(embedding), 5 * expected - np.log(99))
    assert part(embedding).sigmoid().mean() < 0.1


# One set of masks that fits together

def weights(count: int, seed: int = 0) -> np.ndarray:
    """Masks that are intervals of a line, which overlap in many ways."""
    rng = np.random.default_rng(seed)
    start, length = rng.random(count) * 0.9, rng.random(count) * 0.3
    shared = np.minimum((start + length)[:, None], start + length) - np.maximum(start[:, None], start)
    result = np.maximum(shared, 0)
    np.fill_diagonal(result, -length)
    return result


@pytest.mark.parametrize('seed', range(10))
def test_a_choice_is_never_worse_than_a_greedy_one_and_a_seed_decides(seed):
    given = weights(40, seed)
    found = qubo.choose(given, seed=seed, steps=300, restarts=3)
    energy = qubo.energies(given, np.stack([found, qubo.greedy(given)]))
    assert energy[0] <= energy[1] and energy[1] < 0
    assert (found == qubo.choose(given, seed=seed, steps=300, restarts=3)).all()


def test_annealing_finds_the_best_of_all_and_keeps_its_energies_by_changes():
    for seed in range(5):
        given = weights(11, seed)
        assert (qubo.choose(given) == qubo.choose(given, steps=1000, restarts=5, exhaustive=0)).all()
    seen = qubo.anneal(given, np.random.default_rng(0), 500, 4)
    every = (np.arange(2 ** 11)[:, None] >> np.arange(11)) & 1
    assert seen.shape == (4, 11) and np.isclose(qubo.energies(given, seen).min(), qubo.energies(given, every).min())
    state = np.random.default_rng(1).random(11) < 0.5
    flipped = np.array([np.where(np.arange(11) == place, ~state, state) for place in range(11)])
    change = qubo.energies(given, flipped) - qubo.energies(given, state[None])
    np.testing.assert_allclose(qubo._changes(given, state), change)


def test_no_mask_one_mask_and_weights_that_are_none():
    assert qubo.choose(np.zeros((0, 0))).shape == (0,) and qubo.choose(np.array([[-0.5]])).tolist() == [True]
    assert qubo.choose(np.zeros((3, 3))).tolist() == [False] * 3                        # nothing is gained
    for wrong in (np.full((2, 2), np.nan), np.array([[0.0, 1], [0, 0]]), np.zeros(3)):
        with pytest.raises(ValueError, match='symmetric'):
            qubo.choose(wrong)


def scene(classes: str = 'sigmoid', valid: torch.Tensor | None = None) -> SceneContext:
    """Two views of 8 x 12 pixels: a left half, a copy of it that is less sure, a right half, and everything, unsure."""
    logits = torch.full((4, 2, 4, 6), -8.0)
    logits[0, ..., :3], logits[1, ..., :3], logits[2, ..., 3:], logits[3] = 6.0, 4.0, 6.0, -0.5
    words = torch.tensor([[3.0, -3], [2.0, -3], [-3.0, 3], [-3.0, -4]])
    words = words if classes == 'sigmoid' else torch.cat([words, torch.tensor([[-3.0], [-3], [-3], [3]])], dim=1)
    return SceneContext(QueryPredictions(torch.zeros(4, 1), words, logits, classes=classes), image_size=(8, 12), valid=valid)


PARTS = [dict(type='QuboMasks'), dict(type='QuboMasks', exhaustive=0, steps=200, restarts=4), dict(type='MergedMasks'),
         dict(type='MergedMasks', mask_threshold=0.25, overlap_threshold=0.5, rounds=2)]


@pytest.mark.parametrize('classes', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('part', PARTS, ids=['exhaustive', 'annealed', 'merged once', 'merged twice'])
def test_two_halves_are_found_once_each_and_have_the_size_of_the_picture(part, classes):
    found = build(POSTPROCESSORS, part, 'model.postprocessor')(scene(classes))
    assert sorted(found.queries.tolist()) == [0, 2] and found.packed.shape == (2, 2, 8, 12)
    assert found.masks.sum(dim=0).max() == 1 and found.scores.diff().le(0).all() and 'class probability' in found.ranking
    left = found.masks[found.queries.tolist().index(0)]
    assert left[..., :5].all() and not left[..., 7:].any()
    assert dict(zip(found.queries.tolist(), found.labels.tolist(), strict=True)) == {0: 0, 2: 1}


def test_padding_belongs_to_nobody_and_counts_to_no_area():
    valid = torch.ones(2, 8, 12, dtype=torch.bool)
    valid[1, :, 6:] = False
    for part in PARTS:
        found = build(POSTPROCESSORS, part, 'model.postprocessor')(scene(valid=valid))
        assert not found.masks[:, 1, :, 6:].any() and found.masks[:, 0].any()
    padded, whole = (overlap_weights(Probabilities(scene(valid=given)), 4) for given in (valid, None))
    assert padded[2, 2] > whole[2, 2] and torch.equal(padded, padded.T)


def test_masks_from_embeddings_and_features_are_those_of_their_logits():
    given = scene()
    features, embedding = torch.randn(2, 3, 4, 6), torch.randn(4, 3)
    logits = torch.einsum('qd,vdhw->qvhw', embedding, features)
    made = SceneContext(QueryPredictions(embedding, given.queries.class_logits, classes='sigmoid'), features, (8, 12))
    stored = SceneContext(QueryPredictions(embedding, given.queries.class_logits, logits, classes='sigmoid'), None, (8, 12))
    for part in PARTS:
        part = build(POSTPROCESSORS, part, 'model.postprocessor')
        one, other = part(made), part(stored)
        assert one.masks.equal(other.masks) and one.queries.equal(other.queries)


def test_a_scene_in_which_nothing_passes_has_no_instances():
    given = scene()
    given.queries.class_logits = torch.full((4, 2), -9.0)
    for part in PARTS:
        found = build(POSTPROCESSORS, part, 'model.postprocessor')(given)
        assert len(found) == 0 and found.packed.shape == (0, 2, 8, 12)


def test_what_is_not_finite_or_cannot_be_chosen_is_refused():
    given = scene()
    given.queries.class_logits[1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match='QuboMasks'):
        build(POSTPROCESSORS, PARTS[0], 'model.postprocessor')(given)
    for options, words in ((dict(type='QuboMasks', restarts=0), 'at least 1'),
                           (dict(type='QuboMasks', exhaustive=40), '0 to 20'),
                           (dict(type='MergedMasks', rounds=0), 'at least 1')):
        with pytest.raises(ConfigError, match=words):
            build(POSTPROCESSORS, options, 'model.postprocessor')


# A run

def words(data, work_dir, *options) -> list[str]:
    return [str(CONFIG), '--profile', 'debug', '--work-dir', str(work_dir), '--cfg-options', f'data_root={data}',
            'train.iterations=1', 'hooks.pictures=None', 'batches.views=(2,2)', 'batches.max_images=2', *options]


def test_two_processes_are_one_and_what_they_train_is_scored_and_finds_objects_in_photos(debug_data, tmp_path):
    runs = {count: tmp_path / f'{count}' for count in (1, 2)}
    for count, run in runs.items():
        ranks = start_ranks(tmp_path / f'out{count}', 'train', *words(debug_data, run, 'batches.slots=2'), count=count)
        assert wait(ranks) == [0] * count, ''.join(rank.text for rank in ranks)
    assert max(distance(*runs.values())) < 1e-5
    assert 'loss_classification' in (runs[2] / 'terms.jsonl').read_text()
    weights = runs[2] / 'weights.safetensors'
    assert command('test', str(CONFIG), str(weights), '--profile', 'debug', '--out', str(tmp_path / 'scores'),
                   '--cfg-options', f'data_root={debug_data}', 'test_dataset.max_views=2') == 0
    scores = json.loads((tmp_path / 'scores/results.json').read_text())
    assert {'instance/AP', 'instance/agnostic_AP'} <= set(scores['metrics'])
    assert 'class probability times mean mask probability' in json.dumps(scores)
    photos = next(debug_data.glob('rooms/debug/*/color'))
    assert command('infer', str(photos), '--checkpoint', str(weights), '--out', str(tmp_path / 'out'), '--max-views', '2',
                   '--device', 'cpu') == 0
    assert (tmp_path / 'out/instances.json').is_file()


def test_nothing_of_frozen_parts_learns_and_a_part_that_is_not_there_cannot_be_frozen():
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, 'debug'))
    learning = {name.partition('.')[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learning == {'feature_head', 'queries', 'class_head'}
    with pytest.raises(ConfigError, match="names 'depth_head', and the parts are backbone, geometry_head"):
        build_model(load_config(CONFIG, 'debug', {'model.frozen': ('depth_head',)}))


@pytest.mark.parametrize('type_', ['VGGT', 'Pi3'])
def test_the_decoder_stands_on_other_backbones_frozen_or_trained(type_):
    torch.manual_seed(0)
    heads = {} if type_ == 'VGGT' else {'model.camera_head': None, 'model.depth_head': None, 'model.frozen': ()}
    for frozen in (True, False):
        model = build_model(load_config(CONFIG.with_name('panst3r_style.py'), 'debug', {
            'model.backbone.type': type_, 'model.backbone.freeze': dict(patch_embed=frozen, blocks=frozen), **heads}))
        assert any(value.requires_grad for value in model.backbone.parameters()) != frozen
        model.eval()
        with torch.no_grad():
            found = model(random_batch(2))
        assert found.queries.class_logits.shape == (1, 12, 198) and found.features.shape[-2:] == (32, 32)


def test_key_views_make_the_memory_and_are_decoded_and_all_views_have_masks():
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, 'debug')).eval()
    assert model.key_views == model.backbone.key_views == 3
    batch = random_batch(5)
    with torch.no_grad():
        before = model(batch)
        batch.images[:, 1] = 1 - batch.images[:, 1]                           # of 5 views, 0, 2 and 4 are keys
        after = model(batch)
    torch.testing.assert_close(before.queries.embedding, after.queries.embedding)
    assert after.queries.mask_logits.shape[2] == 5
    assert not torch.allclose(before.features[:, 1], after.features[:, 1], atol=1e-3)
    torch.testing.assert_close(before.features[:, 3], after.features[:, 3])
