"""What is shown of a result: points, colours, what a click means, what is said of an instance."""

from dataclasses import replace

import numpy as np
import pytest

from jrs.viewer.result import Found
from jrs.viewer.shown import (
    Look,
    box_of,
    described,
    distance_in_words,
    instance_at,
    overlap,
    picked,
    seen_in,
    shown_colours,
    shown_points,
)
from jrs.visualization.overlays import BACKGROUND
from tests.viewer._results import BLUE, RED, wall


def test_each_colouring_shows_its_own():
    result = wall()
    assert (shown_colours(result, Look()) == 120).all() and (shown_colours(result, Look(colours='feature')) == 7).all()
    by_instance = shown_colours(result, Look(colours='instance'))
    for number, colour in ((0, BACKGROUND), (1, RED), (2, BLUE)):
        assert (by_instance[result.instances == number] == colour).all()
    plain = replace(result, feature_colours=None)
    assert (shown_colours(plain, Look(colours='feature')) == 120).all()


def test_instances_below_the_score_count_as_none_and_true_ones_stay():
    result, look = wall(), Look(colours='instance', min_score=0.5)
    colours = shown_colours(result, look)
    assert (colours[result.instances == 2] == BACKGROUND).all() and (colours[result.instances == 1] == RED).all()
    table = int(np.flatnonzero(result.instances == 2)[0])
    assert instance_at(result, table, look) == 0 and instance_at(result, table, Look()) == 2
    true = replace(result, found=[Found('chair', None, RED), Found('table', None, BLUE)])
    assert instance_at(true, table, look) == 2


def test_the_least_sure_points_are_left_out():
    result = wall()
    np.testing.assert_array_equal(shown_points(result, Look(least_sure=30)), result.confidence >= 29.7)
    assert shown_points(replace(result, confidence=None), Look(least_sure=30)).all()


def test_a_room_is_cut_from_above():
    result = wall()
    up = np.array([0, -1.0, 0])
    shown = shown_points(result, Look(cut=50), up)
    np.testing.assert_array_equal(shown, result.points[:, 1] >= 0.5)         # down is y, as of the first camera
    assert shown_points(result, Look(cut=50)).all() and shown_points(result, Look(), up).all()


def test_the_selected_instance_stands_out_or_alone():
    result = wall()
    colours = shown_colours(result, Look(selected=1))
    assert (colours[result.instances == 1][:, 0] > 180).all() and (colours[result.instances != 1][:, 0] < 150).all()
    alone = Look(selected=1, alone=True)
    np.testing.assert_array_equal(shown_points(result, alone), result.instances == 1)
    assert (shown_colours(result, alone) == 120).all()


def test_a_mask_that_overlaps_a_better_one_is_shown_whole():
    whole = np.zeros((2, 100), bool)
    whole[0, :30], whole[1, 20:60] = True, True
    instances = np.where(whole[0], 1, np.where(whole[1], 2, 0)).astype(np.int32)
    result = wall(instances=instances, masks=np.packbits(whole, axis=1))
    np.testing.assert_array_equal(shown_points(result, Look(selected=2, alone=True)), whole[1])
    thin = result.thinned(50)
    assert thin.mask(2).sum() == pytest.approx(20, abs=8) and (thin.mask(2) >= (thin.instances == 2)).all()


def test_a_click_takes_the_point_in_front():
    points = np.array([[0, 0, 5.0], [0.01, 0, 2.0], [1, 0, 1.0], [0, 0, -1.0]])
    forward = np.array([0, 0, 3.0])
    assert picked(points, np.zeros(3), forward) == 1                    # not 0 behind it, not 3 behind the viewer
    assert picked(points[[0, 2]], np.zeros(3), forward) == 0
    assert picked(points, np.zeros(3), np.array([0, 1.0, 0])) is None
    assert picked(np.array([[0.06, 0, 2.0]]), np.zeros(3), forward) == 0        # close, where nothing is closer
    assert picked(points[:0], np.zeros(3), forward) is None


def test_what_is_said_of_an_instance_is_true():
    result = wall()
    assert described(result, 1) == '**chair** — number 1, score 0.900\n\n30 points, box along the axes 2.00 × 9.00 × 0.00 m'
    assert '(arbitrary unit)' in described(replace(result, metric=False), 1)
    odd = replace(result, found=[Found('<img src=x> [a](b)', None, RED)])
    assert described(odd, 1).startswith('**\\<img src=x\\> \\[a\\]\\(b\\)** — number 1, annotated')
    assert box_of(result.points[:0]).tolist() == [0, 0, 0]


def test_the_views_of_an_instance_come_with_its_mask_the_largest_first():
    result = wall()
    views = seen_in(result, 1, 5)
    assert [(name, pixels) for name, pixels, _ in views] == [('v0', 3), ('v1', 3)] and len(seen_in(result, 1, 1)) == 1
    picture = views[0][2].astype(int)
    assert picture.shape == (160, 320, 3)
    assert picture[40, 40, 0] > picture[40, 40, 2] + 50 and abs(picture[120, 200, 0] - picture[120, 200, 2]) < 3


def test_a_distance_is_told_in_metres_only():
    result = wall()
    assert distance_in_words(result, 0, 9) == '9.000 m'
    rough = replace(result, scale='metres, approximately: predicted')
    assert distance_in_words(rough, 0, 9) == 'about 9.000 m: the unit is predicted'
    assert 'not metres' in distance_in_words(replace(result, metric=False, scale='arbitrary'), 0, 9)


def test_the_true_instance_that_fits_best_is_named_on_the_same_points_only():
    found = [Found('sofa', None, RED), Found('desk', None, BLUE)]
    true = wall(true=True, instances=np.roll(wall().instances, 1), found=found)
    name, iou = overlap(wall(), 1, true)
    assert name == 'sofa' and iou == pytest.approx(20 / 40)
    assert overlap(wall(), 1, wall(shift=1.0)) is None
    assert overlap(wall(), 1, replace(true, instances=np.zeros(100, np.int32))) is None


def test_a_large_cloud_is_thinned_and_that_is_said():
    result = wall()
    assert result.thinned(100) is result
    thin = result.thinned(40)
    assert len(thin.points) == len(thin.colours) == len(thin.instances) == len(thin.confidence) == 40
    assert '40 of 100 points are drawn' in thin.notes[-1]
    np.testing.assert_array_equal(thin.points, result.thinned(40).points)
    assert (np.diff(thin.confidence) > 0).all()                         # in the old order, each with its own
