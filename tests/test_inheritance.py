"""Files inherit: plugins add up, a new type drops what it does not take, and what is saved is what was read."""

import os
from pathlib import Path

import pytest

from jrs import plugins
from jrs.config import load_config, read_config
from jrs.errors import ConfigError, PluginError
from tests._data import MAIN, command
from tests.test_plugins import TEN_LINES, make_plugin
from tests.test_profiles import leaf


def again(cfg, folder: Path):
    """Return the experiment as a run saves it, read from another folder in a process that has loaded no plugin."""
    folder.mkdir()
    (folder / 'config.py').write_text(cfg.pretty_text)
    for name, _ in plugins.manager().list_name_plugin():
        plugins.manager().unregister(name=name)
    return load_config(os.path.relpath(folder / 'config.py'))


def test_the_plugins_of_a_child_join_those_of_its_bases_and_paths_start_at_the_file_that_writes_them(tmp_path, fresh):
    first = make_plugin(tmp_path / 'parents', 'first', TEN_LINES.format(name='First'))
    second = make_plugin(tmp_path / 'children', 'second', TEN_LINES.format(name='Second'))
    parent = leaf(tmp_path / 'parents', "plugins = ['./first']\nmodel = dict(alignment=dict(type='First'))")
    child = leaf(tmp_path / 'children', "plugins = ['./second', 'mask_decoder', '../parents/first']\nseed = 1", parent)
    empty = leaf(tmp_path / 'children', 'plugins = []', child, 'empty.py')
    for path in (child, empty):
        assert load_config(path, 'debug').plugins == [str(first), str(second), 'mask_decoder']
    saved = again(load_config(child, 'debug'), tmp_path / 'run')
    assert saved._cfg_dict == load_config(child, 'debug')._cfg_dict and saved.model.alignment.type == 'First'


def test_plugins_of_an_override_and_of_a_profile_join_too(tmp_path, fresh, monkeypatch):
    for name in ('first', 'second', 'third'):
        make_plugin(tmp_path, name, TEN_LINES.format(name=name.title()))
    (tmp_path / 'profiles').mkdir()
    (tmp_path / 'profiles' / 'own.py').write_text("plugins = ['../second']\nmodel = dict(alignment=dict(type='Second'))\n")
    make_plugin(tmp_path / 'deep', 'fourth', TEN_LINES.format(name='Fourth'))
    parent = leaf(tmp_path / 'deep', "profiles = dict(own=dict(plugins=['./fourth']))")
    path = leaf(tmp_path, "plugins = ['./first', './first/__init__.py']", parent)
    monkeypatch.chdir(tmp_path)
    cfg = load_config(path, 'own', {'model.alignment.type': 'Third', 'plugins': ['./third']})
    assert cfg.plugins == [str(tmp_path / name) for name in ('first', 'second', 'deep/fourth', 'third')]


def test_a_part_of_a_plugin_that_only_another_config_lists_is_refused(tmp_path, fresh):
    make_plugin(tmp_path, 'first', TEN_LINES.format(name='First'))
    load_config(leaf(tmp_path, "plugins = ['./first']\nmodel = dict(alignment=dict(type='First'))"), 'debug')
    with pytest.raises(ConfigError, match="model.alignment: 'First'.*plugin `first`.*add it to `plugins`"):
        load_config(leaf(tmp_path, "model = dict(alignment=dict(type='First'))"), 'debug')


@pytest.mark.parametrize(('text', 'path'), [
    ('from pathlib import Path\nweights = Path("w")', 'weights'),
    ("seed = 1\ntrain = dict(clip_norm=float('inf'))", 'clip_norm'),
    ('import numpy\nbatches = dict(max_images=numpy.int64(4))', 'batches.max_images'),
    ('optimizer = dict(betas=(0.9, {1}))', 'optimizer.betas.1'), ('data_root = str', 'data_root'),
    ("experiment = {'class': 1, **_base_.experiment}", 'experiment.class')])
def test_a_value_that_would_not_come_back_from_the_saved_config_is_refused(tmp_path, text, path):
    with pytest.raises(ConfigError, match=path):
        load_config(leaf(tmp_path, text))


