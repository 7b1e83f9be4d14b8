"""A training loop that goes on exactly where a killed run stopped (engine.md sections 5 and 6)."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.dist import get_dist_info
from mmengine.runner import IterBasedTrainLoop

from jrs.datasets.sampling import own_slots
from jrs.engine.checkpoint import SafeCheckpoint
from jrs.engine.loading import explaining_lost_workers
from jrs.engine.nonfinite import leave_out_or_stop
from jrs.engine.processes import TIMEOUT, Watchdog, naming_lost_processes
from jrs.engine.step import seed_step, training_step
from jrs.engine.stop import Stopped, StopRequest
from jrs.errors import NonFiniteError
from jrs.registry import LOOPS
from jrs.structures import SceneBatch


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Train for a number of iterations; after a resume the sampler is set to its position, nothing is replayed.

    An iteration is one update of the weights, in which each process takes `accumulate` slots one after another: batches of
    its loader, whose batch sampler is infinite and has `set_position(iteration)`. Those of update k depend on (seed, k)
    only, and what a slot draws on (seed, slot, k). Hooks get the batches of the update as a list, `data_batch`.

    SIGTERM and SIGINT end it after a step whose state is saved, and a wait for data at once; `stopped_by` is then the number
    of the signal.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval: as mmengine means them.
        accumulate: slots of an update per process.
        skip_nonfinite: steps of a run that may be left out because a number is not finite.
        timeout: seconds that a slot may take.
    """

    def __init__(self, runner, dataloader, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
                 accumulate: int = 1, skip_nonfinite: int = 0, timeout: float = TIMEOUT) -> None:
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval)
        self.dataloader_iterator = None              # the parent opens one here: workers that prefetch from position 0
        rank, processes = get_dist_info()
        self.slots = own_slots(rank, processes, processes * accumulate)
        self.skip_nonfinite, self.timeout = skip_nonfinite, timeout
        self.stopped_by = 0
        self.watchdog: Watchdog | None = None

    def run(self) -> torch.nn.Module:
        """Run all remaining iterations, with validation at its interval and at the end."""
        runner = self.runner
        with StopRequest() as self.stop_request, Watchdog(self.timeout) as self.watchdog, \
                naming_lost_processes(self.watchdog), explaining_lost_workers(self.dataloader.num_workers):
            runner.call_hook('before_train')
            runner.call_hook('before_train_epoch')
            self.dataloader.batch_sampler.set_position(self._iter)
            try:
                self._run_iterations()
            except Stopped:
                self._save_before_stop()
            runner.call_hook('after_train_epoch')
            runner.call_hook('after_train')
        return runner.model

    def _run_iterations(self) -> None:
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter([next(batches) for _ in self.slots])
            self._decide_current_val_interval()
            if self._validates_now():
                self.runner.val_loop.run()

    def _save_before_stop(self) -> None:
        """Keep the state of the last update that was finished, where no checkpoint has it."""
        self.stopped_by, self.stop_training = self.stop_request.number, True
        saver = next((hook for hook in self.runner.hooks if isinstance(hook, SafeCheckpoint)), None)
        if saver is not None and self._iter and not (Path(self.runner.work_dir) / f'iter_{self._iter}.pth').is_file():
            self._iter -= 1                            # a hook saves while the iteration is still counted as running
            saver.save(self.runner)
            self._iter += 1

    def run_iter(self, data_batch: list[SceneBatch]) -> None:
        """Run one update and the hooks around it; `data_batch` are the slots of this process."""
        runner = self.runner
        seeds = [(runner.seed, slot, self._iter) for slot in self.slots]
        seed_step(*seeds[0])                                           # what a hook draws can be repeated, too
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs, stop = {}, 0
        try:
            outputs, stop = training_step(runner.model, data_batch, runner.optim_wrapper, seeds,
                                          lambda: self.stop_request.number, self.watchdog.beat)
        except NonFiniteError as fault:
            leave_out_or_stop(runner, data_batch, self.slots, fault, self.skip_nonfinite)
        if stop and outputs:
            self.stopped_by, self.stop_training = stop, True
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _validates_now(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin or self.stop_training:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters

