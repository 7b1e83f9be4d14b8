"""Batches and views are pure functions of a seed and a number."""

import dataclasses
import hashlib
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jrs.datasets.sampling import CovisibleViews, SpacedViews, ViewBatchSampler, choose_covisible, choose_views, spread_views
from jrs.datasets.scene import Frame, SceneRecord
from jrs.errors import ConfigError, DataError


def batches(count, start=0, **options):
    sampler = ViewBatchSampler(**{'num_scenes': 50, 'seed': 3, **options})
    sampler.set_position(start)
    return list(islice(sampler, count))


def test_batch_depends_on_seed_and_number_only():
    run = batches(30)
    assert batches(10, start=20) == run[20:]
    assert batches(30) == run
    assert batches(30, seed=4) != run


@pytest.mark.parametrize(('options', 'digest'), [
    (dict(views=(3, 8)), '6a2693f8d876cfe8'), (dict(views=(2, 12), slots=2, world_size=2, rank=0), '7b4ce5f7f584949b'),
    (dict(views=(2, 12), slots=2, world_size=2, rank=1), '61b83cc10744c6f9')])
def test_the_committed_runs_on_rooms_can_be_made_again(options, digest):
    """The order of their samples: 400 iterations of an experiment in one process, of the geometry in two."""
    given = batches(400, num_scenes=160, seed=0, max_images=24, aspect_ratio=(0.75, 0.75), **options)
    plain = [[dataclasses.astuple(request) for request in batch] for batch in given]
    assert hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16] == digest


def test_position_holds_for_the_next_iteration_too():
    sampler = ViewBatchSampler(50, 3)
    sampler.set_position(7)
    first = next(iter(sampler))
    assert next(iter(sampler)) == first == sampler.batch(7, slot=0)


def test_position_far_away_costs_nothing_and_fits():
    assert batches(1, start=10 ** 9)[0][0].draw >= 10 ** 9


