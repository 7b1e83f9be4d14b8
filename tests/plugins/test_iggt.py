"""IGGT: its loss, its windows, its clusters, its weights, and that a run of it goes from training to photos."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jrs.cli import convert
from jrs.config import load_config
from jrs.engine.memory import inference_memory
from jrs.engine.needs import outline
from jrs.errors import ConfigError, JrsError
from jrs.plugins import load_plugins
from jrs.registry import HEADS, LOSSES, POSTPROCESSORS, build
from jrs.structures import FeatureTaps, InstanceTargets, SceneContext
from tests._data import ROOT, command
from tests.engine._ranks import start_ranks, wait
from tests.engine.test_processes import distance
from tests.heads._memory import alive_bytes, saved_bytes

load_plugins(['iggt'])
from jrs_plugins.iggt import clusters as clusters_module  # noqa: E402
from jrs_plugins.iggt import hdbscan as own_hdbscan  # noqa: E402
from jrs_plugins.iggt.clusters import neighbour_averages  # noqa: E402
from jrs_plugins.iggt.heads import FixedNorm  # noqa: E402
from jrs_plugins.iggt.windows import (  # noqa: E402
    from_windows,
    overlapping_windows,
    position_index,
    scrambled_windows,
    windows_of,
)

CONFIG = ROOT / 'configs/baselines/iggt.py'
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared/spec')) / 'backbones_keys/iggt.txt'


# The loss

def target(masks: torch.Tensor) -> InstanceTargets:
    return InstanceTargets(torch.zeros(len(masks), dtype=torch.int64), masks, torch.ones(len(masks), masks.shape[1]))


def loss(**options):
    return build(LOSSES, dict(type='PullPushLoss', **options), 'model.losses.pull_push')


def test_the_loss_is_that_of_a_loop_over_pairs_of_pixels_of_all_views():
    torch.manual_seed(0)
    features, ids = F.normalize(torch.randn(2, 3, 3, 4), dim=1), torch.randint(0, 4, (2, 3, 4))        # 0 = no instance
    masks = torch.stack([ids == number for number in (1, 2, 3)])
    pixels = [(features[view, :, row, column], int(ids[view, row, column])) for view in range(2) for row in range(3)
              for column in range(4) if ids[view, row, column]]
    same, different = [], []
    for first, (vector, one) in enumerate(pixels):
        for second, (other, two) in enumerate(pixels):
            gap = (vector - other).norm()
            if one != two:
                different.append((0.8 - gap).clamp_min(0))
            elif first != second:
                same.append(gap)
    expected = 2 * torch.stack(same).mean() + 3 * torch.stack(different).mean()
    torch.testing.assert_close(loss(pull=2.0, push=3.0, margin=0.8)(features, target(masks)), expected)


def test_equal_pixels_have_a_finite_gradient_and_less_than_two_say_nothing():
    features = torch.ones(1, 3, 2, 2, requires_grad=True)
    masks = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0], masks[1, 0, 1] = True, True
    loss()(features, target(masks)).backward()
    assert features.grad.isfinite().all()
    assert loss()(features, target(masks[:0])) is None
    masks[:, 0, :, 1], masks[1] = False, False
    assert loss()(features, target(masks)) is None


def test_one_scene_has_one_sample_and_each_instance_is_in_it():
    features, masks = F.normalize(torch.rand(2, 3, 16, 16), dim=1), torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    few = loss(samples=64)(features, target(masks))
    torch.manual_seed(5)
    assert few.equal(loss(samples=64)(features, target(masks))) and few != loss()(features, target(masks))
    assert loss(pull=0.0, samples=64)(features, target(masks)) > 0                      # pixels of both were drawn


def test_an_embedding_that_knows_nothing_is_not_best_at_one_point_on_the_rooms():
    torch.manual_seed(0)
    one, spread = torch.ones(8, 2, 16, 16), torch.randn(8, 2, 16, 16)
    masks = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    for profile, better in (('paper', one), ('rooms', spread), ('rooms_small', spread)):
        part = loss(**{name: value for name, value in load_config(CONFIG, profile).model.losses.pull_push.items()
                       if name != 'type'})
        at_one, apart = (float(part(F.normalize(x, dim=0).transpose(0, 1), target(masks))) for x in (one, spread))
        assert (apart < at_one) == (better is spread), profile


# The windows

def test_windows_are_tiles_in_reading_order_and_go_back():
    maps = torch.arange(2 * 3 * 16 * 24.0).view(2, 3, 16, 24)
    windows = windows_of(maps)
    assert windows.shape == (2, 6, 64, 3) and from_windows(windows, (16, 24)).equal(maps)
    assert windows[1, 4, 9].equal(maps[1, :, 8 + 1, 8 + 1])                             # second row of windows, its middle


def test_windows_of_keys_lie_around_those_of_queries_with_zeros_beyond_the_map():
    maps = torch.rand(1, 2, 16, 16) + 1
    windows = overlapping_windows(maps).view(4, 12, 12, 2)
    assert windows[0, :2].eq(0).all() and windows[0, :, :2].eq(0).all()
    assert windows[3, 2:10, 2:10].equal(maps[0, :, 8:, 8:].permute(1, 2, 0)) and windows[3, 1, 1].equal(maps[0, :, 7, 7])


def test_windows_of_queries_are_cut_from_channels_and_rows():
    maps = torch.arange(16 * 16 * 8.0).view(1, 16, 16, 8)                               # (n, C, h, w)
    read = [maps[0, 8 * c + i, 8 * y + j, x] for c in range(2) for y in range(2) for i in range(8) for j in range(8)
            for x in range(8)]
    assert scrambled_windows(maps).flatten().equal(torch.stack(read))


def test_positions_count_from_the_end_of_the_table_where_they_are_negative():
    index = position_index(torch.device('cpu'))
    for query, key in ((0, 0), (63, 0), (0, 143), (37, 101)):
        (qy, qx), (ky, kx) = divmod(query, 8), divmod(key, 12)
        assert index[query, key] == ((ky - qy - 3) * 19 + (kx - qx - 3)) % 361


# The head

def taps(grid=(4, 6), dim=8) -> FeatureTaps:
    torch.manual_seed(0)
    maps = {'point_fusion_coarse': torch.rand(1, 3, 16, *grid), 'point_fusion_fine': torch.rand(
        1, 3, 16, 4 * grid[0], 4 * grid[1])}
    return FeatureTaps([torch.rand(1, 3, grid[0] * grid[1], dim) for _ in range(4)], torch.arange(grid[0] * grid[1]), grid,
                       (14 * grid[0], 14 * grid[1]), maps=maps)


def head(**options):
    torch.manual_seed(1)
    return build(HEADS, dict(type='IGGTFeatures', dim_in=8, features=16, cross_heads=2, window_heads=2, **options),
                 'model.feature_head')


def test_views_in_chunks_and_recomputed_give_the_same_embeddings_of_length_1():
    whole, chunked = head().train(), head(views_per_chunk=1, activation_checkpointing=True).train()
    found = whole(taps())
    torch.testing.assert_close(found.norm(dim=2), torch.ones(1, 3, 56, 84))
    torch.testing.assert_close(chunked(taps()), found)
    for part in (whole, chunked):
        part(taps())[:, :, :3].square().sum(dim=(0, 1, 3, 4)).mul(torch.tensor([1.0, 2, 3])).sum().backward()
    for (name, value), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        assert (value.grad is None) == name.startswith('cross_attention_1.')
        assert value.grad is None or (value.grad - other.grad).abs().max() <= 1e-4 * value.grad.abs().max() + 1e-5


@pytest.mark.parametrize(('width', 'views', 'grid', 'options'), [
    (64, 2, (4, 6), {}), (256, 1, (4, 8), {}), (64, 3, (4, 6), dict(views_per_chunk=2, channels=16))])
def test_the_embedding_takes_the_memory_that_it_says(width, views, grid, options):
    part, size = HEADS.get('IGGTFeatures')(32, features=width, **options), (14 * grid[0], 14 * grid[1])
    maps = {name: torch.randn(1, views, *shape, requires_grad=True) for name, shape in part.map_shapes(grid).items()}
    features = FeatureTaps([torch.randn(1, views, grid[0] * grid[1], 32, requires_grad=True) for _ in range(4)],
                           torch.arange(grid[0] * grid[1]), grid, size, maps=maps)
    said, pixels = part.memory(views, size, torch.device('cpu')), size[0] * size[1]
    assert views * said.saved == pytest.approx(saved_bytes(part, features), rel=0.1)
    alive = said.chunk + 4 * views * part.embedding_dim * pixels                # the embeddings stay
    assert alive == pytest.approx(alive_bytes(part, features), rel=0.1)


@pytest.mark.parametrize(('width', 'options'), [(16, {}), (64, {}), (32, dict(views_per_chunk=1))])
def test_the_point_head_takes_the_memory_that_it_says(width, options):
    views, size = 2, (112, 168)
    part = HEADS.get('IGGTPointHead')(8, features=width, out_channels=(16, 16, 24, 24), **options)
    features = FeatureTaps([torch.randn(1, views, 8 * 12, 8) for _ in range(4)], torch.arange(8 * 12), (8, 12), size)
    features.wanted = frozenset(part.leaves)
    said = part.memory(views, size, torch.device('cpu'))
    assert said.chunk + views * said.outputs == pytest.approx(alive_bytes(part, features), rel=0.1)


def test_the_whole_model_has_an_estimate_with_the_fusion_maps_that_stay():
    model = outline(load_config(ROOT / 'configs' / 'baselines' / 'iggt.py'))
    points = 4 * 4 * 56 * 84
    assert model.point_head.memory(1, (56, 84), torch.device('cpu')).outputs == points + 4 * 17 * 4 * 6 * 256
    one, two = (inference_memory(model, views, (392, 518), torch.device('cpu')).total for views in (10, 11))
    assert two - one > 4 * 17 * 28 * 37 * 256


@pytest.mark.parametrize('grid', [(3, 4), (4, 5)])
def test_odd_grids_are_refused_with_what_to_do(grid):
    with pytest.raises(ValueError, match=rf'even numbers of patches.*got {grid[0]} x {grid[1]}.*patch_size=28'):
        head()(taps(grid))


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match='features=16 and the point head 24'):
        features = taps()
        features.maps['point_fusion_fine'] = torch.rand(1, 3, 24, 16, 24)
        head()(features)
    with pytest.raises(ConfigError, match='twice window_heads'):
        build(HEADS, dict(type='IGGTFeatures', dim_in=8, features=24, cross_heads=2, window_heads=8), 'model.feature_head')


def test_statistics_of_norms_stay_those_of_the_file_in_training():
    norm = FixedNorm(4).train()
    maps = 3 + torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(norm(maps), maps / (1 + 1e-5) ** 0.5)
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()


@pytest.mark.skipif(not KEYS.exists(), reason=f'no key list {KEYS}; set JRS_SPEC to the specification')
def test_the_full_model_has_every_key_and_shape_of_the_released_file(capsys):
    assert convert.main(['--keys', str(KEYS), str(CONFIG)]) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in ('     0 missing in the list', '     0 unknown to the model', 'agree in name'))


# The clusters

def scene(**changes) -> SceneContext:
    """Two views of a wall: its left half, its right half and a square in the right one have embeddings of their own."""
    torch.manual_seed(0)
    kind = torch.zeros(2, 24, 32, dtype=torch.int64)
    kind[..., 16:], kind[:, 8:16, 20:28] = 1, 2
    axes = torch.eye(8)[kind] + 0.05 * torch.randn(2, 24, 32, 8)
    cam_from_world = torch.eye(4).repeat(2, 1, 1)
    cam_from_world[1, 0, 3] = 1e-3
    intrinsics = torch.tensor([[32.0, 0, 15.5], [0, 32, 11.5], [0, 0, 1]]).repeat(2, 1, 1)
    given = dict(features=F.normalize(axes, dim=-1).movedim(-1, 1), image_size=(24, 32), depth=torch.full((2, 24, 32), 2.0),
                 intrinsics=intrinsics, cam_from_world=cam_from_world, scene_name='wall')
    return SceneContext(**given | changes)


def clusters(**options):
    sizes = dict(neighbours=4, epsilon=0.0, min_samples=5, min_cluster_size=60) | options
    return build(POSTPROCESSORS, dict(type='ClusteredPixels', **sizes), 'model.postprocessor')


def truth() -> torch.Tensor:
    masks = torch.zeros(3, 2, 24, 32, dtype=torch.bool)
    masks[0, ..., :16], masks[1, ..., 16:], masks[2, :, 8:16, 20:28] = True, True, True
    masks[1] &= ~masks[2]
    return masks


def overlap(found) -> torch.Tensor:
    """Return the best IoU (3,) of each true mask."""
    wanted = truth().flatten(1).double()
    masks = found.masks.flatten(1).double()
    inside = wanted @ masks.T
    return (inside / (wanted.sum(dim=1)[:, None] + masks.sum(dim=1) - inside)).amax(dim=1)


def test_objects_are_found_in_all_views_without_queries_or_classes(capsys):
    found = clusters()(scene())
    assert len(found) == 3 and overlap(found).min() > 0.8 and found.labels.eq(0).all()
    assert found.masks.sum(dim=0).eq(1).all()                                           # each pixel has one owner
    assert found.scores.diff().le(0).all() and found.ranking.startswith('cohesion')
    assert set(found.rankings) == {'probability', 'size', 'constant'}
    first = found.select([2, 0])
    assert first.rankings['size'].equal(found.rankings['size'][[2, 0]]) and first.ranking == found.ranking


@pytest.mark.parametrize(('ranking', 'first'), [('size', 0), ('constant', None), ('probability', None)])
def test_a_ranking_says_what_it_is(ranking, first):
    found = clusters(ranking=ranking)(scene())
    assert found.ranking.startswith(ranking) and 'cohesion' in found.rankings
    assert found.scores.diff().le(0).all() and 0 <= found.scores.min() <= found.scores.max() <= 1
    if first is not None:
        assert (found.masks[0] == truth()[first]).float().mean() > 0.95 and found.scores[0] == 1


def test_cohesion_is_the_mean_cosine_of_members_with_their_mean():
    given = scene()
    found = clusters()(given)
    members = given.features.movedim(1, -1)[found.masks[0]]
    expected = F.cosine_similarity(members, members.mean(dim=0)[None]).mean()
    torch.testing.assert_close(found.scores[0], expected)


def test_a_stride_clusters_fewer_assigns_the_rest_and_says_how_many(monkeypatch):
    said = []
    monkeypatch.setattr(clusters_module, 'print_log', lambda words, logger: said.append(words))
    found = clusters(max_clustered=400, min_samples=20)(scene())
    assert overlap(found).min() > 0.8 and found.masks.sum(dim=0).eq(1).all()
    counts = re.fullmatch(r'clusters of wall: 384 of 1536 pixels clustered \(every 2. row and column, min_samples 5, '
                          r'min_cluster_size 15\): (\d) clusters, (\d+) pixels of noise; (\d+) pixels assigned to the '
                          r'nearest', said[0])
    assert int(counts[1]) == len(found) and int(counts[3]) == 1536 - 384 + int(counts[2])
    clusters()(scene())
    assert said[1].startswith('clusters of wall: 1536 of 1536 pixels clustered (min_samples 5, min_cluster_size 60): 3 ')


def test_padding_and_pixels_without_depth_are_in_no_instance():
    depth, valid = torch.full((2, 24, 32), 2.0), torch.ones(2, 24, 32, dtype=torch.bool)
    depth[0, 0], depth[1, 0, 5], valid[:, -3:] = 0, torch.nan, False
    found = clusters()(scene(depth=depth, valid=valid))
    assert not found.masks[:, 0, 0].any() and not found.masks[:, 1, 0, 5].any() and not found.masks[:, :, -3:].any()
    assert found.masks.sum() == 2 * 24 * 32 - 32 - 1 - 2 * 3 * 32


def test_only_noise_is_one_instance_and_no_pixel_none():
    assert clusters(min_cluster_size=2000)(scene()).masks.all(dim=(1, 2, 3)).tolist() == [True]
    assert len(clusters()(scene(depth=torch.zeros(2, 24, 32)))) == 0


def test_masks_smaller_than_the_images_see_the_depth_of_their_pixels():
    wide = torch.full((2, 48, 64), 2.0)
    intrinsics = torch.tensor([[64.0, 0, 31.5], [0, 64, 23.5], [0, 0, 1]]).repeat(2, 1, 1)
    found = clusters()(scene(depth=wide, intrinsics=intrinsics, image_size=(48, 64)))
    assert found.masks.shape == (3, 2, 24, 32) and overlap(found).min() > 0.8


def test_an_average_leaves_the_pixel_itself_out_also_where_many_lie_in_one_place():
    points = np.concatenate([np.zeros((5, 3)), [[1.0, 0, 0], [1.1, 0, 0], [1.3, 0, 0]]])
    values = np.arange(8.0)[:, None]
    found = neighbour_averages(values, points, 2)
    assert found[5:, 0].tolist() == [6.5, 6.0, 5.5]
    assert set(found[:5, 0]) <= {(a + b) / 2 for a in range(5) for b in range(a)}
    assert neighbour_averages(values[:2], points[4:6], 20)[:, 0].tolist() == [1.0, 0.0]
    assert neighbour_averages(values[:1], points[:1], 20).tolist() == [[0.0]]


def test_what_cannot_be_clustered_is_refused():
    for options, words in ((dict(ranking='luck'), "'cohesion'"), (dict(algorithm='fast'), "'exact'"),
                           (dict(min_cluster_size=1), 'at least 2')):
        with pytest.raises(ConfigError, match=words):
            clusters(**options)
    with pytest.raises(ValueError, match='finite'):
        own_hdbscan.hdbscan(np.full((9, 2), np.nan), 1, 2)


def test_the_package_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'hdbscan', None)
    with pytest.raises(JrsError, match='pip install hdbscan'):
        clusters(algorithm='package')(scene())


def test_clusters_in_clusters_are_taken_apart_by_excess_of_mass_and_together_by_epsilon():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [0.6, 0], [8, 0]])
    points = np.concatenate([centre + 0.05 * rng.standard_normal((80, 2)) for centre in centres])
    label, sure = own_hdbscan.hdbscan(points, 5, 20)
    assert label.max() == 2 and [len(set(label[80 * k:80 * k + 80]) - {-1}) for k in range(3)] == [1, 1, 1]
    assert sure[label >= 0].min() > 0 and sure[label < 0].max(initial=0) == 0 and sure.max() == 1
    joined, _ = own_hdbscan.hdbscan(points, 5, 20, epsilon=2.0)
    assert joined.max() == 1 and len(set(joined[:160]) - {-1}) == 1


def test_the_spanning_tree_is_that_of_a_slow_search():
    rng = np.random.default_rng(1)
    points = rng.random((60, 3))
    core = own_hdbscan.core_distances(points, 3)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(core, np.sort(distances, axis=1)[:, 3])
    lengths = np.maximum(distances, np.maximum(core, core[:, None]))
    inside, total = {0}, 0.0
    while len(inside) < len(points):
        shortest = min((lengths[a, b], b) for a in inside for b in range(len(points)) if b not in inside)
        total, inside = total + shortest[0], inside | {shortest[1]}
    ends, found = own_hdbscan.spanning_tree(points, core)
    assert found.sum() == pytest.approx(total) and (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, lengths[ends[:, 0], ends[:, 1]])


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
    assert 'loss_pull_push' in (runs[2] / 'terms.jsonl').read_text()
    weights = runs[2] / 'weights.safetensors'
    assert command('test', str(CONFIG), str(weights), '--profile', 'debug', '--out', str(tmp_path / 'scores'),
                   '--cfg-options', f'data_root={debug_data}', 'test_dataset.max_views=2') == 0
    scores = json.loads((tmp_path / 'scores/results.json').read_text())
    by_others = {f'instance/by_{name}_agnostic_AP' for name in ('size', 'constant', 'probability')}
    assert {'instance/agnostic_AP', *by_others} <= set(scores['metrics'])
    assert 'cohesion: mean cosine' in json.dumps(scores)
    photos = next(debug_data.glob('rooms/debug/*/color'))
    assert command('infer', str(photos), '--checkpoint', str(weights), '--out', str(tmp_path / 'out'), '--max-views', '2',
                   '--device', 'cpu') == 0
    found = json.loads((tmp_path / 'out/instances.json').read_text())
    assert found['instances'] and {one['class'] for one in found['instances']} == {'object'}


def test_every_profile_keeps_sides_in_whole_windows():
    for profile in ('paper', 'rooms', 'rooms_small', 'debug'):
        cfg = load_config(CONFIG, profile)
        for name in ('train_dataset', 'val_dataset', 'test_dataset'):
            assert cfg[name].patch_size == 28 and cfg[name].width % 28 == 0
