"""The example of a data set of a foreign layout: read where it lies, trained, scored and used, with its own classes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jrs import benchmarks
from jrs.benchmarks import Benchmark, register_benchmark
from jrs.config import load_config
from jrs.datasets.covisibility import covisibility
from jrs.datasets.dataset import SceneDataset
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import Camera, Frame, Scene, SceneInstance
from jrs.engine.data import data_line
from jrs.engine.inference import Reconstructor, class_names, weights_card
from jrs.errors import ConfigError, DataError, PluginError
from jrs.io.photo import read_photo
from jrs.plugins import NAMESPACE, load_plugins, manager
from jrs.registry import DATASETS
from jrs.report.identity import data_digest
from tests._data import command
from tests.engine.test_train import SMALL
from tests.examples.write_tum import write_tum

HERE = Path(__file__).parent
PLUGIN, ROW = HERE / 'tum_scenes.py', HERE / 'tum_row.py'
NAMES = ('chair', 'table', 'office chair', 'strange thing')
DRAW = SampleRequest(index=0, draw=1, num_views=2, aspect_ratio=0.75)


@pytest.fixture(scope='module')
def recordings(debug_data, tmp_path_factory):
    """The scenes of the debug data in TUM's layout; returns the data root."""
    root = tmp_path_factory.mktemp('recordings')
    write_tum(sorted((debug_data / 'rooms/debug').glob('scene*')), root / 'tum')
    return root


@pytest.fixture
def own(monkeypatch):
    """The class of the plugin; what it and configs register is forgotten afterwards."""
    DATASETS.names()
    monkeypatch.setattr(DATASETS, '_module_dict', dict(DATASETS._module_dict))
    before = dict(benchmarks.BENCHMARKS)
    load_plugins([str(PLUGIN)])
    yield DATASETS.get('TumScenes')
    benchmarks.BENCHMARKS.clear()
    benchmarks.BENCHMARKS.update(before)
    manager().unregister(name=next(name for name, _ in manager().list_name_plugin() if 'tum_scenes' in name))
    sys.modules.pop(f'{NAMESPACE}.tum_scenes', None)


def test_the_example_is_short():
    assert len(PLUGIN.read_text().splitlines()) <= 60 and len(ROW.read_text().splitlines()) <= 15


def test_the_layout_gives_the_batches_of_the_same_scene_folders(own, recordings, debug_data):
    register_benchmark(Benchmark.of_classes('names', NAMES))
    mine = own('tum', 'val', 'names', 84, data_root=recordings, mode='test')
    folders = SceneDataset('rooms/debug', 'val', 'names', 84, data_root=debug_data, mode='test')
    assert mine.metainfo == folders.metainfo
    found, expected = mine[0], folders[0]
    expected.instance_ids = expected.instance_ids.clamp_min(0)         # the layout knows no pixels to ignore
    for name in ('images', 'depth_m', 'intrinsics', 'cam_from_world', 'instance_ids'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=2e-4)
    assert torch.equal(found.instances[0].labels, expected.instances[0].labels)
    truth = found.ground_truth[0]
    assert truth.source.startswith('true depth') and expected.ground_truth[0].source == 'mesh'
    assert set(np.unique(truth.vertex_ids)) - {0} == set(np.unique(expected.ground_truth[0].vertex_ids)) - {0}
    scene = mine.scenes[0]
    assert covisibility(scene) is covisibility(scene) and not (scene.path / 'covisibility.npz').exists()
    np.testing.assert_allclose(covisibility(scene), covisibility(folders.scenes[0]), atol=0.02)


