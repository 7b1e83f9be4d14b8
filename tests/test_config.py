"""Configs: what does not exist is refused, with its path, near spellings and the plugin that has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from jrs.config import load_config, parse_override, read_config
from jrs.errors import ConfigError
from jrs.profiles import profile_file, sizes_that_apply
from jrs.registry import MODELS, build

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / 'configs' / 'segvggt' / 'all24_fada.py'


def leaf(folder: Path, text: str) -> Path:
    path = folder / 'leaf.py'
    path.write_text(f'_base_ = {str(MAIN)!r}\n{text}\n')
    return path


@pytest.mark.parametrize(('text', 'words'), [
    ("modle = dict(num_classes=18)", ["'modle'", "'model'"]),
    ("model = dict(num_clases=18)", ['model.num_clases', "'num_classes'"]),
    ("model = dict(matcher=dict(costs=dict(fadaa=None)))", ['model.matcher.costs.fadaa', "'fada'"]),
    ("model = dict(alignment=dict(type='JensenShanon'))", ['ALIGNMENTS', 'model.alignment', "'JensenShannon'"]),
    ("model = dict(queries=dict(insertion=dict(type='EarlyLayer')))", ['INSERTIONS', "'EarlyLayers'"]),
    ("model = dict(losses=dict(depth=dict(gama=2)))", ['model.losses.depth', "'gamma'"]),
    ("train = dict(iteration=3)", ['train.iteration', "'iterations'"]),
])
def test_a_misspelt_key_or_name_in_a_leaf_is_refused_with_path_and_spelling(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        load_config(leaf(tmp_path, text))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(('path', 'value', 'word'), [
    ('model.hidd', 3, "'model.hidd'"), ('trian.iterations', 3, "'trian'"), ('model.backbone.dept', 3, "'depth'"),
    ('optimizer.lr2', 1.0, 'optimizer.lr2'), ('model.matcher.costs.fada.wieght', 1.0, "'weight'"),
    ('model.losses.fada.wieght', 1.0, "'weight'"), ('model.class_head.weight', 1.0, 'model.class_head.weight')])
def test_an_override_of_a_path_that_does_not_exist_is_refused(path, value, word):
    with pytest.raises(ConfigError, match='--cfg-options') as error:
        load_config(MAIN, 'debug', {path: value})
    assert word in str(error.value)


def test_an_override_may_set_an_argument_that_the_constructor_takes():
    cfg = load_config(MAIN, 'debug', {'model.losses.depth.gamma': 2.0, 'train.iterations': 7})
    assert cfg.model.losses.depth.gamma == 2.0 and cfg.train.iterations == 7


@pytest.mark.parametrize(('path', 'cost', 'loss'), [
    ('model.weights.fada', 5.0, 5.0), ('model.losses.fada.weight', 0.5, 5.0),
    ('model.matcher.costs.fada.weight', 5.0, 0.5)])
def test_cost_and_loss_share_a_weight_and_either_may_have_its_own(path, cost, loss):
    model = build(MODELS, load_config(MAIN, 'debug', {path: 5.0, 'model.teacher': None}).model, 'model')
    assert (model.matcher.costs['fada'].weight, model.criterion.weights['fada']) == (cost, loss)


def test_how_levels_add_up_reaches_the_criterion():
    overrides = {'model.levels': 'mean', 'model.teacher': None}
    assert build(MODELS, load_config(MAIN, 'debug', overrides).model, 'model').criterion.levels == 'mean'


@pytest.mark.parametrize('path', ['model.losses.fada.weight', 'model.matcher.costs.fada.weight', 'model.weights.fada'])
def test_a_weight_that_is_no_number_is_refused(path):
    with pytest.raises(ConfigError, match=f"{path} must be a number, got 'five'"):
        load_config(MAIN, 'debug', {path: 'five'})


def test_an_override_may_turn_on_what_is_off_and_change_one_item_of_a_list():
    cfg = load_config(MAIN, 'debug', {'model.backbone.lora': dict(rank=2, alpha=2), 'batches.views.1': 3})
    assert cfg.model.backbone.lora == dict(rank=2, alpha=2) and list(cfg.batches.views) == [2, 3]


@pytest.mark.parametrize(('path', 'value', 'words'), [
    ('train.iterations', 'ten', ['train.iterations', "'ten'"]), ('train.save_every', 0, ['train.save_every', 'at least 1']),
    ('seed', None, ['seed', 'None']), ('train', 3, ['train', 'mapping']),
    ('train.clip_by', 'layers', ['train.clip_by', 'all, groups, modules', "'layers'"]),
    ('train.decay_vectors', 0, ['train.decay_vectors', 'True or False']),
    ('parameter_groups.new.lrr', 1e-3, ['parameter_groups.new.lrr', "'lr'"]),
    ('parameter_groups.lora', dict(lr=1e-3), ['parameter_groups.lora', "'parameters'"])])
def test_settings_that_no_constructor_checks_are_checked(path, value, words):
    with pytest.raises(ConfigError) as error:
        load_config(MAIN, 'debug', {path: value})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_profile_changes_sizes_and_keeps_the_difference_of_a_row(tmp_path):
    row = leaf(tmp_path, "model = dict(queries=dict(insertion=dict(type='LateLayers')), "
                         "matcher=dict(costs=dict(fada=None)))")
    cfg = load_config(row, 'debug')
    assert cfg.model.queries.insertion.type == 'LateLayers' and cfg.model.matcher.costs.fada is None
    assert cfg.model.backbone.depth == 4 and cfg.weights is None


def test_a_profile_does_not_revive_a_part_that_the_experiment_leaves_out(tmp_path):
    cfg = load_config(leaf(tmp_path, 'model = dict(queries=None, matcher=None)'), 'rooms')
    assert cfg.model.queries is None and cfg.model.matcher is None


DECODER = ROOT / 'configs' / 'baselines' / 'vggt_mask2former_6l.py'


def profile(folder: Path, text: str) -> str:
    (folder / 'profiles').mkdir()
    (folder / 'profiles' / 'mine.py').write_text(text)
    return 'mine'


def test_a_profile_s_sizes_meet_the_part_that_has_them(tmp_path):
    name = profile(tmp_path, 'model = dict(queries=dict(num_queries=7, token_std=0.25, width=16))')
    (tmp_path / 'decoder.py').write_text(f'_base_ = {str(DECODER)!r}\nseed = 1\n')
    decoder = load_config(tmp_path / 'decoder.py', name).model.queries
    assert (decoder.num_queries, decoder.width) == (7, 16) and 'token_std' not in decoder
    inserted = load_config(leaf(tmp_path, ''), name).model.queries
    assert (inserted.num_queries, inserted.token_std) == (7, 0.25) and 'width' not in inserted


@pytest.mark.parametrize(('text', 'words'), [
    ('model = dict(queries=dict(token_st=0.5))', ['model.queries.token_st', "'token_std'"]),
    ('model = dict(queries=dict(widht=16))', ['model.queries.widht']),
    ('model = dict(backbone=dict(width=16))', ['model.backbone.width']),
    ('model = dict(qeries=dict(width=16))', ['model.qeries', "'queries'"]),
    ('modle = dict(queries=dict(width=16))', ['modle', "'model'"]),
    ('train = dict(width=16)', ['train.width'])])
def test_a_misspelt_or_misplaced_size_of_a_profile_is_refused(tmp_path, text, words):
    name = profile(tmp_path, text)
    with pytest.raises(ConfigError, match="profile 'mine'") as error:
        load_config(leaf(tmp_path, ''), name)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize('name', ['rooms', 'rooms_small', 'debug'])
def test_of_the_repository_s_profiles_only_three_parts_sizes_are_not_the_main_experiment_s(name):
    """Those of the mask decoder, of a head for cameras and depth, which has what the two heads have, and of geometry before
    a method on points, which is the teacher's."""
    cfg, sizes = read_config(MAIN)._cfg_dict, read_config(profile_file(name, MAIN))._cfg_dict
    kept = sizes_that_apply(cfg, sizes)
    assert set(sizes['model']['queries']) - set(kept['model']['queries']) == {'width', 'hidden'}
    del sizes['model']['queries'], kept['model']['queries']
    both = sizes['model'].pop('geometry_head')
    assert both == {**sizes['model']['camera_head'], **sizes['model']['depth_head']} and 'geometry_head' not in kept['model']
    assert sizes['model'].pop('reconstruction') == {'geometry': sizes['model']['teacher']}
    assert kept == sizes


