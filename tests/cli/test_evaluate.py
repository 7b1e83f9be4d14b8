"""The command scores files of anybody's and refuses folders that do not fit."""

import csv
import json

import numpy as np
import pytest

from jrs import benchmarks
from jrs.benchmarks import get_benchmark
from jrs.cli import run
from jrs.cli.evaluate import main
from jrs.io.submission import (
    SceneSubmission,
    read_submission,
    submission_format,
    write_submission,
    write_vertex_numbers,
)
from jrs.io.submission_arrays import write_submission_arrays
from jrs.plugins import manager


def _write(folder, benchmark, ids_of_scene):
    """Ground truth, and predictions that are perfect."""
    layout = submission_format(get_benchmark(benchmark).submission_format)
    for name, ids in ids_of_scene.items():
        write_vertex_numbers(folder / 'gt' / f'{name}.txt', ids)
        objects = np.unique(ids[ids > 0])
        masks = np.packbits(ids[None] == objects[:, None], axis=1)
        write_submission(folder / 'pred', name, layout,
                         SceneSubmission(masks, objects // 1000, np.linspace(1, 0.5, len(objects)), len(ids)))
    return ['--predictions', str(folder / 'pred'), '--ground-truth', str(folder / 'gt'), '--benchmark', benchmark]


@pytest.mark.parametrize(('benchmark', 'class_id'), [('scannet20', 5), ('scannet200', 1191), ('scannetpp', 9)])
def test_perfect_files_score_one(tmp_path, capsys, benchmark, class_id):
    ids = np.repeat([0, class_id * 1000 + 1, class_id * 1000 + 2], 150)
    arguments = _write(tmp_path, benchmark, {'one': ids, 'two': ids[::-1].copy()})
    assert main([*arguments, '--out', str(tmp_path / 'out')]) == 0
    printed = capsys.readouterr().out
    assert 'mean' in printed and '1.0000' in printed and '2 scenes, 1 of' in printed
    record = json.loads((tmp_path / 'out' / 'instance_ap.json').read_text())
    assert record['AP'] == record['AP25'] == 1.0 and record['scenes'] == ['one', 'two']
    with open(tmp_path / 'out' / 'instance_ap.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == get_benchmark(benchmark).num_classes
    assert [row['ap'] for row in rows if row['class id'] == str(class_id)] == ['1.0']


def test_predictions_that_do_not_count_and_files_that_are_not_read_are_named(tmp_path, capsys):
    arguments = _write(tmp_path, 'scannet20', {'one': np.repeat([0, 5001, 5002], 150)})
    pred, ids = tmp_path / 'pred', np.repeat([0, 1], [420, 30])
    write_vertex_numbers(pred / 'pred_mask' / 'small.txt', ids)
    write_vertex_numbers(pred / 'pred_mask' / 'wall.txt', 1 - ids)
    write_vertex_numbers(pred / 'pred_mask' / 'one_999.txt', ids)
    with (pred / 'one.txt').open('a') as file:
        file.write('pred_mask/small.txt 5 0.4\npred_mask/wall.txt 1 0.3\npred_mask/wall.txt 2 0.3\n')
    for path in (pred / '._one.txt', pred / 'two.TXT', tmp_path / 'gt' / 'two.TXT'):
        path.write_text('')
    assert main([*arguments, '--out', str(tmp_path / 'out')]) == 0
    lines = [
        '1 of 4 predictions have fewer than 100 vertices and do not count',
        '1 of 4 predictions are of no class that scannet20 scores',
        '1 lines name a mask that a later line names again, which counts',
        f'3 files of {pred} no list names, and were not read: ._one.txt, pred_mask/one_999.txt, two.TXT',
        f'1 files of {tmp_path / "gt"} are no <scene>.txt, and were not read: two.TXT']
    assert capsys.readouterr().out.splitlines()[-6:-1] == lines
    assert json.loads((tmp_path / 'out' / 'instance_ap.json').read_text())['left_out'] == lines
    (pred / 'two.TXT').rename(pred / 'two.txt')
    assert run(main, arguments) == 2 and 'remove the prediction files that are not to be scored' in capsys.readouterr().err


def test_options_reach_the_score(tmp_path, capsys):
    ids = np.repeat([0, 5001], [100, 1000])
    arguments = _write(tmp_path, 'scannet20', {'one': ids})
    mask = tmp_path / 'pred' / 'pred_mask' / 'one_000.txt'
    write_vertex_numbers(mask, np.r_[np.zeros(170, int), np.ones(930, int)])           # IoU 0.93, and a wrong label
    (tmp_path / 'pred' / 'one.txt').write_text('pred_mask/one_000.txt 7 0.5\n')
    expected = {(): 0.0, ('--class-agnostic',): 1.0, ('--class-agnostic', '--include-095'): 0.9}
    for options, value in expected.items():
        main([*arguments, *options, '--out', str(tmp_path / 'out')])
        assert json.loads((tmp_path / 'out' / 'instance_ap.json').read_text())['AP'] == pytest.approx(value)
    assert '0.50:0.05:0.95' in capsys.readouterr().out


def test_plugins_register_what_is_scored_and_see_the_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmarks, 'BENCHMARKS', dict(benchmarks.BENCHMARKS))
    (tmp_path / 'labels.py').write_text(
        'from jrs.benchmarks import Benchmark, register_benchmark\nfrom jrs.plugins import hook\n'
        "register_benchmark(Benchmark.of_classes('two_things', ('chair', 'table'), (5, 9)))\n\n\n"
        '@hook\ndef jrs_evaluation(iteration, metrics):\n    print(iteration, sorted(metrics), max(metrics.values()))\n')
    try:
        arguments = _write(tmp_path, 'scannet20', {'one': np.repeat([0, 5001, 9002], 150)})[:-1]
        assert main([*arguments, 'two_things', '--plugins', str(tmp_path / 'labels.py')]) == 0
    finally:
        manager().unregister(name='labels')
    printed = capsys.readouterr().out
    assert '2 of 2 classes have objects' in printed
    assert "None ['instance/AP', 'instance/AP25', 'instance/AP50'] 1.0" in printed


def test_mesh_mask_is_left_out(tmp_path):
    ids = np.repeat([0, 9001], [100, 200])
    arguments = _write(tmp_path, 'scannetpp', {'one': ids})
    excluded = tmp_path / 'data' / 'one' / 'scans' / 'mesh_aligned_0.05_mask.txt'
    write_vertex_numbers(excluded, np.arange(100, 201))                                # 99 vertices stay
    assert main([*arguments, '--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'out')]) == 0
    assert json.loads((tmp_path / 'out' / 'instance_ap.json').read_text())['AP'] is None


def test_folders_that_do_not_fit_exit_with_2(tmp_path, capsys):
    ids = np.repeat([0, 5001], 150)
    arguments = _write(tmp_path, 'scannet20', {'one': ids})
    (tmp_path / 'gt' / 'two.txt').write_text('0\n')
    assert run(main, arguments) == 2
    assert 'no file for 1 scenes (two)' in capsys.readouterr().err
    (tmp_path / 'gt' / 'two.txt').rename(tmp_path / 'two.txt')
    (tmp_path / 'gt' / 'one.txt').write_text('0\n' * 299)
    assert run(main, arguments) == 2
    assert 'one_000.txt: has 300 entries, but the mesh of this scene has 299' in capsys.readouterr().err
    (tmp_path / 'gt' / 'one.txt').unlink()
    assert run(main, arguments) == 2
    assert 'no <scene>.txt' in capsys.readouterr().err


@pytest.mark.parametrize(('benchmark', 'class_id'), [('scannet200', 1191), ('scannetpp', 9)])
def test_arrays_beside_lists_score_the_same(tmp_path, capsys, benchmark, class_id):
    ids = np.repeat([0, class_id * 1000 + 1, class_id * 1000 + 2], 150)
    arguments = _write(tmp_path, benchmark, {'one': ids, 'two': ids[::-1].copy()})
    layout, pred = submission_format(get_benchmark(benchmark).submission_format), tmp_path / 'pred'
    write_submission_arrays(pred / 'two.npz', read_submission(pred, 'two', layout, len(ids)))
    assert run(main, arguments) == 2 and 'two.txt and two.npz: keep the one' in capsys.readouterr().err
    (pred / 'two.txt').unlink()
    for mask in pred.glob('*/two_*'):
        mask.unlink()
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[1:] == ['1.0000'] * 3 and lines[-1].startswith('2 scenes, 1 of')


def test_class_ids_that_the_data_set_does_not_have_are_told(tmp_path, capsys):
    arguments = _write(tmp_path, 'scannet20', {'one': np.repeat([0, 5001, 7001], 150)})
    masks = np.repeat(np.eye(3, dtype=bool)[:, 1:], 150, axis=0)
    (tmp_path / 'pred' / 'one.txt').unlink()
    np.savez(tmp_path / 'pred' / 'one.npz', masks=masks, classes=[0, 17], scores=[0.9, 0.8])        # indices of a network
    assert run(main, arguments) == 2
    said = capsys.readouterr().err
    assert 'none of 2 predictions has a class id of scannet20: they have 0, 17' in said and 'class_ids[i]' in said
    assert main([*arguments, '--class-agnostic']) == 0
    np.savez(tmp_path / 'pred' / 'one.npz', masks=masks, classes=[0, 7], scores=[0.9, 0.8])
    capsys.readouterr()
    assert main(arguments) == 0
    assert '1 of 2 predictions have a class id that the data set does not have: 0.' in capsys.readouterr().out
