"""The transfer of masks to the mesh: what is seen, how views and superpoints vote, and how good it can get."""

import numpy as np
import pytest
import torch

from jrs.benchmarks import get_benchmark
from jrs.errors import ConfigError, DataError, NotMeasured
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.postprocess.lift import PosedTransfer
from jrs.structures import Instances, SceneGroundTruth
from tests.postprocess.box_scene import BOXES, CLASS_INDICES, INPUT_SIZE, make_batch, true_instances

BENCHMARK = get_benchmark('scannet20')
HALF = (INPUT_SIZE[0] // 2, INPUT_SIZE[1] // 2)


def _pixels_scene(points, depth_m, superpoints=None, num_views=1):
    """Cameras at the origin with unit focal length: a point (u, v, 1) * z is at pixel (u, v) of a 4 x 6 image."""
    depth_m = np.broadcast_to(np.asarray(depth_m, dtype=np.float32), (num_views, 4, 6))
    eyes = (np.stack([np.eye(size)] * num_views) for size in (3, 4, 3))
    return SceneGroundTruth('pixels', np.array(points, dtype=np.float64), np.zeros(len(points), dtype=np.int64),
                            superpoints, depth_m, *eyes)


def _lift(transfer, scene, masks):
    """masks (M, V, h, w) of a 4 x 6 input -> (M, N) bool."""
    masks = torch.as_tensor(np.asarray(masks), dtype=torch.bool)
    visible = transfer.visible_pixels(scene, (4, 6), tuple(masks.shape[-2:]))
    instances = Instances(masks, torch.zeros(len(masks)), torch.ones(len(masks)), torch.arange(len(masks)))
    packed = transfer.lift(instances, scene, visible)
    return np.unpackbits(packed, axis=1, count=len(scene.vertices)).astype(bool)


def test_depth_decides_what_is_seen():
    readings = np.full((4, 6), 2.0)
    readings[0, 1] = 0.0                                                        # no reading
    points = np.array([[0, 0, 1], [1, 0, 1], [2, 0, 1], [3, 0, 1], [4, 0, 1], [9, 0, 1], [0, 0, -1]], dtype=float)
    points *= np.array([2.0, 2.0, 2.09, 2.11, 1.89, 2.0, 2.0])[:, None]
    found = _lift(PosedTransfer(), _pixels_scene(points, readings), np.ones((1, 1, 4, 6)))
    assert found.tolist() == [[True, False, True, False, False, False, False]]
    wide = _lift(PosedTransfer(relative_tolerance=0.1), _pixels_scene(points, readings), np.ones((1, 1, 4, 6)))
    assert wide.tolist() == [[True, False, True, True, True, False, False]]


def test_sure_views_outvote_unsure_ones_when_probabilities_are_averaged():
    scene = _pixels_scene([[1.0, 1.0, 1.0]], np.ones((4, 6)), num_views=3)
    features = torch.zeros(3, 1, 4, 6)
    features[:, 0, 1, 1] = torch.tensor([0.95, 0.35, 0.35]).logit()                # mean 0.55, and one view of three
    instances = Instances((features[:, 0] > 0)[None], torch.zeros(2), torch.ones(2), torch.arange(2),
                          embedding=torch.tensor([[1.0], [-1.0]]))                # the second: mean 0.45, two of three
    instances.masks = torch.stack([features[:, 0] > 0, features[:, 0] < 0])
    transfer, majority = PosedTransfer(vote='mean_prob', superpoint_vote=None), PosedTransfer(superpoint_vote=None)
    visible = transfer.visible_pixels(scene, (4, 6), (4, 6))
    assert np.unpackbits(transfer.lift(instances, scene, visible, features), axis=1, count=1).tolist() == [[1], [0]]
    assert np.unpackbits(majority.lift(instances, scene, visible), axis=1, count=1).tolist() == [[0], [1]]
    assert np.array_equal(transfer.lift_ids(torch.ones(3, 4, 6, dtype=torch.int64), torch.tensor([1]), scene, visible),
                          majority.lift_ids(torch.ones(3, 4, 6, dtype=torch.int64), torch.tensor([1]), scene, visible))
    with pytest.raises(NotMeasured, match="vote='mean_prob' reads mask probabilities"):
        transfer.lift(instances, scene, visible)


@pytest.mark.parametrize(('rounding', 'column_in_full', 'column_in_half'), [('nearest', 2, 1), ('floor', 1, 0)])
def test_rounding_picks_the_pixel(rounding, column_in_full, column_in_half):
    scene = _pixels_scene([[1.6, 1.0, 1.0]], np.ones((4, 6)))
    transfer = PosedTransfer(rounding=rounding)
    for size, row, column in (((4, 6), 1, column_in_full), ((2, 3), 0, column_in_half)):
        visible = transfer.visible_pixels(scene, (4, 6), size)
        assert visible.pixel.tolist() == [row * size[1] + column]


def test_crop_of_the_input_moves_pixels_and_hides_what_it_cuts_off():
    scene = _pixels_scene([[1.0, 0.0, 1.0], [1.0, 2.0, 1.0]], np.ones((4, 6)))
    scene.input_from_depth = np.array([[[1.0, 0, 0], [0, 1, -1], [0, 0, 1]]])    # the first row is cut off
    visible = PosedTransfer().visible_pixels(scene, (3, 6), (3, 6))
    assert visible.vertex.tolist() == [1] and visible.pixel.tolist() == [1 * 6 + 1]


def test_majority_needs_more_than_half_of_the_seeing_views():
    scene = _pixels_scene([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]], np.ones((4, 6)), num_views=4)
    masks = np.zeros((1, 4, 4, 6))
    masks[0, :2, 1, 1] = 1                                                      # two of four
    masks[0, :3, 1, 3] = 1                                                      # three of four
    assert _lift(PosedTransfer(), scene, masks).tolist() == [[False, True]]
    assert _lift(PosedTransfer(vote='any'), scene, masks).tolist() == [[True, True]]