def test_unknown_profile_missing_file_missing_base_and_syntax_error_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no profile 'room'.*'rooms'"):
        load_config(MAIN, 'room')
    with pytest.raises(ConfigError, match='all24_fada.py'):
        load_config(MAIN.with_name('all24_fda.py'))
    (tmp_path / 'orphan.py').write_text("_base_ = './gone.py'\n")
    with pytest.raises(ConfigError, match='gone.py'):
        read_config(tmp_path / 'orphan.py')
    (tmp_path / 'broken.py').write_text('model = dict(\nseed = = 3')
    with pytest.raises(ConfigError, match='broken.py, line'):
        read_config(tmp_path / 'broken.py')


def test_the_paper_setting_is_the_paper_s():
    cfg = load_config(MAIN)
    assert cfg.model.queries.num_queries == 400 and cfg.model.backbone.lora.rank == 32
    assert cfg.model.num_classes == 198 and cfg.batches.views == (2, 24) and cfg.batches.max_images == 48


def test_a_config_is_checked_in_a_fresh_process_where_nothing_is_imported_yet():
    code = f'from jrs.config import load_config; load_config({str(MAIN)!r}, "rooms")'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_an_experiment_may_change_a_profile_and_only_that_profile(tmp_path):
    path = leaf(tmp_path, 'profiles = dict(rooms=dict(train=dict(iterations=7)))')
    child = tmp_path / 'child.py'
    child.write_text("_base_ = './leaf.py'\nseed = 1\n")
    assert load_config(path, 'rooms').train.iterations == load_config(child, 'rooms').train.iterations == 7
    for other in ('paper', 'debug'):
        assert load_config(path, other).train.iterations == load_config(MAIN, other).train.iterations


