"""Plugins as strangers write them from docs/plugins.md: they keep their contracts, train, are scored, and read photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jrs.errors import ConfigError, PluginError
from jrs.io.png import write_png8
from jrs.plugins import load_plugins
from jrs.registry import MATCHERS, build
from jrs.trials import inputs
from tests._data import command
from tests.engine.test_train import SMALL

HERE = Path(__file__).parent
PLUGIN, METRIC = HERE / 'greedy_spill', HERE / 'instance_count_metric.py'


@pytest.mark.parametrize(('plugin', 'lines'), [(PLUGIN, 60), (METRIC, 20)])
def test_an_example_is_complete_and_short(plugin, lines, fresh, capsys):
    assert command('plugins', 'check', plugin) == 0
    assert 'keeps its contract' in capsys.readouterr().out
    files = [path for path in plugin.rglob('*') if path.suffix in ('.py', '.md')] if plugin.is_dir() else [plugin]
    assert sum(len(path.read_text().splitlines()) for path in files) <= lines


def test_the_examples_train_are_scored_and_read_photos(fresh, debug_data, tmp_path):
    run, options = tmp_path / 'run', ['--cfg-options', f'data_root={debug_data}']
    assert command('train', HERE / 'greedy_spill_row.py', '--profile', 'debug', '--work-dir', run, *options,
                   'train.iterations=2', 'seed=1', *SMALL) == 0
    rows = [json.loads(line) for line in (run / 'terms.jsonl').read_text().splitlines()]
    terms = [row['loss_elsewhere'] for row in rows]
    assert len(terms) == 2 and min(terms) >= 0 and 0 < max(terms) <= 0.5                    # a share, times its weight
    assert command('test', HERE / 'instance_count_row.py', run / 'weights.safetensors', '--profile', 'debug', *options) == 0
    assert json.loads((run / 'test/results.json').read_text())['metrics']['count/mae'] >= 0
    for number in range(2):
        write_png8(tmp_path / f'photos{number}.png', (inputs.seeded(42, 56, 3) * 255).byte().numpy())
    assert command('infer', *sorted(tmp_path.glob('photos*')), '--out', tmp_path / 'out', '--checkpoint',
                   run / 'weights.safetensors', '--no-glb') == 0
    assert (tmp_path / 'out/report.html').is_file()


def test_a_part_whose_plugin_is_not_named_says_so(fresh):
    with pytest.raises(ConfigError, match=r"MATCHERS has no 'KNearestMatcher'.* once `plugins` names its file or folder"):
        build(MATCHERS, dict(type='KNearestMatcher'), 'model.matcher')


@pytest.fixture
def matcher(fresh):
    """`KNearestMatcher` of two queries per instance, the second of which counts half."""
    load_plugins([str(PLUGIN)])
    costs = dict(elsewhere=dict(type='ElsewhereCost'), classification=dict(type='ClassCost'))
    return build(MATCHERS, dict(type='KNearestMatcher', k=2, costs=costs), 'model.matcher',
                 weights=dict(elsewhere=1.0, classification=1.0))


def test_each_instance_gets_its_cheapest_queries_with_their_weights(matcher):
    pred, target = inputs.query_predictions(), inputs.instance_targets()
    match, cost = matcher(pred, target), matcher.total_cost(pred, target)
    assert sorted(match.instances.tolist()) == [0, 0, 1, 1] and len(set(match.queries.tolist())) == 4
    costs = cost[match.queries, match.instances]
    assert costs[0] == cost.min() and costs.equal(costs.sort().values)
    for instance in (0, 1):
        assert match.weights[match.instances == instance].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(('given', 'words'), [
    (([0, 0], [0, 1]), r'gave query 0 to the instances \[0, 1\]'),
    (([0, -1], [0, 1]), r'queries \[-1\], which do not exist'),
    (([0, 6], [0, 1]), r'queries \[6\]'), (([0, 1], [0, 2]), r'instances \[2\]'), (([0], [0, 1]), r'shapes \(1,\), \(2,\)'),
    (([0.5], [0]), 'queries of type torch.float32'), (([0], [0], [-1.0]), 'weights'), (None, 'a NoneType'),
    (torch.zeros(2, 2), 'a Tensor'), (([0], [0], [1.0, 2.0]), 'shapes')])
def test_pairs_that_are_none_are_refused(given, words, matcher, monkeypatch):
    monkeypatch.setattr(matcher, 'assign', lambda cost, pred, target: given)
    with pytest.raises(PluginError, match=f'KNearestMatcher.assign .*{words}'):
        matcher(inputs.query_predictions(), inputs.instance_targets())