def test_superpoints_vote_over_all_or_over_observed_points():
    points = [[0, 0, 1.0], [1, 0, 1.0], [2, 0, 1.0], [3, 0, 1.0], [0, 0, -1], [0, 0, -2]]
    scene = _pixels_scene(points, np.ones((4, 6)), superpoints=np.array([0, 0, 1, 1, 0, 1]))
    masks = np.zeros((2, 1, 4, 6))
    masks[0, 0, 0, :2] = 1                                     # superpoint 0: two of three, both observed ones
    masks[1, 0, 0, 2] = 1                                      # superpoint 1: one of three, half of the observed ones
    whole = [[True, True, False, False, True, False], [False] * 6]
    assert _lift(PosedTransfer(), scene, masks).tolist() == whole
    assert _lift(PosedTransfer(superpoint_vote='observed'), scene, masks).tolist() == whole
    masks[0, 0, 0, 1] = 0                                      # one of three, half of the observed: neither is more
    assert not _lift(PosedTransfer(superpoint_vote='observed'), scene, masks).any()
    scene.superpoints[1] = 2                                   # point 0 alone is observed of superpoint 0 (with point 4)
    assert _lift(PosedTransfer(superpoint_vote='observed'), scene, masks)[0].tolist() == [True, *[False] * 3, True, False]
    assert not _lift(PosedTransfer(), scene, masks)[0].any()
    assert _lift(PosedTransfer(superpoint_vote=None), scene, masks)[0].tolist() == [True] + [False] * 5


def test_mode_of_superpoints_gives_each_to_the_query_of_most_points():
    """Better query first: points 0, 1 of query 4, point 1, 2, 3 of query 9 under two labels, point 5 of none."""
    points = [[column, 0, 1.0] for column in range(6)]
    scene = _pixels_scene(points, np.ones((4, 6)), superpoints=np.array([0, 0, 0, 1, 1, 1]))
    masks = np.zeros((3, 1, 4, 6), dtype=bool)
    masks[0, 0, 0, :2] = True                                  # superpoint 0: two points against the other's one
    masks[1:, 0, 0, 1:4] = True                                # superpoint 1: one point, and nobody else has any
    transfer = PosedTransfer(superpoint_vote='mode')
    visible = transfer.visible_pixels(scene, (4, 6), (4, 6))
    instances = Instances(torch.from_numpy(masks), torch.tensor([0, 1, 2]), torch.ones(3), torch.tensor([4, 9, 9]))
    found = np.unpackbits(transfer.lift(instances, scene, visible), axis=1, count=6).astype(bool)
    assert found.tolist() == [[True] * 3 + [False] * 3, *[[False] * 3 + [True] * 3] * 2]
    scene.superpoints = None                                   # nothing to vote on
    found = np.unpackbits(transfer.lift(instances, scene, visible), axis=1, count=6).astype(bool)
    assert (found == masks[:, 0, 0]).all()


