"""A training loop that goes on exactly where a killed run stopped (engine.md sections 5 and 6)."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from jrs.engine.nonfinite import leave_out_or_stop
from jrs.engine.processes import TIMEOUT, Watchdog, naming_lost_processes
from jrs.engine.step import seed_step, training_step
from jrs.engine.stop import StopRequest
from jrs.errors import NonFiniteError
from jrs.registry import HOOKS, LOOPS
from jrs.structures import SceneBatch


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Train for a number of iterations; after a resume the sampler is set to its position, nothing is replayed.

    The dataloader's batch sampler is infinite and has `set_position(iteration)`; batch k depends on (seed, k) only.
    SIGTERM and SIGINT end it after a step whose state is saved; `stopped_by` is then the number of the signal.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval: as mmengine means them.
        skip_nonfinite: steps of a run that may be left out because a number is not finite.
        timeout: seconds that a step may take when there are several processes.
    """

    def __init__(self, runner, dataloader, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
                 skip_nonfinite: int = 0, timeout: float = TIMEOUT) -> None:
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval)
        self.dataloader_iterator = None              # the parent opens one here: workers that prefetch from position 0
        self.skip_nonfinite, self.timeout = skip_nonfinite, timeout
        self.stopped_by = 0
        self.watchdog: Watchdog | None = None

    def run(self) -> torch.nn.Module:
        """Run all remaining iterations, with validation at its interval and at the end."""
        runner = self.runner
        with StopRequest() as self.stop_request, Watchdog(self.timeout) as self.watchdog, \
                naming_lost_processes(self.watchdog):
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

    def run_iter(self, data_batch: SceneBatch) -> None:
        """Run one step and the hooks around it."""
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs, stop = {}, self.stop_request.number
        try:
            outputs, stop = training_step(runner.model, data_batch, runner.optim_wrapper, stop)
        except NonFiniteError as fault:
            leave_out_or_stop(runner, data_batch, fault, self.skip_nonfinite)
        if stop and outputs and runner.optim_wrapper.should_update():         # else gradients would be lost
            self.stopped_by, self.stop_training = stop, True
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _validates_now(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin or self.stop_training:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters


@HOOKS.register_module()
class StepRandomness(Hook):
    """Seed every library from (seed, rank, iteration) before each step, so that no random state needs saving."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed `random`, numpy and torch."""
        seed_step(runner.seed, runner.rank, runner.iter)
