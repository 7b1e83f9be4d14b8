"""A profile changes sizes; whose data are read and scored is the user's affair, and is said."""

import shutil
from pathlib import Path

import pytest

from jrs.config import load_config, profile_notes
from jrs.errors import ConfigError, WeightsError
from jrs.registry import DATASETS
from tests._data import MAIN, ROOT, command

PROFILES = ('debug', 'rooms', 'rooms_small')


def leaf(folder: Path, text: str, base: Path = MAIN, name: str = 'leaf.py') -> Path:
    (folder / name).write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return folder / name


@pytest.mark.parametrize('profile', PROFILES)
def test_a_folder_that_a_user_s_config_sets_stays_and_all_else_is_the_profile_s(tmp_path, profile):
    cfg, rooms = load_config(leaf(tmp_path, "train_dataset = dict(folder='mine')"), profile), load_config(MAIN, profile)
    assert cfg.train_dataset == dict(rooms.train_dataset, folder='mine')
    assert cfg.test_dataset == rooms.test_dataset and cfg.val_dataset == rooms.val_dataset and cfg.train == rooms.train
    assert cfg.experiment.trained_on == load_config(MAIN).experiment.trained_on              # not "built-in rooms"


@pytest.mark.parametrize('write', [
    "train_dataset = dict(folder='mine')", "_data = dict(folder='mine')\ntrain_dataset = dict(**_data)",
    "train_dataset = {'folder': 'mine'}", "train_dataset = dict()\ntrain_dataset['folder'] = 'mine'",
    "train_dataset = dict(_base_.train_dataset, folder='mine')"])
def test_however_a_config_writes_its_folder_it_stays(tmp_path, write):
    assert load_config(leaf(tmp_path, write), 'rooms').train_dataset.folder == 'mine'


def test_what_a_user_s_parent_sets_stays_for_its_children_too(tmp_path):
    leaf(tmp_path, "test_dataset = dict(folder='mine', split='few')")
    child = leaf(tmp_path, 'seed = 3', tmp_path / 'leaf.py', 'child.py')
    assert load_config(child, 'rooms').test_dataset.folder == 'mine'
    assert load_config(child, 'rooms').test_dataset.split == 'few'


MINE = '''
data_root = 'elsewhere'
train_dataset = dict(folder='tiny', split='tiny_train', benchmark='scannet20', width=28)
val_dataset = dict(
    _delete_=True, type='SceneDataset', mode='test', folder='tiny', split='v', benchmark='scannet20', width=28)
metrics = dict(instances=dict(benchmark='scannet20'))
train = dict(iterations=4)
'''


def own_profile(folder: Path, text: str = MINE) -> None:
    (folder / 'profiles').mkdir()
    (folder / 'profiles' / 'mine.py').write_text(text)


def test_every_data_key_stays_against_any_profile_and_every_size_goes(tmp_path):
    own_profile(tmp_path)
    path = leaf(tmp_path, "data_root = 'here'\ntrain_dataset = dict(split='mine', benchmark='scannet200', width=518)\n"
                          "val_dataset = dict(folder='mine')\nmetrics = dict(instances=dict(benchmark='scannet200'))")
    cfg = load_config(path, 'mine')
    train = cfg.train_dataset
    assert (cfg.data_root, train.folder, train.split, train.benchmark, train.width) == (
        'here', 'tiny', 'mine', 'scannet200', 28)
    assert (cfg.val_dataset.folder, cfg.val_dataset.split, cfg.val_dataset.width) == ('mine', 'v', 28)
    assert cfg.metrics.instances.benchmark == 'scannet200' and cfg.train.iterations == 4
    untouched = load_config(leaf(tmp_path, '', name='plain.py'), 'mine')
    assert untouched.data_root == 'elsewhere' and untouched.train_dataset.split == 'tiny_train'


def test_what_an_experiment_writes_for_a_profile_wins_over_it_and_over_its_own_data(tmp_path):
    path = leaf(tmp_path, "train_dataset = dict(folder='mine')\n"
                          "profiles = dict(rooms=dict(train_dataset=dict(folder='few'), train=dict(iterations=3)))")
    assert load_config(path, 'rooms').train_dataset.folder == 'few' and load_config(path, 'rooms').train.iterations == 3
    assert load_config(path, 'debug').train_dataset.folder == 'mine'
    assert load_config(path, 'rooms', {'train_dataset.folder': 'now'}).train_dataset.folder == 'now'


