"""Images -> points -> masks -> pixels: the road of the two-stage rows, with geometry that is true, moved or broken."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from jrs.config import load_config
from jrs.engine.build import build_dataset, build_model, look_for
from jrs.engine.loading import collation_of
from jrs.errors import ConfigError, DataError
from jrs.geometry.camera import encode_cameras
from jrs.geometry.projection import unproject_depth
from jrs.io.tensor_file import write_tensors
from jrs.plugins import load_plugins
from jrs.registry import METRICS, build
from jrs.report.identity import scoring_identity, training_identity
from jrs.structures import GeometryTargets, Instances, PackedMasks
from tests._data import ROOT, command

load_plugins(['point_clouds'])
reconstructed = sys.modules['jrs_plugins.point_clouds.reconstructed']
quality = sys.modules['jrs_plugins.point_clouds.point_quality']
CONFIGS = ROOT / 'configs' / 'baselines'


@pytest.fixture(scope='module')
def cfg(debug_data):
    return load_config(CONFIGS / 'two_stage_oneformer3d.py', 'debug', {
        'data_root': str(debug_data), 'test_dataset.width': 112})


@pytest.fixture(scope='module')
def scene(cfg):
    """A scene of the debug rooms, as the model gets it."""
    dataset = build_dataset(cfg, 'test_dataset', patch_size=14)
    return collation_of(dataset)([dataset[0]]).unpacked()


def points_of(cfg, **changes):
    options = {key: value for key, value in cfg.model.reconstruction.items() if key != 'type'}
    return reconstructed.ReconstructedPoints(**options | changes)


class Moved:
    """True geometry in another world and unit, with confidence that says which pixels are wrong."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.wrong = wrong

    def __call__(self, batch):
        turn, shift = torch.eye(4), torch.tensor([3.0, -2.0, 1.0])
        turn[:3, :3] = torch.from_numpy(Rotation.from_euler('xyz', [0.3, 1.0, -2.0]).as_matrix()).float()
        turn[:3, 3] = shift
        cameras = batch.cam_from_world @ torch.linalg.inv(turn)                             # another world
        cameras[..., :3, 3] *= 0.25
        depth = batch.depth_m * 0.25
        weight = torch.rand(depth.shape, generator=torch.Generator().manual_seed(0)) + 1
        broken = weight < 1 + self.wrong
        depth = torch.where(broken, depth * 0.3, depth)
        _, points = unproject_depth(depth, batch.intrinsics, cameras)
        return GeometryTargets(encode_cameras(cameras, batch.intrinsics, depth.shape[-2:]), depth, depth > 0, points,
                               weight=weight)


@pytest.mark.parametrize(('geometry', 'drop', 'alignment', 'on_a_line'), [
    (None, 0.0, 'centres', True), (None, 0.0, 'directions', False), (Moved(), 0.0, 'centres', False),
    (Moved(), 0.0, 'directions', True), (Moved(wrong=0.25), 30.0, 'centres', True)])
def test_points_are_where_they_truly_are_in_metres_with_z_up(geometry, drop, alignment, on_a_line, cfg, scene):
    cameras = scene.cam_from_world.clone()
    cameras[0, 1::2, 1, 3] += 0.0 if on_a_line else 0.4                    # cameras of the debug scenes stand on a line
    scene, make = replace(scene, cam_from_world=cameras), points_of(cfg, drop_percent=drop, alignment=alignment)
    make.geometry = geometry or make.geometry
    found, points, pixels = make(scene)
    _, true = unproject_depth(scene.depth_m, scene.intrinsics, cameras)
    away, _ = cKDTree(true[scene.depth_m > 0].numpy()).query(points.positions.numpy())
    assert np.quantile(away, 1.0 if geometry is None or not geometry.wrong else 0.99) < 5e-3
    numbers = build(METRICS, dict(type='PointQuality'), 'metrics.points').score_scene(scene, 0, found)
    assert 0.1 < numbers['on_mesh'] < 1 and 0.05 < numbers['covered'] < 1 and numbers['pure'] > 0.8
    assert numbers['number'] == points.num_points[0] > 300
    assert numbers['superpoints'] == points.num_superpoints[0] == pixels.count > 5
    assert found.scale == 'metric, by the true cameras'
    torch.testing.assert_close(found.cam_from_world, cameras[0].to(found.cam_from_world), atol=2e-3, rtol=0)
    right = found.depth > 0
    right &= right if geometry is None else geometry(scene).weight[0] >= 1 + geometry.wrong
    torch.testing.assert_close(found.depth[right].double(), scene.depth_m[0][right].double(), atol=5e-3, rtol=0)