OLD = '''"""Two alignments with arguments of their own."""
from jrs.registry import ALIGNMENTS


@ALIGNMENTS.register_module()
class Old:
    def __init__(self, shared=1, past=2):
        self.shared = shared


@ALIGNMENTS.register_module()
class New:
    def __init__(self, shared=1, fresh=3):
        self.shared = shared
'''


@pytest.fixture
def old(tmp_path, fresh):
    make_plugin(tmp_path, 'kinds', OLD)
    return leaf(tmp_path, "plugins = ['./kinds']\nmodel = dict(alignment=dict(type='Old', shared=5, past=6))", name='old.py')


def test_a_new_type_inherits_only_what_it_takes_and_the_difference_shows_what_went(tmp_path, old, capsys):
    new = leaf(tmp_path, "model = dict(alignment=dict(type='New', fresh=7))", old)
    assert load_config(new, 'debug').model.alignment == dict(type='New', shared=5, fresh=7)
    assert load_config(old, 'debug', {'model.alignment.fresh': 7, 'model.alignment.type': 'New'}).model.alignment == dict(
        type='New', shared=5, fresh=7)
    back = leaf(tmp_path, "model = dict(alignment=dict(type='Old'))", new, 'back.py')
    assert load_config(back, 'debug').model.alignment == dict(type='Old', shared=5)
    assert command('print_config', new, '--diff') == 0
    assert "- dict(type='Old', shared=5, past=6)\n  + dict(type='New', shared=5, fresh=7)" in capsys.readouterr().out


@pytest.mark.parametrize('change', ["type='New', past=7", "type='New', past=7, _delete_=True"])
def test_an_argument_that_is_written_beside_the_new_type_is_checked_not_dropped(tmp_path, old, change):
    with pytest.raises(ConfigError, match="model.alignment: New has no argument 'past'"):
        load_config(leaf(tmp_path, f'model = dict(alignment=dict({change}))', old), 'debug')
    with pytest.raises(ConfigError, match="New has no argument 'past'"):
        load_config(old, 'debug', {'model.alignment.past': 7, 'model.alignment.type': 'New'})


def test_a_misspelt_key_is_found_however_deep_and_however_it_is_written(tmp_path):
    leaf(tmp_path, 'model = dict(num_clases=18)')
    child = leaf(tmp_path, 'seed = 1', tmp_path / 'leaf.py', 'child.py')
    spread = leaf(tmp_path, '_wrong = dict(num_clases=18)\nmodel = dict(**_wrong)', name='spread.py')
    for path in (child, spread):
        with pytest.raises(ConfigError, match="model.num_clases.*'num_classes'"):
            load_config(path)


def test_styles_of_mmengine_and_editors_are_read_or_refused_in_words(tmp_path):
    (tmp_path / 'bom.py').write_bytes(b'\xef\xbb\xbf' + f'_base_ = {str(MAIN)!r}\nseed = 4\n'.encode())
    assert load_config(tmp_path / 'bom.py').seed == 4
    marked = leaf(tmp_path, "weights = '{{ fileDirname }}/w.pt'\nseed = {{_base_.batches.max_images}}")
    assert load_config(marked).weights == f'{tmp_path}/w.pt' and load_config(marked).seed == 48
    for number in (1, 2):
        (tmp_path / f'piece{number}.py').write_text('seed = 1\n_own = dict(a=1)\n')
    (tmp_path / 'two.py').write_text("_base_ = ['piece1.py', 'piece2.py']\n")
    with pytest.raises(ConfigError, match="two of its bases have 'seed'"):
        read_config(tmp_path / 'two.py')


@pytest.mark.parametrize(('lines', 'written'), [
    ('from .bom import *', "'./bom.py'"), ('from ..a.b import model', "'../a/b.py'"),
    ('from . import one, two', "['./one.py', './two.py']"),
    ('from configs.segvggt.all24_fada import *', repr(str(MAIN))), ('import gone.x', "'gone/x.py'"),
    ('from .a import *\n    from .b import *', "['./a.py', './b.py']"), ('pass', "'./FILE.py'")])