def test_it_is_trained_scored_and_used_without_conversion_and_classes_keep_their_names(own, recordings, tmp_path, capsys):
    run, options = tmp_path / 'run', (f'data_root={recordings}', *SMALL, 'train.iterations=2')
    assert command('train', ROW, '--profile', 'debug', '--work-dir', run, '--cfg-options', *options) == 0
    said = capsys.readouterr().out
    assert f'train_dataset: TumScenes, folder {recordings / "tum"}, split train, 2 scenes\n' in said
    assert "train_dataset.folder: this config's own stays" in said
    assert 'test_dataset.max_views: 4 set by the profile alone' in said and 'test_dataset.every' not in said
    benchmarks.BENCHMARKS.pop('furniture')                             # as in a process of its own
    assert command('test', run / 'config.py', run / 'weights.safetensors') == 0
    results = json.loads((run / 'test/results.json').read_text())
    assert results['facts']['ground_truth'] == 'true depth of the views, one point per 0.02 m voxel'
    assert results['facts']['benchmark'] == 'furniture (4 classes)' and results['scenes'] == ['scene0002_00']
    assert 'instance/class/chair/AP' in results['metrics'] and results['metrics']['instance/oracle_AP25'] > 0.9
    assert np.isfinite([results['metrics'][name] for name in ('depth/abs_rel', 'camera/rotation_median')]).all()
    card = weights_card(run / 'weights.safetensors')
    assert card['benchmark'] == 'furniture' and card['class_names'] == list(NAMES)
    benchmarks.BENCHMARKS.pop('furniture')
    photos = sorted((recordings / 'tum/scene0002_00/rgb').glob('*.png'))[:2]
    scene = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu', min_score=0.0)(photos)
    assert scene.class_names == NAMES
    scene.save(tmp_path / 'mine', glb=False)
    found = json.loads((tmp_path / 'mine/instances.json').read_text())['instances']
    assert found and {NAMES[one['class_index']] for one in found} == {one['class'] for one in found}


def test_names_of_another_benchmark_are_never_given_to_a_class(own):
    cfg = load_config(ROW, 'debug')
    assert class_names(cfg, {}) == NAMES and class_names(cfg, dict(class_names=['a', 'b', 'c', 'd'])) == ('a', 'b', 'c', 'd')
    assert class_names(cfg, dict(benchmark='scannet200')) == () and class_names(cfg, dict(benchmark='nobody')) == ()


def test_the_identity_of_data_tells_folders_apart(recordings, tmp_path):
    def digest(root):
        return data_digest(dict(data_root=str(root), test_dataset=dict(folder='tum', split='none')), 'test_dataset')
    (tmp_path / 'tum' / 'another').mkdir(parents=True)
    assert len({digest(recordings), digest(tmp_path), digest(tmp_path / 'nothing')}) == 3


class OneScene(Scene):
    """A recording of two views in memory; subclasses break one thing."""

    labels, size, depth_size, pose = ('chair',), (42, 56), (42, 56), np.eye(4)

    @property
    def frames(self):
        return [Frame(str(number), number, 0, self.pose) for number in range(2)]

    @property
    def instances(self):
        return [SceneInstance(number, label, {}) for number, label in enumerate(self.labels, start=1)]

    def camera(self, frame):
        k = np.array([[50.0, 0, 27.5], [0, 50, 20.5], [0, 0, 1]])
        return Camera(self.size, k, self.depth_size, k)

    def color(self, frame):
        return np.zeros((*self.size, 3), np.uint8)

    def depth_m(self, frame):
        return np.ones((42, 56), np.float32)

    def instance_ids(self, frame):
        return np.ones((42, 56), np.int32)


def of(scenes, mode='train', benchmark='names', split='all', root='.'):
    """A data set whose `open_scenes` gives `scenes`, or those of the classes in it."""
    class Listed(SceneDataset):
        def open_scenes(self):
            return [one('here') if isinstance(one, type) else one for one in scenes] if isinstance(scenes, list) else scenes
    return Listed('.', split, benchmark, 56, data_root=root, mode=mode, view_spacing=(1, 1))


def broken(**parts):
    return type('Broken', (OneScene,), parts)


@pytest.fixture
def names(own):
    register_benchmark(Benchmark.of_classes('names', NAMES))


WRONG = {
    'ids of half the size': (dict(instance_ids=lambda self, frame: np.ones((21, 28), int)),
                             r'instance_ids of frame [01] is \(21, 28\), and must be \(42, 56\)'),
    'a picture of another size': (dict(color=lambda self, frame: np.zeros((42, 42, 3), np.uint8)),
                                  r'color .* \(42, 42, 3\)'),
    'a picture of floats': (dict(color=lambda self, frame: np.zeros((42, 56, 3))), 'color .* must be uint8, got float64'),
    'depth of another size': (dict(depth_m=lambda self, frame: np.ones((56, 42))), r'depth_m .* \(56, 42\)'),
    'depth without its camera': (dict(depth_size=None), 'has depth, and its camera no depth_size'),
    'raw depth': (dict(depth_m=lambda self, frame: np.full((42, 56), 5000, np.uint16)), 'metres.*divide by the factor'),
    'holes as NaN': (dict(depth_m=lambda self, frame: np.full((42, 56), np.nan)), '0 without a reading'),
    'a lost pose': (dict(pose=np.full((4, 4), np.nan)), 'cam_from_world of frame [01] must be a finite rotation'),
    'a scaled pose': (dict(pose=np.diag([2.0, 2, 2, 1])), 'Leave frames without a pose out')}


