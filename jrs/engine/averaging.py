"""The mean of a network's weights over the last updates of its training, beside the trained weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from jrs.errors import ConfigError, WeightsError
from jrs.registry import HOOKS

KEY = 'averaged_weights'                       # of a checkpoint


@HOOKS.register_module()
class AveragedWeights(Hook):
    """Average the weights after each of the last updates; a finished run leaves them in `weights_averaged.safetensors`.

    All updates count alike (stochastic weight averaging, arXiv 1803.05407, with the schedule of the run as it is). Training
    does not change. What learns is averaged, and running statistics of norms; the rest is as after the last update. The
    means are float32, or the dtype of the weights where that is wider; they lie where the weights do, which need that much
    more memory, and are part of every checkpoint.

    Args:
        share: of the updates, the last ones, in (0, 1]: 0.25 of 400 are those from 301 on.

    Raises:
        ConfigError: no such share; with a sharded model, whose parts no process has all of.
        WeightsError: a run is resumed from a checkpoint that should have the mean of some updates, and has not.
    """

    priority = 'BELOW_NORMAL'                  # before the checkpoint of the same update

    def __init__(self, share: float = 0.25) -> None:
        if not (isinstance(share, (int, float)) and 0 < share <= 1):
            raise ConfigError(f'share of AveragedWeights is above 0 and at most 1, got {share!r}.')
        self.share, self.count = share, 0
        self.mean: dict[str, Tensor] = {}

    def before_run(self, runner) -> None:
        """Raise a ConfigError for a sharded model."""
        if runner.cfg.train.get('sharding'):
            raise ConfigError('AveragedWeights averages whole weights, and train.sharding leaves each process a part of '
                              'them. Leave out one of the two: hooks.NAME=None, or train.sharding=None.')

    def first(self, updates: int) -> int:
        """Return the number, counted from 0, of the first update that is averaged, of so many."""
        return updates - max(1, math.ceil(self.share * updates))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Add the weights after this update."""
        if runner.iter >= self.first(runner.max_iters):
            self.add(getattr(runner.model, 'module', runner.model))

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the weights that a model has now."""
        self.count += 1
        for name, value in _changing(model):
            if name not in self.mean:
                self.mean[name] = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
            else:
                self.mean[name] += (value - self.mean[name]) / self.count

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the model with the means in their place, in its own dtypes; empty before the first one."""
        own = model.state_dict() if self.count else {}
        return {name: self.mean[name].to(value.dtype) if name in self.mean else value for name, value in own.items()}

    def says(self) -> str:
        """Return what is averaged, in words."""
        return f'mean over the last {self.count} updates'

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Let the checkpoint carry the sums."""
        if self.count:
            checkpoint[KEY] = dict(count=self.count, mean={name: value.cpu() for name, value in self.mean.items()})

    def after_load_checkpoint(self, runner, checkpoint: Mapping) -> None:
        """Go on with the sums of a checkpoint; what it averaged counts no more where a longer run begins later."""
        kept, counted = checkpoint.get(KEY), max(0, checkpoint['meta']['iter'] - self.first(runner.max_iters))
        found = kept['count'] if kept else 0
        if counted and found != counted:
            raise WeightsError(f'at the update of the checkpoint AveragedWeights has counted {counted}, and it holds the '
                               f'mean of {found}: the run began without it, or with another share or length. Resume as it '
                               'began, without it (hooks.NAME=None), or with a share that begins later.')
        own = getattr(runner.model, 'module', runner.model).state_dict()
        self.count = counted
        self.mean = {name: value.to(own[name].device) for name, value in kept['mean'].items()} if counted else {}


def _changing(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes of the weights that a model saves: what learns, and statistics; floating point only."""
    saved = model.state_dict()
    learned = {name for name, value in model.named_parameters() if value.requires_grad}
    statistics = {name for name, _ in model.named_buffers()}
    yield from ((name, value) for name, value in saved.items()
                if name in learned | statistics and value.is_floating_point())
