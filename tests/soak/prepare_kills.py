"""Kills `tools/prepare.py` at random moments of its work and starts it again; in the end the data must be, to the byte and
without a file too many, those of a run that nobody disturbed. A command, not a test: minutes.

    python tests/soak/prepare_kills.py [--source scannet | scannetpp] [--kills 10] [--jobs 2] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
READY, SCENE = 'GB are free', 'scenes/min'      # what prepare says when it begins, and when a scene is done
START_SHARE = 0.3                               # of the kills fall before the first scene is done


def main() -> int:
    """Run; returns 1 when the data differ."""
    args = _parser().parse_args()
    moments = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix='prepare_kills_'))
    try:
        command = _command(args, folder)
        span = _time_undisturbed(command, folder / 'undisturbed')
        found = _disturb(command, folder / 'disturbed', args, span, moments)
        _finish(_start(command, folder / 'disturbed', READY))
        faults = _differences(folder / 'undisturbed', folder / 'disturbed')
        print(f'{args.kills} kills ({found["parent"]} of the parent only, {found["group"]} of all processes; after '
              f'{found["half"]} of them half a scene lay there, {found["done"]} scenes were done before the last one), '
              f'{found["over"]} runs were over before their kill; {len(_files(folder / "undisturbed"))} files and folders: '
              f'{"identical" if not faults else faults[:10]}')
        return int(bool(faults))
    finally:
        shutil.rmtree(folder)


def _command(args: argparse.Namespace, folder: Path) -> list[str]:
    """Write the raw data and return the command without its --out."""
    if args.source == 'scannet':
        from tests.datasets._raw_scan import write_raw
        write_raw(folder / 'raw', [f'scene{number:04d}_00' for number in range(args.scenes)], num_frames=args.frames)
    else:
        from tests.datasets._raw_scannetpp import write_raw
        write_raw(folder / 'raw', tuple(f'{number:010x}' for number in range(args.scenes)), num_frames=args.frames)
    every = ['--every', '1'] if args.source == 'scannet' else []
    return [sys.executable, str(ROOT / 'tools/prepare.py'), args.source, '--raw', str(folder / 'raw'), *every,
            '--jobs', str(args.jobs)]


def _time_undisturbed(command: list[str], out: Path) -> float:
    """Prepare without a kill; return the seconds from the first scene to the end."""
    start = time.monotonic()
    process = _start(command, out, SCENE)
    first = time.monotonic()
    _finish(process)
    span = time.monotonic() - first
    print(f'undisturbed: {first - start:.1f} s until the first scene is done, {span:.1f} s more', flush=True)
    return span


def _start(command: list[str], out: Path, until: str) -> subprocess.Popen:
    """Start prepare in a group of its own; return when it says `until`."""
    process = subprocess.Popen([*command, '--out', str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if until in line:
            return process
    process.wait()
    raise SystemExit(f'prepare ended with {process.returncode} and did not say "{until}":\n{"".join(said)}')


def _finish(process: subprocess.Popen) -> None:
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f'prepare ended with {process.returncode}:\n{said}')


def _disturb(command: list[str], out: Path, args: argparse.Namespace, span: float,
             moments: random.Random) -> dict[str, int]:
    """Kill and restart; return counts. Moments are such that the work is rarely over before the last kill."""
    found = {'parent': 0, 'group': 0, 'half': 0, 'over': 0, 'done': 0}
    while found['parent'] + found['group'] < args.kills:
        if found['done'] == args.scenes:
            shutil.rmtree(out)
        process = _start(command, out, READY if moments.random() < START_SHARE else SCENE)
        time.sleep(moments.uniform(0, span / args.kills))
        if process.poll() is not None:
            found['over'] += 1
            shutil.rmtree(out)
            continue
        whom = moments.choice(('parent', 'group'))
        (os.killpg if whom == 'group' else os.kill)(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)         # ends when the last process that holds the pipe has ended
        found[whom] += 1
        found['half'] += any(out.glob('.*.part'))
        found['done'] = len(list(out.glob('*/scene.json')))
    return found


def _files(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder): path for path in folder.rglob('*')}


def _differences(one: Path, other: Path) -> list[str]:
    """Return what is only in one of two folders, or different."""
    ours, theirs = _files(one), _files(other)
    lonely = sorted(map(str, set(ours) ^ set(theirs)))
    return lonely + [str(name) for name in sorted(set(ours) & set(theirs))
                     if ours[name].is_file() and ours[name].read_bytes() != theirs[name].read_bytes()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--source', choices=('scannet', 'scannetpp'), default='scannet')
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--scenes', type=int, default=40)
    parser.add_argument('--frames', type=int, default=20, help='of each scene')
    return parser


if __name__ == '__main__':
    sys.exit(main())
