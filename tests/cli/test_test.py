"""`tools/test.py`: one set of predictions by several rules of transfer, and saved for anybody's evaluation."""

import json

import numpy as np
import pytest

from jrs.evaluation.kept import read_matches
from jrs.models.segvggt import SegVGGT
from jrs.report.transfer_rules import text_lines
from tests._data import MAIN, command

SMALL = ('test_dataset.max_views=2', 'metrics.depth=None', 'metrics.cameras=None')
RULES = ('vote=any', 'superpoint_vote=observed+vote=any')


def score(out, data, *words, options=()):
    return command('test', MAIN, 'untrained', '--profile', 'debug', '--out', out, *words, '--cfg-options',
                   f'data_root={data}', *SMALL, *options)


@pytest.fixture(scope='module')
def scored(debug_data, tmp_path_factory):
    """A folder of results by several rules (`out`) and of saved predictions (`own`), made with one forward pass."""
    folder, passes = tmp_path_factory.mktemp('test'), []
    whole = SegVGGT.reconstruct
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegVGGT, 'reconstruct', lambda self, *args, **more: passes.append(1) or whole(self, *args, **more))
        assert score(folder / 'out', debug_data, '--transfer-rules', *RULES, '--save-predictions', folder / 'own') == 0
    assert len(passes) == 1
    return folder


def test_rules_of_transfer_make_one_table_and_leave_the_other_numbers(scored):
    record = json.loads((scored / 'out/results.json').read_text())
    rows = record['transfer_rules']
    assert [row['rule'] for row in rows] == ['as configured', *RULES] and len(record['scenes']) == 1
    names = {'AP', 'agnostic_AP25', 'oracle_AP50', 'oracle_agnostic_AP'}
    assert all(row['metric'] == 'instance' and names <= set(row['numbers']) for row in rows)
    assert rows[2]['transfer']['superpoint_vote'] == 'observed'
    assert all(record['metrics'][f'instance/{name}'] == value for name, value in rows[0]['numbers'].items())
    assert not any('rule/' in name for name in record['metrics']) and 'rule/' not in (scored / 'out/results.csv').read_text()


def test_the_matches_of_the_scenes_score_to_the_numbers_of_the_test(scored):
    record = json.loads((scored / 'out/results.json').read_text())
    kept = read_matches(scored / 'out/instance_matches.npz')
    assert kept.names == record['scenes'] and (scored / 'out/instance_matches.npz').stat().st_size < 2e4
    numbers = kept.resampled(np.ones((1, len(kept.names)), dtype=int))
    assert {f'instance/{name}': value for name, (value,) in numbers.items()} == pytest.approx(
        {name: record['metrics'][name] for name in record['metrics'] if name[9:] in numbers}, abs=1e-12)
    assert len(numbers) == 6


def test_the_table_names_the_rule_of_every_number():
    numbers = dict(AP=0.25, oracle_AP=0.5, agnostic_AP=0.125, oracle_agnostic_AP=None)
    rows = [dict(metric='instance', rule=rule, transfer=dict(vote='majority', rounding='nearest'), numbers=numbers)
            for rule in ('as configured', 'vote=any')] + [
        dict(metric='instance', rule='vote=mean_prob', transfer={}, numbers={}, not_measured='no embeddings')]
    text = '\n'.join(text_lines(rows))
    assert 'instance, as configured: vote majority; rounding nearest' in text and 'vote=mean_prob: no embeddings' in text
    assert [line.split() for line in text.splitlines() if line.startswith('vote=any')] == [
        ['vote=any', '25.0', '(50.0)', '12.5']]


def test_rules_need_a_metric_that_scores_instances(debug_data, tmp_path, capsys):
    assert score(tmp_path / 'out', debug_data, '--transfer-rules', 'all', options=['metrics.instances=None']) == 2
    assert 'scores no instances' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_saved_predictions_are_scored_to_the_numbers_of_the_test(scored, debug_data, tmp_path):
    assert command('evaluate', 'export-ground-truth', '--config', MAIN, '--profile', 'debug', '--out', tmp_path / 'truth',
                   '--cfg-options', f'data_root={debug_data}') == 0
    numbers = json.loads((scored / 'out/results.json').read_text())['metrics']
    for folder, prefix, words in (('own', '', ()), ('own/class_agnostic', 'agnostic_', ('--class-agnostic',))):
        assert command('evaluate', '--predictions', scored / folder, '--ground-truth', tmp_path / 'truth', '--benchmark',
                       'scannet200', '--out', tmp_path / 'again', *words) == 0
        again = json.loads((tmp_path / 'again/instance_ap.json').read_text())
        assert all(numbers[f'instance/{prefix}{name}'] == again[name] for name in ('AP', 'AP50', 'AP25'))
    made = json.loads((scored / 'own/predictions.json').read_text())
    assert made['scenes'] == ['scene0002_00'] and made['facts']['vote'] == 'majority' and made['identity']['weights']
    assert [path.name for path in (scored / 'own').glob('*.txt')] == ['scene0002_00.txt']
    assert (scored / 'own/scene0002_00.txt').read_text().count('\n') > 0
