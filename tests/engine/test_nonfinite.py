"""Numbers that are not finite: a bounded number of steps is left out, the rest stops, and each step can be repeated."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path

import pytest
import torch

from jrs.engine.checkpoint import checkpoints
from jrs.engine.hooks import TERMS_FILE, read_lines
from jrs.engine.nonfinite import FOLDER, batch_from, plain_batch, read_evidence
from jrs.losses.camera import CameraLoss
from jrs.matching.costs import MaskDiceCost
from tests._data import MAIN, command, random_batch
from tests.engine._ranks import start_ranks, wait

SMALL = ('batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1', 'batches.aspect_ratio=(0.75,0.75)',
         'hooks.pictures=None', 'train.save_every=2', 'train.iterations=6')


def words(data: Path, work_dir: Path, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
    return [str(MAIN), '--profile', 'debug', '--work-dir', str(work_dir), *flags, '--cfg-options', f'data_root={data}',
            *SMALL, *options]


def rows(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in read_lines(work_dir / TERMS_FILE)]


@pytest.fixture
def broken_loss(monkeypatch):
    """Make the camera loss NaN at its calls with these numbers, from 0; infinite in its slope where `slope`."""
    def breaks(*numbers: int, slope: bool = False) -> None:
        healthy, calls = CameraLoss.__call__, []

        def call(self, predictions, target):
            calls.append(len(calls))
            terms = healthy(self, predictions, target)
            if calls[-1] not in numbers:
                return terms
            edge = (predictions.pose_encodings[-1].sum() * 0).sqrt() if slope else math.nan      # 0, of infinite slope
            return {**terms, 'total': terms['total'] + edge}
        monkeypatch.setattr(CameraLoss, '__call__', call)
    return breaks


def test_steps_are_left_out_as_often_as_allowed_and_change_nothing(debug_data, tmp_path, broken_loss, capsys):
    broken_loss(1, 3)
    assert command('train', *words(debug_data, tmp_path, 'train.skip_nonfinite=2')) == 0
    found = rows(tmp_path)
    assert [list(row) == ['iteration'] for row in found] == [False, True, False, True, False, False]
    assert all(math.isfinite(value) for row in found for value in row.values())
    shown = capsys.readouterr().out
    assert 'step left out (1 of at most 2): iteration 1' in shown and 'step left out (2 of at most 2)' in shown
    kept = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert kept == ['iter_1_0.pt', 'iter_1_weights.safetensors', 'iter_3_0.pt', 'iter_3_weights.safetensors']


def test_the_count_of_steps_left_out_survives_a_resume(debug_data, tmp_path, broken_loss, capsys):
    broken_loss(1, 3)
    assert command('train', *words(debug_data, tmp_path, 'train.skip_nonfinite=1')) == 2
    assert '1 steps had been left out before' in capsys.readouterr().err
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_2.pth']
    broken_loss(2)
    assert command('train', *words(debug_data, tmp_path, 'train.skip_nonfinite=1', flags=('--resume',))) == 2
    assert 'iteration 4' in capsys.readouterr().err


@pytest.mark.parametrize('slope', [False, True], ids=['loss', 'gradient'])
def test_the_step_is_repeated_with_the_printed_command(slope, debug_data, tmp_path, broken_loss, capsys):
    broken_loss(3, slope=slope)
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert 'iteration 3, process 0' in message and 'scene000' in message and 'views' in message
    printed = shlex.split(message.partition('This step alone: python tools/train.py ')[2].partition(' train.skip')[0])
    losses = rows(tmp_path)
    broken_loss(0, slope=slope)
    assert command('train', *printed) == 2
    assert ('gradients' if slope else "'loss_camera' is nan") in capsys.readouterr().err
    broken_loss()
    assert command('train', *printed) == 0
    shown = capsys.readouterr().out
    assert 'all gradients' in shown and len(losses) == 3
    assert command('train', *words(debug_data, tmp_path, flags=('--resume',))) == 0         # from iteration 2
    loss = next(float(line.split()[1]) for line in shown.splitlines() if line.startswith('loss '))
    assert loss == pytest.approx(rows(tmp_path)[3]['loss'], rel=1e-4)


@pytest.mark.parametrize('slope', [False, True], ids=['loss', 'gradient'])
def test_one_slot_leaves_out_the_whole_update_and_is_found_by_repeating_it(slope, debug_data, tmp_path, broken_loss, capsys):
    """A loss says which slot it is of; a gradient is of all slots together until they are repeated one by one."""
    broken_loss(4, slope=slope)                                # the second of three slots in update 1
    given = words(debug_data, tmp_path, 'train.skip_nonfinite=1', 'batches.slots=3', 'train.iterations=3')
    assert command('train', *given) == 0
    assert [len(row) > 1 for row in rows(tmp_path)] == [True, False, True]
    file = tmp_path / FOLDER / 'iter_1_0.pt'
    assert read_evidence(file)['slots'] == ([0, 1, 2] if slope else [1])
    state = torch.load(tmp_path / 'iter_3.pth', weights_only=True)['optimizer']['state'][0]
    assert state['step'] == 2
    capsys.readouterr()
    broken_loss(1 if slope else 0, slope=slope)
    assert command('train', tmp_path / 'config.py', '--replay', file) == 2
    assert ('terms of slot 1' if slope else "'loss_camera' is nan") in capsys.readouterr().err


def test_a_matching_cost_that_is_not_finite_names_cost_iteration_and_scene(debug_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MaskDiceCost, '__call__', lambda self, pred, target: torch.full((12, len(target.labels)), math.inf))
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert "matching cost 'mask_dice' is inf" in message and 'iteration 0, process 0, scenes scene000' in message


def test_all_processes_leave_out_the_step_that_one_of_them_cannot_do(debug_data, tmp_path):
    """For a matching cost, which raises before there is a loss, in the second process, with the first of its two slots."""
    def break_cost(rank: int) -> None:
        healthy, calls = MaskDiceCost.__call__, []

        def call(self, pred, target):
            calls.append(1)
            return healthy(self, pred, target) * (math.nan if rank == 1 and len(calls) == 3 else 1)
        MaskDiceCost.__call__ = call
    given = words(debug_data, tmp_path / 'run', 'train.skip_nonfinite=1', 'train.iterations=3', 'batches.slots=4')
    ranks = start_ranks(tmp_path, 'train', *given, before=break_cost)
    assert wait(ranks) == [0, 0], ranks[0].text + ranks[1].text
    assert [len(row) > 1 for row in rows(tmp_path / 'run')] == [True, False, True]
    assert sorted(os.listdir(tmp_path / 'run' / FOLDER)) == ['iter_1_1.pt', 'iter_1_weights.safetensors']
    assert read_evidence(tmp_path / 'run' / FOLDER / 'iter_1_1.pt')['slots'] == [2]


def test_a_batch_survives_being_kept(tmp_path):
    batch = random_batch(num_scenes=2)
    torch.save(plain_batch(batch), tmp_path / 'batch.pt')
    back = batch_from(torch.load(tmp_path / 'batch.pt', weights_only=True))
    assert back.images.equal(batch.images) and back.view_names == batch.view_names and back.scene_names == batch.scene_names
    assert all(one.ids.equal(two.ids) and one.labels.equal(two.labels) for one, two in
               zip(batch.instances, back.instances, strict=True))


def test_a_file_that_is_no_kept_step_is_refused(tmp_path, capsys):
    (tmp_path / 'x.pt').write_bytes(b'no')
    assert command('train', MAIN, '--profile', 'debug', '--replay', tmp_path / 'x.pt') == 2
    message = capsys.readouterr().err
    assert 'x.pt' in message and FOLDER in message
