import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rooms_datasheet import NOTES
from jrs.errors import DataError
from jrs.io.ply import write_ply
from jrs.io.png import read_png16, write_png16
from jrs.synth import fingerprint as module
from jrs.synth.fingerprint import compare, fingerprint, read_fingerprints, write_fingerprints
from tests._data import ROOT


@pytest.fixture
def scene(tmp_path):
    folder = tmp_path / 'scene0000_00'
    random = np.random.default_rng(0)
    for view in range(12):
        for kind in ('depth', 'instances'):
            write_png16(folder / kind / f'{view}.png', random.integers(1, 4000, (20, 30)).astype(np.uint16))
    points = random.normal(size=(500, 3)).astype(np.float32)
    write_ply(folder / 'mesh.ply', dict(zip('xyz', points.T, strict=True)), np.array([[0, 1, 2]]))
    (folder / 'scene.json').write_text(json.dumps({'cameras': [], 'frames': [], 'instances': [], 'notes': []}))
    return folder


@pytest.fixture
def frozen(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'FOLDER', tmp_path / 'hashes')
    write_fingerprints(tmp_path / 'hashes' / 'mine.json', 'mine', {'numpy': '9'}, [scene])
    return scene


def change_depth(scene, millimetres):
    for path in (scene / 'depth').iterdir():
        write_png16(path, read_png16(path) + np.uint16(millimetres))


def test_the_same_files_are_identical_and_notes_do_not_count(frozen):
    (frozen / 'scene.json').write_text(json.dumps({'cameras': [], 'frames': [], 'instances': [], 'notes': ['new']}))
    assert compare('mine', [frozen]) == {'identical': [frozen.name], 'within tolerance': [], 'different': []}
    assert read_fingerprints('mine')[0] == {'numpy': '9'}


@pytest.mark.parametrize(('millimetres', 'how'), [(1, 'within tolerance'), (5, 'different')])
def test_a_little_of_depth_is_tolerated(frozen, millimetres, how):
    change_depth(frozen, millimetres)
    assert compare('mine', [frozen])[how] == [frozen.name]


def test_other_objects_other_meshes_and_unknown_scenes_are_different(frozen, tmp_path):
    mine = fingerprint(frozen)
    assert mine.resembles(replace(mine, ids=[*mine.ids[:-2], 0, 0])) and not mine.resembles(
        replace(mine, ids=[*mine.ids[:-3], 0, 0, 0]))
    assert not mine.resembles(replace(mine, vertices=mine.vertices + 5))
    assert not mine.resembles(replace(mine, mean=[mine.mean[0] + 0.01, *mine.mean[1:]]))
    other = shutil.copytree(frozen, tmp_path / 'scene0001_00')
    assert compare('mine', [other])['different'] == ['scene0001_00']


def test_missing_and_older_fingerprints_are_explained(frozen):
    with pytest.raises(DataError, match="'small'.*mine"):
        read_fingerprints('small')
    path = module.FOLDER / 'mine.json'
    path.write_text(path.read_text().replace('"generator_version": 2', '"generator_version": 1'))
    with pytest.raises(DataError, match='version 1, this is 2'):
        read_fingerprints('mine')


def test_the_rooms_that_only_score_are_none_of_those_that_train_or_choose():
    scoring, *others = ({(one.vertices, *one.mean) for one in read_fingerprints(preset)[1].values()}
                        for preset in ('tiny_test', 'tiny', 'tiny_more'))
    assert [len(scoring), *map(len, others)] == [100, 192, 400] and len(scoring.union(*others)) == 692


def test_the_datasheet_s_notes_are_those_of_the_script_that_writes_it():
    assert (ROOT / 'docs' / 'rooms_datasheet.md').read_text().endswith('\n'.join(['', *NOTES, '']))
