"""What a metric saves, `tools/evaluate.py` scores to the same numbers, all of them, to the digit."""

import json

import numpy as np
import pytest
import torch

from jrs.benchmarks import get_benchmark
from jrs.cli.evaluate import main as evaluate
from jrs.errors import DataError
from jrs.io.submission import write_vertex_numbers
from jrs.registry import METRICS, build
from tests.evaluation.test_metrics import _noisy, _repeat
from tests.postprocess.box_scene import make_batch, make_reconstruction

NUMBERS = ('AP', 'AP50', 'AP25')


def found_in(batch, index):
    """Noisy instances under two labels each, with random scores; of the second scene also one too small to count."""
    instances = _repeat(_noisy(batch, index, index), [4])
    instances.scores = instances.scores / 3                             # not what text of a few digits could hold
    if index:
        masks = instances.masks
        masks[-1] = False
        masks[-1, 0, 20, 20:24] = True
        instances.masks = masks
    return instances


def scored_again(folder, truth, benchmark, out, *words):
    assert evaluate(['--predictions', str(folder), '--ground-truth', str(truth), '--benchmark', benchmark, '--out', str(out),
                     *words]) == 0
    return json.loads((out / 'instance_ap.json').read_text())


def assert_same(numbers, record, prefix=''):
    """All numbers of a metric are those of `instance_ap.json`; null is NaN."""
    def same(value, other):
        assert value == other or other is None and np.isnan(value), (value, other)
    for name in NUMBERS:
        same(numbers[f'instance/{prefix}{name}'], record[name])
        for split, means in record['splits'].items():
            same(numbers[f'instance/{split}_{name}'], means[name])
        for one in record['classes'] if not prefix else ():
            key = f'instance/class/{one["name"]}/{name}'
            assert (one[name] is None) == (key not in numbers)
            same(numbers.get(key, np.nan), one[name])
    assert prefix or numbers['instance/finite_classes'] == record['finite_classes']


@pytest.mark.parametrize('name', ['scannet20', 'scannet200', 'scannetpp'])
def test_saved_predictions_are_scored_to_the_same_numbers(name, tmp_path, capsys):
    batch = make_batch(get_benchmark(name), num_views=3, names=('b', 'a'))
    if name == 'scannetpp':
        batch.ground_truth[0].excluded = np.arange(0, len(batch.ground_truth[0].vertices), 3)
    metric = build(METRICS, dict(type='InstanceAPMetric', benchmark=name, predictions=str(tmp_path / 'own')), 'metric')
    metric.dataset_meta = dict(benchmark=name, scene_names=['b', 'a'])
    metric.process(batch, [make_reconstruction(batch, index, found_in(batch, index)) for index in range(2)])
    numbers = metric.evaluate(1)
    for truth in batch.ground_truth:
        write_vertex_numbers(tmp_path / 'truth' / f'{truth.scene_name}.txt', truth.vertex_ids)
        if truth.excluded is not None:
            write_vertex_numbers(tmp_path / 'truth' / truth.scene_name / 'scans/mesh_aligned_0.05_mask.txt', truth.excluded)
    assert 0 < numbers['instance/AP'] < numbers['instance/agnostic_AP'] < 1
    assert_same(numbers, scored_again(tmp_path / 'own', tmp_path / 'truth', name, tmp_path / 'aware'))
    once = scored_again(tmp_path / 'own' / 'class_agnostic', tmp_path / 'truth', name, tmp_path / 'out', '--class-agnostic')
    assert_same(numbers, dict(once, classes=[], splits={}), 'agnostic_')
    assert len((tmp_path / 'own' / 'a.txt').read_text().splitlines()) == 7      # of eight: one is below 100 vertices


def test_where_labels_say_nothing_the_folder_has_each_query_once(tmp_path):
    batch = make_batch(get_benchmark('scannetpp'), num_views=2, names=('a',))
    metric = build(METRICS, dict(type='InstanceAPMetric', benchmark='scannetpp', class_aware=False, oracle=False,
                                 predictions=str(tmp_path)), 'metric')
    metric.process(batch, [make_reconstruction(batch, 0, found_in(batch, 0))])
    assert len((tmp_path / 'a.txt').read_text().splitlines()) == 4 and not (tmp_path / 'class_agnostic').exists()


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    metric = build(METRICS, dict(type='InstanceAPMetric', benchmark='scannet20', predictions=str(tmp_path)), 'metric')
    for name in ('my room', 'x' * 201, '\udcff'):
        with pytest.raises(DataError, match=f'scene {name!r} cannot be saved'.replace('\\', r'\\')):
            metric.dataset_meta = dict(benchmark='scannet20', scene_names=['a', name])
    batch = make_batch(get_benchmark('scannet20'), num_views=2)
    batch.ground_truth[0].source = 'true depth of the views'
    none = make_reconstruction(batch, 0, found_in(batch, 0).select(torch.tensor([0])))
    with pytest.raises(DataError, match='box: predictions are saved for the vertices of a mesh'):
        metric.process(batch, [none])
    assert not list(tmp_path.iterdir())
