"""Ground truth of prepared scenes as files: ids of each benchmark, vertices that do not count, all scenes or none."""

import json

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.datasets.scene import Mesh, SceneInstance, SceneRecord, SceneWriter
from jrs.io.submission import SceneSubmission, read_vertex_numbers, submission_format, write_submission
from tests._data import MAIN, command

CLASSES = {'scannet20': 5, 'scannet200': 1191, 'scannetpp': 9}
OWNERS = np.repeat([0, 1, 7], [50, 150, 200])                # vertices of nothing, of a wall, of an object
EXCLUDED = np.arange(200, 320)                               # all but 80 vertices of the object


def write_scene(root, name, excluded=None, annotated=True):
    """A scene of which only mesh and annotation are read; object 1 is a wall."""
    count = len(OWNERS)
    mesh = Mesh(np.zeros((count, 3)), np.zeros((count, 3), np.uint8), np.zeros((1, 3), np.int32),
                instances=OWNERS if annotated else None,
                excluded=None if excluded is None else np.isin(np.arange(count), excluded))
    objects = [SceneInstance(1, 'wall', {'scannet20': 1, 'scannet200': 1, 'scannetpp': 0}),
               SceneInstance(7, 'thing', CLASSES)]
    with SceneWriter(root, name) as writer:
        writer.mesh(mesh)
        writer.finish(SceneRecord(name, 'test', [], [], objects if annotated else None))
    with (root / 'val.txt').open('a') as file:
        file.write(f'{name}\n')


def export(root, out, benchmark, *words):
    return command('evaluate', 'export-ground-truth', '--scenes', root, '--split', 'val', '--benchmark', benchmark, '--out',
                   out, *words)


@pytest.mark.parametrize('benchmark', CLASSES)
def test_vertices_have_the_ids_of_the_benchmark(benchmark, tmp_path, capsys):
    write_scene(tmp_path / 'data', 'a')
    write_scene(tmp_path / 'data', 'b')
    assert export(tmp_path / 'data', tmp_path / 'truth', benchmark) == 0
    assert '2 scenes' in capsys.readouterr().out
    wall = {'scannetpp': 1}.get(benchmark, 1001)             # class 0 of ScanNet++: below 1000, never an object
    expected = np.select([OWNERS == 1, OWNERS == 7], [wall, CLASSES[benchmark] * 1000 + 7])
    assert np.array_equal(read_vertex_numbers(tmp_path / 'truth' / 'a.txt'), expected)
    record = json.loads((tmp_path / 'truth' / 'ground_truth.json').read_text())
    assert record['benchmark'] == benchmark and record['objects'] == {'a': 1, 'b': 1}
    assert sorted(path.name for path in (tmp_path / 'truth').iterdir()) == ['a.txt', 'b.txt', 'ground_truth.json']


def test_vertices_that_do_not_exist_are_left_out_of_the_score(tmp_path, capsys):
    """The object keeps 80 vertices, fewer than count: nothing is there to score."""
    write_scene(tmp_path / 'data', 'a', excluded=EXCLUDED)
    assert export(tmp_path / 'data', tmp_path / 'truth', 'scannetpp') == 0
    assert np.array_equal(read_vertex_numbers(tmp_path / 'truth/a/scans/mesh_aligned_0.05_mask.txt'), EXCLUDED)
    found = SceneSubmission(np.packbits(OWNERS[None] == 7, axis=1), np.array([9]), np.array([0.5]), len(OWNERS))
    write_submission(tmp_path / 'found', 'a', submission_format(get_benchmark('scannetpp').submission_format), found)
    scored = ('evaluate', '--predictions', tmp_path / 'found', '--ground-truth', tmp_path / 'truth', '--benchmark',
              'scannetpp', '--out', tmp_path / 'out')
    assert command(*scored) == 0
    assert json.loads((tmp_path / 'out/instance_ap.json').read_text())['AP'] is None
    (tmp_path / 'truth/a/scans/mesh_aligned_0.05_mask.txt').unlink()
    assert command(*scored) == 0
    assert json.loads((tmp_path / 'out/instance_ap.json').read_text())['AP'] == 1.0


def test_an_experiment_names_data_split_and_benchmark(debug_data, tmp_path):
    words = ('--config', MAIN, '--profile', 'debug', '--out', tmp_path / 'truth', '--cfg-options', f'data_root={debug_data}')
    assert command('evaluate', 'export-ground-truth', *words) == 0
    assert json.loads((tmp_path / 'truth/ground_truth.json').read_text())['split'] == 'val'
    assert (read_vertex_numbers(tmp_path / 'truth/scene0002_00.txt') > 1000).any()


def test_what_cannot_be_ground_truth_is_refused_and_leaves_nothing(tmp_path, capsys):
    write_scene(tmp_path / 'data', 'a')
    write_scene(tmp_path / 'data', 'b', annotated=False)
    assert export(tmp_path / 'data', tmp_path / 'truth', 'scannet20') == 2
    assert '1 of 2 scenes are not annotated, first b' in capsys.readouterr().err
    (tmp_path / 'data/b/mesh.ply').unlink()
    (tmp_path / 'data/val.txt').write_text('a\n')
    assert export(tmp_path / 'data', tmp_path / 'truth', 'scannet20', '--config', MAIN) == 2
    assert '--scenes DIR --split NAME --benchmark NAME, or --config FILE' in capsys.readouterr().err
    scene = tmp_path / 'data/a/scene.json'
    scene.write_text(scene.read_text().replace('scannet20"', 'other"').replace('scannet200"', 'others"'))
    assert export(tmp_path / 'data', tmp_path / 'truth', 'scannet20') == 2
    assert "no object is of a class of the benchmark 'scannet20'" in capsys.readouterr().err
    (tmp_path / 'data/a/mesh.ply').write_bytes(b'ply')
    assert export(tmp_path / 'data', tmp_path / 'truth', 'scannetpp') == 2
    assert 'mesh.ply' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data']
