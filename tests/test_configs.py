"""Every experiment resolves under every profile, trains at tiny size, and differs from its parent where it says so."""

from __future__ import annotations

import ast
import functools
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from jrs.benchmarks import PREPARED_EVERY
from jrs.cli import prepare
from jrs.config import bases_of, load_config, read_config
from jrs.datasets.prepare.devices import Iphone
from jrs.datasets.scene import SceneFolder
from jrs.datasets.scenes import how_to_get
from tests._data import ROOT, forget_runs
from tests.datasets._raw_scan import write_raw

CONFIGS = ROOT / 'configs'
EXPERIMENTS = sorted(path for path in CONFIGS.rglob('*.py')
                     if not path.relative_to(CONFIGS).parts[0].startswith(('_base_', 'profiles')))
LEAVES = [path for path in EXPERIMENTS if '_base_ = [' not in path.read_text()]

# Profiles without pre-trained weights have one teacher for all: rows that only choose it are their parent there.
CHOOSE_THE_TEACHER = {f'all24_fada_true_{part}' for part in ('geometry', 'cameras', 'depth')}


def named(paths: list[Path]) -> dict:
    return dict(argvalues=paths, ids=[str(path.relative_to(CONFIGS).with_suffix('')) for path in paths])


@pytest.mark.parametrize('path', **named(EXPERIMENTS))
def test_an_experiment_resolves_under_every_profile_and_stays_what_it_is(path):
    """And says in its first line where its number stands."""
    for profile in ('paper', 'rooms', 'rooms_small', 'debug'):
        cfg = load_config(path, profile)
        assert set(cfg.experiment) == {'trained_on', 'weights_licence'}
        kept = path not in LEAVES or different_paths(resolved(bases_of(path)[0], profile), cfg._cfg_dict)
        assert kept or profile != 'paper' and path.stem in CHOOSE_THE_TEACHER, f'under {profile} it is its parent'
    first = path.read_text().splitlines()[0]
    assert re.match(r'# .*(Tables? \d+|Beside Table \d+)', first), f'the first line names no table: {first}'


def test_configs_readme_and_the_commands_count_on_one_stride_of_prepared_frames(tmp_path, capsys):
    prepare.main(['scannet', '--raw', str(write_raw(tmp_path, num_frames=11, lost=())), '--out', str(tmp_path / 'out')])
    assert SceneFolder(tmp_path / 'out' / 'scene0000_00').record.settings['every'] == Iphone.every == PREPARED_EVERY
    for command in ('scannet', 'scannetpp'):
        with pytest.raises(SystemExit):
            prepare.main([command, '--help'])
        assert f'(default: {PREPARED_EVERY}' in ' '.join(capsys.readouterr().out.split())
    said = re.findall(r'prepare.py scannet .*', (ROOT / 'docs' / 'data.md').read_text() + how_to_get(Path('data/scannet')))
    assert len(said) > 1 and not any('--every' in line for line in said)
    for path in EXPERIMENTS:
        cfg = load_config(path, 'paper')
        assert all(cfg[name].get('every', 0) % PREPARED_EVERY == 0 for name in ('val_dataset', 'test_dataset'))
        training = cfg.train_dataset.get('common', cfg.train_dataset)           # of a mixture, what its sets share
        if 'scannet' in (training.get('folder'), *cfg.train_dataset.get('sets', ())) and 'view_spacing' in training:
            assert [bound % PREPARED_EVERY for bound in training.view_spacing] == [0, 0], path


@pytest.mark.parametrize('path', **named(EXPERIMENTS))
def test_an_experiment_trains_two_steps_and_every_trainable_parameter_gets_a_gradient(path, debug_data, tmp_path):
    from jrs.engine.build import build_runner
    torch.set_num_threads(1)
    forget_runs()
    # Views and the shape of images do not matter here: few pixels make this quick.
    points = resolved(path, 'debug')['batches']['type'] == 'PointBatchSampler'
    few = {'batches.scenes': 1} if points else {'batches.views': (2, 2), 'batches.max_images': 2,
                                                'batches.aspect_ratio': (0.75, 0.75)}
    cfg = load_config(path, 'debug', {'data_root': str(debug_data), 'train.iterations': 2, 'hooks.pictures': None,
                                      'batches.slots': 1, **few})
    runner = build_runner(cfg, tmp_path)
    trainable = {name: value for name, value in runner.model.named_parameters() if value.requires_grad}
    reached, steps = set(), []
    for name, value in trainable.items():
        value.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    runner.register_hook(watch(steps), priority='VERY_LOW')
    runner.train()
    assert len(steps) == 2 and all(math.isfinite(value) for step in steps for value in step.values())
    lacking = sorted(set(trainable) - reached)
    assert not lacking, f'{len(lacking)} parameters got no gradient, such as {lacking[:5]}'


