"""What a run says of itself: command, code, versions, machine, hours and memory (`run.json`), scores (`metrics.jsonl`)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import torch
from mmengine.hooks import Hook
from torch import nn

from jrs.engine.checkpoint import environment_variables
from jrs.engine.hooks import read_lines
from jrs.engine.usage import peak_memory_gb
from jrs.io.atomic import atomic_write

RECORD_FILE = 'run.json'
METRICS_FILE = 'metrics.jsonl'
UNKNOWN = 'unknown'
DRAWS = 'by part'                                      # what a run starts from (`jrs.draws`); None = one sequence for all
CLOCKS = {'hours': time.monotonic, 'cpu_hours': time.process_time}      # seconds each
SPENT = (*CLOCKS, 'peak_memory_gb')                    # over all resumes


def start_record(work_dir: Path, command: list[str], model: nn.Module, resume: bool,
                 split: Mapping[str, object], settings: Mapping[str, object] | None = None) -> None:
    """Write `run.json`: what made the run. A resumed run keeps its hours and its peak, and names the commands before.

    Args:
        work_dir: the run's folder.
        command: that started this process.
        model: that is trained; `parameters` says how many numbers it has, and how many of them learn.
        resume: whether the run goes on.
        split: the update and how processes share it (`split_of`).
        settings: how the device computes (`device_record`), and what is computed twice.
    """
    before = read_record(work_dir) if resume else {}
    state = git_state()
    last = {name: before.get(name) for name in ('command', 'commit', 'processes')}
    earlier = [*before.get('earlier', []), last] if before else []
    _write(work_dir, dict(
        finished=False, **{name: before.get(name, 0.0) for name in SPENT}, **state,
        command=command, earlier=earlier, **split, draws=before.get('draws') if before else DRAWS,
        python=platform.python_version(), machine=platform.platform(),
        cores=os.cpu_count(), memory_gb=_memory_gb(), device=device_name(next(model.parameters()).device),
        parameters=_parameters(model), device_settings=dict(settings or {}), environment=environment_variables(),
        versions=dict(sorted((item.name.lower(), item.version) for item in distributions()))))


def finish_record(work_dir: Path) -> None:
    """Say that the run has ended and its weights are written."""
    _write(work_dir, read_record(work_dir) | dict(finished=True))


def read_record(work_dir: Path) -> dict:
    """Return what `run.json` says, empty where there is none."""
    path = work_dir / RECORD_FILE
    return json.loads(path.read_text(encoding='utf-8-sig')) if path.is_file() else {}


class RunRecord(Hook):
    """Keep `hours`, `cpu_hours` and `peak_memory_gb` of `run.json` up to date, at every checkpoint and the end; for rank 0.

    The scores of each validation become a line of `metrics.jsonl`; one that does not exist is null.

    Hours count training with its validation, over all resumes; what a killed run did after its last checkpoint is done
    again, and counts once. `cpu_hours` are what the threads of this process computed in that time, without the workers that
    load data: the cost where others share the cores. The peak is of this process: of its CUDA device where there is one.

    Args:
        interval: iterations between checkpoints.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int) -> None:
        self.interval, self.shares = interval, Shares()

    def before_train(self, runner) -> None:
        """Go on where the run that is resumed stopped; scores of iterations that will be done again are dropped."""
        self._write_scores(runner)
        record = read_record(Path(runner.work_dir))
        self.before = [record.get(name, 0.0) - clock() / 3600 for name, clock in CLOCKS.items()]

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write after each checkpoint."""
        if self.every_n_train_iters(runner, self.interval):
            self._update(runner, runner.iter + 1)

    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        """Add the scores of a validation."""
        plain = {name: float(value) if math.isfinite(value) else None for name, value in (metrics or {}).items()}
        self._write_scores(runner, json.dumps(dict(iteration=runner.iter, **plain)) + '\n')

    def _write_scores(self, runner, line: str = '') -> None:
        path = Path(runner.work_dir) / METRICS_FILE
        kept = [old for old in read_lines(path) if json.loads(old)['iteration'] <= runner.iter]
        with atomic_write(path, 'w') as file:
            file.writelines([*kept, line])

    def after_train(self, runner) -> None:
        """Write."""
        self._update(runner, runner.iter)

    def _update(self, runner, done: int) -> None:
        """Write what holds after `done` updates."""
        record = read_record(Path(runner.work_dir)) | self.shares.record(runner, done)
        device = next(runner.model.parameters()).device
        for (name, clock), before in zip(CLOCKS.items(), self.before, strict=True):
            record[name] = before + clock() / 3600
        record['peak_memory_gb'] = max(record.get('peak_memory_gb', 0.0), peak_memory_gb(device))
        _write(Path(runner.work_dir), record)


class Shares:
    """Counts what each set of a mixture has given to the updates of a run (`jrs.datasets.mixture`).

    Samples are drawn again to be counted, not remembered: after a kill and a resume the numbers are those of the updates
    that the weights have seen.
    """

    def __init__(self) -> None:
        self.counted, self.counts = 0, 0

    def record(self, runner, done: int) -> dict[str, dict]:
        """Return `sets` for `run.json` after `done` updates: per set its share, scenes, and samples and views so far."""
        loader = runner.train_dataloader
        dataset = loader.dataset
        if getattr(dataset, 'mixture', None) is None:
            return {}
        self.counts = self.counts + loader.batch_sampler.drawn(self.counted, done)              # (sets, 2)
        self.counted = done
        samples, views = self.counts.T.tolist()
        return {'sets': {name: dict(share=share, scenes=scenes, samples=given, views=seen,
                                    share_of_samples=given / max(1, sum(samples)), share_of_views=seen / max(1, sum(views)))
                         for (name, share), (scenes, _), given, seen in
                         zip(dataset.shares.items(), dataset.mixture, samples, views, strict=True)}}


def git_state() -> dict[str, object]:
    """Return the `commit`, whether the tree is `dirty`, and a digest of how it differs from the commit.

    Outside a repository the commit is 'unknown'.
    """
    def git(*words: str) -> bytes:
        return subprocess.run(['git', '--no-optional-locks', *words], capture_output=True, check=True,
                              cwd=Path(__file__).parent).stdout
    try:
        commit, status, diff = git('rev-parse', '--short=12', 'HEAD'), git('status', '--porcelain'), git('diff', 'HEAD')
    except (subprocess.CalledProcessError, FileNotFoundError):
        return dict(commit=UNKNOWN, dirty=None, diff_sha256=None)
    digest = hashlib.sha256(status + diff).hexdigest() if status else None
    return dict(commit=commit.decode().strip(), dirty=bool(status), diff_sha256=digest)


def device_name(device: torch.device) -> str:
    """Return the name of an accelerator, or of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    cpu = Path('/proc/cpuinfo')
    names = [line.partition(':')[2].strip() for line in cpu.read_text().splitlines() if line.startswith('model name')] \
        if cpu.is_file() else []
    return f'{device.type}: {names[0] if names else platform.processor() or UNKNOWN}'


def _parameters(model: nn.Module) -> dict[str, int]:
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return dict(all=sum(size for size, _ in sizes), learned=sum(size for size, learns in sizes if learns))


def _memory_gb() -> float | None:
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    except (ValueError, OSError):
        return None


def _write(work_dir: Path, record: dict) -> None:
    with atomic_write(work_dir / RECORD_FILE, 'w') as file:
        json.dump(record, file, indent=1)
