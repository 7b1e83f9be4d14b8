"""Curves stand where their numbers are."""

import re

import numpy as np
import pytest

from jrs.visualization.curves import BOTTOM, LEFT, RIGHT, TOP, Curve, chart, smoothed, thinned, ticks


def points(svg: str) -> np.ndarray:
    return np.array([[float(number) for number in pair.split(',')]
                     for pair in re.search(r'points="([^"]*)"', svg)[1].split()])


def test_a_line_runs_from_corner_to_corner_of_its_axes():
    svg = chart('a <b>', [Curve('c', np.array([0.0, 5, 10]), np.array([2.0, 3, 4]), 'red')], width=300, height=100)
    assert points(svg).tolist() == [[LEFT, 100 - BOTTOM], [(LEFT + 300 - RIGHT) / 2, (100 - BOTTOM + TOP) / 2],
                                    [300 - RIGHT, TOP]]
    assert 'a &lt;b&gt;' in svg and '>2</text>' in svg and '>4</text>' in svg


def test_a_constant_and_a_single_point_are_drawn():
    for x, y in (([1.0, 2.0], [0.0, 0.0]), ([3.0], [7.0])):
        assert np.isfinite(points(chart('t', [Curve('c', np.array(x), np.array(y), 'red')]))).all()


def test_a_running_mean_stands_at_the_middle_of_its_window():
    x, y = smoothed(np.arange(1.0, 6), np.array([1.0, 2, 6, 2, 1]), 3)
    assert x == pytest.approx([2, 3, 4]) and y == pytest.approx([3, 10 / 3, 3])
    x, y = smoothed(np.arange(1.0, 4), np.array([1.0, 2, 6]), 10)
    assert x == pytest.approx([2]) and y == pytest.approx([3])


def test_thinning_keeps_both_ends():
    kept = thinned(np.arange(1000), 7)
    assert len(kept) == 7 and kept[0] == 0 and kept[-1] == 999
    assert thinned(np.arange(3), 7).tolist() == [0, 1, 2]


@pytest.mark.parametrize(('low', 'high', 'expected'), [
    (0, 1, [0, 0.5, 1]), (1, 40, [10, 20, 30, 40]), (-3, 7, [-2, 0, 2, 4, 6]), (0.1, 0.13, [0.1, 0.11, 0.12, 0.13])])
def test_numbers_at_the_axes_are_round_and_inside(low, high, expected):
    assert ticks(low, high) == expected
