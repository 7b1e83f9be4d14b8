"""Kills `tools/train.py` with SIGKILL, at random moments and while it saves, and resumes it each time; in the end every
term of every iteration, and the weights, must be those of a run that nobody disturbed, to the bit. A command, not a test.

    python tests/soak/training_kills.py [--kills 20] [--iterations 60] [--processes 1 | 2] [--workers 0] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
KINDS = ('step', 'step', 'save', 'save', 'start')                      # in turn: moments of a kill
SMALL = ('batches.views=(2,2)', 'batches.max_images=2', 'batches.aspect_ratio=(0.75,0.75)', 'hooks.pictures=None')
HEAD = f'{"kill":>4} {"of":6} {"aimed at":8} {"went on from":>12} {"killed after":>12} {"during save":>11} ' \
       f'{"files that load":>15} {"identical":>9}'
PATIENCE = 180                                 # seconds for one start, or for a job to end after a kill


def main() -> int:
    """Run; returns 1 when something differs."""
    args = _parser().parse_args()
    folder = Path(tempfile.mkdtemp(prefix='training_kills_'))
    try:
        from tests._data import make_data
        (folder / 'raw').mkdir()
        run = Run(args, make_data(folder, folder / 'raw'), folder)
        start = time.monotonic()
        run.finish('undisturbed')
        print(f'undisturbed: {args.iterations} iterations in {args.processes} processes, a checkpoint every '
              f'{args.save_every}, {time.monotonic() - start:.0f} s', flush=True)
        print(HEAD, flush=True)
        rows = run.disturb(random.Random(args.seed))
        run.finish('disturbed')
        faults = run.differences()
        print(f'{len(rows)} kills, {sum(row.during_save for row in rows)} during a save; broken checkpoints taken: '
              f'{sum(row.broken for row in rows)}; {run.seconds:.0f} s; final terms and weights: '
              f'{"identical" if not faults else faults[:3]}')
        return int(bool(faults) or any(row.broken or not row.identical for row in rows))
    finally:
        shutil.rmtree(folder)


@dataclass
class Row:
    """One kill."""

    number: int
    whom: str
    kind: str
    iteration: int
    during_save: bool
    loads: int
    broken: int
    identical: bool
    resumed: str = '-'

    def __str__(self) -> str:
        return (f'{self.number:4} {self.whom:6} {self.kind:8} {self.resumed:>12} {self.iteration:12} '
                f'{"yes" if self.during_save else "no":>11} {f"{self.loads} of {self.loads + self.broken}":>15} '
                f'{"yes" if self.identical else "NO":>9}')


@dataclass
class Run:
    """Starts, kills and compares trainings below `folder`."""

    args: argparse.Namespace
    data: Path
    folder: Path
    seconds: float = 0.0
    starts: int = 0
    process: subprocess.Popen | None = field(default=None, repr=False)

    def start(self, name: str) -> Path:
        """Start or resume the training in `name`; returns where its output goes."""
        from jrs.engine.checkpoint import checkpoints
        args, work_dir = self.args, self.folder / name
        launch = [sys.executable] if args.processes == 1 else [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(args.processes)]
        flags = ['--resume'] * bool(checkpoints(work_dir)) + ['--launcher', 'pytorch'] * (args.processes > 1)
        command = [*launch, str(ROOT / 'tools/train.py'), str(ROOT / 'configs/segvggt/all24_fada.py'), '--profile', 'debug',
                   '--work-dir', str(work_dir), *flags, '--cfg-options', f'data_root={self.data}', *SMALL,
                   f'train.iterations={args.iterations}', f'train.save_every={args.save_every}',
                   f'train.workers={args.workers}', *args.options]
        self.starts += 1
        output = self.folder / f'output_{self.starts}.txt'
        with output.open('w') as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'})
        return output

    def finish(self, name: str) -> None:
        """Let the training in `name` come to its end."""
        output = self.start(name)
        if self.process.wait(PATIENCE + self.args.iterations * 10) != 0:
            raise SystemExit(f'training ended with {self.process.returncode}:\n{output.read_text()[-4000:]}')

    def disturb(self, moments: random.Random) -> list[Row]:
        """Kill and resume; prints a row for each kill as soon as it is known where the next start went on."""
        begun, rows = time.monotonic(), []
        targets = sorted(moments.sample(range(1, self.args.iterations - 2), self.args.kills))
        for number, target in enumerate(targets, start=1):
            kind = KINDS[number % len(KINDS)]
            before = self.inode()
            output = self.start('disturbed')
            self._wait(kind, target, before, moments)
            if self.process.poll() is not None:
                raise SystemExit(f'training ended with {self.process.returncode} before it was killed:\n'
                                 f'{output.read_text()[-4000:]}')
            whom = self._kill(moments)
            rows.append(self._look(number, whom, kind))
            rows[-1].resumed = _resumed(output)
            print(rows[-1], flush=True)
        self.seconds = time.monotonic() - begun
        return rows

    def _wait(self, kind: str, target: int, before: int, moments: random.Random) -> None:
        """Wait for the moment of a kill."""
        end = time.monotonic() + PATIENCE
        if kind == 'start':
            time.sleep(moments.uniform(0.5, 8.0))
            return

        def reached() -> bool:
            return self.inode() != before and len(self.terms('disturbed')) >= target

        def saves() -> bool:
            return any(self.parts())
        for condition, pause in ((reached, 0.01), *(((saves, 0.0002),) if kind == 'save' else ())):
            while not condition() and self.process.poll() is None and time.monotonic() < end:
                time.sleep(pause)
        time.sleep(moments.uniform(0, 0.002 if kind == 'save' else 0.15))

    def _kill(self, moments: random.Random) -> str:
        """Kill all processes of the job, or one of several; return which, when all have ended."""
        pids = _family(self.process.pid)
        ranks = _children(self.process.pid) if self.args.processes > 1 else []
        whom = moments.choice(('all', 'one')) if ranks else 'all'
        for pid in [moments.choice(ranks)] if whom == 'one' else pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(PATIENCE)
        end = time.monotonic() + PATIENCE
        while any(_alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
        return whom

    def _look(self, number: int, whom: str, kind: str) -> Row:
        """Return what the kill left."""
        import torch

        from jrs.engine.checkpoint import POINTER, checkpoints
        from jrs.io.weights_file import UNREADABLE
        work_dir, loads, broken = self.folder / 'disturbed', 0, 0
        for path in checkpoints(work_dir):
            try:
                torch.load(path, weights_only=True)
                loads += 1
            except UNREADABLE:
                broken += 1
        pointer = work_dir / POINTER
        broken += pointer.is_file() and not (work_dir / pointer.read_text()).is_file()
        terms = self.terms('disturbed')
        return Row(number, whom, kind, len(terms), any(self.parts()), loads, broken,
                   terms == self.terms('undisturbed')[:len(terms)])

    def differences(self) -> list[str]:
        """Return what differs between the two runs."""
        from safetensors.torch import load_file
        one, two = (load_file(self.folder / name / 'weights.safetensors') for name in ('undisturbed', 'disturbed'))
        names = [name for name in one if name not in two or not one[name].equal(two[name])]
        return names + ['terms.jsonl'] * (self.terms('undisturbed') != self.terms('disturbed'))

    def terms(self, name: str) -> list[str]:
        """Return the complete rows of a run."""
        from jrs.engine.hooks import TERMS_FILE, read_lines
        return read_lines(self.folder / name / TERMS_FILE)

    def inode(self) -> int:
        """Return which file the terms are in: a resumed run begins a new one."""
        path = self.folder / 'disturbed' / 'terms.jsonl'
        return path.stat().st_ino if path.exists() else 0

    def parts(self) -> list[str]:
        """Return half-written checkpoints."""
        folder = self.folder / 'disturbed'
        return [name for name in os.listdir(folder) if name.startswith('.iter_')] if folder.is_dir() else []


def _resumed(output: Path) -> str:
    """Return where the run with this output went on, as it says."""
    found = re.search(r'resumed epoch: \d+, iter: (\d+)', output.read_text())
    return found.group(1) if found else 'start' if 'optimizer group' in output.read_text() else '(not yet)'


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f'/proc/{pid}/task').iterdir())
        return [int(word) for thread in threads for word in (thread / 'children').read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _family(pid: int) -> list[int]:
    """Return a process and all below it, the highest first."""
    return [pid, *(other for child in _children(pid) for other in _family(child))]


def _alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--iterations', type=int, default=60)
    parser.add_argument('--save-every', type=int, default=3)
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--workers', type=int, default=0, help='of each loader')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--options', nargs='*', default=[], metavar='a.b=c', help='further --cfg-options')
    return parser


if __name__ == '__main__':
    sys.exit(main())
