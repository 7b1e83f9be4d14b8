"""Average precision against the official programs, on every golden case."""

import json

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.evaluation.instance_ap import assign, evaluate
from tests.golden._golden import golden_files, load_npz

TOLERANCE = 1e-9


def _scenes(path):
    arrays, _ = load_npz(path)
    benchmark = get_benchmark(path.stem.split('_')[2])
    for name in arrays['scene_names'].tolist():
        scene = {key.split('/', 1)[1]: value for key, value in arrays.items() if key.startswith(f'{name}/')}
        yield assign(scene['gt'], scene['masks_packed'], scene['labels'], scene['scores'], benchmark,
                     scene.get('mesh_mask'))


def _compare(result, expected):
    np.testing.assert_array_equal(result.overlaps, np.array(expected['overlaps']))       # bit for bit
    for key, name in (('all_ap', 'AP'), ('all_ap_50', 'AP50'), ('all_ap_25', 'AP25')):
        np.testing.assert_allclose(result.means[name], _number(expected[key]), rtol=0, atol=TOLERANCE, err_msg=key)
    row_of_id = {class_id: row for row, class_id in enumerate(result.class_ids)}
    per_class = result.per_class
    for entry in expected['classes']:
        row = row_of_id[entry['id']]
        np.testing.assert_allclose([per_class[name][row] for name in ('AP', 'AP50', 'AP25')],
                                   [_number(entry[key]) for key in ('ap', 'ap50', 'ap25')], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(result.ap_per_overlap[row], [_number(v) for v in entry['ap_per_overlap']],
                                   rtol=0, atol=TOLERANCE)
        assert result.class_names[row] == entry['name']
    nan_ids = expected.get('nan_class_ids', [])
    assert all(np.isnan(result.ap_per_overlap[row_of_id[class_id]]).all() for class_id in nan_ids)
    assert len(expected['classes']) + len(nan_ids) == len(result.class_ids)


def _number(value):
    return np.nan if value is None else value


@pytest.mark.parametrize('path', golden_files('instance_ap_*.npz'))
def test_matches_the_official_program(path):
    expected = json.loads(path.with_suffix('.json').read_text())
    benchmark = get_benchmark(path.stem.split('_')[2])
    scenes = list(_scenes(path))
    result = evaluate(scenes, benchmark)
    _compare(result, expected)
    _compare(evaluate(scenes, benchmark, class_agnostic=True), expected['class_agnostic'])
    for name, triple in expected.get('head_common_tail_ap_ap50_ap25', {}).items():
        numbers = [np.nan] * 3 if triple is None else [_number(value) for value in triple]
        np.testing.assert_allclose([result.split_means[name][key] for key in ('AP', 'AP50', 'AP25')], numbers,
                                   rtol=0, atol=TOLERANCE)
