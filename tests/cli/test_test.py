"""`tools/test.py`: one set of predictions by several rules of transfer."""

import json

from jrs.models.segvggt import SegVGGT
from tests._data import MAIN, command

SMALL = ('test_dataset.max_views=2', 'metrics.depth=None', 'metrics.cameras=None')


def score(out, data, *words, options=()):
    return command('test', MAIN, 'untrained', '--profile', 'debug', '--out', out, *words, '--cfg-options',
                   f'data_root={data}', *SMALL, *options)


def test_rules_of_transfer_share_one_forward_pass_and_make_one_table(debug_data, tmp_path, monkeypatch, capsys):
    passes = []
    whole = SegVGGT.reconstruct
    monkeypatch.setattr(SegVGGT, 'reconstruct', lambda self, *args, **more: passes.append(1) or whole(self, *args, **more))
    assert score(tmp_path, debug_data, '--transfer-rules', 'vote=any', 'superpoint_vote=observed+vote=any') == 0
    record = json.loads((tmp_path / 'results.json').read_text())
    assert len(passes) == len(record['scenes']) == 1
    rows = record['transfer_rules']
    assert [row['rule'] for row in rows] == ['as configured', 'vote=any', 'superpoint_vote=observed+vote=any']
    names = {'AP', 'agnostic_AP25', 'oracle_AP50', 'oracle_agnostic_AP'}
    assert all(row['metric'] == 'instance' and names <= set(row['numbers']) for row in rows)
    assert rows[2]['transfer']['superpoint_vote'] == 'observed'
    assert all(record['metrics'][f'instance/{name}'] == value for name, value in rows[0]['numbers'].items())
    assert not any('rule/' in name for name in record['metrics']) and 'rule/' not in (tmp_path / 'results.csv').read_text()
    printed = capsys.readouterr().out
    assert 'vote=any ' in printed and 'instance, as configured: transfer posed' in printed and 'rule/' not in printed


def test_rules_need_a_metric_that_scores_instances(debug_data, tmp_path, capsys):
    assert score(tmp_path / 'out', debug_data, '--transfer-rules', 'all', options=['metrics.instances=None']) == 2
    assert 'scores no instances' in capsys.readouterr().err and not (tmp_path / 'out').exists()
