"""The plugin door: a few lines outside the repository are enough, and what goes wrong is named."""

import sys
from pathlib import Path

import pytest

from jrs import plugins
from jrs.config import load_config
from jrs.errors import ConfigError, PluginError
from jrs.registry import ALIGNMENTS, build, owner_of

MAIN = Path(__file__).resolve().parents[1] / 'configs' / 'segvggt' / 'all24_fada.py'
TEN_LINES = '''"""Total variation between view attention and view visibility."""
from jrs.registry import ALIGNMENTS


@ALIGNMENTS.register_module()
class {name}:
    def __call__(self, attention, target):
        return 0.5 * (attention - target).abs().sum(dim=-1)
'''


def make_plugin(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / '__init__.py').write_text(text)
    return folder / name


def test_a_plugin_of_ten_lines_outside_the_repository_adds_an_alignment_that_a_config_uses(tmp_path, fresh):
    make_plugin(tmp_path, 'total_variation', TEN_LINES.format(name='TotalVariation'))
    config = tmp_path / 'row.py'
    config.write_text(f"_base_ = {str(MAIN)!r}\nplugins = ['./total_variation']\n"
                      "model = dict(alignment=dict(type='TotalVariation'))\n")
    cfg = load_config(config, 'debug')
    assert owner_of(ALIGNMENTS.get('TotalVariation')) == 'total_variation'
    import torch
    alignment = build(ALIGNMENTS, cfg.model.alignment, 'model.alignment')
    assert float(alignment(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))) == 1.0
    from jrs.engine.build import build_model
    model = build_model(cfg)
    assert model.criterion is not None and type(model.alignment).__name__ == 'TotalVariation'


def test_the_resolved_config_finds_a_plugin_of_a_relative_path_from_any_folder(tmp_path, fresh):
    make_plugin(tmp_path, 'total_variation', TEN_LINES.format(name='TotalVariation'))
    (tmp_path / 'row.py').write_text(f"_base_ = {str(MAIN)!r}\nplugins = ['./total_variation']\n"
                                     "model = dict(alignment=dict(type='TotalVariation'))\n")
    resolved = tmp_path / 'run' / 'config.py'
    resolved.parent.mkdir()
    resolved.write_text(load_config(tmp_path / 'row.py', 'debug').pretty_text)
    plugins.manager().unregister(name='total_variation')               # as in a process of its own
    assert load_config(resolved).plugins == [str(tmp_path / 'total_variation')]


