"""A set of instances that can be shown: no object twice."""

import torch

from jrs.postprocess.distinct import distinct_instances
from jrs.structures import Instances


def instances(*rows, scores):
    masks = torch.tensor(rows, dtype=torch.bool)[:, None, None]             # (M, 1, 1, w)
    return Instances(masks, torch.arange(len(rows)), torch.tensor(scores), torch.arange(len(rows)))


def test_second_claim_to_an_object_is_dropped_and_neighbours_stay():
    found = instances([1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], scores=[0.9, 0.8, 0.7])
    assert distinct_instances(found).labels.tolist() == [0, 2]


def test_low_scores_and_empty_masks_are_dropped():
    found = instances([1, 0, 0], [0, 0, 0], [0, 1, 0], scores=[0.9, 0.8, 0.1])
    assert distinct_instances(found, min_score=0.2).labels.tolist() == [0]


def test_no_instances_stay_none():
    none = Instances(torch.zeros(0, 2, 3, 4, dtype=torch.bool), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    assert distinct_instances(none).masks.shape == (0, 2, 3, 4)
