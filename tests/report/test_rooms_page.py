"""docs/rooms.md: the committed page is what the committed logs say, and what is published of a run is enough to write it."""

import csv
import json

import numpy as np
import pytest
import torch

from benchmarks.rooms import gradients, page, publish, tables
from jrs.config import load_config
from jrs.errors import DataError
from jrs.io.weights import read_metadata, read_state, save_weights
from jrs.registry import MODELS, build
from jrs.report.intervals import Draws, resampled_of, table_of
from tests._data import MAIN, random_batch
from tests.report.test_intervals import leave_test


@pytest.fixture
def finished(tmp_path):
    """A run folder of 50 iterations, as training and testing leave it."""
    run = tmp_path / 'work_dirs' / 'all24_fada_rooms_seed0'
    (run / 'test').mkdir(parents=True)
    record = dict(finished=True, hours=0.1, peak_memory_gb=1.0, commit='abc', command=['tools/train.py', 'x.py'],
                  device='cpu: a machine', versions={'torch': '2', 'yapf': '1'})
    (run / 'run.json').write_text(json.dumps(record))
    (run / 'terms.jsonl').write_text(''.join(json.dumps(dict(iteration=i, loss=float(i))) + '\n' for i in range(50)))
    (run / 'config.py').write_text('seed = 0\n')
    (run / 'diff.txt').write_text('')
    metrics = {'instance/agnostic_AP25': 0.25, 'instance/agnostic_AP50': 0.125, 'instance/class/chair/AP25': 0.1,
               'instance/AP25': 0.125}
    facts = dict(config='configs/segvggt/all24_fada.py', seed=0)
    (run / 'test' / 'results.json').write_text(json.dumps(dict(facts=facts, metrics=metrics)))
    save_weights({'queries.token': torch.ones(2)}, run / 'weights.safetensors', dict(licence='Apache-2.0'))
    return run


def test_the_committed_page_is_what_the_committed_logs_say():
    assert page.PAGE.read_text(encoding='utf-8') == page.page_text(), 'run python benchmarks/rooms/page.py'


