"""The scene folder: complete or absent, and a check that names the fault."""

import json
import os
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from jrs.datasets.scene import SceneFolder, SceneWriter, check_scene
from jrs.errors import DataError
from jrs.io.ply import read_ply, write_ply
from jrs.io.png import write_jpeg, write_png16


@pytest.fixture
def scene(prepared, tmp_path):
    """A private copy of a sound scene."""
    return SceneFolder(shutil.copytree(prepared / 'scene0000_00', tmp_path / 'scene0000_00'))


def edit(scene, change):
    path = scene.path / 'scene.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_pose(scene, row, column, value):
    edit(scene, lambda data: data['frames'][1]['cam_from_world'][row].__setitem__(column, value))


def edit_mesh(scene, name, change):
    values, faces = read_ply(scene.path / 'mesh.ply')
    change(values[name])
    write_ply(scene.path / 'mesh.ply', values, faces)


def duplicate_instance(data):
    data['instances'][1]['id'] = data['instances'][0]['id']


FAULTS = {
    'no scene.json': (lambda s: (s.path / 'scene.json').unlink(), r'scene.json: cannot be read'),
    'scene.json cut off': (lambda s: os.truncate(s.path / 'scene.json', 100), 'not JSON'),
    'other format': (lambda s: edit(s, lambda d: d.update(format=0)), 'format 0; this version of jrs reads 1'),
    'entry missing': (lambda s: edit(s, lambda d: d.pop('cameras')), "missing or has the wrong type.*'cameras'"),
    'renamed folder': (lambda s: edit(s, lambda d: d.update(name='other')), "named 'other'"),
    'missing color': (lambda s: (s.path / 'color/2.jpg').unlink(), r"color: 7 files for 8 frames; missing \['2'\]"),
    'extra depth': (lambda s: shutil.copy(s.path / 'depth/2.png', s.path / 'depth/4.png'),
                    r"not in scene.json \['4'\]"),
    'color size': (lambda s: write_jpeg(s.path / 'color/3.jpg', np.zeros((72, 95, 3), np.uint8)),
                   'color/3.jpg: 95 x 72 pixels, scene.json says 96 x 72'),
    'depth cut off': (lambda s: os.truncate(s.path / 'depth/5.png', 300), 'depth/5.png'),
    'unknown id in a view': (lambda s: write_png16(s.path / 'instances/6.png', np.full((72, 96), 77, np.uint16)),
                             r'instances/6.png: ids \[77\] are not in the table'),
    'id out of range': (lambda s: edit(s, lambda d: d['instances'][0].update(id=1000)), r'in 1..999, got \[1000\]'),
    'id twice': (lambda s: edit(s, duplicate_instance), 'must be different'),
    'infinite camera': (lambda s: set_pose(s, 0, 3, float('-inf')), 'frame 1: cam_from_world is not finite'),
    'scaled camera': (lambda s: set_pose(s, 0, 0, 3.0), 'frame 1: cam_from_world is not a rotation'),
    'bad intrinsics': (lambda s: edit(s, lambda d: d['cameras'][0]['depth_intrinsics'][0].__setitem__(0, -5)),
                       r'cameras\[0\].depth_intrinsics must be'),
    'unknown camera': (lambda s: edit(s, lambda d: d['frames'][3].update(camera=2)), 'frame 3 has camera 2 of 1'),
    'frames out of order': (lambda s: edit(s, lambda d: d['frames'].reverse()), 'rising indices'),
    'no frames': (lambda s: edit(s, lambda d: d.update(frames=[])), 'has no frames'),
    'unknown id on the mesh': (lambda s: edit_mesh(s, 'instance', lambda v: v.__setitem__(5, 50)),
                               r'mesh.ply: ids \[50\] are not in the table'),
    'gap in superpoints': (lambda s: edit_mesh(s, 'superpoint', lambda v: v.__setitem__(5, 50)), 'without gaps'),
    'vertex at infinity': (lambda s: edit_mesh(s, 'x', lambda v: v.__setitem__(5, np.inf)), 'a vertex is not finite'),
    'no mesh': (lambda s: (s.path / 'mesh.ply').unlink(), 'mesh.ply: cannot be read'),
}


def test_sound_scene_has_no_fault(scene):
    check_scene(scene.path)


@pytest.mark.parametrize('name', FAULTS)
def test_check_names_the_fault(scene, name):
    damage, message = FAULTS[name]
    damage(scene)
    with pytest.raises(DataError, match=message):
        check_scene(scene.path)


def test_ignore_is_minus_one_in_arrays(scene):
    ids = np.zeros((72, 96), np.uint16)
    ids[3, 4], ids[5, 6] = 65535, 2
    write_png16(scene.path / 'instances/0.png', ids)
    read = scene.instance_ids(scene.frames[0])
    assert read[3, 4] == -1 and read[5, 6] == 2 and (read != 0).sum() == 2


def test_record_survives_writing_and_reading(scene, tmp_path):
    with SceneWriter(tmp_path / 'copy', 'scene0000_00') as writer:
        writer.mesh(scene.mesh())
        writer.finish(scene.record)
    copy = SceneFolder(tmp_path / 'copy' / 'scene0000_00')
    np.testing.assert_equal(asdict(copy.record), asdict(scene.record))
    np.testing.assert_equal(vars(copy.mesh()), vars(scene.mesh()))


def test_scene_that_was_not_finished_is_absent(tmp_path):
    with pytest.raises(KeyError), SceneWriter(tmp_path, 'scene0000_00') as writer:
        writer.color('0', b'jpeg')
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_unfinished_rewrite_leaves_the_old_scene(scene):
    with pytest.raises(KeyError), SceneWriter(scene.path.parent, scene.name):
        raise KeyError
    check_scene(scene.path)


def test_finished_rewrite_replaces_the_old_scene(scene):
    record = scene.record
    record.notes.append('second')
    with SceneWriter(scene.path.parent, scene.name) as writer:
        writer.finish(record)
    assert SceneFolder(scene.path).record.notes[-1] == 'second'
    assert [path.name for path in scene.path.parent.iterdir()] == [scene.name]