def test_a_name_that_an_unlisted_plugin_provides_is_attributed_to_it(tmp_path, fresh, monkeypatch):
    make_plugin(tmp_path, 'total_variation', TEN_LINES.format(name='TotalVariation'))
    monkeypatch.setenv('JRS_PLUGIN_PATH', str(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'TotalVariation'.*plugin `total_variation`.*add it to `plugins`"):
        load_config(MAIN, 'debug', {'model.alignment': dict(type='TotalVariaton', _delete_=True)})


@pytest.mark.parametrize('override', [{'model.alignment.type': 'TotalVariation'},
                                      {'model.alignment': dict(type='TotalVariation')}])
def test_an_override_that_names_a_part_of_a_plugin_adds_that_plugin_to_the_config(tmp_path, fresh, monkeypatch, override):
    make_plugin(tmp_path, 'total_variation', TEN_LINES.format(name='TotalVariation'))
    make_plugin(tmp_path, 'another', 'raise OSError("never asked for")')
    monkeypatch.setenv('JRS_PLUGIN_PATH', str(tmp_path))
    for _ in range(2):                                                  # the second time it is loaded already
        cfg = load_config(MAIN, 'debug', override)
        assert cfg.plugins == ['total_variation'] and cfg.model.alignment.type == 'TotalVariation'
    assert load_config(MAIN, 'debug', {'plugins': ['total_variation'], **override}).plugins == ['total_variation']
    assert load_config(MAIN, 'debug').plugins == []
    (tmp_path / 'row.py').write_text(f"_base_ = {str(MAIN)!r}\nmodel = dict(alignment=dict(type='TotalVariation'))\n")
    plugins.manager().unregister(name='total_variation')
    ALIGNMENTS._module_dict.pop('TotalVariation')
    with pytest.raises(ConfigError, match='add it to `plugins`'):       # a config names its plugins itself
        load_config(tmp_path / 'row.py', 'debug')


@pytest.mark.parametrize(('text', 'message'), [
    ('raise OSError("no licence server")', 'failed to load: OSError: no licence server'),
    ('import a_package_that_is_not_there', 'failed to load: ModuleNotFoundError'),
    ('import sys\nsys.exit(0)', 'failed to load: SystemExit: 0'),
    (TEN_LINES.format(name='JensenShannon'), "already has a 'JensenShannon'.*'jrs'.*'broken'.*class of the plugin 'broken'"),
    (TEN_LINES.format(name='JensenShannon').replace('module()', 'module(force=True)'), "already has a 'JensenShannon'"),
    (TEN_LINES.format(name='AdamW').replace('ALIGNMENTS', 'OPTIMIZERS'), "'AdamW': it belongs to 'mmengine'.*'broken'"),
    ('from jrs.plugins import hook\n@hook\ndef jrs_trainin_step(iteration):\n    pass',
     r'jrs_trainin_step.*The hooks are.*jrs_adjust_config\(cfg\).*jrs_training_step\(iteration'),
    ('from jrs.plugins import hook\n@hook\ndef jrs_training_step(iteratoin):\n    pass',
     r'iteratoin.*jrs_training_step\(iteration'),
    ('def jrs_adjust_config(cfg):\n    cfg.seed = 3', 'jrs_adjust_config is not marked as a hook'),
], ids=['raises', 'missing package', 'leaves', 'taken name', 'forced name', "mmengine's name", 'misspelt hook',
        'misspelt argument', 'hook without a mark'])
def test_a_broken_plugin_stops_the_run_and_is_named(tmp_path, fresh, text, message):
    with pytest.raises(PluginError, match=f'(?s){message}'):
        plugins.load_plugins([str(make_plugin(tmp_path, 'broken', text))])


def test_a_plugin_that_takes_a_core_name_is_the_culprit_also_when_the_core_is_imported_after_it(tmp_path):
    """And `plugins.py check` sees it: a process of its own, in which no room is imported yet."""
    import subprocess
    folder = make_plugin(tmp_path, 'taker', 'from jrs.registry import ALIGNMENTS\n@ALIGNMENTS.register_module()\n'
                                            'class KullbackLeibler:\n    """A divergence."""\n')
    done = subprocess.run([sys.executable, str(MAIN.parents[2] / 'tools' / 'plugins.py'), 'check', str(folder)],
                          capture_output=True, text=True)
    assert done.returncode == 2 and f"it belongs to 'jrs' ({MAIN.parents[2] / 'jrs'}" in done.stderr
    assert done.stderr.rstrip().endswith("Rename the class of the plugin 'taker'.")


def test_of_a_plugin_that_fails_nothing_stays(tmp_path, fresh):
    folder = make_plugin(tmp_path, 'half', TEN_LINES.format(name='Half') + '\nraise OSError("half way")\n')
    with pytest.raises(PluginError, match='half way'):
        plugins.load_plugins([str(folder)])
    assert 'Half' not in ALIGNMENTS.names()
    (folder / '__init__.py').write_text(TEN_LINES.format(name='Half'))
    plugins.load_plugins([str(folder)])
    assert owner_of(ALIGNMENTS.get('Half')) == 'half'


def test_two_plugins_of_one_name_are_told_apart_by_their_places(tmp_path, fresh, monkeypatch):
    first = make_plugin(tmp_path / 'a', 'mine', TEN_LINES.format(name='First'))
    second = make_plugin(tmp_path / 'b', 'mine', TEN_LINES.format(name='Second'))
    plugins.load_plugins(['./mine', str(first), '../a/mine/__init__.py'], base=tmp_path / 'a')     # one and the same
    for other in (second, tmp_path / 'b' / 'mine.py'):
        (tmp_path / 'b' / 'mine.py').write_text('')
        with pytest.raises(PluginError, match=f'(?s)two plugins are called .mine.*{first}.*{other}'):
            plugins.load_plugins([str(other)])
    monkeypatch.setenv('JRS_PLUGIN_PATH', f'{tmp_path / "b"}:{tmp_path / "a"}')
    with pytest.raises(PluginError, match=f'(?s){second}.*{first}.*its path'):
        plugins.load_plugins(['mine'])


@pytest.mark.parametrize('name', ['mine', 'mine.py'])
def test_a_plugin_beside_the_config_that_is_named_without_its_path_is_pointed_at(tmp_path, fresh, name):
    (tmp_path / name).mkdir() if name == 'mine' else (tmp_path / name).write_text('')
    (tmp_path / name / '__init__.py').write_text('') if name == 'mine' else None
    (tmp_path / 'row.py').write_text(f"_base_ = {str(MAIN)!r}\nplugins = ['mine']\n")
    with pytest.raises(PluginError, match=f"write './{name}'"):
        load_config(tmp_path / 'row.py', 'debug')


@pytest.fixture
def installed(tmp_path, monkeypatch, fresh):
    """A package with an entry point; its part is registered in a module that the entry point's module imports."""
    site = tmp_path / 'site'
    (site / 'my_package' / 'inner').mkdir(parents=True)
    (site / 'my_package' / '__init__.py').write_text('')
    (site / 'my_package' / 'huge.py').write_text(TEN_LINES.format(name='NeverImported'))
    (site / 'my_package' / 'inner' / '__init__.py').write_text('')
    (site / 'my_package' / 'inner' / 'parts.py').write_text(TEN_LINES.format(name='FromAPackage'))
    (site / 'my_package' / 'door.py').write_text('from .inner import parts\n')
    (site / 'my_package-1.2.dist-info').mkdir()
    (site / 'my_package-1.2.dist-info' / 'METADATA').write_text('Name: my-package\nVersion: 1.2\n')
    (site / 'my_package-1.2.dist-info' / 'entry_points.txt').write_text('[jrs.plugins]\nfar = my_package.door\n')
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.partition('.')[0] == 'my_package']:
        del sys.modules[name]


def test_a_plugin_of_a_package_is_hinted_at_listed_and_found_by_an_override_like_any_other(installed, capsys):
    from jrs.cli.plugins import main
    with pytest.raises(ConfigError, match='Did you mean .FromAPackage.*plugin `far`.*add it to `plugins`'):
        load_config(MAIN, 'debug', {'model.alignment.type': 'FromAPackag'})
    main(['list'])
    entry = capsys.readouterr().out.partition('far\n')[2]
    assert entry.startswith(f'  folder    {installed / "my_package" / "door.py"}\n  owner     package my-package 1.2, entry '
                            'point my_package.door\n  provides  ALIGNMENTS: FromAPackage\n  loaded    no')
    assert not any(name.startswith('my_package') for name in sys.modules)
    cfg = load_config(MAIN, 'debug', {'model.alignment.type': 'FromAPackage'})
    assert cfg.plugins == ['far'] and owner_of(ALIGNMENTS.get('FromAPackage')) == 'far'
    from jrs.report.identity import plugins_digest
    assert plugins_digest(['far'])


def test_what_a_plugin_registers_is_read_however_it_writes_it(tmp_path):
    from jrs.discovery import provides
    (tmp_path / 'written.py').write_text(
        'from jrs import registry\nfrom jrs.registry import COSTS as C\n@registry.LOSSES.register_module()\nclass A: pass\n'
        '@C.register_module(name="Bee")\nclass B: pass\nclass D: pass\nregistry.HEADS.register_module(module=D)\n'
        '@C.register_module\nclass Other: pass\n@C.register_module()\ndef make(): pass\n')
    assert provides(tmp_path / 'written.py') == {'A': 'LOSSES', 'Bee': 'COSTS', 'D': 'HEADS', 'Other': 'COSTS',
                                                 'make': 'COSTS'}


@pytest.mark.parametrize('name', ['jrs', 'mmengine'])
def test_a_plugin_cannot_pass_for_the_core(tmp_path, fresh, name):
    with pytest.raises(PluginError, match=f'(?s)/{name}.*Rename it'):
        plugins.load_plugins([str(make_plugin(tmp_path, name, ''))])


def test_an_unknown_plugin_is_refused_with_near_spellings(tmp_path, fresh, monkeypatch):
    make_plugin(tmp_path, 'mask_decoder', '')
    monkeypatch.setenv('JRS_PLUGIN_PATH', str(tmp_path))
    with pytest.raises(PluginError, match="'mask_decoder'"):
        plugins.load_plugins(['mask_decodr'])


def test_parts_of_jrs_that_a_plugin_is_the_first_to_import_stay_its_own():
    import subprocess
    code = ('from jrs.plugins import load_plugins; from jrs.registry import BACKBONES, owner_of; load_plugins(["pi3"]); '
            'assert [owner_of(BACKBONES.get(name)) for name in ("VGGT", "Pi3")] == ["jrs", "pi3"]')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_importing_jrs_loads_no_plugin_and_no_torch():
    import subprocess
    code = ('import sys, jrs.config, jrs.cli, jrs.plugins; assert "torch" not in sys.modules; '
            'assert jrs.plugins._manager is None')
    subprocess.run([sys.executable, '-c', code], check=True)
