"""Results stand before one camera, alone or side by side; clicks, distances and files are of the right one."""

import io
from dataclasses import replace

import numpy as np
import pytest

from jrs.errors import ConfigError, DataError
from jrs.geometry.alignment import Similarity
from jrs.io.ply import read_ply
from jrs.viewer.export import selection_file
from jrs.viewer.place import APART, other_from, own_place, place_beside, shifts
from jrs.viewer.session import LEFT, NOTHING, RIGHT, TRUTH, Session
from tests.viewer._results import RED, Found, source, wall


@pytest.fixture
def session():
    """Two walls, one shifted in its world; the first has a truth."""
    true = wall('truth', true=True, found=[Found('sofa', None, RED), Found('desk', None, RED)])
    session = Session([source(wall(), true), source(wall('other', shift=3.0))], max_points=1000)
    session.choose('wall')
    return session


def aimed(session, point, side=LEFT, right=None):
    """Return the ray of a click from far in front of the results through point number `point` of one side."""
    stand = session.stands[side]
    shift = shifts(right, RIGHT in session.stands)[side == RIGHT]
    target = stand.place.shown(stand.result.points[point]) + shift
    origin = target + np.array([0, 0, 5.0])
    return origin, target - origin


def test_a_scene_stands_upright_in_front_of_the_viewer():
    place = own_place(wall())
    shown = place.shown(wall().points)
    assert np.abs(shown.mean(0)).max() < 1e-6 and np.linalg.norm(np.ptp(shown, axis=0)) < 2.2
    assert shown[0, 0] < 0 < shown[0, 1]                    # the first point is left of the cameras and above them
    rotation, centre = place.camera(wall().views[0].cam_from_world)
    assert centre[2] > 0 and np.allclose(rotation @ [0, 0, 1], [0, 0, -1]) and np.linalg.det(rotation) > 0
    lone = wall(views=[])
    assert np.allclose(own_place(lone).axes[1], [0, 0, 1])  # without cameras z is up


