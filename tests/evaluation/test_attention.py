"""Attention evidence in numbers, worked out by hand on tiny scenes."""

import math

import numpy as np
import pytest
import torch

from jrs.alignment.visibility import view_visibility
from jrs.evaluation.attention import depth_slope, normalised_entropy, patch_coverage, pixel_mass, pooled, view_sums
from jrs.registry import METRICS, build
from jrs.structures import InstanceTargets, MatchedAttention
from tests.small_scene import small_scene

LN2 = math.log(2)


def _matched(attention, pixels, layers=None):
    """attention (L, n, V); pixels (n, V): how many of 8 pixels of each view show the instance."""
    attention, pixels = torch.tensor(attention), torch.tensor(pixels)
    masks = (torch.arange(8) < pixels[..., None])[..., None, :]                             # (n, V, 1, 8)
    target = InstanceTargets(torch.zeros(len(pixels), dtype=torch.int64), masks, view_visibility(masks))
    return MatchedAttention(tuple(layers or range(len(attention))), torch.arange(len(pixels)), target, attention)


# Two instances in three views, two layers; the second instance is seen in the last view only.
WORKED = dict(attention=[[[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]],
              pixels=[[4, 4, 0], [0, 0, 6]])


def test_sums_of_a_scene_worked_by_hand():
    sums = view_sums(_matched(**WORKED))
    assert sums.instances == 2 and sums.layers == (0, 1)
    np.testing.assert_allclose(sums.per_layer['view_mass'], [0.75 + 0, 1 + 1], atol=1e-6)
    np.testing.assert_allclose(sums.per_layer['entropy'], np.array([1.5 * LN2, LN2]) / math.log(3), atol=1e-6)
    middle = [0.5, 0.375, 0.125]
    first = (0.25 * math.log(0.25 / middle[1]) + 0.25 * math.log(0.25 / middle[2]) + 0.5 * math.log(0.5 / middle[1])) / 2
    np.testing.assert_allclose(sums.per_layer['js'], [first + LN2, 0], atol=1e-6)          # ln 2: no view in common
    assert sums.uniform['view_mass'] == pytest.approx(2 / 3 + 1 / 3) and sums.uniform['entropy'] == pytest.approx(2)


def test_a_query_that_attends_only_to_the_right_view_has_all_mass_there():
    sums = view_sums(_matched([[[0.0, 1.0]]], [[0, 5]]))
    assert sums.per_layer['view_mass'] == [1] and sums.per_layer['entropy'] == [0] and sums.per_layer['js'] == [0]
    assert sums.uniform['view_mass'] == 0.5


def test_even_attention_has_the_uniform_numbers_and_one_view_counts_as_even():
    sums = view_sums(_matched([[[0.25] * 4, [0.25] * 4]], [[1, 0, 0, 2], [3, 3, 3, 3]]))
    for name, uniform in sums.uniform.items():
        np.testing.assert_allclose(sums.per_layer[name], uniform)
    assert normalised_entropy(torch.ones(3, 1)).tolist() == [1, 1, 1]


def test_pixel_mass_spreads_a_patch_over_its_pixels():
    mask = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    mask[0, 0, :2, :2], mask[0, 1, 0, 3] = True, True               # one whole patch; a quarter of another in view 1
    coverage = patch_coverage(mask, (2, 2))
    assert coverage.flatten().tolist() == [1, 0, 0, 0, 0, 0.25, 0, 0]
    maps = torch.zeros(3, 1, 2, 2, 2)
    maps[0, 0, 0, 0, 0] = 1                                         # all on the patch that shows nothing else
    maps[1, 0, 1, 0, 1], maps[1, 0, 0, 1, 1] = 0.4, 0.5             # the rest is on special tokens
    maps[2] = 1 / 10
    torch.testing.assert_close(pixel_mass(maps, coverage), torch.tensor([[1.0], [0.1], [0.125]]))


def _metric():
    return build(METRICS, dict(type='AttentionMetric'), 'metrics.attention')


def _score(scenes):
    """scenes: name -> MatchedAttention, processed in that order."""
    metric = _metric()
    for name, matched in scenes:
        scene = small_scene()
        scene.matched = matched
        metric.process(type('Batch', (), dict(scene_names=[name])), [scene])
    return metric.evaluate(len(scenes))


def test_the_metric_means_over_instances_and_numbers_layers_as_the_backbone_does():
    alone = _matched([[[0.0, 1.0]], [[0.25, 0.75]]], [[0, 5]], layers=(3, 14))
    numbers = _score([('a', _matched(**WORKED, layers=(3, 14))), ('b', alone)])
    assert numbers['attention/instances'] == 3 and numbers['attention/scenes'] == 2
    assert numbers['attention/view_mass/layer_03'] == pytest.approx((0.75 + 1) / 3)
    assert numbers['attention/view_mass/layer_14'] == numbers['attention/view_mass/last'] == pytest.approx(2.75 / 3)
    assert numbers['attention/view_mass/mean'] == pytest.approx((1.75 + 2.75) / 6)
    assert numbers['attention/uniform_view_mass'] == pytest.approx(1.5 / 3)
    assert {'attention/entropy/last', 'attention/js/last', 'attention/uniform_js'} < set(numbers)
    for name in ('view_mass', 'entropy', 'js'):                     # two layers: the line goes through both
        rise = numbers[f'attention/{name}/layer_14'] - numbers[f'attention/{name}/layer_03']
        assert numbers[f'attention/{name}/slope'] == pytest.approx(rise) and rise != 0


def test_a_slope_is_the_change_of_a_line_from_the_first_layer_to_the_last():
    assert depth_slope((1, 3, 5), (0.2, 0.3, 0.4)) == pytest.approx(0.2)
    assert depth_slope((0, 1, 2, 3), (0.5, 0.5, 0.5, 0.5)) == 0
    layers, values = (0, 1, 4, 9), (0.9, 0.2, 0.4, 0.3)
    assert depth_slope(layers, values) == pytest.approx(9 * np.polyfit(layers, values, 1)[0])
    assert math.isnan(depth_slope((5,), (0.3,)))
    assert 'attention/entropy/slope' not in _score([('a', _matched([[[0.5, 0.5]]], [[1, 2]]))])


def test_shards_score_as_one_and_a_scene_counts_once(monkeypatch):
    scenes = [('a', _matched(**WORKED)), ('b', _matched([[[0.0, 1.0]], [[0.25, 0.75]]], [[0, 5]])),
              ('c', _matched([[[0.5, 0.5]], [[0.5, 0.5]]], [[2, 1]]))]
    expected = _score(scenes)
    assert _score([scenes[2], scenes[0], scenes[1], scenes[0]]) == expected
    collected = []
    monkeypatch.setattr('mmengine.evaluator.metric.collect_results',
                        lambda results, *_, **__: collected.extend(results) or list(collected))
    assert [_score(shard) for shard in ([scenes[1]], [scenes[0], scenes[1], scenes[2]])][-1] == expected


def test_scenes_without_instances_leave_the_means_alone():
    nothing = _matched(np.zeros((2, 0, 3)), np.zeros((0, 3), np.int64))
    alone, both = _score([('a', _matched(**WORKED))]), _score([('a', _matched(**WORKED)), ('b', nothing)])
    assert both == {**alone, 'attention/scenes': 2}
    assert math.isnan(_score([('b', nothing)])['attention/view_mass/last'])
    assert pooled([view_sums(nothing)]).instances == 0


def test_a_model_without_queries_is_not_measured():
    assert _score([('s', None)]) == {}
