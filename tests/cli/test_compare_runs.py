"""Real runs are compared by folder and by pattern; what is no run is named."""

from __future__ import annotations

import re

import pytest

from tests._data import ROOT, command
from tests.report._run import make_run

NAMES = ('all24_fada', 'all24_no_fada')


@pytest.fixture(scope='module')
def trained(debug_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    for name in NAMES:
        config = ROOT / 'configs' / 'segvggt' / f'{name}.py'
        assert command('train', config, '--profile', 'debug', '--work-dir', folder / name,
                       '--cfg-options', f'data_root={debug_data}', 'train.iterations=2', 'train.log_every=1',
                       'train.validate_every=2', 'batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1',
                       'hooks.pictures=None') == 0
    return folder


def test_two_real_runs_on_one_page_and_in_tensorboard(trained, tmp_path, capsys):
    assert command('compare_runs', trained / '*', '--out', tmp_path / 'page.html') == 0
    shown = capsys.readouterr().out
    assert re.search(r'metric +all24_fada +all24_no_fada +difference', shown) and re.search(r'\ndepth/abs_rel +0\.', shown)
    assert 'terms of all24_fada only: loss_fada' in shown
    page = (tmp_path / 'page.html').read_text()
    for part in ('loss_mask_dice', 'lr_new', 'instance/AP', 'grad_norm', 'model.alignment', 'JensenShannon', 'peak memory'):
        assert part in page, part
    assert [len(list((tmp_path / 'page_tensorboard' / name).glob('events*'))) for name in NAMES] == [1, 1]


def test_the_first_run_named_is_what_others_differ_from(trained, tmp_path, capsys):
    words = [trained / NAMES[1], trained / NAMES[0], trained / NAMES[1], '--out', tmp_path / 'page.html']
    assert command('compare_runs', *words, '--tensorboard', tmp_path / 'logs', '--smooth', 2) == 0
    assert re.search(r'metric +all24_no_fada +all24_fada +difference\n', capsys.readouterr().out)   # a folder counts once
    assert {path.name for path in (tmp_path / 'logs').iterdir()} == set(NAMES)


@pytest.mark.parametrize(('words', 'message'), [
    (['{}/nothing'], "names no folder. Did you mean '.*nothing1'"), (['{}/nothing*'], 'is no run folder.*config.py'),
    (['{}/x*'], 'names no folder'), (['{}/empty'], 'none of these runs has logged'), (['{}/nothing1'], 'is no run folder'),
    (['{}/run', '--smooth', '0'], '--smooth.*at least 1, got 0')])
def test_what_is_no_run_is_refused(words, message, tmp_path, capsys):
    (tmp_path / 'nothing1').mkdir()
    make_run(tmp_path / 'empty', {})
    make_run(tmp_path / 'run', dict(loss=[1.0]))
    assert command('compare_runs', *(word.format(tmp_path) for word in words), '--out', tmp_path / 'page.html') == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / 'page.html').exists()
