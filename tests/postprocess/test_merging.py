"""Instances of neighbouring windows that are one object: hand-made masks."""

import numpy as np

from jrs.postprocess.merging import Overlap, WindowInstances, merge_windows, same_instances


def rows(*spans, length=20):
    masks = np.zeros((len(spans), length), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[start:stop] = True
    return masks


def test_iou_counts_all_shared_views_together():
    overlap = Overlap(2, 2)
    overlap.add(rows((0, 10), (10, 20)), rows((10, 20), (0, 5)))
    overlap.add(rows((0, 4), (0, 0)), rows((0, 0), (0, 4)))
    np.testing.assert_allclose(overlap.iou, [[0, 9 / 14], [1, 0]])
    assert not Overlap(2, 1).iou.any() and Overlap(0, 3).iou.shape == (0, 3)


def test_pairs_are_one_to_one_and_of_masks_that_agree():
    assert same_instances(np.array([[0.9, 0.8], [0.7, 0.1]])) == [(0, 1), (1, 0)]          # sum 1.5 beats 0.9 + 0.1
    assert same_instances(np.array([[0.39]])) == [] and same_instances(np.array([[0.4]])) == [(0, 0)]
    assert same_instances(np.zeros((0, 2))) == []


def test_like_embeddings_decide_between_masks_and_never_join_what_masks_keep_apart():
    one, two = np.eye(3)[:1], np.eye(3)[:2]
    iou = np.array([[0.5, 0.45]])
    assert same_instances(iou) == [(0, 0)] and same_instances(iou, one, two[::-1]) == [(0, 1)]
    assert same_instances(np.array([[0.3]]), one, one * 7) == [(0, 0)]                      # 0.475
    assert same_instances(np.array([[0.3]]), one, two[1:]) == []                            # 0.225
    assert same_instances(np.array([[0.2]]), one, one) == []


def test_instances_go_through_windows_and_the_best_part_gives_the_score():
    windows = [WindowInstances(np.array([0.9, 0.5]), np.array([3, 1])),
               WindowInstances(np.array([0.6, 0.5]), np.array([1, 2])), WindowInstances(np.array([0.95]), np.array([4]))]
    merged = merge_windows(windows, [[(1, 0)], [(0, 0)]])
    assert [own.tolist() for own in merged.of_window] == [[1, 0], [0, 2], [0]]
    np.testing.assert_allclose(merged.scores, [0.95, 0.9, 0.5])
    assert merged.labels.tolist() == [1, 3, 2] and merged.parts.tolist() == [3, 1, 1]       # 0.5 + 0.6 for class 1 beat 0.95