@pytest.mark.parametrize('path', **named(LEAVES))
def test_a_leaf_is_short_and_differs_from_its_parent_only_in_the_keys_that_it_writes(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 15
    tree = ast.parse(text)
    parent = next(ast.literal_eval(node.value) for node in tree.body if node.targets[0].id == '_base_')
    assert isinstance(parent, str), 'a leaf inherits from one complete file'
    written = written_paths(tree)
    differing = different_paths(read_config(path.parent / parent), read_config(path))
    strange = [there for there in differing if not any(there == own or there.startswith(f'{own}.') or own.startswith(
        f'{there}.') for own in written)]
    assert differing, 'the leaf is its parent'
    assert not strange, f'changed without being written: {strange}'
    unused = [own for own in written if not any(there == own or there.startswith(f'{own}.') or own.startswith(f'{there}.')
                                                for there in differing)]
    assert not unused, f'written without effect: {unused}'


# What the paper leaves open and can move its numbers: file -> setting -> its value.
OPEN = {
    '_base_/runtime.py': dict(clip_by="'all'", decay_vectors='True'),
    '_base_/scannet200.py': dict(resize="'area'", view_step='None', every='20', view_spacing='(10, 100)'),
    'segvggt/all24_fada.py': dict(per_view='True', reduction="'mean'", rescale='True', weigh='False', min_target_pixels='1'),
    'baselines/vggt_mask2former_6l.py': dict(levels="'sum'")}


@pytest.mark.parametrize('file', OPEN)
def test_every_open_choice_is_a_setting_that_says_where_its_value_is_from(file):
    lines = (CONFIGS / file).read_text().splitlines()
    for name, value in OPEN[file].items():
        line = next(line for line in lines if re.search(rf'\b{name}={re.escape(value)}', line))
        comment = line.partition('#')[2]
        assert re.search(r"ours|recipe|release|[Pp]aper|\[[PRV]\]|\[S9\]", comment), line


def test_a_gradient_that_is_missing_is_noticed(debug_data, tmp_path):
    """The test above can fail: a class head that no loss reads has no gradient."""
    from jrs.datasets.sampling import SampleRequest
    from jrs.engine.build import build_dataset, build_model
    cfg = load_config(EXPERIMENTS[-1].parent / 'all24_fada.py', 'debug',
                      {'data_root': str(debug_data), 'model.losses.classification': None})
    model = build_model(cfg)
    batch = build_dataset(cfg, 'train_dataset')[SampleRequest(0, 0, 2, 0.75)]
    sum(value for name, value in model(batch, mode='loss').items() if name.startswith('loss_')).backward()
    assert {name for name, value in model.named_parameters() if value.grad is None} == {
        f'class_head.{layer}.{kind}' for layer in (0, 2) for kind in ('weight', 'bias')}


@functools.cache
def resolved(path: Path, profile: str) -> dict:
    """Return the mappings of an experiment; leaves share few parents."""
    return load_config(path, profile)._cfg_dict


def watch(steps: list[dict[str, float]]):
    """Return an mmengine hook that keeps the terms of each step in `steps`."""
    from mmengine.hooks import Hook

    class Watch(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            steps.append({name: float(value.detach()) for name, value in outputs.items()})
    return Watch()


def written_paths(tree: ast.Module) -> list[str]:
    """Return the dotted paths of the values that a leaf writes; a replaced part counts as one."""
    def walk(node: ast.expr, path: str) -> list[str]:
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
            words = [word for word in node.keywords if word.arg is not None]        # not **_shared
            if words and '_delete_' not in [word.arg for word in words]:
                return [found for word in words for found in walk(word.value, f'{path}.{word.arg}')]
        return [path]
    return [found for node in tree.body if not node.targets[0].id.startswith('_')
            for found in walk(node.value, node.targets[0].id)]


def different_paths(old: Config, new: Config, path: str = '') -> list[str]:
    """Return the dotted paths at which two resolved configs differ."""
    if not isinstance(old, (dict, Config)) or not isinstance(new, (dict, Config)):
        return [] if old == new else [path]
    return [found for key in sorted({*old, *new}, key=str)
            for found in different_paths(old.get(key), new.get(key), f'{path}.{key}' if path else key)]
