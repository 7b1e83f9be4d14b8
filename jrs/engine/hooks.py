"""Hooks that watch a run: terms of every iteration, memory, learning rates, plugins, pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook

from jrs.engine.usage import peak_memory_gb
from jrs.io.atomic import atomic_write
from jrs.plugins import hook_of
from jrs.registry import HOOKS

TERMS_FILE = 'terms.jsonl'
SUMMARY_FILE = 'terms_summary.json'


@HOOKS.register_module()
class TermLog(Hook):
    """Write every term of every iteration to `terms.jsonl`, and print first against last at the end.

    Args:
        window: iterations in the means over the first and over the last part of the run, at most half of it each.
    """

    priority = 'LOW'

    def __init__(self, window: int = 20) -> None:
        self.window = window

    def before_train(self, runner) -> None:
        """Open the file; after a resume, drop what was written beyond the checkpoint."""
        if runner.rank != 0:
            return
        path = Path(runner.work_dir) / TERMS_FILE
        kept = [line for line in read_lines(path) if json.loads(line)['iteration'] < runner.iter]
        with atomic_write(path, 'w') as file:
            file.writelines(kept)
        self.file = open(path, 'a', encoding='utf-8', buffering=1)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Append one line, the means over all processes, and show the step to plugins; a step left out has no terms."""
        terms = {name: float(value.detach()) for name, value in outputs.items()}
        hook_of('jrs_training_step', plugins_of(runner))(iteration=runner.iter, **step_facts(terms))
        if runner.rank == 0:
            self.file.write(json.dumps(dict(iteration=runner.iter, **terms)) + '\n')

    def after_train(self, runner) -> None:
        """Print and save the mean of each term over the first and the last iterations."""
        if runner.rank != 0:
            return
        self.file.close()
        summary = term_summary(Path(runner.work_dir), self.window)
        with atomic_write(Path(runner.work_dir) / SUMMARY_FILE, 'w') as file:
            json.dump(summary, file, indent=1)
        runner.logger.info('\n' + format_summary(summary))


def plugins_of(runner) -> list[str]:
    """Return the plugins that the config of a run names: the others of this process do not watch it."""
    return runner.cfg.get('plugins') or []


def step_facts(terms: dict[str, float]) -> dict[str, object]:
    """Return what `jrs_training_step` tells of a step: its `total`, the weighted `terms` that add up to it, the `parts`."""
    named = {name: value for name, value in terms.items() if name != 'loss'}
    weighted = {name: value for name, value in named.items() if 'loss' in name}            # mmengine's rule
    parts = {name: value for name, value in named.items() if name not in weighted}
    return dict(total=terms.get('loss', math.nan), terms=weighted, parts=parts)


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Show plugins every evaluation, of a validation and of `tools/test.py` (`jrs_evaluation`)."""

    priority = 'LOW'

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Show a validation, with the iteration that it follows."""
        hook_of('jrs_evaluation', plugins_of(runner))(iteration=runner.iter, metrics=metrics or {})

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        """Show the scores of a file of weights, which say no iteration."""
        hook_of('jrs_evaluation', plugins_of(runner))(iteration=None, metrics=metrics or {})


def read_lines(path: Path) -> list[str]:
    """Return the complete lines of a text file that may end mid-line after a kill; none when it is absent."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding='utf-8-sig').splitlines(keepends=True) if line.endswith('\n')]


def term_summary(work_dir: Path, window: int) -> dict:
    """Return per term the mean over the first and over the last `window` iterations of a run, at most half of it each."""
    rows = [json.loads(line) for line in read_lines(work_dir / TERMS_FILE)]
    window = min(window, max(1, len(rows) // 2))
    names = dict.fromkeys(name for row in rows for name in row if name != 'iteration')
    terms = {name: dict(first=float(np.mean([row[name] for row in rows[:window] if name in row])),
                        last=float(np.mean([row[name] for row in rows[-window:] if name in row]))) for name in names}
    return dict(iterations=len(rows), window=window, terms=terms)


def format_summary(summary: dict) -> str:
    """Return the table of a term summary; `loss` is the weighted total."""
    lines = [f'{"term":32} {"first " + str(summary["window"]):>12} {"last " + str(summary["window"]):>12} {"change":>8}']
    for name, value in sorted(summary['terms'].items(), key=lambda item: (item[0] != 'loss', item[0])):
        lines.append(f'{name:32} {value["first"]:12.4f} {value["last"]:12.4f} {change_percent(value):+7.1f}%')
    return '\n'.join(lines)


def change_percent(value: dict[str, float]) -> float:
    """Return by how many percent `value['last']` differs from `value['first']`."""
    return 100 * (value['last'] - value['first']) / max(abs(value['first']), 1e-12)


@HOOKS.register_module()
class MetricNeeds(Hook):
    """Let predictions carry what a metric reads beyond the usual, while it is evaluated and not longer.

    A metric with ``reads_matches = True`` reads `Reconstruction.matched`: the attention of the queries that the training
    matcher assigns to the true instances.
    """

    priority = 'NORMAL'

    def before_val_epoch(self, runner) -> None:
        """Ask for what the validation's metrics read."""
        _report_matches(runner, runner.val_loop)

    def before_test_epoch(self, runner) -> None:
        """Ask for what the test's metrics read."""
        _report_matches(runner, runner.test_loop)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Stop asking."""
        _report_matches(runner, None)

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        """Stop asking."""
        _report_matches(runner, None)


def _report_matches(runner, loop) -> None:
    model = getattr(runner.model, 'module', runner.model)
    metrics = [] if loop is None else loop.evaluator.metrics
    model.reports_matches = any(getattr(metric, 'reads_matches', False) for metric in metrics)


@HOOKS.register_module()
class ResourceLog(Hook):
    """Log memory, gradient norm and the learning rate of each group beside the losses."""

    priority = 'NORMAL'

    def before_train(self, runner) -> None:
        """Send the gradient norm to this run's log: the optimizer was built before the run's message hub."""
        runner.optim_wrapper.message_hub = runner.message_hub

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Update the scalars that the progress line and TensorBoard show."""
        hub = runner.message_hub
        hub.update_scalar('train/memory_gb', peak_memory_gb(next(runner.model.parameters()).device))
        for group in runner.optim_wrapper.optimizer.param_groups:
            hub.update_scalar(f'train/lr_{group.get("name", "all")}', group['lr'])
