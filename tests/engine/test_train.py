"""Whole runs at debug size: killed and resumed, in two processes, refused, broken; and the pieces a run is made of."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from safetensors.torch import load_file

from jrs.engine import console
from jrs.engine.checkpoint import PlainCheckpoint, SafeCheckpoint, checkpoints
from jrs.engine.hooks import TERMS_FILE, format_summary, read_lines, term_summary
from jrs.errors import NonFiniteError, WeightsError
from jrs.io.atomic import atomic_write
from tests._data import MAIN, ROOT, command, tool

STEPS = 8
SMALL = ('batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1', 'batches.aspect_ratio=(0.75,0.75)',
         'hooks.pictures=None')


def words(data: Path, work_dir: Path, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
    return [str(MAIN), '--profile', 'debug', '--work-dir', str(work_dir), *flags, '--cfg-options', f'data_root={data}',
            f'train.iterations={STEPS}', 'train.save_every=2', *SMALL, *options]


@pytest.fixture(scope='module')
def finished(debug_data, tmp_path_factory):
    """A run that was never interrupted."""
    work_dir = tmp_path_factory.mktemp('finished')
    assert command('train', *words(debug_data, work_dir)) == 0
    return work_dir


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'copy')


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / TERMS_FILE).read_text() == (second / TERMS_FILE).read_text()
    weights, others = (load_file(run / 'weights.safetensors') for run in (first, second))
    assert weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


def leftovers(work_dir: Path) -> list[Path]:
    return [path for pattern in ('.*.part', '.tmp*') for path in work_dir.rglob(pattern)]


def test_a_run_leaves_its_record_and_every_term_of_every_iteration(finished):
    rows = [json.loads(line) for line in (finished / TERMS_FILE).read_text().splitlines()]
    assert [row['iteration'] for row in rows] == list(range(STEPS))
    assert {'loss', 'loss_classification', 'loss_mask_bce', 'loss_mask_dice', 'loss_fada', 'loss_camera', 'loss_depth',
            'camera/rotation'} <= set(rows[0])
    assert {'config.py', 'run.json', 'last_checkpoint', f'iter_{STEPS}.pth', f'iter_{STEPS - 2}.pth',
            'weights.safetensors'} <= {path.name for path in finished.iterdir()}
    assert not leftovers(finished)


def test_a_run_killed_at_any_moment_and_resumed_with_other_workers_is_bit_equal(finished, debug_data, tmp_path):
    work_dir = tmp_path / 'killed'
    process = subprocess.Popen(tool('train', *words(debug_data, work_dir, 'train.workers=1')), start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(read_lines(work_dir / TERMS_FILE)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()[-2000:]
    process.stderr.close()
    (work_dir / '.iter_6.pth.x1y2.part').write_bytes(b'half')           # as a kill during a save leaves it
    assert command('train', *words(debug_data, work_dir, flags=('--resume',))) == 0
    assert_same_run(finished, work_dir)
    assert not leftovers(work_dir)


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(finished, copy, debug_data, capsys):
    newest, before = checkpoints(copy)
    newest.write_bytes(newest.read_bytes()[:5000])
    (copy / 'weights.safetensors').unlink()
    assert command('train', *words(debug_data, copy, flags=('--resume',))) == 0
    shown = capsys.readouterr().out
    assert f'{newest} does not load' in shown and before.name in shown
    assert_same_run(finished, copy)


def test_torch_loads_a_checkpoint_with_its_safe_defaults(finished):
    content = torch.load(finished / f'iter_{STEPS}.pth', weights_only=True)
    assert content['meta']['iter'] == STEPS and {'state_dict', 'optimizer', 'param_schedulers', 'engine'} <= set(content)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(finished / f'iter_{STEPS}.pth') == []


def test_starting_over_an_existing_run_is_refused(finished, debug_data, capsys):
    assert command('train', *words(debug_data, finished)) == 2
    message = capsys.readouterr().err
    assert str(finished) in message and '--resume' in message


def test_resuming_another_model_is_refused_with_both_shapes(copy, debug_data, capsys):
    (copy / f'iter_{STEPS}.pth').unlink()
    assert command('train', *words(debug_data, copy, 'model.queries.num_queries=13', flags=('--resume',))) == 2
    message = capsys.readouterr().err
    assert 'queries.tokens' in message and '(1, 12, 32)' in message and '(1, 13, 32)' in message


def test_resuming_broken_weights_is_refused_and_says_how_to_take_the_checkpoint_before_them():
    model = torch.nn.Linear(3, 2)
    runner = SimpleNamespace(model=model, _load_from='run/iter_4.pth')
    with torch.no_grad():
        state = {name: value.clone() for name, value in model.state_dict().items()}
        state['weight'][0, :2] = float('nan')
    with pytest.raises(WeightsError, match=r'run/iter_4.pth holds broken weights: not finite: weight 2 of 6 values '
                       r'\(2 NaN\)\. Remove it: --resume then takes the checkpoint before it'):
        PlainCheckpoint().after_load_checkpoint(runner, dict(state_dict=state))


def test_broken_weights_are_not_saved_over_sound_ones(tmp_path):
    for number in (1, 2):
        (tmp_path / f'iter_{number}.pth').write_bytes(b'sound')
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.bias, float('nan'))
    runner = SimpleNamespace(model=model, iter=2, work_dir=str(tmp_path), rank=0)
    with pytest.raises(NonFiniteError, match=r'iter_3.pth is not written: .*: bias 2 of 2 values \(2 NaN\).*--resume'):
        SafeCheckpoint(1, keep=1).save(runner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_1.pth', 'iter_2.pth']


def test_a_loss_that_is_not_finite_stops_the_run_and_names_term_and_scenes(debug_data, tmp_path, monkeypatch, capsys):
    from jrs.losses.camera import CameraLoss
    healthy, calls = CameraLoss.__call__, []

    def third_is_nan(self, predictions, target):
        calls.append(1)
        terms = healthy(self, predictions, target)
        return {**terms, 'total': terms['total'] * float('nan')} if len(calls) == 3 else terms
    monkeypatch.setattr(CameraLoss, '__call__', third_is_nan)
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert "'loss_camera' is nan" in message and 'scene000' in message and 'resume' in message
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_2.pth']


def test_a_gradient_that_is_not_finite_stops_before_the_weights(debug_data, tmp_path, monkeypatch, capsys):
    from jrs.losses.camera import CameraLoss
    healthy = CameraLoss.__call__

    def infinite_slope(self, predictions, target):
        terms = healthy(self, predictions, target)
        edge = (predictions.pose_encodings[-1].sum() * 0).sqrt()        # 0, with an infinite derivative
        return {**terms, 'total': terms['total'] + edge}
    monkeypatch.setattr(CameraLoss, '__call__', infinite_slope)
    assert command('train', *words(debug_data, tmp_path)) == 2
    assert 'gradients are not finite' in capsys.readouterr().err


def test_a_full_disk_stops_the_run_and_the_checkpoint_before_still_loads(debug_data, tmp_path, monkeypatch, capsys):
    class Full:
        """A file on a disk that takes no more after 100 kB."""

        def __init__(self, file):
            self.file, self.room = file, 100_000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, 'No space left on device')
            return self.file.write(data)

    @contextmanager
    def atomic(path):
        with atomic_write(path) as file:
            yield Full(file) if path.name == 'iter_4.pth' else file
    monkeypatch.setattr(console, 'atomic_write', atomic)
    assert command('train', *words(debug_data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert 'iter_4.pth' in message and 'No space left' in message and '--resume' in message
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_2.pth'] and not leftovers(tmp_path)
    torch.load(tmp_path / 'iter_2.pth')


def test_old_checkpoints_go_only_after_the_pointer_has_moved(tmp_path):
    class Runner:
        work_dir, rank, iter = str(tmp_path), 0, 5
        model, optim_wrapper = torch.nn.Linear(1, 1), None

        def save_checkpoint(self, folder, name, **options):
            assert (tmp_path / 'iter_4.pth').is_file()
            (Path(folder) / name).write_text('new')
    for number in (2, 4):
        (tmp_path / f'iter_{number}.pth').write_text('old')
    SafeCheckpoint(interval=2, keep=1).save(Runner())
    assert [path.name for path in checkpoints(tmp_path)] == ['iter_6.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_6.pth'


def test_the_history_of_a_scalar_stays_bounded():
    class Runner:
        message_hub = MessageHub('bounded')
    hook = PlainCheckpoint()
    for step in range(3 * hook.buffer_length):
        Runner.message_hub.update_scalar('train/loss', step)
        hook.after_train_iter(Runner, step)
    history = Runner.message_hub.get_scalar('train/loss')
    assert len(history.data[0]) == hook.buffer_length and history.current() == 3 * hook.buffer_length - 1


def test_the_console_is_quiet_and_validation_shows_the_headline_only(debug_data, tmp_path, capsys):
    assert command('train', *words(debug_data, tmp_path, 'train.iterations=2', 'train.validate_every=2',
                                   'train.log_every=1')) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if 'INFO' in line or 'WARNING' in line]
    assert len(lines) < 11, shown
    assert sum('memory of training: at most about' in line for line in lines) == 1
    validation = next(line for line in lines if 'validation at iteration 2' in line)
    assert all(f'{name} ' in validation for name in ('instance/AP', 'instance/agnostic_AP', 'depth/abs_rel', 'camera/auc30'))
    assert 'class/' not in shown and 'System environment' not in shown
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'System environment' in log and 'Hooks will be executed' in log


# Instance terms only, plain SGD: then one process with both scenes is the mean of two with one each.
SHARED = ('model.losses.depth=None', 'model.losses.camera=None', 'model.camera_head=None', 'model.depth_head=None',
          'model.teacher=None', 'optimizer.type=SGD', 'train.iterations=2', 'train.clip_norm=None')


def test_two_processes_train_leave_one_set_of_files_and_equal_one_process_with_the_whole_batch(debug_data, tmp_path):
    launch = [*tool('train')[:1], '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', *tool('train')[1:]]
    given = words(debug_data, tmp_path / 'two', *SHARED, 'batches.slots=2', flags=('--launcher', 'pytorch'))
    done = subprocess.run([*launch, *given], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert command('train', *words(debug_data, tmp_path / 'one', *SHARED, 'batches.max_images=4')) == 0
    two, one = (load_file(tmp_path / run / 'weights.safetensors') for run in ('two', 'one'))
    assert one.keys() == two.keys()
    assert largest_difference(two, one) < 1e-6
    assert command('train', *words(debug_data, tmp_path / 'half', *SHARED)) == 0            # one scene instead of two
    assert largest_difference(two, load_file(tmp_path / 'half' / 'weights.safetensors')) > 1e-5
    assert [json.loads(line)['iteration'] for line in (tmp_path / 'two' / TERMS_FILE).read_text().splitlines()] == [0, 1]
    assert [path.name for path in checkpoints(tmp_path / 'two')] == ['iter_2.pth'] and not leftovers(tmp_path)
    assert len(list((tmp_path / 'two').glob('*/*.log'))) == 1


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_the_term_summary_is_the_mean_over_the_first_and_the_last_iterations(tmp_path):
    rows = [dict(iteration=step, loss=10.0 - step, loss_a=1.0) for step in range(6)]
    (tmp_path / TERMS_FILE).write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"iteration": 6, "lo')
    summary = term_summary(tmp_path, window=2)
    assert summary['iterations'] == 6                                   # the line that a kill cut short does not count
    assert summary['terms']['loss'] == dict(first=9.5, last=5.5)
    assert term_summary(tmp_path, window=20)['terms']['loss'] == dict(first=9.0, last=6.0)     # 3 and 3: no step in both
    table = format_summary(summary).splitlines()
    assert term_summary(tmp_path, window=20)['terms']['loss'] == dict(first=9.0, last=6.0)     # halves of a short run
    assert table[1].split() == ['loss', '9.5000', '5.5000', '-42.1%'] and table[2].split()[-1] == '+0.0%'


def test_the_help_texts_of_jrs_train_test_and_infer_need_no_torch_and_little_time():
    code = ('import sys, contextlib, io, time; start = time.process_time()\n'
            'from jrs.cli import main\n'
            'for name in [None, "train", "test", "infer"]:\n'
            '    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n'
            '        main(["--help"] if name is None else [name, "--help"])\n'
            '    assert "usage:" in out.getvalue(), name\n'
            '    assert "torch" not in sys.modules, name\n'
            'assert time.process_time() - start < 3, time.process_time() - start\n')
    done = subprocess.run([tool('train')[0], '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