def test_batch_has_one_number_of_views_one_ratio_and_fits_the_memory():
    seen = set()
    for batch in batches(300):
        assert len({(request.num_views, request.aspect_ratio) for request in batch}) == 1
        views, ratio = batch[0].num_views, batch[0].aspect_ratio
        assert len(batch) == max(1, 48 // views)
        assert 0.33 <= ratio <= 1.0 and ratio == round(ratio, 2)
        assert len({request.index for request in batch}) == len(batch)
        seen.add(views)
    assert seen == set(range(2, 25))


def test_no_draw_number_repeats():
    draws = [request.draw for batch in batches(200) for request in batch]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize('world_size', [1, 2, 4, 8])
def test_all_splits_of_an_update_see_the_same_samples(world_size):
    """Each process takes its slots in turn, also from the middle of a run on."""
    each = 8 // world_size
    parts = [batches(5 * each, start=3, max_images=8, views=(2, 4), slots=8, rank=rank, world_size=world_size)
             for rank in range(world_size)]
    sampler = ViewBatchSampler(50, 3, max_images=8, views=(2, 4), slots=8)
    for update in range(5):
        seen = [batch for part in parts for batch in part[update * each:(update + 1) * each]]
        assert seen == [sampler.batch(3 + update, slot) for slot in range(8)]
        assert len({(request.num_views, request.aspect_ratio) for batch in seen for request in batch}) == 1
        assert len({len(batch) for batch in seen}) == 1


def test_an_update_of_several_slots_has_different_scenes_as_long_as_there_are_enough():
    for update in range(20):
        sampler = ViewBatchSampler(50, 3, max_images=8, views=(2, 4), slots=8)
        scenes = [request.index for slot in range(8) for request in sampler.batch(update, slot)]
        assert len(set(scenes)) == len(scenes)


def test_slots_are_equal_even_with_few_scenes():
    for num_scenes in (1, 3, 5):
        parts = [batches(5, num_scenes=num_scenes, slots=2, rank=rank, world_size=2, views=(2, 2)) for rank in range(2)]
        for first, second in zip(*parts, strict=True):
            assert len(first) == len(second) == max(1, num_scenes // 2)


def test_every_scene_is_used():
    assert {request.index for batch in batches(100) for request in batch} == set(range(50))


@pytest.mark.parametrize('options', [{'views': (0, 2)}, {'views': (5, 2)}, {'aspect_ratio': (0.5, 0.4)},
                                     {'num_scenes': 0}, {'rank': 2, 'world_size': 2, 'slots': 2},
                                     {'max_images': 0}, {'slots': 0}, {'slots': 3, 'world_size': 2}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        batches(1, **options)


@pytest.mark.parametrize('num_frames, num_views, spacing', [(300, 24, (1, 20)), (300, 2, (5, 5)), (40, 24, (1, 20)),
                                                            (24, 24, (1, 20)), (80, 6, (3, 8)), (10, 1, (1, 20))])
def test_views_differ_and_keep_their_spacing(num_frames, num_views, spacing):
    for seed in range(50):
        views = choose_views(num_frames, num_views, spacing, np.random.default_rng(seed))
        assert views.shape == (num_views,) and len(set(views.tolist())) == num_views
        assert 0 <= views.min() and views.max() < num_frames
        steps = np.diff(np.sort(views))
        longest = (num_frames - 1) // max(1, num_views - 1)
        assert (steps >= min(spacing[0], longest)).all() and (steps <= spacing[1]).all()


def test_views_repeat_only_in_scenes_that_are_too_short():
    views = choose_views(5, 8, (1, 20), np.random.default_rng(0))
    assert len(views) == 8 and set(views.tolist()) == set(range(5))


def test_reference_view_is_any_of_the_chosen():
    places = set()
    for seed in range(60):
        views = choose_views(100, 4, (2, 2), np.random.default_rng(seed))
        places.add(sorted(views.tolist()).index(views[0]))
    assert places == {0, 1, 2, 3}


def recording(every, last=600, left_out=(), said=None):
    """Return a stand-in for a scene folder and its frames: every n-th of a recording but for some."""
    frames = [Frame(str(index), index, 0, None) for index in range(0, last + 1, every) if index not in left_out]
    record = SceneRecord('scene', 'test', [], frames, None, {'every': every if said is None else said})
    return SimpleNamespace(path=Path('data/scene'), every=record.every), frames


def numbers_chosen(every, spacing, num_views=4, count=200, **options):
    scene, frames = recording(every, **options)
    choice = SpacedViews(spacing)
    return [np.sort([frames[place].index for place in choice.choose(scene, frames, num_views, np.random.default_rng(seed))])
            for seed in range(count)]


@pytest.mark.parametrize('spacing', [(20, 60), (23, 95), (40, 40)])
def test_spacing_counts_frames_of_the_recording_however_densely_it_was_prepared(spacing):
    means = []
    for every in (1, 2, 4, 5, 10, 20):
        if spacing[1] // every < -(-spacing[0] // every):
            continue
        intervals = np.concatenate([np.diff(chosen) for chosen in numbers_chosen(every, spacing)])
        assert spacing[0] <= intervals.min() and intervals.max() <= spacing[1]
        means.append(intervals.mean())
    assert len(means) >= 4 and max(means) - min(means) < 0.2 * np.mean(means)


def test_all_frames_of_a_recording_are_sampled_as_before_counting_places():
    scene, frames = recording(1, last=47)
    for seed in range(50):
        chosen = SpacedViews((1, 6)).choose(scene, frames, 5, np.random.default_rng(seed))
        assert (chosen == choose_views(48, 5, (1, 6), np.random.default_rng(seed))).all()


def test_frames_that_were_left_out_do_not_shift_the_others_and_no_view_is_taken_twice():
    gone = tuple(range(100, 300, 10))
    for chosen in numbers_chosen(10, (10, 100), num_views=5, left_out=gone):
        assert len(set(chosen.tolist())) == 5 and not set(chosen.tolist()) & set(gone)
    scene, frames = recording(10, last=100, left_out=(50,))
    places = SpacedViews((10, 10)).choose(scene, frames, 10, np.random.default_rng(0))
    assert sorted(places.tolist()) == list(range(10))
    everywhere = {number for chosen in numbers_chosen(10, (10, 100), left_out=gone) for number in chosen.tolist()}
    assert everywhere == {frame.index for frame in recording(10, left_out=gone)[1]}


@pytest.mark.parametrize('every, said, last', [(20, 20, 600), (20, 10, 600), (20, 20, 60)])
def test_spacing_finer_than_what_was_prepared_is_refused_with_both_numbers(every, said, last):
    """Also where frames exported by others are rarer than the --every that they were prepared with."""
    scene, frames = recording(every, last, said=said)
    with pytest.raises(DataError, match=r'\(10, 100\).*every 20th.*--every.*10.*view_spacing=\(20, 100\)'):
        SpacedViews((10, 100)).check(scene, frames)
    with pytest.raises(DataError, match=r'\(25, 35\).*every 20th.*view_spacing=\(40, 40\)'):
        SpacedViews((25, 35)).choose(scene, frames, 2, np.random.default_rng(0))


def test_few_frames_of_a_scene_do_not_make_it_sparse():
    scene, frames = recording(500, last=1000, said=10)
    assert sorted(SpacedViews((10, 100)).choose(scene, frames, 3, np.random.default_rng(0)).tolist()) == [0, 1, 2]


def test_spread_views_reach_both_ends():
    assert spread_views(9, None).tolist() == list(range(9))
    assert spread_views(9, 20).tolist() == list(range(9))
    assert spread_views(9, 3).tolist() == [0, 4, 8]
    assert spread_views(9, 1).tolist() == [0]


def ring(count, reach):
    """Views on a circle: overlap falls with the distance and is 0 from `reach` steps on."""
    steps = np.abs(np.arange(count)[:, None] - np.arange(count))
    return np.maximum(0, 1 - np.minimum(steps, count - steps) / reach)


def test_covisible_views_share_enough_and_not_too_much_with_one_before_them():
    overlap = ring(60, 10)
    for seed in range(50):
        views = choose_covisible(overlap, 6, (0.25, 0.75), np.random.default_rng(seed))
        assert len(set(views.tolist())) == 6
        for place in range(1, 6):
            assert 0.25 <= overlap[views[place], views[:place]].max() <= 0.75


def test_covisible_views_come_from_all_of_a_recording_and_from_the_generator_alone():
    overlap = ring(20, 6)
    runs = [[choose_covisible(overlap, 4, (0.1, 0.8), np.random.default_rng(seed)).tolist() for seed in range(200)]
            for _ in range(2)]
    assert runs[0] == runs[1]
    assert {views[0] for views in runs[0]} == {view for views in runs[0] for view in views[1:]} == set(range(20))


def test_views_nearest_to_the_bounds_stand_in_where_none_is_within():
    overlap = np.eye(4)
    overlap[:, 3] = overlap[3] = 0.05
    overlap[3, 3] = 1
    views = choose_covisible(overlap, 2, (0.1, 0.8), np.random.default_rng(1)).tolist()
    assert 3 in views                                                           # 0.05 is nearer to 0.1 than 0
    assert sorted(choose_covisible(overlap, 4, (0.1, 0.8), np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]
    repeated = choose_covisible(overlap, 7, (0.1, 0.8), np.random.default_rng(0))
    assert len(repeated) == 7 and set(repeated.tolist()) == {0, 1, 2, 3}


def test_impossible_bounds_of_views_are_refused():
    for share in ((0.5, 0.2), (-0.1, 0.5), (0.1, 1.2)):
        with pytest.raises(ConfigError, match='share'):
            CovisibleViews(share)
    with pytest.raises(ConfigError, match='spacing'):
        SpacedViews((0, 3))