def test_mmengines_newer_style_is_told_what_to_write(tmp_path, lines, written):
    for head in ('', 'if True:\n  '):
        (tmp_path / 'new.py').write_text(f'from mmengine.config import read_base\n{head}with read_base():\n    {lines}\n')
        with pytest.raises(ConfigError, match=r'read_base\(\) style is not supported: write ') as error:
            read_config(tmp_path / 'new.py')
        assert f'write _base_ = {written} in the place of these lines' in str(error.value)


def test_a_class_as_a_type_is_told_to_be_text(tmp_path):
    head = 'import torch\nfrom jrs.backbones.vggt import VGGT\n'
    with pytest.raises(ConfigError, match="optimizer.type is the class AdamW; types are written as text: type='AdamW'"):
        read_config(leaf(tmp_path, f'{head}optimizer = dict(type=torch.optim.AdamW)'))
    with pytest.raises(ConfigError, match="model.backbone.type is the class VGGT; .*type='VGGT'"):
        read_config(leaf(tmp_path, f'{head}model = dict(backbone=dict(type=VGGT))'))
    assert read_config(leaf(tmp_path, f"{head}seed = 7")).seed == 7


ADJUST = '''"""A hook that is seen to run twice."""
from jrs.plugins import hook


@hook
def jrs_adjust_config(cfg):
    cfg.train.iterations += 100
'''


def test_a_hook_adjusts_the_configs_that_name_its_plugin_and_no_other(tmp_path, fresh, debug_data):
    from jrs.report.identity import training_identity
    make_plugin(tmp_path, 'adjusting', ADJUST)
    before = training_identity(load_config(MAIN, 'debug'))
    adjusted = load_config(leaf(tmp_path, "plugins = ['./adjusting']"), 'debug')
    assert adjusted.train.iterations == 120
    plain = load_config(MAIN, 'debug')
    assert plain.train.iterations == 20 and training_identity(plain) == before != training_identity(adjusted)


def test_hooks_adjust_in_the_order_of_the_config_whatever_was_loaded_before(tmp_path, fresh):
    make_plugin(tmp_path, 'adding', ADJUST)
    make_plugin(tmp_path, 'doubling', ADJUST.replace('+= 100', '*= 2'))
    for names in (['adding', 'doubling'], ['doubling', 'adding'], ['adding', 'doubling']):
        path = leaf(tmp_path, f'plugins = {[f"./{name}" for name in names]}')
        cfg = load_config(path, 'debug')
        assert cfg.train.iterations == (240 if names[0] == 'adding' else 140) and cfg.adjusted == names


def test_a_hook_that_fails_names_its_plugin(tmp_path, fresh):
    make_plugin(tmp_path, 'adding', ADJUST)
    make_plugin(tmp_path, 'failing', ADJUST.replace('cfg.train.iterations += 100', "cfg['nothing']['there'] = 1"))
    with pytest.raises(PluginError, match="jrs_adjust_config of plugin 'failing' failed: KeyError"):
        load_config(leaf(tmp_path, "plugins = ['./adding', './failing']"), 'debug')


def test_a_saved_config_is_not_adjusted_again_and_what_inherits_from_it_is(tmp_path, fresh):
    make_plugin(tmp_path, 'adjusting', ADJUST)
    cfg = load_config(leaf(tmp_path, "plugins = ['./adjusting']"), 'debug')
    assert again(cfg, tmp_path / 'run')._cfg_dict == cfg._cfg_dict
    assert load_config(leaf(tmp_path, 'seed = 1', tmp_path / 'run' / 'config.py', 'child.py')).train.iterations == 220


def test_differences_are_against_the_parent_before_hooks(tmp_path, fresh, capsys):
    from jrs.cli.train import origin_text, parser
    make_plugin(tmp_path, 'adjusting', ADJUST)
    parent = leaf(tmp_path, "plugins = ['./adjusting']", name='parent.py')
    child = leaf(tmp_path, 'seed = 1', parent)
    for path in (parent, child):
        assert command('print_config', path, '--profile', 'debug', '--diff') == 0
        assert 'train.iterations\n  - 20\n  + 120' in capsys.readouterr().out
    args = parser().parse_args([str(child), '--profile', 'debug', '--cfg-options', 'train.iterations=3'])
    text = origin_text(args, load_config(child, 'debug', {'train.iterations': 3}))
    assert '--cfg-options\ntrain.iterations\n  - 20\n  + 3\n' in text
    assert 'jrs_adjust_config of plugins\n' in text and 'train.iterations\n  - 3\n  + 103\n' in text


