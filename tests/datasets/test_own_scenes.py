"""Data sets that list scenes of their own layout, and scoring on the depth of views where there is no mesh."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jrs import benchmarks
from jrs.benchmarks import get_benchmark
from jrs.datasets.covisibility import covisibility
from jrs.datasets.dataset import SceneDataset
from jrs.datasets.ground_truth import ground_truth_of_views
from jrs.datasets.scene import SceneFolder
from jrs.errors import DataError
from jrs.evaluation.metrics import InstanceAPMetric
from jrs.io.png import write_png8, write_png16
from jrs.plugins import NAMESPACE, load_plugins, manager
from jrs.registry import DATASETS
from jrs.report.identity import data_digest
from tests._data import MAIN, command
from tests.datasets._raw_scan import COLOR_K, COLOR_SIZE, DEPTH_K, DEPTH_SIZE
from tests.engine.test_train import SMALL
from tests.postprocess.box_scene import INPUT_SIZE, make_batch, make_reconstruction, true_instances

PLUGIN = Path(__file__).with_name('foreign_layout.py')
NAMES = ('chair', 'table', 'office chair', 'strange thing')


@pytest.fixture(scope='module')
def pictures(debug_data, tmp_path_factory):
    """The scenes of the debug data in the foreign layout; returns the data root."""
    root = tmp_path_factory.mktemp('foreign')
    for path in sorted((debug_data / 'rooms/debug').glob('scene*')):
        scene, folder = SceneFolder(path), root / 'pictures' / path.name
        folder.mkdir(parents=True)
        for frame in scene.frames:
            write_png8(folder / f'rgb_{frame.index:04}.png', scene.color(frame))
            write_png16(folder / f'depth_{frame.index:04}.png', np.rint(scene.depth_m(frame) * 10000).astype(np.uint16))
            write_png16(folder / f'labels_{frame.index:04}.png', np.maximum(scene.instance_ids(frame), 0).astype(np.uint16))
        np.savetxt(folder / 'poses.txt', [[frame.index, *np.linalg.inv(frame.cam_from_world).ravel()] for frame in
                                          scene.frames])
        np.savetxt(folder / 'camera.txt', [[k[0, 0], k[1, 1], k[0, 2], k[1, 2], *size] for k, size in
                                           ((COLOR_K, COLOR_SIZE), (DEPTH_K, DEPTH_SIZE))])
        (folder / 'objects.csv').write_text('id,name\n' + ''.join(f'{item.id},{item.label}\n' for item in scene.instances))
    return root


@pytest.fixture
def foreign(monkeypatch):
    """The plugin is loaded; what it and configs register is forgotten afterwards."""
    DATASETS.names()
    monkeypatch.setattr(DATASETS, '_module_dict', dict(DATASETS._module_dict))
    monkeypatch.setattr(benchmarks, 'BENCHMARKS', dict(benchmarks.BENCHMARKS))
    load_plugins([str(PLUGIN)])
    yield DATASETS.get('NumberedPictures')
    manager().unregister(name=next(name for name, _ in manager().list_name_plugin() if 'foreign_layout' in name))
    sys.modules.pop(f'{NAMESPACE}.foreign_layout', None)


def test_a_foreign_layout_gives_the_batches_of_the_same_scene_folders(foreign, pictures, debug_data):
    benchmarks.register_benchmark(benchmarks.Benchmark.of_classes('names', NAMES))
    own = foreign('pictures', 'val', 'names', 84, data_root=pictures, mode='test')
    folders = SceneDataset('rooms/debug', 'val', 'names', 84, data_root=debug_data, mode='test')
    assert own.metainfo == folders.metainfo
    found, expected = own[0], folders[0]
    expected.instance_ids = expected.instance_ids.clamp_min(0)         # the layout knows no pixels to ignore
    for name in ('images', 'depth_m', 'intrinsics', 'cam_from_world', 'instance_ids'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    assert torch.equal(found.instances[0].labels, expected.instances[0].labels)
    truth = found.ground_truth[0]
    assert truth.source.startswith('true depth') and expected.ground_truth[0].source == 'mesh'
    assert set(np.unique(truth.vertex_ids)) - {0} == set(np.unique(expected.ground_truth[0].vertex_ids)) - {0}
    scene = own.scenes[0]
    assert covisibility(scene) is covisibility(scene) and not (scene.path / 'covisibility.npz').exists()
    np.testing.assert_allclose(covisibility(scene), covisibility(folders.scenes[0]), atol=0.02)


def test_a_foreign_layout_trains_and_is_scored_without_conversion(foreign, pictures, tmp_path):
    config = tmp_path / 'foreign_row.py'
    part = dict(_delete_=True, type='NumberedPictures', folder='pictures', benchmark='names', width=56)
    sets = dict(train_dataset=dict(part, split='train', mode='train', view_spacing=(1, 3)),
                val_dataset=dict(part, split='val', mode='test'), test_dataset=dict(part, split='val', mode='test'))
    config.write_text(f'_base_ = {str(MAIN)!r}\nplugins = [{str(PLUGIN)!r}]\n'
                      f'benchmarks = dict(names=dict(class_names={NAMES}, min_region=9))\n')
    options = [f'{name}={part}' for name, part in sets.items()]
    options += [f'data_root={pictures}', f'model.num_classes={len(NAMES)}', 'metrics.instances.benchmark=names', *SMALL]
    assert command('train', config, '--profile', 'debug', '--work-dir', tmp_path / 'run', '--cfg-options', *options,
                   'train.iterations=1') == 0
    benchmarks.BENCHMARKS.pop('names')                                 # as in a process of its own
    assert command('test', tmp_path / 'run/config.py', tmp_path / 'run/weights.safetensors') == 0
    results = json.loads((tmp_path / 'run/test/results.json').read_text())
    assert results['facts']['ground_truth'] == 'true depth of the views, one point per 0.02 m voxel'
    assert results['facts']['benchmark'] == 'names (4 classes)' and 'instance/class/chair/AP' in results['metrics']
    assert results['metrics']['instance/oracle_AP25'] > 0.9 and results['scenes'] == ['scene0002_00']


def test_the_identity_of_data_without_split_lists_tells_folders_apart(pictures, tmp_path):
    def digest(root):
        return data_digest(dict(data_root=str(root), test_dataset=dict(folder='pictures', split='val')), 'test_dataset')
    (tmp_path / 'pictures' / 'another').mkdir(parents=True)
    assert len({digest(pictures), digest(tmp_path), digest(tmp_path / 'nothing')}) == 3


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
