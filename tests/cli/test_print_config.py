"""What is printed is what would run; a difference names path, old and new value."""

from __future__ import annotations

import re
import subprocess

import pytest

from jrs.config import load_config
from jrs.report.differences import ABSENT, differences
from tests._data import MAIN, ROOT, command, tool

NO_FADA = ROOT / 'configs' / 'segvggt' / 'all24_no_fada.py'
NO_FADA_LINES = """\
model.alignment
  - dict(type='JensenShannon')
  + None
model.matcher.costs.fada
  - dict(type='ViewAttentionCost')
  + None
model.losses.fada
  - dict(type='ViewAttentionLoss')
  + None
"""


def test_the_printed_text_is_the_checked_config_again(tmp_path, capsys):
    assert command('print_config', NO_FADA, '--profile', 'debug', '--cfg-options', 'seed=7', 'train.iterations=3') == 0
    (tmp_path / 'config.py').write_text(capsys.readouterr().out)
    again, expected = (cfg._cfg_dict for cfg in (
        load_config(tmp_path / 'config.py'), load_config(NO_FADA, 'debug', {'seed': 7, 'train.iterations': 3})))
    assert list(differences(again, expected)) == [] and again.seed == 7
    assert command('print_config', tmp_path, '--diff', tmp_path / 'config.py') == 0             # a run folder is its config
    assert capsys.readouterr().out.endswith('no difference\n')


@pytest.mark.parametrize('words', [['--diff'], ['--diff', MAIN], ['--diff', 'segvggt/all24_fada'],
                                   ['--profile', 'rooms', '--diff']])
def test_an_ablation_row_differs_from_its_parent_by_what_it_writes_at_every_scale(words, capsys):
    assert command('print_config', NO_FADA, *words) == 0
    printed = capsys.readouterr().out
    head, lines = printed.split('\n', 2)[:2], printed.split('\n', 2)[2]
    assert lines == NO_FADA_LINES and head == [f'- {MAIN}', f'+ {NO_FADA}']


def test_a_run_is_compared_as_it_ran(tmp_path, capsys):
    command('print_config', MAIN, '--profile', 'debug', '--cfg-options', 'seed=7')
    (tmp_path / 'config.py').write_text(capsys.readouterr().out)
    assert command('print_config', MAIN, '--profile', 'debug', '--diff', tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ['seed', '  - 7', '  + 0']


def test_differences_name_absent_keys_and_replace_parts_of_another_type_as_a_whole():
    old = dict(a=1, part=dict(type='A', x=1), same=(1, dict(y=2)), gone=3)
    new = dict(a=1, part=dict(type='B', x=1), same=[1, dict(y=2)], fresh=None)
    assert list(differences(old, new)) == [
        ('part', dict(type='A', x=1), dict(type='B', x=1)), ('gone', 3, ABSENT), ('fresh', ABSENT, None)]


@pytest.mark.parametrize(('words', 'message'), [
    ([MAIN, '--diff'], 'complete experiment.*--diff OTHER'), ([MAIN, '--diff', ROOT / 'configs'], 'without a config.py'),
    ([ROOT / 'configs' / 'segvggt' / 'all24_fda.py'], "Did you mean '.*all24_fada.py'"),
    ([MAIN, '--diff', 'all24_fda.py'], 'no config file'), ([MAIN, '--profile', 'room'], "'rooms'"),
    ([MAIN, '--cfg-options', 'sed=3'], "'seed'"), ([ROOT / 'README.md'], 'is no config')])
def test_what_cannot_be_printed_is_named(words, message, capsys):
    assert command('print_config', *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_tool_runs():
    printed = subprocess.run(tool('print_config', '--help'), capture_output=True, text=True, check=True).stdout
    assert '--diff' in printed
