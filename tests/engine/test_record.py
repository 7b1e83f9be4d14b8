"""A run folder says what made the run, how long it took, and what it changed."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch

from jrs.engine import record
from jrs.engine.checkpoint import checkpoints
from jrs.engine.record import RunRecord, git_state, read_record, start_record
from tests._data import ROOT, command

NO_FADA = ROOT / 'configs' / 'segvggt' / 'all24_no_fada.py'
MODEL = torch.nn.Linear(2, 3)
MODEL.bias.requires_grad_(False)
SPLIT = dict(update='1 slot of at most 2 images', slots=1, processes=1, accumulation=1)


def words(data, work_dir, *flags):
    return [NO_FADA, '--profile', 'debug', '--work-dir', work_dir, *flags, '--cfg-options', f'data_root={data}', 'seed=4',
            'train.iterations=4', 'train.save_every=2', 'train.validate_every=2',
            'batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1', 'hooks.pictures=None']


@pytest.fixture(scope='module')
def run(debug_data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('run')
    assert command('train', *words(debug_data, work_dir)) == 0
    return work_dir


def test_a_finished_run_names_code_machine_and_versions_and_what_it_took(run):
    found = read_record(run)
    assert found['finished'] is True and 0 < found['hours'] < 0.1 and 0.05 < found['peak_memory_gb'] < 20
    assert 0 < found['cpu_hours'] < 0.1
    assert found['cores'] >= 1 and found['memory_gb'] > 1 and found['device'].startswith(('cpu: ', 'NVIDIA'))
    assert {'torch', 'mmengine', 'numpy', 'tensorboard'} <= set(found['versions']) and found['draws'] == 'by part'
    assert found['command'][:2] == ['tools/train.py', str(NO_FADA)] and {'commit', 'dirty', 'diff_sha256'} <= set(found)


def test_the_difference_from_the_parent_and_the_overrides_stand_apart(run):
    experiment, _, overrides = (run / 'diff.txt').read_text().partition('--cfg-options')
    assert 'all24_fada.py' in experiment and "model.losses.fada\n  - dict(type='ViewAttentionLoss')\n  + None" in experiment
    assert 'seed' not in experiment and 'seed\n  - 0\n  + 4' in overrides and 'model' not in overrides


def test_a_resumed_run_adds_its_hours_keeps_its_first_command_and_validates_again_what_it_trains_again(run, debug_data):
    checkpoints(run)[0].unlink()
    scores = (run / record.METRICS_FILE).read_text()
    rows = [json.loads(line) for line in scores.splitlines()]
    assert [row['iteration'] for row in rows] == [2, 4] and 0 < rows[0]['depth/abs_rel'] and 'NaN' not in scores
    first = read_record(run)
    before = {name: value for name, value in first.items() if name != 'draws'}      # of a run from before they were by part
    (run / record.RECORD_FILE).write_text(json.dumps(before | dict(hours=5.0, cpu_hours=3.0, peak_memory_gb=100.0)))
    assert command('train', *words(debug_data, run, '--resume')) == 0
    found = read_record(run)
    assert 5 < found['hours'] < 5.1 and 3 < found['cpu_hours'] < 3.1 and found['peak_memory_gb'] == 100 and found['finished']
    assert found['draws'] is None
    assert (run / record.METRICS_FILE).read_text() == scores
    assert [before['command'] for before in found['earlier']] == [first['command']] and '--resume' in found['command']


def test_a_run_that_is_killed_keeps_the_hours_up_to_its_last_checkpoint_and_is_not_finished(tmp_path, monkeypatch):
    for name, seconds in (('hours', [100.0, 3700.0]), ('cpu_hours', [50.0, 1850.0])):
        monkeypatch.setitem(record.CLOCKS, name, iter(seconds).__next__)
    start_record(tmp_path, ['x'], MODEL, resume=False, split=SPLIT)
    runner = SimpleNamespace(work_dir=str(tmp_path), model=torch.nn.Linear(1, 1), iter=0,
                             train_dataloader=SimpleNamespace(dataset=None))
    hook = RunRecord(interval=2)
    hook.before_train(runner)
    for runner.iter in range(3):
        hook.after_train_iter(runner, runner.iter)
    found = read_record(tmp_path)
    assert found['parameters'] == dict(all=9, learned=6)
    assert (found['hours'], found['cpu_hours'], found['finished']) == (pytest.approx(1.0), pytest.approx(0.5), False)
    start_record(tmp_path, ['x'], MODEL, resume=False, split=SPLIT)                 # started again: nothing of before counts
    again = read_record(tmp_path)
    assert again['hours'] == again['cpu_hours'] == 0 and again['earlier'] == []


def test_a_dirty_tree_has_a_digest_of_its_changes_and_no_repository_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(record, '__file__', str(tmp_path / 'record.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert git_state() == dict(commit='unknown', dirty=None, diff_sha256=None)
    identity = ['-c', 'user.name=x', '-c', 'user.email=x']
    for line in (['init', '-q'], [*identity, 'commit', '-q', '--allow-empty', '-m', 'x']):
        subprocess.run(['git', *line], cwd=tmp_path, check=True)
    clean = git_state()
    assert len(clean['commit']) == 12 and clean['dirty'] is False and clean['diff_sha256'] is None
    (tmp_path / 'new.py').write_text('x')
    subprocess.run(['git', 'add', 'new.py'], cwd=tmp_path, check=True)
    first = git_state()
    (tmp_path / 'new.py').write_text('y')
    assert first['dirty'] and first['commit'] == clean['commit'] and first['diff_sha256'] != git_state()['diff_sha256']
