"""The benchmark tables hold what the data sets define."""

import subprocess
import sys

import numpy as np
import pytest

from jrs import benchmarks
from jrs.benchmarks import (
    BENCHMARKS,
    IOU_THRESHOLDS,
    Benchmark,
    get_benchmark,
    register_benchmark,
    register_benchmarks,
    threshold_words,
)
from jrs.errors import ConfigError, PluginError
from jrs.io.submission import SceneSubmission, submission_format, write_submission, write_vertex_numbers
from jrs.registry import registering_as
from tests._data import MAIN, command


def test_counts_of_classes():
    assert {name: benchmark.num_classes for name, benchmark in BENCHMARKS.items()} == \
        {'scannet20': 18, 'scannet200': 198, 'scannetpp': 84, 'rooms': 40, 'rooms_known': 30}
    scannet200 = get_benchmark('scannet200')
    assert [len(ids) for ids in scannet200.splits.values()] == [64, 68, 66]
    assert [len(set(ids) & set(scannet200.in_validation)) for ids in scannet200.splits.values()] == [64, 65, 58]
    assert scannet200.ignored_ids == (1, 3) and get_benchmark('scannet20').ignored_ids == (1, 2)
    assert len(get_benchmark('scannetpp').ignored_ids) == 16 and not get_benchmark('scannetpp').has_superpoints


def test_thresholds_are_the_official_floats():
    assert get_benchmark('scannet20').iou_thresholds == tuple(np.arange(0.5, 0.95, 0.05))
    assert len(get_benchmark('scannet20').iou_thresholds) == 9


@pytest.mark.parametrize('name', sorted(BENCHMARKS))
def test_ids_and_indices_are_inverse(name):
    benchmark = get_benchmark(name)
    assert [benchmark.class_index_of_id[class_id] for class_id in benchmark.class_ids] == list(range(benchmark.num_classes))
    assert benchmark.class_indices(np.array(benchmark.class_ids)).tolist() == list(range(benchmark.num_classes))
    assert (benchmark.class_indices(np.array([*benchmark.ignored_ids, -1, -5, 10 ** 7])) == -1).all()
    assert len(set(benchmark.class_names)) == benchmark.num_classes


def test_scannet200_indices_skip_the_floor_that_is_third():
    benchmark = get_benchmark('scannet200')
    assert benchmark.class_names[:4] == ('chair', 'table', 'door', 'couch') and benchmark.class_names[-1] == 'mattress'


def test_unknown_name_suggests():
    with pytest.raises(ConfigError, match="no benchmark 'scannet2oo'. Did you mean .*'scannet200'"):
        get_benchmark('scannet2oo')


def test_needs_no_torch():
    code = 'import sys, jrs.benchmarks; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.fixture
def fresh(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(benchmarks, 'BENCHMARKS', dict(BENCHMARKS))
    monkeypatch.setattr(benchmarks, '_owners', {})


def test_a_label_space_of_ones_own_has_classes_ids_and_thresholds(fresh):
    own = register_benchmark(Benchmark.of_classes('furniture', ('chair', 'table'), (7, 4), ignored_ids=(1,), min_region=10,
                                                  labels={'armchair': 'chair'}, iou_thresholds=(0.5, 0.75)))
    assert get_benchmark('furniture') is own and own.num_classes == 2 and own.all_ids == (7, 4, 1)
    assert own.class_indices(np.array([4, 7, 1, 2])).tolist() == [1, 0, -1, -1]
    assert own.class_id({'furniture': 4}, 'armchair') == 4 and own.class_id({}, 'armchair') == 7
    assert own.class_id({'scannet20': 5}, 'sofa') is None and get_benchmark('scannet20').class_id({}, 'chair') is None
    plain = Benchmark.of_classes('plain', ('a', 'b'))
    assert plain.class_ids == (1, 2) and plain.class_id({}, 'b') == 2 and plain.iou_thresholds == IOU_THRESHOLDS
    assert threshold_words(own.iou_thresholds) == '0.50, 0.75' and threshold_words(IOU_THRESHOLDS) == '0.50:0.05:0.90'


def test_a_taken_name_is_refused_with_both_owners_and_the_same_again_is_not(fresh):
    for _ in range(2):
        register_benchmarks({'mine': dict(class_names=['chair'])})
    both = "'benchmarks.mine of a config'.*'other_plugin'"
    with registering_as('other_plugin'), pytest.raises(PluginError, match=both):
        register_benchmark(Benchmark.of_classes('mine', ('table',)))
    with pytest.raises(PluginError, match="belongs to 'jrs'"):
        register_benchmarks({'scannet20': dict(class_names=['chair'])})


@pytest.mark.parametrize(('options', 'words'), [
    (dict(class_names=()), 'at least one name'), (dict(class_names=('a', 'a')), 'all of them different'),
    (dict(class_names=('a', 'b'), class_ids=(1,)), 'has 1'), (dict(class_names=('a',), class_ids=(0,)), 'at least 1, not'),
    (dict(class_names=('a',), ignored_ids=(1,)), 'an id twice'),
    (dict(class_names=('a',), class_ids=('1',)), "not \\['1'\\]"), (dict(class_names=('a',), min_region=0), 'min_region'),
    (dict(class_names=('chair',), labels=dict(stool='chiar')), "Did you mean 'chair'"),
    (dict(class_names=('a',), iou_thresholds=(0.25, 0.5)), 'rise from 0.5'),
    (dict(class_names=('a',), class_id=(1,)), "Did you mean 'class_ids'"), (dict(names=('a',)), 'class_names=')], ids=str)
def test_what_does_not_hold_is_named(fresh, options, words):
    with pytest.raises(ConfigError, match=words):
        register_benchmarks({'mine': options})


def test_a_config_brings_its_label_space_to_the_scoring_of_files(fresh, tmp_path, capsys):
    """Training and testing with one: `tests/datasets/test_own_scenes.py`."""
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = {str(MAIN)!r}\n"
                      "benchmarks = dict(mine=dict(class_names=('table', 'chair'), min_region=20))\n"
                      "test_dataset = dict(benchmark='mine')\n")
    ids = np.repeat([0, 2001, 1002], 150)
    write_vertex_numbers(tmp_path / 'gt' / 'one.txt', ids)
    write_submission(tmp_path / 'pred', 'one', submission_format('scannet'), SceneSubmission(
        np.packbits(ids[None] == [[2001], [1002]], axis=1), np.array([2, 1]), np.ones(2), len(ids)))
    words = ['--predictions', tmp_path / 'pred', '--ground-truth', tmp_path / 'gt']
    assert command('evaluate', *words, '--config', config) == 0
    assert '2 of 2 classes have objects' in capsys.readouterr().out
    assert command('evaluate', *words) == 2 and '--benchmark NAME' in capsys.readouterr().err
