"""A newcomer's first ten minutes: every command of README, typed as printed.

Builds a wheel of this checkout, installs it into a fresh environment, and types the commands of README one after another in
an empty folder, each at a small scale (`SMALL`) or on a stand-in of what a reader has (`STAND_INS`). Prints a table; exits
with 1 where a command does not do what README says. What the wheel requires is lent by the environment that runs this
(`--real` lets pip fetch it instead).

    python tests/newcomer.py
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = {                                      # beginning of a command -> what is added to make it small
    'jrs demo': '--rooms 2 --iterations 2',
    'jrs prepare rooms': '--rooms 2 --jobs 2',
    'jrs train segvggt/all24_fada': '--cfg-options train.iterations=2 --work-dir work_dirs/all24_fada_rooms_seed0',
    'jrs train my_idea': '--cfg-options train.iterations=2',
}
STAND_INS = {'PHOTOS_OR_VIDEO': 'photos'}
ANSWERS = {                                    # commands that need what nobody has here -> exit code and words of the answer
    'segvggt_scannet200.pt': (2, 'There is no weights file'),
}
SERVERS = ('jrs view',)                        # run until they are ended
MAKES = {'jrs demo': ['outputs/demo/report.html'], 'jrs infer': ['outputs/mine/report.html', 'outputs/mine/cloud.ply'],
         'jrs prepare rooms --preset tiny': ['data/rooms/tiny/train.txt'], 'jrs init': ['my_idea/README.md'],
         'jrs train segvggt': ['work_dirs/all24_fada_rooms_seed0/weights.safetensors'],
         'jrs test': ['work_dirs/all24_fada_rooms_seed0/test/results.json'], 'jrs compare_runs': ['outputs/compare.html']}


def commands(page: str) -> list[str]:
    """Return the command lines of a page in order: indented lines that begin with a program, without their remarks."""
    lines = re.findall(r'^    ((?:jrs|pip|make|python) .*)$', page, re.MULTILINE)
    return [re.sub(r'\s+#.*', '', line) for line in lines]


def programs(page: str) -> list[str]:
    """Return the blocks of Python on a page."""
    return re.findall(r'^```python\n(.*?)^```', page, re.MULTILINE | re.DOTALL)


def as_typed(line: str) -> str:
    """Return a command line with the stand-ins, at its small scale."""
    for word, other in STAND_INS.items():
        line = line.replace(word, other)
    return ' '.join([line, *(more for start, more in SMALL.items() if line.startswith(start))])


def main() -> int:
    """Run; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--real', action='store_true', help='let pip fetch what the wheel requires: gigabytes')
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix='newcomer_') as folder:
        return newcomer(Path(folder), args.real)


def newcomer(folder: Path, real: bool) -> int:
    """Do what the file says in `folder`."""
    page, failed, start = (ROOT / 'README.md').read_text(encoding='utf-8'), [], time.monotonic()
    environment = fresh_environment(folder, real)
    home = folder / 'home'
    home.mkdir()
    with_photos = False
    lines = sorted(commands(page), key=lambda line: not line.startswith('jrs prepare rooms'))     # rooms lend the photos
    for line in lines:
        if line.startswith(('pip install', 'make')):
            continue                                                   # done by `fresh_environment`
        if not with_photos and any((home / 'data').glob('rooms/tiny/scene*')):
            with_photos = True
            room = min((home / 'data/rooms/tiny').glob('scene*'))
            (home / 'photos').mkdir()
            for photo in sorted((room / 'color').iterdir())[:4]:
                shutil.copy(photo, home / 'photos')
        failed += report(line, *run(as_typed(line), home, environment))
    project = home / 'my_idea'                                         # what `jrs init` wrote has a README of its own
    own = commands((project / 'README.md').read_text(encoding='utf-8')) if project.is_dir() else []
    for line in own:
        failed += report(f'(my_idea) {line}', *run(as_typed(line), project, environment))
    for text in programs(page):
        failed += report('the block of Python', *run([sys.executable, '-c', text], home, environment, python=True))
    print(f'{len(failed)} of {len(lines) + len(own) + 1} failed, {time.monotonic() - start:.0f} s')
    return 1 if failed else 0


def report(line: str, fault: str, seconds: float) -> list[str]:
    """Print a row of the table; return the line where it failed."""
    print(f'{"FAILED" if fault else "ok":7} {seconds:6.1f} s  {line}' + (f'\n        {fault}' if fault else ''), flush=True)
    return [line] if fault else []


def fresh_environment(folder: Path, real: bool) -> dict[str, str]:
    """Build the wheel, make an environment with it; return the variables of a shell in which it is active."""
    source, wheels, place = folder / 'source', folder / 'wheels', folder / 'venv'
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split('\n')
    for name in listed:
        if name and (ROOT / name).is_file() and not name.startswith('benchmarks/results'):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'JRS_'))}
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', str(wheels), str(source)], env=kept,
                   cwd=folder, check=True)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(place)], check=True)
    wheel = next(wheels.glob('*.whl'))
    python = place / 'bin' / 'python'
    subprocess.run([*pip, '--python', str(python), 'install', *([] if real else ['--no-deps']), str(wheel)], env=kept,
                   cwd=folder, check=True)
    if not real:
        site = next(place.glob('lib/python*/site-packages'))
        (site / 'lent.pth').write_text(f'{sysconfig.get_path("purelib")}\n')
    print(f'{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB')
    return {**kept, 'PATH': f'{place / "bin"}{os.pathsep}{kept["PATH"]}', 'VIRTUAL_ENV': str(place), 'OMP_NUM_THREADS': '1'}


def run(line: str | list[str], home: Path, environment: dict[str, str], python: bool = False) -> tuple[str, float]:
    """Run a command in `home`; return what is wrong with its end ('' = nothing), and seconds."""
    start, text = time.monotonic(), line if isinstance(line, str) else 'python'
    if text.startswith(SERVERS):
        return served(text, home, environment), time.monotonic() - start
    words = ['python', *line[1:]] if python else ['bash', '-c', line]
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=1200)
    code, said = next(((code, said) for word, (code, said) in ANSWERS.items() if word in text), (0, ''))
    output = done.stdout + done.stderr
    made = [] if code else [file for begin, files in MAKES.items() if text.startswith(begin) for file in files]
    lacking = [file for file in made if not (home / file).is_file()]
    fault = ''
    if done.returncode != code or said not in output:
        fault = f'exit code {done.returncode}, {code} is right; it says: ' + ' | '.join(output.strip().splitlines()[-3:])
    elif 'tools/' in output:
        fault = 'it names a file of a checkout: ' + next(part for part in output.splitlines() if 'tools/' in part)
    elif lacking:
        fault = f'did not write {", ".join(lacking)}'
    return fault, time.monotonic() - start


def served(line: str, home: Path, environment: dict[str, str]) -> str:
    """Start a server and end it once it says where it is; where its package is missing, that must be said with the cure."""
    process = subprocess.Popen(shlex.split(line), cwd=home, env={**environment, 'PYTHONUNBUFFERED': '1'}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = ''
    for part in process.stdout:
        said += part
        if 'http://' in part:
            break
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
    cure = 'pip install "jrs[viewer]"' in said
    return '' if 'http://' in said or cure else f'it says: {said.strip()[-300:]}'


if __name__ == '__main__':
    sys.exit(main())
