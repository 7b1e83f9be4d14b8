"""The submission formats on disk: read, score, write again."""

import json

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.io.submission import read_submission, read_vertex_numbers, submission_format, write_submission
from tests.golden._golden import golden_files

BENCHMARK_OF_FOLDER = {'scannet': 'scannet20', 'scannetpp': 'scannetpp'}
PREDICTIONS_OF_FOLDER = {'scannet': 'pred', 'scannetpp': 'preds'}


def _score(folder, predictions):
    benchmark = get_benchmark(BENCHMARK_OF_FOLDER[folder.name])
    layout = submission_format(benchmark.submission_format)
    scenes = []
    for path in sorted((folder / 'gt').glob('*.txt')):
        truth = read_vertex_numbers(path)
        mesh_mask = folder / 'data' / path.stem / 'scans' / 'mesh_aligned_0.05_mask.txt'
        excluded = read_vertex_numbers(mesh_mask) if mesh_mask.exists() else None
        found = read_submission(predictions, path.stem, layout, len(truth))
        scenes.append(assign(truth, found.masks, found.labels, found.scores, benchmark, excluded))
    assert scenes
    return evaluate(scenes, benchmark)


def _assert_expected(result, expected):
    assert result.means == pytest.approx({'AP': expected['all_ap'], 'AP50': expected['all_ap_50'],
                                          'AP25': expected['all_ap_25']}, abs=1e-9)
    for entry in expected['classes']:
        row = result.class_ids.index(entry['id'])
        np.testing.assert_allclose(result.ap_per_overlap[row], entry['ap_per_overlap'], rtol=0, atol=1e-9)
    assert result.finite_classes == len(expected['classes'])


@pytest.mark.parametrize('path', golden_files('formats/*/expected.json'))
def test_files_give_the_official_numbers(path):
    predictions = path.parent / PREDICTIONS_OF_FOLDER[path.parent.name]
    _assert_expected(_score(path.parent, predictions), json.loads(path.read_text()))


@pytest.mark.parametrize('path', golden_files('formats/*/expected.json'))
def test_written_files_are_the_files_that_were_read(path, tmp_path):
    predictions = path.parent / PREDICTIONS_OF_FOLDER[path.parent.name]
    layout = submission_format(get_benchmark(BENCHMARK_OF_FOLDER[path.parent.name]).submission_format)
    for truth in (path.parent / 'gt').glob('*.txt'):
        num_points = len(read_vertex_numbers(truth))
        write_submission(tmp_path, truth.stem, layout, read_submission(predictions, truth.stem, layout, num_points))
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob('*') if file.is_file()}
    assert written == {file.relative_to(predictions) for file in predictions.rglob('*') if file.is_file()}
    for name in written:
        assert (tmp_path / name).read_text().split() == (predictions / name).read_text().split()
    _assert_expected(_score(path.parent, tmp_path), json.loads(path.read_text()))
