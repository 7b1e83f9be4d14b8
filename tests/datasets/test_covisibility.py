"""What views share: checked against a loop, kept beside the scene, made again when the scene changes."""

import json
import os
import shutil

import numpy as np
import pytest

from jrs.config import load_config
from jrs.datasets import covisibility as module
from jrs.datasets.covisibility import FILE, GRID, covisibility, measure
from jrs.datasets.dataset import SceneDataset
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import SceneFolder
from jrs.errors import ConfigError, DataError
from tests._data import MAIN


@pytest.fixture
def scene(prepared, tmp_path):
    """A copy of a scene that a test may change."""
    shutil.copytree(prepared / 'scene0000_00', tmp_path / 'scene0000_00')
    return SceneFolder(tmp_path / 'scene0000_00')


def slow_share(scene, first, second):
    """The share of the grid points of one view that another sees, point by point."""
    one, other = scene.frames[first], scene.frames[second]
    depth, reading = scene.depth_m(one), scene.depth_m(other)
    seen, total = 0, 0
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            v, u = int((row + 0.5) * depth.shape[0] / GRID[0]), int((column + 0.5) * depth.shape[1] / GRID[1])
            z = float(depth[v, u])
            if z == 0:
                continue
            total += 1
            point = np.linalg.inv(scene.camera(one).depth_intrinsics) @ [u, v, 1] * z
            world = np.linalg.inv(one.cam_from_world) @ [*point, 1]
            x, y, z = scene.camera(other).depth_intrinsics @ (other.cam_from_world @ world)[:3]
            u, v = int(np.floor(x / z + 0.5)), int(np.floor(y / z + 0.5))
            if z > 0 and 0 <= v < depth.shape[0] and 0 <= u < depth.shape[1]:
                there = float(reading[v, u])
                seen += there > 0 and abs(there - z) < max(0.10, 0.05 * there)
    return seen / total


def test_overlap_is_what_a_loop_over_points_finds(scene):
    overlap, count = measure(scene), len(scene.frames)
    assert overlap.shape == (count, count) and (np.diag(overlap) > 0.99).all()
    pairs = [(0, 1), (1, 0), (0, count - 1), (count // 2, 0)]
    np.testing.assert_allclose([overlap[pair] for pair in pairs], [slow_share(scene, *pair) for pair in pairs], atol=0.006)
    assert 0.1 < overlap.mean() < 0.99 and (overlap != overlap.T).any()


def test_overlap_is_made_once_and_again_when_the_scene_changes(scene, monkeypatch):
    calls = []
    monkeypatch.setattr(module, 'measure', lambda scene: calls.append(1) or measure(scene))
    first = covisibility(scene)
    assert (covisibility(scene) == first).all() and len(calls) == 1
    assert sorted(path.name for path in scene.path.glob(f'*{FILE}*')) == [FILE]          # nothing half-written is left
    record = json.loads((scene.path / 'scene.json').read_text())
    record['frames'] = record['frames'][:-1]
    (scene.path / 'scene.json').write_text(json.dumps(record))
    changed = covisibility(SceneFolder(scene.path))
    np.testing.assert_array_equal(changed, first[:-1, :-1])
    assert len(calls) == 2
    (scene.path / FILE).write_bytes(b'cut off')
    assert (covisibility(SceneFolder(scene.path)) == changed).all() and len(calls) == 3


def test_folder_that_cannot_be_written_costs_only_time(scene, monkeypatch, caplog):
    def refuse(path, *_):
        raise PermissionError(13, os.strerror(13))
    expected = covisibility(scene)
    (scene.path / FILE).unlink()
    monkeypatch.setattr(module, 'atomic_write', refuse)
    assert (covisibility(scene) == expected).all()
    assert 'cannot be kept' in caplog.text and not (scene.path / FILE).exists()


def test_views_by_what_they_share_are_chosen_in_a_train_config(scene):
    (scene.path.parent / 'train.txt').write_text('scene0000_00\n')
    data = SceneDataset(scene.path.parent.name, 'train', 'scannet20', 56, data_root=scene.path.parents[1],
                        view_choice=dict(type='CovisibleViews', share=(0.3, 0.9)), every=2)
    overlap, names = covisibility(scene), [frame.name for frame in scene.frames]
    for draw in range(5):
        views = [names.index(name) for name in data[SampleRequest(0, draw, 3, 0.7)].view_names[0]]
        assert all(scene.frames[view].index % 2 == 0 for view in views)
        assert all(0.25 < overlap[views[place], views[:place]].max() for place in (1, 2))
    assert len({tuple(data[SampleRequest(0, draw, 3, 0.7)].view_names[0]) for draw in range(5)}) > 1


def test_any_config_takes_them_by_one_override():
    cfg = load_config(MAIN, 'debug', {'train_dataset.view_choice.type': 'CovisibleViews'})
    assert cfg.train_dataset.view_choice == dict(type='CovisibleViews')
    with pytest.raises(ConfigError, match="no 'CovisibleView'.*Did you mean 'CovisibleViews'"):
        load_config(MAIN, 'debug', {'train_dataset.view_choice.type': 'CovisibleView'})


def test_photos_are_told_to_use_spacing(scene):
    record = json.loads((scene.path / 'scene.json').read_text())
    for frame in record['frames']:
        frame['cam_from_world'] = None
    (scene.path / 'scene.json').write_text(json.dumps(record))
    with pytest.raises(DataError, match='choose views by spacing'):
        covisibility(SceneFolder(scene.path))
