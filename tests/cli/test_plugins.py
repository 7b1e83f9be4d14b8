"""Plugins are listed without importing any, started from a skeleton that works, and checked for what they lack."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from jrs.cli.plugin_skeleton import class_name
from tests._data import ROOT, command, tool

DECODER = ROOT / 'configs' / 'baselines' / 'vggt_mask2former_6l.py'


@pytest.fixture
def skeleton(tmp_path, fresh, capsys):
    assert command('plugins', 'new', 'total_variation', '--into', tmp_path) == 0
    capsys.readouterr()
    return tmp_path / 'total_variation'


def test_listing_imports_neither_torch_nor_a_plugin():
    code = ("import sys; from jrs.cli.plugins import main; main(['list']); assert 'torch' not in sys.modules; "
            "assert not any(name.startswith('jrs_plugins') for name in sys.modules)")
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    entry = printed[printed.index('mask_decoder\n'):]
    assert f'folder    {ROOT / "plugins" / "mask_decoder"}' in entry and 'owner     this repository' in entry
    assert 'provides  QUERIES: MaskDecoder' in entry and 'loaded    no' in entry


def test_the_list_says_which_plugins_an_experiment_loads(fresh, capsys):
    assert command('plugins', 'list', '--config', DECODER) == 0
    assert 'loaded    yes' in capsys.readouterr().out


def test_the_list_has_plugins_of_the_search_path_of_packages_and_of_paths(skeleton, tmp_path, monkeypatch, capsys):
    package = tmp_path / 'site' / 'my_package'
    (package.parent / 'my_package-1.2.dist-info').mkdir(parents=True)
    package.mkdir()
    (package / '__init__.py').write_text('from jrs.registry import COSTS\n@COSTS.register_module()\nclass Free:\n    pass\n')
    (package.parent / 'my_package-1.2.dist-info' / 'METADATA').write_text('Name: my-package\nVersion: 1.2\n')
    (package.parent / 'my_package-1.2.dist-info' / 'entry_points.txt').write_text('[jrs.plugins]\nmine = my_package\n')
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv('JRS_PLUGIN_PATH', str(tmp_path))
    assert command('plugins', 'list') == 0
    printed = capsys.readouterr().out
    assert re.search(r'total_variation\n.*total_variation\n  owner     \$JRS_PLUGIN_PATH\n  provides  ALIGNMENTS: TotalVar',
                     printed)
    assert 'package my-package 1.2, entry point my_package\n  provides  COSTS: Free\n  loaded    no' in printed
    monkeypatch.delenv('JRS_PLUGIN_PATH')
    config = tmp_path / 'row.py'
    config.write_text(f"_base_ = {str(DECODER)!r}\nplugins = ['mask_decoder', './total_variation']\n")
    assert command('plugins', 'list', '--config', config) == 0
    assert 'owner     a config, by path' in capsys.readouterr().out


def test_a_new_plugin_passes_its_own_test_and_the_check_and_works_in_a_config(skeleton, tmp_path, capsys):
    test = skeleton / 'tests' / 'test_total_variation.py'
    done = subprocess.run([sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-q', str(test)], cwd=tmp_path,
                          capture_output=True, text=True)
    assert '2 passed' in done.stdout, done.stdout
    assert command('plugins', 'check', skeleton) == 0
    printed = capsys.readouterr().out
    assert 'provides  ALIGNMENTS: TotalVariation' in printed and printed.endswith('complete\n') and str(test) in printed
    from jrs.config import load_config
    config = tmp_path / 'row.py'
    config.write_text(f"_base_ = {str(ROOT / 'configs' / 'segvggt' / 'all24_fada.py')!r}\nplugins = ['./total_variation']\n"
                      "model = dict(alignment=dict(type='TotalVariation', scale=2.0))\n")
    assert load_config(config, 'debug').model.alignment.scale == 2.0


def test_a_new_plugin_of_the_repository_has_its_test_among_the_others(tmp_path, monkeypatch, capsys):
    from jrs.cli import plugins as cli
    (tmp_path / 'plugins').mkdir()
    monkeypatch.setattr(cli, 'ROOT', tmp_path)
    assert command('plugins', 'new', 'pull_push') == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file())
    assert written == ['plugins/pull_push/README.md', 'plugins/pull_push/__init__.py', 'plugins/pull_push/part.py',
                       'tests/plugins/test_pull_push.py']
    assert "load_plugins(['pull_push'])" in (tmp_path / 'tests' / 'plugins' / 'test_pull_push.py').read_text()
    assert 'test_registered' in capsys.readouterr().out and class_name('pull_push') == 'PullPush'


@pytest.mark.parametrize(('name', 'message'), [
    ('Total', 'lower-case'), ('total-variation', 'lower-case'), ('class', 'lower-case'), ('mask_decoder', 'already'),
    ('jensen_shannon', 'JensenShannon.*taken'), ('../up', 'lower-case')])
def test_a_name_that_does_not_fit_or_is_taken_is_refused(name, message, tmp_path, capsys):
    assert command('plugins', 'new', name, '--into', tmp_path) == 2
    assert re.search(message, capsys.readouterr().err) and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert command('plugins', 'new', 'fresh', '--into', tmp_path / 'gone') == 2
    assert '--into' in capsys.readouterr().err


def test_the_check_names_everything_that_lacks(tmp_path, fresh, capsys):
    folder = tmp_path / 'lean'
    folder.mkdir()
    (folder / '__init__.py').write_text(
        'from jrs.plugins import hook\nfrom jrs.registry import ALIGNMENTS\n@hook\ndef jrs_evaluation(metrics):\n    pass\n'
        '@ALIGNMENTS.register_module(name="Other")\nclass Bare:\n    pass\n')
    (folder / 'forgotten.py').write_text('from jrs.registry import COSTS\n@COSTS.register_module()\nclass Late:\n    pass\n')
    assert command('plugins', 'check', folder) == 1
    printed = capsys.readouterr().out
    assert 'hooks     jrs_evaluation' in printed
    lacking = '\n'.join(line for line in printed.splitlines() if line.startswith('  lacks'))
    for words in ("Bare as 'Other'", 'docstring of Bare', 'COSTS.Late', 'README.md', 'tests/test_'):
        assert words in lacking, words


def test_an_empty_plugin_a_broken_one_and_a_missing_one(tmp_path, fresh, capsys):
    (tmp_path / 'empty.py').write_text('')
    assert command('plugins', 'check', tmp_path / 'empty.py') == 1
    assert 'adds nothing' in capsys.readouterr().out
    (tmp_path / 'broken.py').write_text('raise OSError("no licence server")')
    assert command('plugins', 'check', tmp_path / 'broken.py') == 2
    error = capsys.readouterr().err
    assert 'Traceback' in error and 'PluginError' in error and 'no licence server' in error
    assert command('plugins', 'check', 'mask_decodr') == 2
    assert "'mask_decoder'" in capsys.readouterr().err


def test_the_repository_s_plugins_are_complete(fresh, capsys):
    for folder in sorted(path.parent for path in (ROOT / 'plugins').glob('*/__init__.py')):
        assert command('plugins', 'check', folder.name) == 0, capsys.readouterr().out


def test_the_tool_runs():
    assert 'new' in subprocess.run(tool('plugins', '--help'), capture_output=True, text=True, check=True).stdout
