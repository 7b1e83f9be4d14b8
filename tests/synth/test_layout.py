import numpy as np
import pytest

from jrs.synth.camera_path import blocked, camera_path
from jrs.synth.floor_plan import make_plan
from jrs.synth.layout import build_room, make_rooms
from jrs.synth.renderer import trace
from jrs.synth.scan import label_table
from jrs.synth.styles import STYLES

ROOMS, VIEWS = 10, 40


def in_parts(plan, points):
    """Which points (n, 2) lie in a part or in the opening: (n,)."""
    areas = [*plan.parts, *([] if plan.opening is None else [plan.opening])]
    return np.any([((points >= low - 1e-9) & (points <= high + 1e-9)).all(axis=1) for low, high in areas], axis=0)


@pytest.mark.parametrize('seed', range(12))
def test_walls_fill_what_is_no_part_of_the_floor(seed):
    plan = make_plan('living', np.random.default_rng(seed), 1.0, (2.4, 2.9))
    points = np.random.default_rng(0).uniform([0, 0], plan.size[:2], (2000, 2))
    walled = np.zeros(len(points), bool)
    for low, high in plan.inner:
        walled |= ((points > low[:2]) & (points < high[:2])).all(axis=1)
    np.testing.assert_array_equal(walled, ~in_parts(plan, points))


@pytest.fixture(scope='module')
def walked():
    """Rooms with their walk, and which of their things each view shows, (V, things)."""
    found = []
    for seed in range(ROOMS):
        random = np.random.default_rng(seed)
        room = build_room(random)
        path = camera_path(room, VIEWS, (84, 112), random)
        rays = ((np.arange(0, side, 5) - (side - 1) / 2) / path.intrinsics[0, 0] for side in (112, 84))
        x, y = rays
        visible = np.zeros((VIEWS, len(room.labels)), bool)
        for view, pose in enumerate(path.world_from_cam):
            _, index = trace(room.solids, pose[:3, :3], pose[:3, 3], x, y)
            assert (index >= 0).all(), 'a ray escaped'
            visible[view, room.solids.owner[index]] = True
        found.append((room, path, visible[:, room.num_stuff:]))
    return found


def test_a_seen_thing_is_in_less_than_a_third_of_the_views(walked):
    shares = [visible[:, visible.any(axis=0)].mean(axis=0) for _, _, visible in walked]
    assert 0.15 < np.concatenate(shares).mean() < 0.33


def test_views_change_evenly_and_reach_every_part(walked):
    for room, path, _ in walked:
        between = path.world_from_cam[:-1, :3, :3].swapaxes(1, 2) @ path.world_from_cam[1:, :3, :3]
        turned = np.degrees(np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1)))
        assert turned.max() < 45 and np.median(turned) < 18
        positions = path.world_from_cam[:, :3, 3]
        assert in_parts(room.plan, positions[:, :2]).mean() > 0.95
        assert all(((positions[:, :2] > low) & (positions[:, :2] < high)).all(axis=1).mean() > 0.2
                   for low, high in room.plan.parts)
        assert blocked(room, positions, 0.05).mean() < 0.15


@pytest.mark.parametrize('style', STYLES)
def test_things_stand_in_their_part_and_not_in_each_other(style):
    for seed in range(4):
        plan, rooms = make_rooms(np.random.default_rng(seed), STYLES[style])
        assert len(rooms) == len(plan.parts) and 6 <= sum(len(room.things) for room in rooms) <= 60
        for room in rooms:
            low, high = (np.stack([getattr(thing, side) for thing in room.things]) for side in ('low', 'high'))
            assert (low > -0.08).all() and (high < room.size + 0.08).all()
            inside = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)    # (things, things, 3)
            volume = np.clip(inside - 0.05, 0, None).prod(axis=2) * ~np.eye(len(low), dtype=bool)
            assert (volume > 0).sum() <= 2 * len(low)       # chairs under tables, pillows on beds


def test_the_shifted_style_has_the_same_classes_in_other_rooms():
    usual, shifted = ([build_room(np.random.default_rng(seed), style) for seed in range(5)] for style in STYLES.values())
    assert np.mean([room.size for room in shifted]) > 1.1 * np.mean([room.size for room in usual])
    assert {label for room in shifted for label in room.labels} <= set(label_table())
    used = [{tuple(colour) for room in rooms for colour in room.solids.materials.colour[~room.solids.materials.emissive]}
            for rooms in (usual, shifted)]
    assert not used[0] & used[1]
