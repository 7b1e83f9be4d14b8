"""The transfer through the model's own geometry: alignment, what it falls back to, pairing and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from jrs.benchmarks import get_benchmark
from jrs.config import load_config
from jrs.errors import ConfigError, DataError
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.geometry.alignment import Similarity
from jrs.postprocess.lift import PosedTransfer
from jrs.postprocess.unposed import UnposedTransfer, _closest_points, _points_of_views
from jrs.registry import METRICS, build
from jrs.structures import Reconstruction
from tests._data import MAIN
from tests.postprocess.box_scene import BOXES, CLASS_INDICES, INPUT_SIZE, _intrinsics, make_batch, true_instances

BENCHMARK = get_benchmark('scannet20')
HALF = (INPUT_SIZE[0] // 2, INPUT_SIZE[1] // 2)
WORLD = Similarity(0.3, Rotation.from_rotvec([0.4, -1.0, 2.0]).as_matrix(), np.array([3.0, -7.0, 1.0]))    # own <- true


def reconstruct(batch, index=0, instances=None):
    """True geometry in the world `WORLD`."""
    cameras = batch.ground_truth[index].cam_from_world.copy()
    cameras[:, :3, :3] = cameras[:, :3, :3] @ WORLD.rotation.T
    cameras[:, :3, 3] = WORLD.scale * cameras[:, :3, 3] - cameras[:, :3, :3] @ WORLD.translation
    depth = batch.depth_m[index] * WORLD.scale
    intrinsics = torch.from_numpy(_intrinsics(INPUT_SIZE)).repeat(len(depth), 1, 1)
    return Reconstruction(batch.images[index], depth, torch.ones_like(depth), intrinsics, torch.from_numpy(cameras), None,
                          instances, batch.view_names[index])


def box_batch(centres=None, num_views=8):
    """The box scene; with `centres` its cameras stand there, looking as before."""
    batch = make_batch(BENCHMARK, num_views)
    if centres is not None:
        cameras = batch.ground_truth[0].cam_from_world
        cameras[:, :3, 3] = -np.einsum('vij,vj->vi', cameras[:, :3, :3], np.asarray(centres, dtype=np.float64))
    return batch


def aligned_error(transfer, batch):
    """How far, in metres and radians, the aligned cameras are from the true ones."""
    truth, scene = batch.ground_truth[0], reconstruct(batch)
    moved = transfer.align(truth, transfer._usable(truth, scene))
    between = moved.cam_from_world @ np.linalg.inv(truth.cam_from_world)
    scale = moved.depth_m[moved.depth_m > 0] / (batch.depth_m[0].numpy()[batch.depth_m[0].numpy() > 0])
    return np.abs(between - np.eye(4)).max(), np.abs(scale - 1).max()


def lift_oracle(transfer, batch, scene):
    truth = batch.ground_truth[0]
    visible = transfer.visible_pixels(truth, INPUT_SIZE, HALF, scene)
    packed = transfer.lift_ids(batch.instance_ids[0][:, 1::2, 1::2], batch.instances[0].ids, truth, visible)
    class_ids = np.array(BENCHMARK.class_ids)[CLASS_INDICES]
    return evaluate([assign(truth.vertex_ids, packed, class_ids, np.ones(len(BOXES)), BENCHMARK)], BENCHMARK).means


@pytest.mark.parametrize('pairing', ['vertex', 'pixel'])
def test_true_images_through_true_geometry_of_another_world_are_nearly_perfect(pairing):
    batch = make_batch(BENCHMARK)
    assert lift_oracle(UnposedTransfer(pairing=pairing), batch, reconstruct(batch))['AP'] >= 0.95


def test_exact_geometry_without_icp_sees_what_the_posed_transfer_sees_at_input_size():
    batch = make_batch(BENCHMARK, num_views=4)
    scene, truth = reconstruct(batch), batch.ground_truth[0]
    at_input = replace(truth, depth_m=batch.depth_m[0].numpy(), depth_intrinsics=np.stack([_intrinsics(INPUT_SIZE)] * 4),
                       input_from_depth=np.stack([np.eye(3)] * 4))
    posed = PosedTransfer().visible_pixels(at_input, INPUT_SIZE, HALF)
    own = UnposedTransfer(icp_radii_m=()).visible_pixels(truth, INPUT_SIZE, HALF, scene)
    same = np.isin(own.vertex * 10 ** 9 + own.pixel, posed.vertex * 10 ** 9 + posed.pixel)
    assert len(own.vertex) > 5000 and same.mean() > 0.99         # pixels that a hair's breadth decides


def test_camera_centres_alone_align_exactly_and_icp_stays_there():
    batch = box_batch()
    for transfer, metres in ((UnposedTransfer(icp_radii_m=()), 1e-6), (UnposedTransfer(), 0.01)):
        moved, scaled = aligned_error(transfer, batch)
        assert moved < metres and scaled < metres


@pytest.mark.parametrize(('centres', 'message'), [
    (np.outer(np.arange(8), [0.3, 0.1, 0.0]) + [1, 2, 2], 'on a line'),
    ([[2.0, 2.0, 2.2]] * 8, 'coincide'), ([[2.0, 2.0, 2.2], [2.5, 2.0, 2.2]], 'on a line'), ([[2.0, 2.0, 2.2]], 'coincide')])
def test_centres_that_fix_no_similarity_are_told_and_directions_stand_in(centres, message, caplog):
    batch = box_batch(centres, len(centres))
    moved, scaled = aligned_error(UnposedTransfer(icp_radii_m=()), batch)
    assert message in caplog.text and 'box' in caplog.text
    assert scaled < (0.01 if message == 'coincide' else 1e-6)                    # two depth images' medians, or centres
    assert moved < 0.05


def test_one_view_is_scored(caplog):
    batch, found = make_batch(BENCHMARK, num_views=1), {}
    for transfer in ('PosedTransfer', 'UnposedTransfer'):
        options = dict(type='InstanceAPMetric', benchmark='scannet20', transfer=dict(type=transfer))
        metric = build(METRICS, options, 'metric')
        metric.process(batch, [reconstruct(batch, 0, true_instances(batch, 0))])
        found[transfer] = metric.evaluate(1)['instance/AP50']
    assert found['PosedTransfer'] == found['UnposedTransfer'] > 0 and 'coincide' in caplog.text


def test_icp_brings_a_shifted_turned_and_scaled_reconstruction_back():
    batch = box_batch()
    truth, scene = batch.ground_truth[0], reconstruct(batch)
    transfer = UnposedTransfer()
    own = transfer._usable(truth, scene)
    points = np.concatenate([found for found, _ in _points_of_views(own)])
    inverse = Similarity(1 / WORLD.scale, WORLD.rotation.T, -WORLD.rotation.T @ WORLD.translation / WORLD.scale)
    off = Rotation.from_rotvec([0.0, 0.0, 0.03]).as_matrix()
    start = Similarity(1.01 * inverse.scale, off @ inverse.rotation, off @ inverse.translation + [0.05, -0.05, 0.04])
    found = start
    for radius in transfer.icp_radii_m:
        found = _closest_points(found, points, truth, radius)
    before, after = (np.abs(one.apply(points) - inverse.apply(points)).mean() for one in (start, found))
    assert before > 0.05 and after < 0.25 * before
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_what_is_not_sure_or_has_no_depth_shows_nothing():
    batch = make_batch(BENCHMARK, num_views=2)
    scene, truth = reconstruct(batch), batch.ground_truth[0]
    scene.depth_conf[1] = 0.5                                                    # all of the second view
    for pairing in ('vertex', 'pixel'):
        visible = UnposedTransfer(pairing=pairing, drop_percent=55, icp_radii_m=()).visible_pixels(
            truth, INPUT_SIZE, HALF, scene)
        assert len(visible.pixel) and visible.pixel.max() < HALF[0] * HALF[1]
    scene.depth[0, :, : INPUT_SIZE[1] // 2] = 0
    seen = UnposedTransfer(icp_radii_m=()).visible_pixels(truth, INPUT_SIZE, HALF, scene).pixel
    assert (seen[seen < HALF[0] * HALF[1]] % HALF[1] >= HALF[1] // 2).all()


def test_wrong_options_and_reconstructions_are_explained():
    with pytest.raises(ConfigError, match="UnposedTransfer has no pairing 'vertices'. Did you mean 'vertex'"):
        UnposedTransfer(pairing='vertices')
    for name, value, said in (('icp_radii_m', (0.3, 0.0), r'icp_radii_m\[1\] must be a number above 0, got 0.0'),
                              ('icp_radii_m', 0.3, 'icp_radii_m must be a list'),
                              ('depth_tolerance_m', 'narrow', "depth_tolerance_m must be a number above 0, got 'narrow'"),
                              ('drop_percent', 100, 'drop_percent must be below 100')):
        with pytest.raises(ConfigError, match=said):
            UnposedTransfer(**{name: value})
    batch = make_batch(BENCHMARK, num_views=2)
    truth, scene = batch.ground_truth[0], reconstruct(batch)
    with pytest.raises(DataError, match='box: UnposedTransfer needs a reconstruction of 2 views, got none'):
        UnposedTransfer().visible_pixels(truth, INPUT_SIZE, HALF)
    for name in ('cam_from_world', 'intrinsics', 'depth'):
        broken = replace(scene, **{name: getattr(scene, name) * float('nan')})
        with pytest.raises(DataError, match=rf"{name} of view '0' is not finite, .*NaN.*: box: its own geometry cannot"):
            UnposedTransfer().visible_pixels(truth, INPUT_SIZE, HALF, broken)


def test_any_config_takes_it_by_one_override():
    cfg = load_config(MAIN, 'debug', {'metrics.instances.transfer.type': 'UnposedTransfer'})
    assert isinstance(build(METRICS, cfg.metrics.instances, 'metric').transfer, UnposedTransfer)


def test_rule_is_told_in_words():
    rule = UnposedTransfer(superpoint_vote=None).describe()
    assert rule == {'transfer': 'unposed: own depth and cameras, Sim(3) from camera centres, then ICP within 0.3, 0.1 m',
                    'depth_tolerance': '0.1 m in depth, vertex to its pixel', 'drop_percent': '0', 'vote': 'majority',
                    'superpoint_vote': 'none'}
    assert 'ICP' not in UnposedTransfer(icp_radii_m=()).describe()['transfer']
