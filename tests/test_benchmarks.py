"""The benchmark tables hold what the data sets define."""

import subprocess
import sys

import numpy as np
import pytest

from jrs.benchmarks import BENCHMARKS, get_benchmark
from jrs.errors import ConfigError


def test_counts_of_classes():
    assert {name: benchmark.num_classes for name, benchmark in BENCHMARKS.items()} == \
        {'scannet20': 18, 'scannet200': 198, 'scannetpp': 84}
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
