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


@pytest.fixture
def fresh(monkeypatch):
    """Undo what a test registers and imports."""
    monkeypatch.setattr(plugins, '_manager', None)
    ALIGNMENTS.names()                                              # imports the built-in ones
    before, modules = dict(ALIGNMENTS.module_dict), set(sys.modules)
    yield
    ALIGNMENTS._module_dict.clear()
    ALIGNMENTS._module_dict.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.NAMESPACE):
            del sys.modules[name]


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
    (TEN_LINES.format(name='JensenShannon'), "already has a 'JensenShannon'.*'jrs'.*'broken'"),
    ('from jrs.plugins import hook\n@hook\ndef jrs_trainin_step(iteration):\n    pass', 'jrs_trainin_step'),
    ('from jrs.plugins import hook\n@hook\ndef jrs_training_step(iteratoin):\n    pass', 'iteratoin'),
], ids=['raises', 'missing package', 'leaves', 'taken name', 'misspelt hook', 'misspelt argument'])
def test_a_broken_plugin_stops_the_run_and_is_named(tmp_path, fresh, text, message):
    with pytest.raises(PluginError, match=f'(?s){message}'):
        plugins.load_plugins([str(make_plugin(tmp_path, 'broken', text))])


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
