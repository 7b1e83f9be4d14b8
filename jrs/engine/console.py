"""What a run says: a quiet console for people, everything in the run's log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn

from jrs.engine.sharding import is_sharded
from jrs.io.atomic import atomic_write
from jrs.io.progress import Bar, Progress
from jrs.registry import HOOKS

# How mmengine's messages begin that tell a user nothing (engine.md section 4); config and environment are files of the run.
NOISE = ('System environment', 'Config:', 'Hooks will be executed', 'Distributed training is not used', '"FileClient"',
         '"HardDiskBackend"', 'Checkpoints will be saved to')
SAID_EVERY = 10.0                              # seconds between lines on scoring in a log
HEADLINE = ('instance/AP', 'instance/AP50', 'instance/AP25', 'instance/agnostic_AP', 'instance/oracle_AP', 'depth/abs_rel',
            'camera/auc30')


class QuietConsole(logging.Filter):
    """Keeps what begins with an entry of `NOISE` from the console."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        return not record.getMessage().lstrip('\n-').startswith(NOISE)


class RunConfig(Config):
    """mmengine's Config for a run, which is formatted once: mmengine asks for its text with every checkpoint, 0.2 s each."""

    @property
    def pretty_text(self) -> str:
        """The config as Python; equal configs share their text."""
        content = repr(self._cfg_dict)
        if content not in _texts:
            _texts.clear()
            _texts[content] = super().pretty_text
        return _texts[content]


_texts: dict[str, str] = {}                    # what the last config says -> its text


class JrsRunner(Runner):
    """mmengine's Runner with a quiet console, on any device; the log file has every line.

    Attributes:
        recomputation: what the backward pass computes again, in words, of a runner that trains.
    """

    recomputation = ''

    def wrap_model(self, model_wrapper_cfg: Mapping | None, model: nn.Module) -> nn.Module:
        """Return the model on its device; several processes that train it share gradients, unless it is sharded."""
        if is_sharded(model):
            return model
        model = model.to(get_device())
        if not self.distributed or self._train_loop is None:
            return model
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
        return MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=False,
                                         gradient_as_bucket_view=True)         # else all gradients are there twice

    def _init_model_weights(self) -> None:
        """mmengine's; the parts of a sharded model are those of equal models already, and cannot be broadcast."""
        if not is_sharded(self.model):
            super()._init_model_weights()

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str) -> None:
        """Write `filename` in `out_dir` with all that a resume needs, tensor by tensor from where they are.

        The same contents as mmengine's, which holds three copies of them in the host's memory: on the CPU, as a file, and as
        its bytes.
        """
        model = getattr(self.model, 'module', self.model)
        meta = dict(epoch=self.epoch, iter=self.iter + 1, cfg=self.cfg.pretty_text, seed=self.seed,
                    experiment_name=self.experiment_name, time=time.strftime('%Y%m%d_%H%M%S'),
                    mmengine_version=mmengine.__version__)
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta['dataset_meta'] = self.train_dataloader.dataset.metainfo
        checkpoint = dict(meta=meta, state_dict=model.state_dict(), message_hub=self.message_hub.state_dict(),
                          optimizer=self.optim_wrapper.state_dict(),
                          param_schedulers=[scheduler.state_dict() for scheduler in self.param_schedulers])
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        with atomic_write(Path(out_dir) / filename) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:      # torch's own, about a place in the file, hides what the system said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, filename: str, map_location: str = 'cpu', **_) -> dict:
        """Load a checkpoint of a run into the model and return it; its tensors are mapped from the file, on the CPU.

        Several processes on a machine share what the system keeps of the file; nothing is read that is not used.
        """
        checkpoint = torch.load(filename, map_location='cpu', mmap=True, weights_only=True)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        getattr(self.model, 'module', self.model).load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: str = 'cpu') -> None:
        """Go on from a checkpoint (`load_checkpoint`): there is one copy of the weights on the device."""
        super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)

    def build_logger(self, *args, **settings) -> MMLogger:
        """Return mmengine's logger, its console filtered."""
        logger = super().build_logger(*args, **settings)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(QuietConsole())
        return logger


@HOOKS.register_module()
class ProgressLog(LoggerHook):
    """mmengine's progress line and TensorBoard scalars, for a loader without end; of scores only the headline is shown."""

    def end_of_epoch(self, dataloader, batch_idx: int) -> bool:
        """An endless loader has no last batch."""
        return False

    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        """Show the headline; all numbers go to TensorBoard."""
        runner.logger.info(f'validation at iteration {runner.iter}: {headline(metrics or {})}')
        runner.visualizer.add_scalars(dict(metrics or {}), step=runner.iter, file_path=self.json_log_path)

    def before_test_epoch(self, runner) -> None:
        """Begin to count scenes."""
        self.pieces, self.bar, self.said = Progress(len(runner.test_dataloader), 'scenes'), Bar(), 0.0

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Say how far the scoring is: in a terminal after every scene, in a log when the last line is a while ago."""
        line = self.pieces.step('scored')
        if sys.stderr.isatty() and runner.rank == 0:
            self.bar(line)
        elif time.monotonic() - self.said > SAID_EVERY or self.pieces.done == self.pieces.total:
            runner.logger.info(line)
            self.said = time.monotonic()

    def after_test_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        """Show nothing: the command prints and writes the results."""


def headline(metrics: Mapping[str, float]) -> str:
    """Return the few numbers that a run is judged by, in one line."""
    shown = [f'{name} {metrics[name]:.4f}' for name in HEADLINE if name in metrics]
    return '  '.join(shown) or 'no metric of the headline is on'