def test_depth_edges_show_nothing_when_asked():
    readings = np.full((4, 6), 2.0)
    readings[:, 3:] = 3.0
    readings[0, 0] = 0.0                                       # no reading is no edge
    points = np.array([[column, 1, 1.0] for column in range(6)]) * np.array([2.0, 2, 2, 3, 3, 3])[:, None]
    scene = _pixels_scene(points, readings)
    assert _lift(PosedTransfer(), scene, np.ones((1, 1, 4, 6))).all()
    seen = _lift(PosedTransfer(edge_m=0.5), scene, np.ones((1, 1, 4, 6)))
    assert seen.tolist() == [[True, True, False, False, True, True]]
    assert _lift(PosedTransfer(edge_m=1.5), scene, np.ones((1, 1, 4, 6))).all()
    assert 'no edges above 0.5 m' in PosedTransfer(edge_m=0.5).describe()['depth_tolerance']


@pytest.mark.parametrize('superpoints', [True, False])
@pytest.mark.parametrize('vote', ['majority', 'any'])
def test_true_images_through_the_transfer_are_nearly_perfect(superpoints, vote):
    batch = make_batch(BENCHMARK)
    truth = batch.ground_truth[0]
    if not superpoints:
        truth.superpoints = None
    transfer = PosedTransfer(vote=vote)
    visible = transfer.visible_pixels(truth, INPUT_SIZE, HALF)
    packed = transfer.lift_ids(batch.instance_ids[0][:, 1::2, 1::2], batch.instances[0].ids, truth, visible)
    class_ids = np.array(BENCHMARK.class_ids)[CLASS_INDICES]
    result = evaluate([assign(truth.vertex_ids, packed, class_ids, np.ones(len(BOXES)), BENCHMARK)], BENCHMARK)
    assert result.means['AP50'] >= 0.95
    assert result.means['AP'] >= (0.95 if superpoints else 0.7)


def test_id_images_and_masks_take_the_same_road():
    batch = make_batch(BENCHMARK, num_views=3)
    truth, instances = batch.ground_truth[0], true_instances(batch, 0)
    transfer = PosedTransfer()
    visible = transfer.visible_pixels(truth, INPUT_SIZE, HALF)
    by_mask = transfer.lift(instances, truth, visible)
    by_id = transfer.lift_ids(batch.instance_ids[0][:, 1::2, 1::2], batch.instances[0].ids, truth, visible)
    assert by_mask.any() and (by_mask == by_id).all()


def test_no_instances_give_no_masks():
    batch = make_batch(BENCHMARK, num_views=1)
    truth = batch.ground_truth[0]
    transfer = PosedTransfer()
    visible = transfer.visible_pixels(truth, INPUT_SIZE, HALF)
    none = Instances(torch.zeros(0, 1, *HALF, dtype=torch.bool), *[torch.zeros(0)] * 3)
    assert transfer.lift(none, truth, visible).shape == (0, -(-len(truth.vertices) // 8))


def test_wrong_input_is_explained():
    with pytest.raises(ConfigError, match="vote 'majorty'. Did you mean 'majority'"):
        PosedTransfer(vote='majorty')
    scene = _pixels_scene([[1.0, 1.0, 1.0]], np.ones((4, 6)), num_views=2)
    with pytest.raises(DataError, match='pixels: masks are'):
        transfer = PosedTransfer()
        visible = transfer.visible_pixels(scene, (4, 6), (4, 6))
        transfer.lift(Instances(torch.zeros(1, 1, 4, 6, dtype=torch.bool), *[torch.zeros(1)] * 3), scene, visible)
    scene.cam_from_world = scene.cam_from_world[:1]
    with pytest.raises(DataError, match='one record per view'):
        PosedTransfer().visible_pixels(scene, (4, 6), (4, 6))
