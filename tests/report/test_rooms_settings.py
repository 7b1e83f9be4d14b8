"""Settings of published runs: what is kept of each re-creates the config that it ran with."""

import json
import shlex

import pytest

from benchmarks.rooms import settings
from benchmarks.rooms.settings import RESULTS, flat, nested, settings_of, settings_text
from jrs.config import load_config, parse_override
from jrs.engine.record import read_record
from jrs.errors import DataError
from jrs.report.identity import digest
from jrs.schema import value_at
from tests._data import MAIN

OVERRIDES = '--cfg-options'


def keep(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'settings.json').write_text(settings_text(config, folder))
    return json.loads((folder / 'settings.json').read_text())


def test_what_is_kept_of_each_published_run_is_whole_and_what_its_command_asked_for():
    runs = [path.parent for path in RESULTS.glob('*/run.json')]
    for run in runs:
        values, words = settings_of(run), read_record(run)['command']
        asked = dict(map(parse_override, words[words.index(OVERRIDES) + 1:])) if OVERRIDES in words else {}
        assert {path: value_at(values, path) for path in asked} == asked, run.name
        assert digest(values) == json.loads((run / 'settings.json').read_text())['digest'], run.name
    assert runs and not list(RESULTS.glob('*/config.py'))


def test_of_a_run_like_another_only_what_differs_is_kept_and_the_whole_comes_back(tmp_path):
    first, other = (load_config(MAIN, 'debug', changes)._cfg_dict for changes in ({}, {
        'seed': 3, 'model.losses.fada': None, 'model.queries.insertion': dict(type='ListedLayers', layers=[0, 2])}))
    assert keep(tmp_path / 'first', first)['like'] is None
    kept = keep(tmp_path / 'other', other)
    assert kept['like'] == 'first' and len(kept['changed']) + len(kept['gone']) < 8 and kept['changed']['seed'] == 3
    for name, config in (('first', first), ('other', other)):
        assert digest(settings_of(tmp_path / name)) == digest(config)


def test_a_run_unlike_the_others_is_kept_whole(tmp_path):
    keep(tmp_path / 'first', dict(a=1, b=dict(c=(1, 2), d={})))
    kept = keep(tmp_path / 'unlike', dict(a=2, b=dict(c=3, e=5)))
    assert kept['like'] is None and kept['changed'] == {'a': 2, 'b.c': 3, 'b.e': 5}
    assert settings_of(tmp_path / 'first') == dict(a=1, b=dict(c=[1, 2], d={}))


def test_a_run_that_others_are_like_cannot_change_under_them(tmp_path):
    config = dict(a=1, b=2, c=3, d=4)
    keep(tmp_path / 'first', config)
    keep(tmp_path / 'other', config | dict(d=5))
    keep(tmp_path / 'first', config)                                   # published again
    with pytest.raises(DataError, match='another --name'):
        keep(tmp_path / 'first', config | dict(a=0))
    path = tmp_path / 'first' / 'settings.json'
    path.write_text(path.read_text().replace('"a": 1', '"a": 7'))
    with pytest.raises(DataError, match='has been changed since'):
        settings_of(tmp_path / 'other')
    path.write_text(settings_text(config | dict(a=0), tmp_path / 'elsewhere' / 'first'))
    with pytest.raises(DataError, match='first/settings.json, which it is like'):
        settings_of(tmp_path / 'other')


def test_a_path_that_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(DataError, match='has a dot'):
        settings_text({'a': {'b.c': 1}}, tmp_path / 'run')
    assert nested(flat(dict(a=dict(b=dict(c=1)), d={}))) == dict(a=dict(b=dict(c=1)), d={})


def test_the_command_says_what_a_run_was_and_what_it_would_be_today(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, 'RESULTS', tmp_path)
    keep(tmp_path / 'run', load_config(MAIN, 'debug', dict(seed=3))._cfg_dict)
    for seed, said in ((3, 'no difference\n'), (4, 'seed\n  - 3\n  + 4\n')):
        words = shlex.split(f'tools/train.py {MAIN} --profile debug --cfg-options seed={seed}')
        (tmp_path / 'run' / 'run.json').write_text(json.dumps(dict(command=words)))
        settings.main(['run', '--now'])
        assert capsys.readouterr().out == said
    settings.main(['run'])
    (tmp_path / 'config.py').write_text(capsys.readouterr().out)
    assert digest(load_config(tmp_path / 'config.py')._cfg_dict) == digest(settings_of(tmp_path / 'run'))
    with pytest.raises(DataError, match="no settings of a run 'runs'.*'run'"):
        settings.main(['runs'])
