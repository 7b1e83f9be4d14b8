"""A training loop that goes on exactly where a killed run stopped (engine.md sections 5 and 6)."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from jrs.registry import HOOKS, LOOPS


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Train for a number of iterations; after a resume the sampler is set to its position, nothing is replayed.

    The dataloader's batch sampler is infinite and has `set_position(iteration)`; batch k depends on (seed, k) only.
    """

    def __init__(self, runner, dataloader, max_iters: int, val_begin: int = 1, val_interval: int = 1000) -> None:
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval)
        self.dataloader_iterator = None              # the parent opens one here: workers that prefetch from position 0

    def run(self) -> torch.nn.Module:
        """Run all remaining iterations, with validation at its interval and at the end."""
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        self.dataloader.batch_sampler.set_position(self._iter)
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self._validates_now():
                runner.val_loop.run()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _validates_now(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters


@HOOKS.register_module()
class StepRandomness(Hook):
    """Seed every library from (seed, rank, iteration) before each step, so that no random state needs saving."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed `random`, numpy and torch."""
        words = np.random.SeedSequence([runner.seed, runner.rank, runner.iter]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))