def test_what_is_published_of_a_run(finished, tmp_path):
    out = tmp_path / 'out' / finished.name
    publish.publish(finished, out)
    with (out / 'curve.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert [(line['iteration'], float(line['loss'])) for line in lines] == [('20', 9.5), ('40', 29.5), ('50', 44.5)]
    assert json.loads((out / 'run.json').read_text())['versions'] == {'torch': '2'}
    (finished / 'run.json').write_text(json.dumps(dict(finished=False)))
    with pytest.raises(DataError, match='not a finished run'):
        publish.publish(finished, out)


def test_published_weights_say_how_they_were_made(finished, tmp_path):
    path = publish.publish_weights(finished, tmp_path / 'weights')
    card = read_metadata(path)
    assert card['licence'] == 'Apache-2.0' and card['command'] == 'python tools/train.py x.py' and card['hours'] == 0.1
    assert card['metrics'] == {'instance/agnostic_AP25': 0.25, 'instance/agnostic_AP50': 0.125, 'instance/AP25': 0.125}
    assert torch.equal(read_state(path).ours['queries.token'], torch.ones(2)) and (path.parent / 'config.py').is_file()


def test_rows_are_filled_by_runs_and_the_others_say_so(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    publish.publish(finished, tmp_path / 'out' / finished.name)
    text = '\n'.join(page.tables())
    assert '| all24_fada | 1 | 25.0 | 12.5 |' in text
    table = text[text.index('## Table 3'):text.index('## Table 4')]
    assert '(n=1)' in table and 'not run' in table and 'all24_fada_rooms_seed0: python tools/train.py x.py' in table


def test_what_is_published_of_a_test_with_matches_is_enough_for_intervals(finished, tmp_path):
    leave_test(finished / 'test_unseen')
    publish.publish(finished, tmp_path / 'out' / finished.name)
    published = tmp_path / 'out' / finished.name
    assert resampled_of(published / 'test_unseen').keys() == resampled_of(finished / 'test_unseen').keys() != set()
    assert not list(published.glob('test*/*.npz')) and not (published / 'test' / 'resampled.csv').exists()


def test_claims_on_unseen_rooms_are_judged_by_intervals(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'kept')
    assert any(line.startswith('| 3 | FADA as a loss') and 'cannot be judged' in line for line in page.unseen())
    for config, share in (('all24_no_fada', 0.2), ('all24_fada_loss_only', 0.3), ('all24_fada', 0.301)):
        for seed in (0, 1):
            out = tables.job(f'configs/segvggt/{config}.py', 400, seed).in_(tmp_path / 'kept')
            publish.publish(finished, out)
            (out / 'test_unseen').mkdir()
            score = share + 0.02 * seed * (config == 'all24_fada')
            results = dict(facts=dict(seed=seed), scenes=['a', 'b'], metrics={'instance/agnostic_AP25': score})
            (out / 'test_unseen' / 'results.json').write_text(json.dumps(results))
            noise = np.random.default_rng(len(config)).normal(score, 0.003, size=100)
            draws = {'instance/agnostic_AP25': Draws(('a', 'b'), noise)}
            (out / 'test_unseen' / 'resampled.csv').write_text(table_of(draws))
    text = '\n'.join(page.unseen())
    assert '| 400 | all24_fada | 31.1 [30.1..32.1] (n=2) |' in text and 'early12_fada_800 0' in text
    loss, cost = (line for line in text.splitlines() if line.startswith('| 3 |'))
    assert '| holds | paper +4.4; ours +10.0 [' in loss and '(95%, 2 rooms; by seed +10.0, +10.0)' in loss
    assert '| undecided | paper +0.8; ours +1.1 [' in cost and 'by seed +0.1, +2.1' in cost
    assert '`Table 7`: all24_frozen_400 0, all24_frozen_400 1' in text and 'rooms_mean 2' in text


def test_a_table_takes_the_test_that_is_its_own(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    results = json.loads((finished / 'test' / 'results.json').read_text())
    results['metrics'] = {'instance/agnostic_AP25': 0.75, 'instance/AP25': 0.75}
    (finished / 'test_table2').mkdir()
    (finished / 'test_table2' / 'results.json').write_text(json.dumps(results))
    publish.publish(finished, tmp_path / 'out' / finished.name)
    text = '\n'.join(page.tables())
    assert '12.5 (n=1)' in text[text.index('## Table 3'):text.index('## Table 4')] and text.count('75.0 (n=1)') == 1
    assert '75.0 (n=1)' in text[text.index('## Table 2'):]


def test_readings_of_fada_differ_by_pairs_and_views_and_the_page_says_how_loud_each_is(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = build(MODELS, load_config(MAIN, 'debug', {'model.teacher': None}).model, 'model')
    found = gradients.of_batch(model, random_batch(3))                     # one scene
    losses, views = found['losses'], 3
    assert found['pairs'] > 1 and losses['mean', True] > 0
    for per_view in (True, False):
        assert losses['sum', per_view] == pytest.approx(found['pairs'] * losses['mean', per_view], rel=1e-4)
    for reduction in ('mean', 'sum'):
        assert losses[reduction, False] == pytest.approx(views * losses[reduction, True], rel=1e-4)
    assert found['elsewhere'][True, 1] <= found['pairs'] and model.matcher.costs['fada'].weight == 0.5
    monkeypatch.setattr(page, 'RESULTS', tmp_path)
    record = dict(command=['x.py'], batches=1, pairs=40, costs=[dict(per_view=False, weight=5.0, elsewhere=0.25)],
                  readings=[dict(reduction='sum', per_view=True, weight=0.5, to_masks=0.05)])
    (tmp_path / 'gradients.json').write_text(json.dumps(record))
    text = '\n'.join(page.readings())
    assert '| sum | yes | 0.0500 = 1 / 20 |' in text and '| 5 | no | 25.0% |' in text and '1 batches, 40 instances' in text


def test_runs_say_whether_the_weight_of_fada_was_the_cost_s_too(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    record = json.loads((finished / 'run.json').read_text())
    for name, override in (('a', 'model.weights.fada=5'), ('b', 'model.losses.fada.weight=5'), ('c', 'seed=0')):
        (finished / 'run.json').write_text(json.dumps(record | dict(command=['x.py', '--cfg-options', override])))
        publish.publish(finished, tmp_path / 'out' / f'all24_fada_rooms_seed0_{name}')
    text = '\n'.join(page.fada())
    for name, words in (('a', 'loss and cost'), ('b', 'loss alone'), ('c', '–')):
        assert f'| all24_fada_rooms_seed0_{name} | {words} | 50 |' in text


def test_scores_stand_by_length_with_and_without_fada(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    publish.publish(finished, tmp_path / 'out' / finished.name)
    publish.publish(finished, tmp_path / 'out' / 'all24_fada_rooms_seed1')
    assert '| 50 | 25.0 [25.0..25.0] / 12.5 [12.5..12.5] (n=2) | not run |' in '\n'.join(page.fada())


def test_methods_of_one_start_stand_with_their_seeds_and_what_was_not_run_is_open(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    assert 'from one start' not in page.page_text()
    scores = dict(agnostic_AP=.125, agnostic_AP50=.25, agnostic_AP25=.5, oracle_agnostic_AP=.75, by_size_agnostic_AP=.0625)
    metrics = {f'instance/{name}': value for name, value in scores.items()} | {
        'depth/abs_rel': .25, 'panoptic/pixels/agnostic_PQ_things': .375}
    facts = dict(config='configs/baselines/iggt.py', seed=0, ranking='cohesion')
    record = json.loads((finished / 'run.json').read_text())
    (finished / 'run.json').write_text(json.dumps(record | dict(cpu_hours=.5, parameters=dict(all=2_000_000, learned=5000))))
    for seed, more in ((0, {}), (1, {'instance/agnostic_AP25': .75})):
        (finished / 'test' / 'results.json').write_text(json.dumps(dict(facts=facts, metrics=metrics | more, command=['x'])))
        publish.publish(finished, tmp_path / 'out' / f'iggt_rooms_table2_seed{seed}')
    text = page.page_text()
    assert ('| IGGT | 2 | 12.5 [12.5..12.5] | 25.0 [25.0..25.0] | 62.5 [50.0..75.0] | – | 37.5 [37.5..37.5] | '
            '0.250 [0.250..0.250] | 30.0 [30.0..30.0] | 50 | 2.00, 0.01 |') in text
    assert '| Pano3D-style | open | – | – | – | – | – | – | – | – | – |' in text
    assert '| size | 6.2 [6.2..6.2] | – | – |' in text
    assert '| true masks at the size of IGGT | – | 75.0 | – | – |' in text and '| cohesion | 12.5 [12.5..12.5] |' in text
    assert 'Open: iggt, seed 2; panst3r_style, seed 0; ' in text
    assert '- iggt_rooms_table2_seed1: `python tools/train.py' in text
    assert '| iggt_rooms_table2_seed0 |' not in text                        # in no other table of the page


def test_points_stand_against_images_and_the_two_stage_row_beside_its_network(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'RESULTS', tmp_path / 'out')
    publish.publish(finished, tmp_path / 'out' / finished.name)
    for name, config, more in (('test', 'oneformer3d', {}), ('test_two_stage_truth', 'two_stage_oneformer3d', {
            'points/on_mesh': 0.5, 'points/pure': 0.75}), ('test_of_something_else', 'oneformer3d', {})):
        (finished / name).mkdir(exist_ok=True)
        facts = dict(config=f'configs/baselines/{config}.py', seed=0, views_per_scene=page.OF_POINTS)
        metrics = {f'instance/{kind}{ap}': value for kind in ('', 'agnostic_') for ap, value in (('AP50', .5), ('AP25', .6))}
        (finished / name / 'results.json').write_text(json.dumps(dict(facts=facts, metrics=metrics | more, command=['x'])))
    publish.publish(finished, tmp_path / 'out' / 'oneformer3d_rooms_seed0')
    lines = list(page.points())
    assert '| OneFormer3D, scannet200 | P | oneformer3d_rooms_seed0, test | 50 | 6 | 50.0 / 60.0 | 50.0 / 60.0 | – | – |' \
        in lines
    assert sum('test_two_stage_truth | 50 | 6 | 50.0 / 60.0 | 50.0 / 60.0 | 0.50 | 0.75 |' in line for line in lines) == 1
    assert any('all24_fada_rooms_seed0, test' in line for line in lines) and 'something_else' not in '\n'.join(lines)
    assert [one.name for one in page.segmenting('*_rooms_*')] == ['all24_fada_rooms_seed0']