def test_what_a_profile_of_an_experiment_deletes_is_what_the_profiles_of_its_bases_say(tmp_path):
    path = leaf(tmp_path, "profiles = dict(debug=dict(train=dict(iterations=3, warmup=1)), rooms=dict(seed=2))")
    part = leaf(tmp_path, 'profiles = dict(debug=dict(train=dict(_delete_=True, iterations=4)))', path, 'part.py')
    every = leaf(tmp_path, 'profiles = dict(_delete_=True, debug=dict(seed=3))', path, 'every.py')
    plain = load_config(MAIN, 'debug').train
    assert load_config(part, 'debug').train == dict(plain, iterations=4) != dict(plain, iterations=4, warmup=1)
    assert load_config(every, 'debug').train == plain and load_config(every, 'rooms').seed != 2
    assert load_config(every, 'debug').seed == 3
    with pytest.raises(ConfigError, match='profiles.debug must be a mapping.*got 3'):
        load_config(leaf(tmp_path, 'profiles = dict(debug=3)'))


class Foreign:
    """Scenes of another layout, with a width but no folder."""

    def __init__(self, place, width, split='all'):
        self.place, self.width = place, width

    def __len__(self):
        return 7


class ForeignWithFolder(Foreign):
    """The same with a folder of its own meaning, through options."""

    def __init__(self, folder='', **options):
        super().__init__(**options)


@pytest.fixture
def foreign():
    for part in (Foreign, ForeignWithFolder):
        DATASETS.register_module(module=part)
    yield
    for part in (Foreign, ForeignWithFolder):
        del DATASETS._module_dict[part.__name__]


@pytest.mark.parametrize('profile', PROFILES)
@pytest.mark.parametrize('delete', ['', ', _delete_=True'])
def test_a_user_s_own_type_of_data_set_gets_the_sizes_that_it_takes_and_no_data(tmp_path, foreign, profile, delete):
    for_width = load_config(MAIN, profile).train_dataset.width
    cfg = load_config(leaf(tmp_path, f"train_dataset = dict(type='Foreign', place='/scans', width=98{delete})"), profile)
    expected = dict(type='Foreign', place='/scans', width=for_width)
    assert cfg.train_dataset == (expected if delete else dict(expected, split='train'))
    words = f"type='ForeignWithFolder', place='/scans'{delete}"
    cfg = load_config(leaf(tmp_path, f"train_dataset = dict({words}, folder='deep')"), profile)
    assert (cfg.train_dataset.folder, cfg.train_dataset.width) == ('deep', for_width)
    cfg = load_config(leaf(tmp_path, f'train_dataset = dict({words})'), profile)
    inherited = load_config(MAIN, profile)                             # a folder that it only inherits is a profile's affair
    assert cfg.train_dataset.get('folder') == (None if delete else inherited.train_dataset.folder)
    assert (cfg.experiment.trained_on == inherited.experiment.trained_on) is not bool(delete)


def test_what_a_profile_replaces_and_leaves_is_said(tmp_path, capsys):
    path = leaf(tmp_path, "train_dataset = dict(folder='mine')\ntrain = dict(iterations=7)\n"
                          'model = dict(backbone=dict(depth=20))')
    notes = profile_notes(path, 'rooms')
    assert "profile 'rooms': train_dataset.folder: this config's own stays, not 'rooms/tiny'" in notes
    assert "profile 'rooms': train.iterations: 400 in place of 7" in notes
    assert "profile 'rooms': model.backbone.depth: 8 in place of 20" in notes
    assert not any('profile' in note for note in profile_notes(path, 'paper'))
    assert not [note for note in profile_notes(path, 'rooms', {'train.iterations': 9}) if 'iterations' in note]
    assert any('trained_on: still' in note for note in profile_notes(path, 'paper'))
    stated = leaf(tmp_path, "train_dataset = dict(folder='mine')\nexperiment = dict(trained_on='mine')", name='stated.py')
    assert profile_notes(stated, 'paper') == []
    assert profile_notes(ROOT / 'configs' / 'segvggt' / 'all24_frozen.py', 'rooms') == []
    kept = leaf(tmp_path, "weights = None\ntrain = dict(iterations=7)\nprofiles = dict(rooms=dict(weights=None, train=dict("
                          'iterations=5)))', name='kept.py')
    assert profile_notes(kept, 'rooms') == []                          # what `profiles` says wins: nothing is replaced
    for said in ({'train_dataset.folder': 'rooms/debug'}, {'train_dataset.folder': 'mine', 'seed': 1}):
        assert any('trained_on: still' in note for note in profile_notes(kept, 'rooms', said))
        assert profile_notes(kept, 'rooms', {**said, 'experiment.trained_on': 'mine'}) == []
    own = leaf(tmp_path, "profiles = dict(rooms=dict(train_dataset=dict(folder='mine')))", name='own.py')
    assert any('trained_on: still' in note for note in profile_notes(own, 'rooms')) and profile_notes(own, 'debug') == []
    assert command('print_config', path, '--profile', 'rooms', '--diff') == 0
    printed = capsys.readouterr().out
    assert all(note in printed for note in notes)
    assert "train_dataset.folder\n  - 'rooms/tiny'\n  + 'mine'" in printed
    assert command('print_config', path, '--profile', 'rooms') == 0
    (tmp_path / 'printed.py').write_text(capsys.readouterr().out)
    assert load_config(tmp_path / 'printed.py')._cfg_dict == load_config(path, 'rooms')._cfg_dict