def test_results_of_other_worlds_stand_alike_where_their_cameras_say_how():
    first, other = wall(), wall('other', shift=3.0)
    fit = other_from(other, first)
    assert fit.scale == pytest.approx(1) and np.allclose(fit.translation, -3)
    place = own_place(first)
    np.testing.assert_allclose(place_beside(other, first, place).shown(other.points), place.shown(first.points), atol=1e-5)
    grown = Similarity(2.0, np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    moved = wall('moved', points=grown.apply(first.points).astype(np.float32), views=[
        type(view)(view.name, _moved(view.cam_from_world, grown), view.intrinsics, view.size) for view in first.views])
    np.testing.assert_allclose(place_beside(moved, first, place).shown(moved.points), place.shown(first.points), atol=1e-5)
    two = wall('two', shift=3.0, views=wall(shift=3.0).views[:2])
    assert other_from(two, first) is None
    np.testing.assert_allclose(place_beside(two, first, place).centre, own_place(two).centre)


def _moved(cam_from_world, similarity):
    rotation = cam_from_world[:3, :3] @ similarity.rotation.T
    centre = similarity.apply(-cam_from_world[:3, :3].T @ cam_from_world[:3, 3])
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = rotation, -rotation @ centre
    return found


def test_two_results_keep_their_distance_across_the_view():
    assert all((shift == 0).all() for shift in shifts(np.array([0, 0, 1.0]), both=False))
    left, right = shifts(np.array([0, 0, 2.0]), both=True)
    np.testing.assert_allclose(right - left, [0, 0, APART])
    assert shifts(None, both=True)[1][0] > 0


def test_a_click_selects_on_the_side_that_it_hits(session):
    table = int(np.flatnonzero(wall().instances == 2)[5])
    hit = session.click(*aimed(session, table))
    assert (hit.side, hit.point, hit.instance) == (LEFT, table, 2) and session.look.selected == 2
    session.choose_beside('other')
    assert session.look.selected == 0 and session.beside_choices() == [NOTHING, TRUTH, 'other']
    right = np.array([0, 0, 1.0])
    hit = session.click(*aimed(session, 0, RIGHT, right), right)
    assert (hit.side, hit.point, hit.instance) == (RIGHT, 0, 1) and session.selected.name == 'other'
    assert session.look_of(LEFT).selected == 0 and session.look_of(RIGHT).selected == 1
    assert session.click(np.zeros(3) + 50, np.array([1.0, 0, 0])) is None and session.look.selected == 0


def test_hidden_points_are_not_clicked(session):
    session.select(LEFT, 1)
    session.look = type(session.look)(selected=1, alone=True)
    table = int(np.flatnonzero(wall().instances == 2)[5])
    assert session.click(*aimed(session, table)) is None


def test_words_name_class_score_views_and_the_true_instance(session):
    assert session.words(4) == ('Click a point, or choose an instance.', [])
    session.choose_beside(TRUTH)
    session.select(LEFT, 1)
    text, views = session.words(4)
    assert '**chair**' in text and 'score 0.900' in text and 'best true instance: sofa, IoU 1.00' in text
    assert 'seen in: v0, v1' in text and len(views) == 2
    session.select(RIGHT, 1)
    assert '**sofa**' in session.words(4)[0] and 'IoU' not in session.words(4)[0]


def test_distances_are_of_the_last_two_clicks_on_one_result(session):
    assert 'two points' in session.measure()
    for point in (0, 9):
        session.click(*aimed(session, point))
    assert session.measure() == '9.000 m'
    session.choose_beside('other')
    assert 'two points' in session.measure()
    session.click(*aimed(session, 0))
    session.click(*aimed(session, 0, RIGHT))
    assert 'different results' in session.measure()


def test_what_is_drawn_is_said():
    session = Session([source(wall())], max_points=40)
    session.choose('wall')
    assert 'left: 2 instances, 40 of 40 points, 3 views, unit: metres' in session.status()
    assert '40 of 100 points are drawn (--max-points)' in session.status()
    assert session.choices() == [(1, '1 chair 0.90'), (2, '2 table 0.40')]


def test_what_is_cut_off_is_neither_counted_nor_clicked_nor_exported(session):
    session.look = replace(session.look, cut=50.0)
    assert '50 of 100 points' in session.status() and session.click(*aimed(session, 0)) is None
    assert b'element vertex 50' in session.exported('ply')[1][:200]


def test_wrong_choices_name_what_there_is(session):
    with pytest.raises(ConfigError, match="no result 'walll'.*'wall'"):
        session.choose('walll')
    with pytest.raises(ConfigError, match='no choice to stand beside'):
        session.choose_beside('wall')


def test_the_selection_is_exported_in_its_own_world(session, tmp_path):
    session.select(LEFT, 2)
    name, content = session.exported('ply')
    assert name == 'wall_002_table.ply'
    (tmp_path / name).write_bytes(content)
    vertices, _ = read_ply(tmp_path / name)
    chosen = wall().instances == 2
    np.testing.assert_array_equal(np.stack([vertices[axis] for axis in 'xyz'], 1), wall().points[chosen])
    assert (vertices['instance'] == 2).all() and b'unit: metres' in content[:200]
    session.select(LEFT, 0)
    name, content = session.exported('ply')
    assert name == 'wall.ply' and b'element vertex 100' in content[:200]
    with pytest.raises(DataError, match='nothing to export'):
        selection_file(wall(), np.zeros(100, bool), wall().colours, 'ply')


def test_glb_stands_as_other_programs_expect(session):
    trimesh = pytest.importorskip('trimesh', reason='GLB needs trimesh')
    session.select(LEFT, 1)
    name, content = session.exported('glb')
    assert name == 'wall_001_chair.glb'
    found = trimesh.load(io.BytesIO(content), file_type='glb').to_geometry().vertices
    chosen = wall().points[wall().instances == 1]
    np.testing.assert_allclose(np.sort(found, 0), np.sort(chosen * [1, -1, -1], 0), atol=1e-5)
