"""The benchmark command runs at small size, and what it writes can be read."""

import json
import re

import pytest

from jrs.cli.benchmark import main

SMALL = ['--profile', 'debug', '--device', 'cpu']


@pytest.fixture
def run(tmp_path):
    def result(*words):
        main([*words, *SMALL, '--json', str(tmp_path / 'result.json')])
        return json.loads((tmp_path / 'result.json').read_text())
    return result


def test_table_5_splits_the_time_of_a_pass(run):
    record = run('--table', '5', '--views', '2', '3')
    assert [row['input_frames'] for row in record['rows']] == [2, 3]
    for row in record['rows']:
        ours = row['ours']
        assert ours['total_s'] == pytest.approx(ours['aggregator_s'] + ours['heads_s'] + ours['postprocess_s'], rel=1e-6)
        assert min(ours.values()) > 0


def test_rows_of_the_paper_stand_beside_ours(run):
    row = run('--table', '5', '--views', '10')['rows'][0]
    assert row['paper']['total_s'] == 1.17 and row['paper']['memory_gb'] == 7.04 and row['paper']['aggregator_s'] == 0.42


def test_methods_of_the_paper_are_listed_below_ours(run, capsys):
    run('--table', '6', '--views', '2')
    numbers = 'inference_s 9.25  postprocess_s 6.65  total_s 15.9  memory_gb 27.67'
    assert re.search(f'paper  SegVGGT +{numbers}\n', capsys.readouterr().out)


def test_alignment_is_compared_with_the_same_step_without_it(run):
    row = run('--fada', '--views', '2', '--steps', '2')['rows'][0]
    assert row['off']['ratio'] == 1.0 and row['on']['ratio'] > 0.5
    assert row['memory_on']['memory_gb'] > 0


def test_training_reports_time_and_memory(run):
    row = run('--train', '--views', '2', '--steps', '1')['rows'][0]
    assert row['step']['step_s'] > 0 and row['step']['memory_gb'] > 0
