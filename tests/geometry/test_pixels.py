"""One half-pixel convention: targets of training, the oracle and the transfer to vertices agree where an edge is."""

import numpy as np
import pytest
import torch

from jrs.evaluation.metrics import InstanceAPMetric
from jrs.geometry.pixels import at_centres, nearest_index
from jrs.io.images import resize_map
from jrs.models.targets import instance_targets
from jrs.postprocess.lift import PosedTransfer
from jrs.structures import Instances, InstanceTable, SceneBatch, SceneGroundTruth

WIDTH, DEPTH_WIDTH = 24, 240                   # of a view and its depth image, both one wall at 1 m
EDGES = np.linspace(8, 14, 120, endpoint=False) + 0.003                 # whole mask pixels of 1, 2 and 3, nowhere on one


def test_each_pixel_takes_the_one_that_holds_its_centre_and_the_later_of_two():
    maps = torch.arange(6).view(1, 1, 6)
    assert at_centres(maps, (1, 2)).tolist() == [[[1, 4]]]
    assert at_centres(maps, (1, 3)).tolist() == [[[1, 3, 5]]]
    assert at_centres(maps, (1, 4)).tolist() == [[[0, 2, 3, 5]]]
    assert at_centres(maps, (2, 6)).tolist() == [[[0, 1, 2, 3, 4, 5]] * 2]
    assert nearest_index(6, 3, torch.device('cpu')).tolist() == [0, 0, 1, 1, 2, 2]


def view_of(edge: float) -> tuple[SceneBatch, SceneGroundTruth, np.ndarray]:
    """Return a view of a wall on which an instance begins at column `edge`, its truth, and the columns of vertices (N,)."""
    ids = (torch.arange(WIDTH) >= edge).long().expand(1, 1, 6, WIDTH)                   # seen at pixel centres
    columns = (np.arange(DEPTH_WIDTH) + 0.5) * WIDTH / DEPTH_WIDTH - 0.5                # (N,), vertices under depth pixels
    lens = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    to_depth = np.linalg.inv(resize_map(WIDTH / DEPTH_WIDTH, 1, 0, 0))
    points = np.stack([columns, np.full(DEPTH_WIDTH, 2.0), np.ones(DEPTH_WIDTH)], axis=1)
    truth = SceneGroundTruth('wall', points, (columns >= edge) * 5001, None, np.ones((1, 6, DEPTH_WIDTH), np.float32),
                             (to_depth @ lens)[None], np.eye(4)[None], np.linalg.inv(to_depth)[None])
    table = InstanceTable(torch.tensor([1]), torch.tensor([0]))
    batch = SceneBatch(torch.zeros(1, 1, 3, 6, WIDTH), ['wall'], [['0']], instance_ids=ids, instances=[table])
    return batch, truth, columns


def edges_found(edge: float, ratio: int) -> tuple[float, float]:
    """Return where the vertices of a perfect prediction begin, one that is the target, and those of the oracle."""
    batch, truth, columns = view_of(edge)
    size, transfer = (6 // ratio, WIDTH // ratio), PosedTransfer(superpoint_vote=None)
    visible = transfer.visible_pixels(truth, (6, WIDTH), size)
    target, = instance_targets(batch, size)
    packed = transfer.lift(Instances(target.masks, target.labels, torch.ones(1), torch.zeros(1).long()), truth, visible)
    oracle = transfer.lift_ids(at_centres(batch.instance_ids[0], size), torch.tensor([1]), truth, visible)
    step = WIDTH / DEPTH_WIDTH
    return tuple(columns[np.unpackbits(bits[0], count=len(columns)).argmax()] - step / 2 for bits in (packed, oracle))


@pytest.mark.parametrize(('ratio', 'bias'), [(1, 0), (3, 0), (2, -0.5)])
def test_targets_oracle_and_test_find_an_edge_between_pixels_at_the_same_place(ratio, bias):
    found = np.array([edges_found(edge, ratio) for edge in EDGES])                      # (edges, 2)
    assert (found[:, 0] == found[:, 1]).all()
    errors = found[:, 0] - EDGES
    assert np.abs(errors).max() <= ratio / 2 + abs(bias) + 0.01
    assert errors.mean() == pytest.approx(bias, abs=0.06)               # half of a grid has centres between two pixels


def test_the_oracle_of_the_metric_reads_what_training_is_told():
    batch, truth, _ = view_of(9.4)
    metric, seen = InstanceAPMetric('scannet20', transfer=dict(type='PosedTransfer', superpoint_vote=None)), []
    metric.transfer.lift_ids = lambda images, *rest: seen.append(images) or np.zeros((1, DEPTH_WIDTH // 8), np.uint8)
    found = type('Found', (), {})()
    found.features, (target,) = None, instance_targets(batch, (2, 8))
    found.instances = Instances(target.masks, target.labels, torch.ones(1), torch.zeros(1).long())
    batch.ground_truth = [truth]
    metric.score_scene(batch, 0, found)
    assert torch.equal(seen[0] == 1, target.masks[0])
