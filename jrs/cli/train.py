"""``tools/train.py``: train an experiment."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from mmengine.config import Config

from jrs.cli.options import add_config_options, config_from, parse_override
from jrs.errors import DataError

EXAMPLES = """examples:
  python tools/train.py configs/segvggt/all24_fada.py                              the paper's setting
  python tools/train.py configs/segvggt/all24_fada.py --profile rooms              built-in rooms, on a CPU
  python tools/train.py configs/segvggt/all24_fada.py --profile rooms --resume     go on after a kill
  torchrun --nproc_per_node 2 tools/train.py configs/segvggt/all24_fada.py --profile debug --launcher pytorch
"""
MAX_SLUG = 80                                   # characters of the overrides in the name of a run folder


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(prog='tools/train.py', description=__doc__, epilog=EXAMPLES,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('--work-dir', type=Path, help='run folder; default work_dirs/<experiment>_<profile>_seed<seed> '
                         'with the other overrides behind it')
    options.add_argument('--resume', action='store_true', help='go on from the newest checkpoint that loads')
    options.add_argument('--launcher', choices=('none', 'pytorch', 'slurm'), default='none')
    return options


def main(argv: list[str] | None = None) -> None:
    """Train; leaves checkpoints, logs, the resolved config and `weights.safetensors` in the run folder."""
    args = parser().parse_args(argv)
    cfg = config_from(args)
    work_dir = args.work_dir or default_work_dir(args.config, args.profile, cfg.seed, args.cfg_options)
    from jrs.engine.build import build_runner, start_processes
    from jrs.engine.checkpoint import checkpoints
    if not args.resume and checkpoints(work_dir):
        raise DataError(f'{work_dir} holds a run already. Add --resume to go on, or choose another --work-dir.')
    start_processes(args.launcher)
    runner = build_runner(cfg, work_dir, args.resume, args.launcher)
    if runner.rank == 0:
        write_run_record(cfg, work_dir, sys.argv if argv is None else ['tools/train.py', *argv])
    runner.train()
    if runner.rank == 0:
        save_result(runner, cfg, work_dir)


def default_work_dir(config: str | Path, profile: str, seed: int, overrides: Iterable[str] = ()) -> Path:
    """Return ``work_dirs/<experiment>_<profile>_seed<seed>``, with the overrides behind it: ``_train.iterations-500``.

    Args:
        config: the experiment's file.
        profile: its scale.
        seed: of the run; an override of it is not named again.
        overrides: `a.b=c` as given to --cfg-options, in any order; a path that is given twice counts with its last value.
    """
    name = f'{Path(config).stem}_{profile}_seed{seed}'
    return Path('work_dirs') / '_'.join([name, *_slug(overrides)])


def _slug(overrides: Iterable[str]) -> list[str]:
    """Return one word per override, sorted by path; a long list is cut and ends in the digest of the whole."""
    values = {path: str(value) for path, value in sorted(dict(map(parse_override, overrides)).items()) if path != 'seed'}
    words = [f'{path}-{_word(value)}' for path, value in values.items()]
    if len('_'.join(words)) <= MAX_SLUG:
        return words
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]
    return ['_'.join(words)[:MAX_SLUG - 9] + f'-{digest}']


def _word(value: str) -> str:
    """Return a value as part of a file name: brackets, quotes and spaces go, other marks become '-'."""
    return re.sub(r'[^\w.+-]+', '-', re.sub(r'[][(){}\s\'"]', '', value))


def write_run_record(cfg: Config, work_dir: Path, command: list[str]) -> None:
    """Save the resolved config, and what made the run: command, code, versions, machine."""
    from jrs.engine.checkpoint import environment_variables
    from jrs.io.atomic import atomic_write
    with atomic_write(work_dir / 'config.py', 'w') as file:
        file.write(cfg.pretty_text)
    record = dict(command=command, git=git_state(), python=platform.python_version(), machine=platform.platform(),
                  cores=os.cpu_count(), environment=environment_variables(),
                  versions={name: version(name) for name in ('torch', 'mmengine', 'numpy', 'scipy')})
    with atomic_write(work_dir / 'run.json', 'w') as file:
        json.dump(record, file, indent=1)


def git_state() -> str:
    """Return the commit, with '+changes' where the tree differs from it; 'unknown' outside a repository."""
    def git(*words: str) -> str:
        return subprocess.run(['git', *words], capture_output=True, text=True, check=True,
                              cwd=Path(__file__).parent).stdout.strip()
    try:
        return git('rev-parse', '--short=12', 'HEAD') + ('+changes' if git('status', '--porcelain') else '')
    except (subprocess.CalledProcessError, FileNotFoundError):
        return 'unknown'


def save_result(runner, cfg: Config, work_dir: Path) -> None:
    """Write `weights.safetensors` with a card in its metadata, for tools/test.py and tools/infer.py."""
    from jrs.io.weights import save_weights
    model = getattr(runner.model, 'module', runner.model)
    card = dict(origin=f'trained by jrs, {git_state()}', licence=cfg.experiment.weights_licence,
                trained_on=cfg.experiment.trained_on, experiment=Path(cfg.filename).stem, iterations=cfg.train.iterations,
                seed=cfg.seed, benchmark=cfg.experiment.benchmark, num_classes=cfg.model.get('num_classes', 0))
    save_weights(model, work_dir / 'weights.safetensors', card)
    runner.logger.info(f'weights: {work_dir / "weights.safetensors"}')