def test_a_misspelt_change_of_a_profile_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='profiles.rooms.*train.iteration.*iterations'):
        load_config(leaf(tmp_path, 'profiles = dict(rooms=dict(train=dict(iteration=7)))'), 'rooms')
    with pytest.raises(ConfigError, match="no profile 'room'"):
        load_config(leaf(tmp_path, 'profiles = dict(room=dict(train=dict(iterations=7)))'))


@pytest.mark.parametrize(('item', 'words'), [
    ('train.x=true', 'train.x=True'), ('a=false', 'a=False'), ('a.b=null', 'a.b=None'), ('a=none', 'a=None'),
    ('optimizer.lr=nan', 'no finite number'), ('a=-inf', 'no finite number'), ('a=Infinity', 'no finite number'),
    ('a=1e999', 'no finite number.*a=\'"1e999"\''), ('a=(1, -1e999)', 'no finite number'),
    ("a={'b': [1e999]}", 'no finite number')])
def test_an_override_in_another_language_or_of_no_value_is_refused(item, words):
    with pytest.raises(ConfigError, match=words):
        parse_override(item)
    assert parse_override('a="true"') == ('a', 'true') and parse_override('a=None') == ('a', None)


@pytest.mark.parametrize(('path', 'value'), [
    ('optimizer.lr', float('nan')), ('optimizer.lr', 'much'), ('train.clip_norm', float('inf')),
    ('model.num_classes', 'all'), ('model.losses.depth.weight', 'nan')])
def test_a_number_is_changed_to_a_finite_number_only(path, value):
    with pytest.raises(ConfigError, match=f'{path} (must be a number, got|is) {value!r}'):
        load_config(MAIN, 'debug', {path: value})
