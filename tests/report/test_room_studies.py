"""Studies on the rooms: rows differ in what they name and in nothing else; what is done is not done again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rooms import stronger, study, tables
from benchmarks.rooms import where_fada_pays as where
from benchmarks.rooms.settings import flat
from jrs.cli import run
from jrs.cli.train import config_from, parser
from jrs.config import load_config
from jrs.report.intervals import Draws

OF_FADA = ('model.alignment', 'model.matcher.costs.fada', 'model.losses.fada', 'model.weights.fada')


def changed(one, other):
    """Return the paths at which two configs differ."""
    left, right = flat(one), flat(other)
    return [path for path in {**left, **right} if path not in left or path not in right or left[path] != right[path]]


def config(setting, row, tmp_path):
    return trained_with(where.job(setting, row, 0), tmp_path)


def trained_with(job, tmp_path):
    return config_from(parser().parse_args(job.training_words(tmp_path, [])))._cfg_dict


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return {row: config('rooms', row, tmp_path_factory.mktemp('run')) for row in where.ROWS}


def test_rows_differ_in_alignment_alone(plain):
    for row, values in plain.items():
        paths = changed(plain['none'], values)
        assert bool(paths) == (row != 'none') and all(path.startswith(OF_FADA) for path in paths), (row, paths)
    assert len({json.dumps(flat(values)) for values in plain.values()}) == len(where.ROWS)


@pytest.mark.parametrize('setting', where.SETTINGS)
def test_a_setting_differs_in_what_it_names(setting, plain, tmp_path):
    assert set(changed(plain['sum'], config(setting, 'sum', tmp_path))) == set(where.SETTINGS[setting].training)


@pytest.mark.parametrize('change', stronger.CHANGES)
def test_a_change_of_the_small_model_differs_in_what_it_names(change, plain, tmp_path):
    assert changed(trained_with(stronger.job('as_built', 0), tmp_path), plain['none']) == []     # the row compared with
    base = trained_with(replace(stronger.job(change, 0), training={}), tmp_path)
    assert all(path.startswith(OF_FADA) for path in changed(base, plain['none']))
    named = stronger.CHANGES[change].training
    paths = changed(base, trained_with(stronger.job(change, 0), tmp_path))
    assert all(any(path.startswith(name) for name in named) for path in paths)
    assert all(any(path.startswith(name) for path in paths) for name in named)


@pytest.mark.parametrize('table', tables.LENGTHS)
def test_rows_of_a_table_are_of_its_length_and_differ_in_their_config_alone(table, plain, tmp_path):
    jobs = tables.planned(table, [0])
    for config, one in zip(tables.configs(table), jobs, strict=True):
        values, own = trained_with(one, tmp_path), load_config(config, profile='rooms')._cfg_dict
        assert values['train']['iterations'] == tables.LENGTHS[table] and 'seed=0' in one.training_words(tmp_path, [])
        paths = {path for path in changed(own, values) if not path.startswith('hooks.')}
        assert paths <= {'train.iterations', 'experiment.config', 'plugins'}, paths
    assert len({one.name for one in jobs}) == len(jobs)


def leave_views(folder, views):
    """Leave what a test says of its views."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'results.json').write_text(json.dumps(dict(facts=dict(views_per_scene=views))))


def test_rooms_with_fewer_views_than_the_setting_asks_for_are_no_score_of_it(tmp_path):
    leave_views(tmp_path, '12-12, mean 12.0')
    study.check_views(where.job('far', 'sum', 0), tmp_path / 'results.json')
    with pytest.raises(study.StageError, match='of 12-12, mean 12.0 views of a room, and the setting asks for 24'):
        study.check_views(where.job('views24', 'sum', 0), tmp_path / 'results.json')


def test_what_is_kept_is_done_and_the_rest_is_run_with_what_was_given(tmp_path, monkeypatch, capsys):
    ran = []

    class Recorded(study.Commands):
        def __call__(self, script, words, log):
            ran.append((script.stem, words))
            if 'seed=1' in words:
                raise study.StageError('no room')
            if script.stem == 'train':
                folder = tmp_path / 'runs' / 'where_fada_pays' / 'far_sum_seed0'
                folder.mkdir(parents=True)
                (folder / 'weights.safetensors').touch()
            else:
                leave_views(Path(words[words.index('--out') + 1]), '12-12, mean 12.0')
    monkeypatch.setattr(study, 'Commands', Recorded)
    monkeypatch.setattr(study, 'check_rooms', lambda job, options: None)
    monkeypatch.setattr(study, 'publish', lambda folder, out: out.mkdir(parents=True))
    kept = tmp_path / 'kept' / 'where_fada_pays' / 'far_none_seed0' / study.TEST
    kept.mkdir(parents=True)
    (kept / 'results.json').write_text('{}')
    words = ['--only', 'far', '--rows', 'none', 'sum', '--seeds', '0', '1', '--work-dirs', str(tmp_path / 'runs'), '--out',
             str(tmp_path / 'kept'), '--cfg-options', 'data_root=there']
    assert run(where.main, [*words, '--dry-run']) == 0 and not ran
    said = capsys.readouterr().out
    assert 'far_none_seed0: done' in said and '3 of 4, about 39 CPU-minutes' in said
    assert run(where.main, words) == 1                                          # seed 1 failed, seed 0 went on
    assert [script for script, _ in ran] == ['train', 'test', 'train', 'train']
    assert all('data_root=there' in words for _, words in ran)
    assert 'far_none_seed1: no room' in capsys.readouterr().err
    assert 'model.matcher.costs.fada=None' in ran[1][1] and 'test_dataset.folder=rooms/tiny_test' in ran[1][1]


