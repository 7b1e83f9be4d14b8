"""What a run says: a quiet console for people, everything in the run's log file."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from jrs.registry import HOOKS

# How mmengine's messages begin that tell a user nothing (engine.md section 4); config and environment are files of the run.
NOISE = ('System environment', 'Config:', 'Hooks will be executed', 'Distributed training is not used', '"FileClient"',
         '"HardDiskBackend"', 'Checkpoints will be saved to')
HEADLINE = ('instance/AP', 'instance/AP50', 'instance/AP25', 'instance/agnostic_AP', 'instance/oracle_AP', 'depth/abs_rel',
            'camera/auc30')


class QuietConsole(logging.Filter):
    """Keeps what begins with an entry of `NOISE` from the console."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        return not record.getMessage().lstrip('\n-').startswith(NOISE)


class JrsRunner(Runner):
    """mmengine's Runner with a quiet console; the log file has every line."""

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

    def after_test_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        """Show nothing: the command prints and writes the results."""


def headline(metrics: Mapping[str, float]) -> str:
    """Return the few numbers that a run is judged by, in one line."""
    shown = [f'{name} {metrics[name]:.4f}' for name in HEADLINE if name in metrics]
    return '  '.join(shown) or 'no metric of the headline is on'
