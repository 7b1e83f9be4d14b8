"""Scoring on the depth of views where there is no mesh; tests/examples has a data set of a layout of its own."""

from __future__ import annotations

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.datasets.ground_truth import ground_truth_of_views
from jrs.errors import DataError
from jrs.evaluation.metrics import InstanceAPMetric
from tests.postprocess.box_scene import INPUT_SIZE, make_batch, make_reconstruction, true_instances


def of_views(truth, batch, **options):
    """Ground truth of the views of a box scene, ids at the pixels of the depth images."""
    sizes = [(np.arange(count) * full // count) for count, full in zip(truth.depth_m.shape[1:], INPUT_SIZE, strict=True)]
    ids = batch.instance_ids[0].numpy()[:, sizes[0][:, None], sizes[1]]
    class_of = {number: int(truth.vertex_ids[truth.vertex_ids % 1000 == number][0]) // 1000 for number in (1, 2, 3, 4)}
    return ground_truth_of_views('box', truth.depth_m, ids, class_of, truth.depth_intrinsics, truth.cam_from_world,
                                 truth.input_from_depth, **options)


def test_perfect_masks_are_perfect_on_the_depth_of_the_views():
    benchmark = get_benchmark('scannet20')
    batch = make_batch(benchmark)
    batch.ground_truth = [of_views(batch.ground_truth[0], batch)]
    metric = InstanceAPMetric('scannet20')
    metric.process(batch, [make_reconstruction(batch, 0, true_instances(batch, 0))])
    numbers = metric.evaluate(1)
    assert numbers['instance/AP50'] == numbers['instance/oracle_AP50'] == 1.0 and numbers['instance/finite_classes'] == 3
    assert 'true depth' in metric.describe()['ground_truth']


def test_a_voxel_gives_the_mean_of_the_points_of_its_commonest_id():
    depth = np.array([[[1.0, 1.0, 1.0, 0.0]]])                         # four pixels of one row; the last without a reading
    intrinsics = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    truth = ground_truth_of_views('s', depth, np.array([[[1, 2, 2, 2]]]), {1: 5, 2: 7}, intrinsics, np.eye(4)[None],
                                  np.eye(3)[None], voxel_m=4.0)
    np.testing.assert_allclose(truth.vertices, [[1.5, 0, 1]])          # points x = 0 of id 1, 1 and 2 of id 2
    assert truth.vertex_ids.tolist() == [7002] and truth.superpoints is None
    equals = ground_truth_of_views('s', depth, np.array([[[2, 1, -1, 1]]]), {1: 5, 2: 7}, intrinsics, np.eye(4)[None],
                                   np.eye(3)[None], voxel_m=2.0)
    assert equals.vertex_ids.tolist() == [5001, 0] and equals.vertices[:, 0].tolist() == [1, 2]


def test_the_rule_does_not_depend_on_the_order_of_views_and_thins_by_the_voxel():
    batch = make_batch(get_benchmark('scannet20'), num_views=4)
    truth = batch.ground_truth[0]
    fine, coarse = of_views(truth, batch), of_views(truth, batch, voxel_m=0.1)
    assert len(fine.vertices) > 4 * len(coarse.vertices)
    assert len(np.unique(np.floor(coarse.vertices / 0.1), axis=0)) == len(coarse.vertices)
    for name in ('depth_m', 'depth_intrinsics', 'cam_from_world', 'input_from_depth'):
        setattr(truth, name, getattr(truth, name)[::-1])
    batch.instance_ids = batch.instance_ids.flip(1)
    turned = of_views(truth, batch)
    np.testing.assert_allclose(turned.vertices, fine.vertices, atol=1e-9)
    assert np.array_equal(turned.vertex_ids, fine.vertex_ids)


@pytest.mark.parametrize(('options', 'words'), [
    (dict(depth_m=np.zeros((1, 2, 2))), 'no view has a depth reading'), (dict(class_of={1000: 3}), r'1\.\.999'),
    (dict(depth_m=np.full((1, 2, 2), 3e6)), 'units must be metres')])
def test_what_cannot_be_scored_is_named(options, words):
    given = dict(scene_name='s', depth_m=np.ones((1, 2, 2)), instance_ids=np.ones((1, 2, 2), int), class_of={1: 3},
                 depth_intrinsics=np.eye(3)[None], cam_from_world=np.eye(4)[None], input_from_depth=np.eye(3)[None])
    with pytest.raises(DataError, match=words):
        ground_truth_of_views(**given | options)