def test_the_least_confident_pixels_are_no_points_and_of_no_mask(cfg, scene):
    make = points_of(cfg, drop_percent=40.0)
    make.geometry = Moved()
    found, _, pixels = make(scene)
    weight, of_none = make.geometry(scene).weight[0].flatten(), pixels.superpoint == pixels.count
    bar = np.percentile(weight.numpy(), 40)
    assert of_none[weight < bar].all() and not of_none[(weight >= bar) & (scene.depth_m[0].flatten() > 0)].any()
    everything = Instances(torch.ones(1, 1, 1, pixels.count, dtype=torch.bool), torch.zeros(1).long(), torch.ones(1),
                           torch.zeros(1).long())
    assert pixels.lifted(everything).masks[0].flatten().equal(~of_none)
    assert found.extras['pixels'].max() < of_none.numel() and not of_none[found.extras['pixels']].any()


def test_masks_of_superpoints_go_to_all_pixels_of_the_voxels_of_their_points():
    pixels = reconstructed.PixelsOfPoints(torch.tensor([0, 0, 2, 3, 1, 2, 2, 3, 0, 1, 1, 3]), 3, (2, 2, 3))
    given = Instances(PackedMasks(PackedMasks.pack(torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()[:, None, None]).bits,
                                  torch.tensor([1, 0, 1]), (1, 3)), torch.tensor([4, 5, 6]), torch.tensor([.9, .8, .7]),
                      torch.tensor([1, 0, 1]), ranking='words')
    found = pixels.lifted(given)
    assert found.packed.shape == (3, 2, 2, 3) and len(found.packed.bits) == 2
    assert found.masks[0].flatten().tolist() == [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0] and found.masks[0].equal(found.masks[2])
    assert found.masks[1].flatten().long().tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert found.labels.tolist() == [4, 5, 6] and found.ranking == 'words'
    assert pixels.lifted(given.select([])).packed.shape == (0, 2, 2, 3)


def test_a_voxel_keeps_the_point_nearest_to_its_mean_the_lowest_pixel_of_equals():
    points = np.array([[0.1, 0, 0], [0.5, 0, 0], [0.9, 0, 0], [1.2, 0, 0], [1.4, 0, 0], [-0.2, 0, 0]])
    kept, pixel, voxel = reconstructed.thinned(points, np.array([2, 3, 5, 7, 8, 9]), 1.0)
    assert kept[:, 0].tolist() == [-0.2, 0.5, 1.2] and pixel.tolist() == [9, 3, 7] and voxel.tolist() == [1, 1, 1, 2, 2, 0]
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-3, 3, (500, 3))
    kept, pixel, voxel = reconstructed.thinned(cloud, np.arange(500), 0.8)
    for number in range(len(kept)):
        own = cloud[voxel == number]
        assert len(np.unique(np.floor(own / 0.8), axis=0)) == 1
        away = np.linalg.norm(own - own.mean(axis=0), axis=1)
        assert np.array_equal(kept[number], own[away.argmin()]) and np.array_equal(cloud[pixel[number]], kept[number])
    for far in (1e8, 1e30, np.nan, np.inf):
        with pytest.raises(DataError, match='geometry is broken'):
            reconstructed.thinned(np.array([[0, 0, 0], [far, far, far]]), np.arange(2), 0.02)


