"""Rows of seeds against the first: what `tools/compare_runs.py --pairs` prints."""

import json

import numpy as np
import pytest

from jrs.report.intervals import Draws, table_of
from tests._data import command

SCENES = ('a', 'b')


def make_run(folder, score, seed, scenes=SCENES, lr=1.0):
    """A run folder with a published test, whose draws are half a point about the score."""
    (folder / 'test').mkdir(parents=True)
    (folder / 'config.py').write_text(f'seed = {seed}\ntrain = dict(lr={lr})\n')
    metrics = {'instance/agnostic_AP25': score, 'instance/AP': score / 10}
    (folder / 'test' / 'results.json').write_text(json.dumps(dict(metrics=metrics, scenes=list(scenes))))
    noise = np.random.default_rng(seed).normal(scale=0.005, size=200)
    (folder / 'test' / 'resampled.csv').write_text(table_of({name: Draws(scenes, value + noise)
                                                             for name, value in metrics.items()}))


@pytest.fixture
def runs(tmp_path):
    for name, scores in dict(base=(0.2, 0.21), better=(0.3, 0.31), close=(0.21, 0.2), one=(0.5,)).items():
        for seed, score in enumerate(scores):
            make_run(tmp_path / f'{name}_rooms_seed{seed}', score, seed)
    return tmp_path


def test_rows_are_compared_seed_by_seed_with_an_interval(runs, capsys):
    names = [runs / f'{name}_rooms_seed?' for name in ('base', 'better', 'close', 'one')]
    assert command('compare_runs', *names, '--pairs') == 0
    lines = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == 'measure row by seed − base_rooms 95% interval difference by seed'
    assert lines[1] == 'agnostic_AP25 base_rooms 20.0, 21.0'
    assert lines[2] == 'agnostic_AP25 better_rooms 30.0, 31.0 +10.0 [+10.0..+10.0] +10.0, +10.0 more'
    assert lines[3] == 'agnostic_AP25 close_rooms 21.0, 20.0 +0.0 [-12.7..+12.7] +1.0, -1.0 undecided'
    assert lines[4] == 'agnostic_AP25 one_rooms 50.0 +30.0 [+30.0..+30.0] +30.0 undecided: one seed'
    assert [line.split()[0] for line in lines[5:]] == ['AP'] * 4


def test_runs_that_cannot_be_paired_say_why(runs, capsys):
    make_run(runs / 'elsewhere_rooms_seed0', 0.2, 0, scenes=('a', 'c'))
    assert command('compare_runs', runs / 'base_rooms_seed0', runs / 'elsewhere_rooms_seed0', '--pairs') == 0
    assert 'no seed or other scenes in common' in capsys.readouterr().out
    make_run(runs / 'base_rooms_seed2', 0.2, 2, lr=2.0)
    assert command('compare_runs', runs / 'base_rooms_seed?', '--pairs') == 2
    assert 'are of one row by their names, but differ in train.lr: rename one' in capsys.readouterr().err
    make_run(runs / 'again' / 'base_rooms_seed0', 0.2, 0)
    assert command('compare_runs', runs / 'base_rooms_seed0', runs / 'again' / 'base_rooms_seed0', '--pairs') == 2
    assert 'is the second run of base_rooms with seed 0' in capsys.readouterr().err
    assert command('compare_runs', runs / 'base_rooms_seed0', '--pairs', '--test', 'test_unseen') == 2
    assert 'score the weights with tools/test.py, or name the test with --test' in capsys.readouterr().err
