"""Checkpoints that survive a kill: atomic files, plain contents, the pointer moves last (engine.md section 6.2)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log

from jrs import __version__
from jrs.engine.disk import check_space, checkpoint_bytes, explaining_full_disks, weights_bytes
from jrs.engine.sharding import spread_states, whole_states
from jrs.engine.update import update_of
from jrs.errors import NonFiniteError, WeightsError
from jrs.finite import in_words, nonfinite, refuse_nonfinite
from jrs.io.atomic import atomic_write
from jrs.io.weights_file import UNREADABLE
from jrs.registry import HOOKS

POINTER = 'last_checkpoint'
KEPT = 2                                       # checkpoints of a run that stay
SAME_UPDATE = '. Losses go on as before, up to rounding (1e-5): all processes together make the same updates'
OLD = ('its iterations count batches of one process, not updates of the weights, so that neither its samples nor its '
       'learning rates go on here. Start the run again in another folder, from these weights if you like: --cfg-options '
       'weights=FILE.')


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written under a temporary name, synced, then renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically."""
        with atomic_write(Path(filepath), 'wb') as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text atomically."""
        self.put(obj.encode(encoding), filepath)


def use_atomic_files() -> None:
    """Send every local write of mmengine through `AtomicLocalBackend`."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


@HOOKS.register_module()
class PlainCheckpoint(Hook):
    """Keep checkpoints to tensors and plain Python, so that ``torch.load(weights_only=True)`` reads them.

    Also bounds mmengine's log buffers, which otherwise grow for ever (engine.md section 1, point 7).
    """

    priority = 'VERY_HIGH'
    buffer_length = 2000

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Bound every scalar's history."""
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.buffer_length

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Turn history buffers and numpy scalars into lists and numbers; add what a resume compares."""
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {key: [[float(v) for v in history] for history in buffer.data]
                              for key, buffer in hub['log_scalars'].items()}
        hub['runtime_info'] = {key: _plain(value) for key, value in hub['runtime_info'].items()}
        hub['resumed_keys'] = dict(hub['resumed_keys'])
        checkpoint['engine'] = _facts(runner)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Build the buffers again, and say what differs from the run that saved.

        Raises:
            WeightsError: the checkpoint is of another model, or holds weights that are not finite.
        """
        check_same_model(_plain_model(runner), checkpoint)
        refuse_nonfinite(checkpoint['state_dict'], f'{runner._load_from} holds broken weights',
                         'Remove it: --resume then takes the checkpoint before it.', WeightsError)
        hub = checkpoint.get('message_hub', {})
        hub['log_scalars'] = {key: HistoryBuffer(*map(np.asarray, data), max_length=self.buffer_length)
                              for key, data in hub.get('log_scalars', {}).items()}
        saved, now = checkpoint['engine'], _facts(runner)
        for key, value in now.items():
            if saved[key] != value:
                advice = SAME_UPDATE if key == 'world_size' and saved['update'] == now['update'] else ''
                print_log(f'resuming with {key} {value}; the checkpoint was saved with {saved[key]}{advice}', 'current')


def _facts(runner) -> dict[str, str | int]:
    """Return what a resume compares."""
    return dict(version=__version__, update=str(update_of(runner.cfg)), world_size=runner.world_size, seed=runner.seed)


