"""What a comparison says is what the run folders hold; what is not alike is named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.report.compare import all_notes, comparison_page, metric_rows, write_scalars
from jrs.report.runs import find_runs, read_run, read_runs
from tests.report._run import make_run

FADA = dict(loss=[4.0, 3.0, 2.0, 1.0], loss_fada=[0.4, 0.3, 0.2, 0.1])
PLAIN = dict(loss=[4.0, 4.0, 3.0, 3.0])
LOGGED = dict(scalars={'lr_new': {2: 1e-3, 4: 1e-4}, 'time': {2: 0.5, 4: 0.7}, 'lr': {2: 1.0}, 'loss': {2: 9.0},
                       'grad_norm': {4: 2.0, 2: float('nan')}, 'memory_gb': {2: float('nan')}},
              metrics={'instance/AP': {2: 0.1, 4: 0.2}, 'instance/class/chair/AP': {4: 1.0}, 'instance/tail_AP': {4: None}})


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / 'a' / 'fada', FADA, **LOGGED, scores={'instance/AP': 0.30, 'depth/abs_rel': 0.1, 'x': None},
             config="model = dict(loss=dict(type='A'), same=1)")
    make_run(tmp_path / 'b' / 'plain', PLAIN, **LOGGED, scores={'instance/AP': 0.25}, hours=2.0,
             config='model = dict(loss=None, same=1)')
    return read_runs(find_runs([str(tmp_path / 'a' / 'fada'), str(tmp_path / 'b' / 'plain')]))


def test_terms_rates_and_metrics_are_told_apart_and_values_that_are_not_finite_left_out(runs):
    run = runs[0]
    assert [run.name for run in runs] == ['a/fada', 'b/plain'] and run.iterations == 4
    assert run.terms['loss'].x.tolist() == [1, 2, 3, 4] and run.terms['loss'].y.tolist() == FADA['loss']
    assert set(run.training) == {'lr_new', 'time', 'grad_norm'} and set(run.metrics) == {'instance/AP'}
    assert run.training['grad_norm'].x.tolist() == [4]
    assert run.scores == {'instance/AP': 0.30, 'depth/abs_rel': 0.1} and run.scored == 'test'


def test_a_table_gives_each_value_and_its_difference_to_the_first_run(runs):
    assert metric_rows(runs, ['instance/AP', 'depth/abs_rel'], [run.scores for run in runs]) == [
        ['instance/AP', '0.3000', '0.2500', '-0.0500'], ['depth/abs_rel', '0.1000', '–', '–']]


def test_the_page_stands_alone_and_shows_curves_scores_settings_time_and_memory(runs):
    page = comparison_page(runs, window=2)
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!data:)', page) and 'http' not in page and '@import' not in page
    assert 'running mean over 2 iterations' in page and 'Learning rates' in page
    for title, curves in (('loss', 2), ('loss_fada', 1), ('lr_new', 2), ('instance/AP', 2)):
        figure = re.search(rf'<figure><figcaption>{title}</figcaption>.*?</figure>', page)[0]
        assert figure.count('<polyline') == curves, title
    rows = re.findall(r'<tr>(.*?)</tr>', page)
    texts = [re.sub(r'<.*?>', '|', row).replace('||', '|') for row in rows]
    assert any("model.loss|" in text and "dict(type=&#x27;A&#x27;)" in text and 'None' in text for text in texts)
    assert not any('model.same' in text for text in texts)
    assert any('hours' in text and '0.5000' in text and '2.0000' in text for text in texts)
    assert any('peak memory' in text and '1.2500' in text for text in texts)


def test_what_only_some_runs_have_and_where_code_differs_is_named(tmp_path, runs):
    other = read_run(make_run(tmp_path / 'c', PLAIN, **LOGGED, commit='def', dirty=True), 'c')
    notes = all_notes([*runs, other])
    assert 'terms of a/fada only: loss_fada' in notes and 'metrics of a/fada only: depth/abs_rel' in notes
    assert 'commits differ: abc, def' in notes and 'scores differ: test, validation at iteration 4' in notes
    assert 'c has changes on top of its commit' in notes and not any(note.startswith('updates') for note in notes)


def test_runs_with_other_updates_are_named_and_how_processes_shared_them_is_shown(tmp_path):
    eight, split, one = (read_run(make_run(tmp_path / name, PLAIN, **facts), name) for name, facts in dict(
        eight=dict(update='8 slots', processes=1, accumulation=8), split=dict(update='8 slots', processes=2, accumulation=4),
        one=dict(update='1 slot', processes=1, accumulation=1)).items())
    assert not any(note.startswith('updates') for note in all_notes([eight, split]))
    assert 'updates differ: 8 slots, 1 slot' in all_notes([eight, one])
    texts = re.sub(r'<.*?>', '|', comparison_page([eight, split])).replace('||', '|')
    assert '|update|8 slots|8 slots|' in texts and '|processes|1|2|' in texts and '|accumulation|8|4|' in texts


def test_iterations_that_a_resume_did_again_count_with_their_last_values(tmp_path):
    make_run(tmp_path, PLAIN, {'lr_new': {2: 0.1, 4: 0.9, 6: 0.9}}, session='20261122_120000')
    make_run(tmp_path, PLAIN, {'lr_new': {4: 0.2}}, session='20261122_130000')
    series = read_run(tmp_path, 'x').training['lr_new']
    assert series.x.tolist() == [2, 4] and series.y == pytest.approx([0.1, 0.2])


def test_a_run_that_has_just_started_is_named_and_two_of_them_are_refused(tmp_path):
    make_run(tmp_path / 'new', {})
    make_run(tmp_path / 'old', PLAIN)
    found = read_runs(find_runs([str(tmp_path / '*')]))
    assert any('new has no log' in note for note in all_notes(found)) and 'new has no log' in comparison_page(found)
    with pytest.raises(DataError, match='none of these runs has logged an iteration'):
        read_runs([tmp_path / 'new'])


def test_a_run_that_stopped_early_or_was_never_closed_is_named(tmp_path):
    run = make_run(tmp_path / 'short', PLAIN, finished=False)
    assert any('short is not marked as finished' in note for note in read_run(run, 'short').notes)
    (run / 'config.py').write_text('train = dict(iterations=9)')
    assert 'short has 4 of 9 iterations' in read_run(run, 'short').notes


@pytest.mark.parametrize(('name', 'content'), [
    ('run.json', '{"hours": '), ('metrics.jsonl', '{"instance/AP": 1}\n'), ('terms.jsonl', '{"iteration": 0, x\n'),
    ('test/results.json', '{')])
def test_a_damaged_file_is_named_with_its_folder(tmp_path, name, content):
    run = make_run(tmp_path / 'broken', PLAIN, scores={})
    (run / name).write_text(content)
    with pytest.raises(DataError, match=f'broken.*{name}.*damaged'):
        read_run(run, 'broken')


def test_tensorboard_gets_the_same_values_once_however_often_it_is_written(tmp_path, runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for _ in range(2):
        write_scalars(runs, tmp_path / 'logs')
    assert sorted(path.name for path in (tmp_path / 'logs').iterdir()) == ['a_fada', 'b_plain']
    log = EventAccumulator(str(tmp_path / 'logs' / 'a_fada'))
    log.Reload()
    assert [event.step for event in log.Scalars('terms/loss')] == [1, 2, 3, 4]
    np.testing.assert_allclose([event.value for event in log.Scalars('terms/loss')], FADA['loss'])
    assert {'training/lr_new', 'metrics/instance/AP'} <= set(log.Tags()['scalars'])


def test_scalars_of_runs_whose_folders_would_share_a_name_are_apart(tmp_path):
    for name in ('a/b', 'a_b'):
        make_run(tmp_path / name, PLAIN)
    write_scalars(read_runs(find_runs([str(tmp_path / 'a' / 'b'), str(tmp_path / 'a_b')])), tmp_path / 'logs')
    assert {path.parent.name for path in (tmp_path / 'logs').rglob('events*')} == {'a_b-2', 'a_b'}