def test_rooms_that_score_are_asked_for_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, 'Commands', lambda: pytest.fail('something is run'))
    words = ['--only', 'far', '--rows', 'none', '--out', str(tmp_path), '--cfg-options', f'data_root={tmp_path}']
    assert run(where.main, words) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / 'rooms' / 'tiny_test') in said and '--preset tiny_test' in said
    unfinished = tmp_path / 'rooms' / 'tiny_test'                               # rooms without their lists
    (unfinished / 'scene0000_00').mkdir(parents=True)
    assert run(where.main, words) == 2 and 'val.txt' in capsys.readouterr().err


def kept(values, rooms=('a', 'b')):
    """What is kept of seeds with these AP25; each draw of the rooms gives what they give."""
    found = study.Kept(metrics={seed: {} for seed in values}, minutes=dict.fromkeys(values, 1.0))
    for scored in found.scored.values():
        scored.values = dict(values)
        scored.draws = {seed: Draws(rooms, np.full(3, value)) for seed, value in values.items()}
    return found


def test_pairs_of_all_settings_count_together_where_both_of_a_pair_are_there():
    without = study.together({'rooms': kept({0: 10.0, 1: 20.0}), 'far': kept({0: 30.0, 2: 40.0})})
    with_it = study.together({'rooms': kept({0: 12.0}), 'far': kept({0: 31.0, 1: 99.0, 2: 43.0}), 'near': kept({0: 99.0})})
    found = with_it.gains(without)['AP25']
    assert sorted(found.by_seed) == [1, 2, 3] and found.value == 2
    assert found.low == pytest.approx(2 - 4.303 / 3 ** 0.5, abs=1e-3)                       # t of 2 degrees; s is 1


def looked(values, slope):
    """What is kept of seeds that look at the right views with these masses, and whose entropy has this slope over layers."""
    found = study.Kept()
    for seed, value in values.items():
        names = 'view_mass/last', 'view_mass/slope', 'entropy/last', 'js/slope'
        found.metrics[seed] = {f'attention/{name}': value for name in names} | {'attention/entropy/slope': slope(seed)}
    return found


def test_attention_is_compared_pair_by_pair_of_a_seed_and_its_claims_have_intervals(monkeypatch, tmp_path):
    rows = {'far_none': looked({0: 0.2, 1: 0.3, 2: 0.1}, lambda seed: 0.1 + 0.01 * seed),
            'far_sum': looked({0: 0.4, 1: 0.52}, lambda seed: -0.1 - 0.01 * seed),
            'near_none': looked({0: 0.2}, lambda seed: 0.1), 'near_mean': looked({0: 0.4}, lambda seed: 0.1)}
    monkeypatch.setattr(where, 'kept_of', lambda out, stem: rows.get(stem, study.Kept()))
    lines = [*where.attention_lines(tmp_path)]
    far, = (line for line in lines if line.startswith('| 8 views all around') and '| 2 |' in line)
    assert f'| {where.SAYS["sum"]} | 2 | +0.210 [+0.083..+0.337], more |' in far
    assert '| -0.210 [-0.337..-0.083], less |' in far
    near, = (line for line in lines if line.startswith('| 8 neighbouring') and '| 1 |' in line)
    assert '| +0.200, undecided: one seed |' in near
    assert [line.split(' | ')[3] for line in lines if '(Sec. 0.A.3)' in line and 'all around' in line] == ['holds', 'holds']
    assert [line.split(' | ')[3] for line in lines if '(Sec. 0.A.3)' in line and 'neighb' in line] == ['undecided'] * 2
    assert any('widens' in line and 'seeds alone, n = 3)' in line for line in lines)      # all without FADA count


def test_a_lower_threshold_is_compared_with_the_same_weights_at_the_paper_s(monkeypatch, tmp_path):
    scored = {('best', study.TEST): {0: 30.0}, ('best', stronger.LOWER): {0: 34.0},
              ('deep', study.TEST): {0: 20.0, 1: 10.0}, ('deep', stronger.LOWER): {1: 12.0}}
    monkeypatch.setattr(stronger, 'kept_of', lambda out, stem, test=study.TEST: kept(scored.get((stem, test), {})))
    line, = (line for line in stronger.table_lines(tmp_path, tmp_path) if '0.2' in line)
    assert '`deep` 12.0' in line and '`best` 34.0' in line and '2 pairs' in line and '+3.0' in line


def test_pooled_are_the_settings_of_the_profile_s_length_and_start(monkeypatch):
    asked = []
    monkeypatch.setattr(where, 'kept_of', lambda out, stem: asked.append(stem) or kept({0: 1.0, 1: 2.0}))
    rows = [*where.pooled_rows(Path(), 13)]
    settings = {*where.SETTINGS} - {'continued', 'long'}
    assert {*asked} == {f'{name}_{row}' for name in settings for row in where.ROWS}
    assert [row[1] for row in rows] == [where.SAYS[row] for row in [*where.ROWS][1:]] and {len(row) for row in rows} == {13}
    assert rows[0][2] == f'{2 * len(settings)} pairs'


@pytest.mark.parametrize('wrong, words', [(['--only', 'viewz24'], "Did you mean 'views24'"), (['--rows', 'summ'], "'sum'"),
                                          (['--jobs', '0'], 'at least 1')])
def test_what_does_not_exist_is_refused(wrong, words, capsys):
    assert run(where.main, [*wrong, '--dry-run']) == 2 and words in capsys.readouterr().err