def test_purity_is_the_share_of_the_commonest_object():
    assert quality.purity(np.array([1, 1, 2, 0, 0, 5]), np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(4 / 6)
    assert quality.purity(np.zeros(0, int), np.zeros(0, int)) == 1


def test_what_is_missing_is_told(cfg, scene):
    with pytest.raises(DataError, match='true cameras, and this scene has none'):
        points_of(cfg)(replace(scene, cam_from_world=None))
    make = points_of(cfg)
    with pytest.raises(DataError, match='no pixel has a depth'):
        make(replace(scene, depth_m=torch.zeros_like(scene.depth_m)))
    with pytest.raises(ConfigError, match='drop_percent'):
        points_of(cfg, drop_percent=100)
    with pytest.raises(ConfigError, match='normal_neighbours of at least 3, got 2'):
        points_of(cfg, normal_neighbours=2)
    with pytest.raises(ConfigError, match="model.reconstruction.points: PointSceneDataset has no argument 'voxel'"):
        points_of(cfg, points=dict(voxel=0.1))
    with pytest.raises(ConfigError, match="no alignment of ReconstructedPoints 'centers'.*'centres'"):
        points_of(cfg, alignment='centers')
    model = build_model(load_config(CONFIGS / 'oneformer3d.py', 'debug'))
    with pytest.raises(ConfigError, match='this method sees points: set model.reconstruction'):
        model(scene, mode='predict')
    metric = build(METRICS, dict(type='PointQuality'), 'metrics.points')
    metric.process(scene, [replace(points_of(cfg)(scene)[0], extras={})])
    assert metric.evaluate(1) == {} and 'makes no points' in metric.rules()['points']


def test_it_is_the_training_of_its_method_and_another_scoring(debug_data, tmp_path):
    options = {'data_root': str(debug_data)}
    one, two = (load_config(CONFIGS / f'{name}.py', 'debug', options) for name in ('oneformer3d', 'two_stage_oneformer3d'))
    assert training_identity(one) == training_identity(two)
    assert scoring_identity(one, None) != scoring_identity(two, None)
    files = [tmp_path / name for name in ('one.pt', 'other.pt')]
    of_files = []
    for file in files:
        file.write_text(file.stem)
        real = load_config(CONFIGS / 'two_stage_oneformer3d.py', 'rooms', options | {
            'model.reconstruction.geometry.checkpoint': str(file)})
        of_files.append(scoring_identity(real, None)['geometry'])
    assert of_files[0] != of_files[1] and 'geometry' not in scoring_identity(two, None)
    lacking = [one.what for one in look_for(load_config(CONFIGS / 'two_stage_oneformer3d.py', 'paper', options))[1]]
    assert lacking == ['weights/VGGT-1B/model.pt']


@pytest.mark.parametrize('method', ['oneformer3d', 'mask3d', 'relation3d'])
def test_one_command_scores_it_with_the_weights_of_its_method(method, debug_data, tmp_path):
    """Another method in its place: the one line that names what the config inherits from."""
    config, weights = tmp_path / 'two_stage.py', tmp_path / 'run' / 'weights.safetensors'
    text = (CONFIGS / 'two_stage_oneformer3d.py').read_text()
    config.write_text(text.replace("'./oneformer3d.py'", repr(str(CONFIGS / f'{method}.py'))))
    model = build_model(load_config(CONFIGS / f'{method}.py', 'debug'))
    weights.parent.mkdir()
    write_tensors(weights, model.state_dict(), {})
    words = ('--profile', 'debug', '--cfg-options', f'data_root={debug_data}')
    assert not command('test', config, weights, *words, 'test_dataset.folder=rooms/debug')         # else its own: scannet
    results = json.loads((tmp_path / 'run' / 'test' / 'results.json').read_text())
    assert {'instance/AP50', 'instance/agnostic_AP50', 'instance/oracle_AP50', 'points/pure'} <= set(results['metrics'])
    assert 'true cameras give scale and z-up' in results['facts']['points'] and 'posed' in results['facts']['transfer']