def check_same_model(model: torch.nn.Module, checkpoint: dict) -> None:
    """Raise a WeightsError where the parameters of a checkpoint are not those of `model` in name and shape."""
    saved = {name: tuple(value.shape) for name, value in checkpoint.get('state_dict', {}).items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    other = [f'{name}: checkpoint {saved.get(name, "nothing")}, model {own.get(name, "nothing")}'
             for name in sorted({*saved, *own}) if saved.get(name) != own.get(name)]
    if other:
        raise WeightsError(f'the checkpoint is of another model; {len(other)} parameters differ: {"; ".join(other[:3])}. '
                           'Resume with the config, profile and overrides that started the run (config.py in its folder).')


def _plain(value):
    return value.item() if isinstance(value, (np.generic, torch.Tensor)) and np.ndim(value) == 0 else value


@HOOKS.register_module()
class SafeCheckpoint(Hook):
    """Save every `interval` iterations and at the end: write the new file, move the pointer, then delete old ones.

    The disk is looked at before the run starts and before each save. Of a sharded model the file has whole tensors.

    Args:
        interval: iterations between saves.
        keep: how many checkpoints stay.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int, keep: int = KEPT) -> None:
        self.interval, self.keep = interval, keep
        self.whole: dict[str, dict] = {}

    def before_train(self, runner) -> None:
        """Raise a DataError where the disk has no room for the checkpoints that will be kept, one more, and the weights."""
        if runner.rank == 0:
            model, folder = _plain_model(runner), Path(runner.work_dir)
            more = max(1, self.keep + 1 - len(checkpoints(folder)))
            check_space(folder, more * checkpoint_bytes(model) + weights_bytes(model), f'{more} checkpoints and the weights')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save when due, and when the run stops before its end."""
        last = runner.iter + 1 == runner.max_iters or runner.train_loop.stop_training
        if self.every_n_train_iters(runner, self.interval) or last:
            self.save(runner)

    def save(self, runner) -> None:
        """Write the state after the current step; only rank 0 writes.

        Raises:
            NonFiniteError: the weights have become NaN or infinite; nothing is written, and nothing sound is removed.
        """
        name, folder = f'iter_{runner.iter + 1}.pth', Path(runner.work_dir)
        refuse_broken_weights(_plain_model(runner), folder / name)
        self.whole = whole_states(_plain_model(runner), runner.optim_wrapper)
        with explaining_full_disks(folder / name):
            if runner.rank == 0:
                check_space(folder, checkpoint_bytes(_plain_model(runner)), f'{name} and what comes after it')
            runner.save_checkpoint(runner.work_dir, name)
            if runner.rank == 0:
                with atomic_write(folder / POINTER, 'w') as file:
                    file.write(name)
                for old in checkpoints(folder)[self.keep:]:
                    old.unlink()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put whole tensors in place of this process's parts."""
        checkpoint.update(self.whole)
        self.whole = {}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put this process's parts in place of whole tensors."""
        spread_states(_plain_model(runner), runner.optim_wrapper.optimizer, checkpoint)


def refuse_broken_weights(model: torch.nn.Module, path: Path) -> None:
    """Raise a NonFiniteError in every process where one of them has weights that are not finite, before `path` has them."""
    own = {name: value.to_local() if hasattr(value, 'to_local') else value for name, value in model.state_dict().items()}
    found = next(filter(None, all_gather_object(in_words(nonfinite(own)))), '')
    if found:
        raise NonFiniteError(f'{path} is not written: the weights are not finite: {found}. Checkpoints before it stay: '
                             'lower the learning rate (optimizer.lr) and go on from the last one with --resume.')


def _plain_model(runner) -> torch.nn.Module:
    return getattr(runner.model, 'module', runner.model)


def checkpoints(work_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    return sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(path.stem.removeprefix('iter_')), reverse=True)


def last_good_checkpoint(work_dir: Path) -> Path | None:
    """Return the newest checkpoint that loads, None when there is none; broken ones are named in the log.

    Files that a killed run left half written are removed, by the first process only.

    Raises:
        WeightsError: there are checkpoints and none of them loads.
    """
    for stale in work_dir.glob('.*.part') if get_rank() == 0 else ():
        stale.unlink()
    found = checkpoints(work_dir)
    for path in found:
        try:
            torch.load(path, map_location='meta', weights_only=True, mmap=True)
            return path
        except UNREADABLE as error:
            print_log(f'{path} does not load ({type(error).__name__}); trying the one before', 'current',
                      logging.WARNING)
    if found:
        raise WeightsError(f'none of the {len(found)} checkpoints in {work_dir} loads. Remove them to start again.')
    return None


def check_counts_updates(path: Path) -> None:
    """Raise a WeightsError where the iterations of a checkpoint are not updates of the weights: it is from before slots."""
    saved = torch.load(path, map_location='meta', weights_only=True, mmap=True)
    if 'update' not in saved.get('engine', {}):
        raise WeightsError(f'{path} is from before batches.slots: {OLD}')


def environment_variables() -> dict[str, str]:
    """Return what of the environment can change a result."""
    return {key: value for key, value in os.environ.items() if key.startswith(('OMP_', 'MKL_', 'CUDA_', 'CUBLAS_', 'JRS_'))}