@pytest.mark.parametrize(('parts', 'words'), WRONG.values(), ids=WRONG)
def test_what_a_scene_gives_is_checked_where_it_is_read(names, parts, words):
    for mode, request in (('train', DRAW), ('test', 0)):
        with pytest.raises(DataError, match=words):
            of([broken(**parts)], mode)[request]


def test_scenes_without_depth_are_read_and_have_nothing_to_be_scored_on(names):
    bare = broken(depth_m=lambda self, frame: None, depth_size=None)
    assert of([bare])[DRAW].depth_m is None and of([bare], 'test')[0].ground_truth is None


def test_views_of_different_shapes_train_and_are_refused_in_a_test(names):
    sizes, k = ((42, 56), (56, 56)), np.array([[50.0, 0, 27.5], [0, 50, 20.5], [0, 0, 1]])
    mixed = broken(camera=lambda self, frame: Camera(*2 * (sizes[frame.index], k)),
                   color=lambda self, frame: np.zeros((*sizes[frame.index], 3), np.uint8),
                   depth_m=lambda self, frame: np.ones(sizes[frame.index]),
                   instance_ids=lambda self, frame: np.ones(sizes[frame.index], int))
    assert of([mixed])[DRAW].images.shape == (1, 2, 3, 42, 56)
    with pytest.raises(DataError, match=r'different sizes \[\(42, 56\), \(56, 56\)\].*pictures of each shape as a scene'):
        of([mixed], 'test')[0]


def test_labels_that_are_no_class_are_refused_and_a_class_without_object_is_named(names):
    with pytest.raises(ConfigError, match="no object is of a class of the benchmark 'names'.*labels of its objects: chiar"):
        of([broken(labels=('chiar',))])
    with pytest.raises(ConfigError, match=r"classes=\{'scannet200': ID\}"):
        of([OneScene], benchmark='scannet200')                         # 'chair' is one of its classes; its scenes say ids
    assert of([broken(labels=('chiar',))], 'test').classes_without_object() == list(NAMES)
    line = data_line(dict(train_dataset=dict(type='Listed')), 'train_dataset', of([OneScene]))
    assert line.endswith('1 scenes; no object of the classes table, office chair, strange thing in the scenes that were '
                         'looked at')


@pytest.mark.parametrize(('scenes', 'error', 'words'), [
    ([], DataError, "split 'all', has no scene"), (7, PluginError, 'must return a list of jrs.datasets.scene.Scene, got 7'),
    (['a'], PluginError, 'got .*a'), ([type('Half', (Scene,), dict(frames=()))], PluginError, 'Half lacks camera, color')])
def test_what_open_scenes_gives_is_checked_at_once(names, scenes, error, words):
    with pytest.raises(error, match=words):
        of(scenes)


def test_a_split_without_list_is_named_with_the_lists_there_are(own, recordings, tmp_path):
    with pytest.raises(DataError, match=r'No split list .*trian.txt. The splits there are: train, val.$'):
        own('tum', 'trian', 'scannet20', 56, data_root=recordings)
    (tmp_path / 'tum').mkdir()
    (tmp_path / 'tum/train.txt').write_text('\n')
    with pytest.raises(DataError, match='No scene in the list .*train.txt'):
        own('tum', 'train', 'scannet20', 56, data_root=tmp_path)
    (tmp_path / 'tum/train.txt').write_text('attic\n')
    with pytest.raises(DataError, match='lacks recordings of train.txt: attic'):
        own('tum', 'train', 'scannet20', 56, data_root=tmp_path)
    with pytest.raises(DataError, match=re.escape(f'There is no photo {tmp_path / "a.png"}.')):
        read_photo(tmp_path / 'a.png')