def test_the_first_lines_of_training_and_scoring_name_folder_split_and_scenes(tmp_path, debug_data, capsys, monkeypatch):
    def stop(cfg):
        raise ConfigError('no further: what a run reads is said before its model is built')
    monkeypatch.setattr('jrs.engine.build.build_model', stop)
    (tmp_path / 'mine').symlink_to(debug_data / 'rooms' / 'debug')
    path = leaf(tmp_path, f"data_root = {str(tmp_path)!r}\ntrain_dataset = dict(folder='mine', limit_scenes=1)\n"
                          "val_dataset = dict(folder='mine')\ntest_dataset = dict(folder='mine')")
    assert command('train', path, '--profile', 'debug', '--work-dir', tmp_path / 'run') == 2
    lines = capsys.readouterr().out.splitlines()
    assert (f'train_dataset: SceneDataset, folder {tmp_path / "mine"}, split train, 1 scenes; the first 1 of 2 scenes of '
            'the list (limit_scenes)') in lines[:12]
    assert not any(line.startswith('val_dataset') for line in lines)                   # nothing reads it
    assert any('train_dataset.folder' in line and 'stays' in line for line in lines[:12])
    assert command('test', path, 'untrained', '--profile', 'debug', '--out', tmp_path / 'test') == 2
    lines = capsys.readouterr().out.splitlines()
    start = f'test_dataset: SceneDataset, folder {tmp_path / "mine"}, split val, '
    assert any(line.startswith(start) and ' scenes' in line for line in lines[:12])


def test_a_data_set_of_another_kind_is_named_by_what_its_config_says(foreign):
    from mmengine.config import Config

    from jrs.engine.data import data_line
    cfg = Config(dict(train_dataset=dict(type='Foreign', place='/scans', width=56)))
    assert data_line(cfg, 'train_dataset', Foreign('/scans', 56)) == "train_dataset: Foreign, place='/scans', 7 scenes"


def test_weights_of_a_profile_that_do_not_fit_say_how_to_start_without(tmp_path, monkeypatch):
    from jrs.engine.build import build_model
    monkeypatch.chdir(ROOT)
    path = leaf(tmp_path, 'profiles = dict(rooms=dict(model=dict(backbone=dict(embed_dim=32), teacher=dict('
                          "_delete_=True, type='GroundTruthTeacher'))))")
    with pytest.raises(WeightsError, match=r'weights=None, or profiles=dict\(rooms=dict\(weights=None\)\)'):
        build_model(load_config(path, 'rooms'))


@pytest.mark.parametrize('package', [True, False], ids=['a checkout', 'a project of their own'])
def test_configs_of_another_checkout_are_the_project_s_own(tmp_path, package):
    """`jrs` may be installed elsewhere, while the configs that are named are a clone's."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    if package:
        (tmp_path / 'jrs').mkdir()
        (tmp_path / 'jrs' / 'inheritance.py').touch()
    folder = load_config(tmp_path / 'configs' / MAIN.relative_to(ROOT / 'configs'), 'debug').train_dataset.folder
    assert folder == ('rooms/debug' if package else 'scannet')