def test_hooks_of_a_run_are_those_of_its_own_plugins(tmp_path, fresh):
    make_plugin(tmp_path, 'own', 'from jrs.plugins import hook\n@hook\ndef jrs_config_roots():\n    return ["own"]\n')
    make_plugin(tmp_path, 'other', 'from jrs.plugins import hook\n@hook\ndef jrs_config_roots():\n    return ["other"]\n')
    plugins.load_plugins(['./own', './other'], base=tmp_path)
    assert plugins.hook_of('jrs_config_roots', [str(tmp_path / 'own')])() == [['own']]
    assert plugins.hook_of('jrs_config_roots', [])() == []


TERMS = "costs=dict(near=dict(type='ClassCost'))), losses=dict(near=dict(type='ClassLoss', no_object_weight=0.1))"


def test_a_new_loss_and_cost_get_a_weight_in_a_config_and_an_override(tmp_path):
    cfg = load_config(leaf(tmp_path, f'model = dict(matcher=dict({TERMS}, weights=dict(near=2.0))'), 'debug')
    assert cfg.model.weights.near == 2.0 and cfg.model.weights.fada == 0.5
    cfg = load_config(MAIN, 'debug', {'model.losses.near': dict(type='MaskBCELoss'), 'model.weights.near': 3})
    assert cfg.model.weights.near == 3
    from jrs.engine.build import build_model
    assert build_model(cfg).criterion.weights['near'] == 3


@pytest.mark.parametrize(('text', 'words'), [
    ('model = dict(weights=dict(fda=1.0))', ['model.weights.fda', "'fada'"]),
    ("model = dict(losses=dict(near=dict(type='MaskBCELoss')))",
     ['model.losses.near has no weight', 'weights=dict(near=1.0)']),
    ("model = dict(matcher=dict(costs=dict(near=dict(type='ClassCost'))))",
     ['model.matcher.costs.near has no weight', 'weights=dict(near=1.0)']),
    ('model = dict(weights=dict(fada=None))', ['model.weights.fada', 'number', 'None']),
    ("model = dict(weights=dict(fada='1'))", ['model.weights.fada', "'1'"])])
def test_a_weight_without_a_term_and_a_term_without_a_weight_are_refused_with_the_config(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        load_config(leaf(tmp_path, text), 'debug')
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_cost_may_bring_its_own_weight_and_a_replaced_term_takes_its_weight_along(tmp_path):
    own = leaf(tmp_path, "model = dict(matcher=dict(costs=dict(near=dict(type='ClassCost', weight=2.0))))")
    assert 'near' not in load_config(own, 'debug').model.weights
    cfg = load_config(leaf(tmp_path, "model = dict(matcher=dict(costs=dict(_delete_=True, near=dict(type='ClassCost'))), "
                                     "losses=dict(_delete_=True, near=dict(type='ClassLoss', no_object_weight=0.1)), "
                                     'weights=dict(near=1.0))'), 'debug')
    assert cfg.model.weights == dict(near=1.0)


def test_a_plugin_that_is_gone_is_named_by_the_file_that_is_looked_for(tmp_path):
    with pytest.raises(PluginError, match=f'no file .*{tmp_path / "gone"}'):
        load_config(leaf(tmp_path, "plugins = ['./gone']"))


def test_a_plugin_that_moved_is_said_with_the_config_that_names_it_and_where_one_of_its_name_is(tmp_path):
    moved = tmp_path / 'before' / 'total'
    config = leaf(tmp_path, f'plugins = [{str(moved)!r}]')
    with pytest.raises(PluginError) as error:
        load_config(config)
    assert f'no file {moved}. It is not there, or not any more (moved, renamed or removed since {config}' in str(error.value)
    assert 'One of that name' not in str(error.value)
    (tmp_path / 'total.py').write_text('')
    with pytest.raises(PluginError, match=f'One of that name is {tmp_path / "total.py"}'):
        load_config(config)
    moved.mkdir(parents=True)
    with pytest.raises(PluginError, match='total/__init__.py. Give a folder with an __init__.py'):
        load_config(config)
