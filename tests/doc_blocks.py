"""The blocks of code in README and docs/: run as they stand, run on small data, or read by the parser of their command.

A comment before a block says which: ``<!-- block: run -->``, ``<!-- block: small -->``; without one a block is read only,
as what needs eight GPUs, Slurm, released weights or licensed data. `make docs` runs the blocks and prints how many of each
there are; in the tests all are read. The commands of README are typed by `make newcomer`.

    python tests/doc_blocks.py [PAGE …]
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ('run', 'small', 'parsed')
MARK = re.compile(r'<!-- block: (\w+) -->')
PROGRAMS = ('jrs', 'python', 'torchrun', 'srun', 'sbatch', 'make', 'pip', 'xdg-open')
# What a reader has -> what stands for it here, in blocks that are run on small data; longer ones first.
STAND_INS = {'PHOTOS_OR_VIDEO': 'photos', 'PHOTOS': 'photos', 'SCANS': 'raw', 'data/scannet/scene0000_00': 'data/scannet',
             '--jobs 16': '--jobs 1', '--profile rooms': '--profile debug'}
SMALL = {'jrs train': ('--cfg-options', 'train.iterations=2')}          # added to a command


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page, line: where it begins.
        language: 'python' or 'shell'.
        text: without indentation or fence.
        kind: one of `KINDS`.
    """

    page: str
    line: int
    language: str
    text: str
    kind: str

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def pages() -> list[Path]:
    """Return README and the pages of docs/; the generated page of contracts has tests of its own for each example."""
    return [ROOT / 'README.md', *sorted(path for path in (ROOT / 'docs').glob('*.md') if path.name != 'plugins.md')]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of code of a page: fenced Python, and indented lines or fences that begin with a program.

    Raises:
        ValueError: a mark of a kind that there is not, or one without a block.
    """
    page, lines = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name, path.read_text().split('\n')
    mark, number = '', 0
    while number < len(lines):
        line, start, text, language = lines[number], number, [], ''
        if found := MARK.fullmatch(line.strip()):
            if found[1] not in KINDS or mark:
                raise ValueError(f'{page}:{number + 1}: {line}: kinds are {", ".join(KINDS)}, one for a block')
            mark = found[1]
        if line.startswith('```'):
            language = {'python': 'python', 'bash': 'shell', 'sh': 'shell'}.get(line[3:].strip(), '')
            number += 1
            while number < len(lines) and not lines[number].startswith('```'):
                text.append(lines[number])
                number += 1
        elif line.startswith('    ') and (not number or not lines[number - 1].strip()):
            while number < len(lines) and (lines[number].startswith('    ') or not lines[number].strip()):
                text.append(lines[number][4:])
                number += 1
            number -= 1
            language = 'shell' if text[0].split()[0].split('=')[0] in (*PROGRAMS, 'JRS_GOLDEN') else ''
        if text and language:
            yield Block(page, start + 1, language, '\n'.join(text).rstrip(), mark or 'parsed')
        if text or line.strip() and not MARK.fullmatch(line.strip()):
            if mark and not (text and language):
                raise ValueError(f'{page}:{start + 1}: the mark {mark!r} stands before no block of code')
            mark = ''
        number += 1


def read(block: Block) -> None:
    """Raise where a block cannot be what it says: Python that does not parse, or a command that does not exist so.

    Raises:
        SyntaxError, ValueError: what is wrong with it.
    """
    if block.language == 'python':
        ast.parse(block.text)
        return
    for line in command_lines(block.text):
        words = own_words(line)
        if words is not None:
            check_command(words, f'{block}: {line}')


def command_lines(text: str) -> list[str]:
    """Return the commands of a block, continued lines joined, without remarks."""
    joined = re.sub(r'\\\n\s*', ' ', text)
    return [line for line in (re.sub(r'(^|\s)#.*', '', line).rstrip() for line in joined.split('\n')) if line]


def own_words(line: str) -> list[str] | None:
    """Return command and arguments where a line starts one of ours, by any launcher; None for other programs."""
    line = re.sub(r'\s*….*', ' …', line) if '…' in line else line
    found = re.search(r'(?:^|\s)(?:jrs|(?:\S*python )?(?:-m )?(?:\S*/)?tools/(\w+)\.py)(?:\s|$)', line)
    if not found or line.split()[0].split('/')[-1] not in ('jrs', 'python', 'torchrun', 'srun'):
        return None
    rest = line[found.end():].split(' > ')[0]
    rest = re.sub(r'\[([^]]*)\]', r'\1', rest)                         # what may be left out is shown in brackets
    words = shlex.split(rest)
    return [*([found[1]] if found[1] else []), *words]


def check_command(words: list[str], where: str) -> None:
    """Let the command's own parser read its words; where some are left out (…), only its options are looked at."""
    from jrs.cli import COMMANDS
    name, *rest = words
    if name not in COMMANDS:
        raise ValueError(f'{where}: there is no command {name!r}')
    module = importlib.import_module(f'jrs.cli.{name}')
    if name == 'evaluate' and rest[:1] == ['export-ground-truth']:
        module, rest = importlib.import_module('jrs.cli.ground_truth'), rest[1:]
    parser = (getattr(module, 'parser', None) or module._parser)()
    if '…' in rest:
        known = {option for action in parser._actions for option in action.option_strings}
        unknown = [word for word in rest if word.startswith('--') and word not in known]
        if unknown:
            raise ValueError(f'{where}: {name} has no {unknown[0]}')
        return
    said = StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args([re.sub(r'^(N|S|\$\w+)$', '1', word) for word in rest])
    except SystemExit as stop:
        if stop.code:
            raise ValueError(f'{where}: {said.getvalue().strip().splitlines()[-1]}') from None


def run(block: Block, home: Path) -> None:
    """Run a block in `home`; raises a ValueError with what it said where it fails."""
    small = block.kind == 'small'
    text = block.text if block.language == 'python' else '\n'.join(small_line(line) if small else line
                                                                    for line in command_lines(block.text))
    for word, other in (STAND_INS.items() if small else ()):
        text = text.replace(word, other)
    words = [sys.executable, '-c', text] if block.language == 'python' else ['bash', '-euc', text]
    path = f'{home.parent / "bin"}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=900,
                          env={**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})
    if done.returncode:
        raise ValueError(f'{block}: exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}')


def small_line(line: str) -> str:
    """Return a command line at its small scale."""
    for start, more in SMALL.items():
        if line.startswith(start) and more[0] not in line:
            return f'{line} {shlex.join(more)}'
    return line


def prepared(folder: Path) -> Path:
    """Return a folder with what blocks find there: photos, raw scans, `data/rooms`; `jrs` and `python` are ours."""
    from jrs.synth import generate
    home, programs = folder / 'home', folder / 'bin'
    home.mkdir()
    programs.mkdir()
    for name, words in (('jrs', '-m jrs'), ('python', '')):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (programs / name).chmod(0o755)
    (home / 'tools').symlink_to(ROOT / 'tools')                        # pages name commands as a checkout has them
    generate('debug', home / 'raw', rooms=2)
    return home


def lend_photos(home: Path) -> None:
    """Put photos of a room beside the data once there is one."""
    rooms = sorted((home / 'data' / 'rooms').glob('*/scene*/color'))
    if rooms and not (home / 'photos').is_dir():
        (home / 'photos').mkdir()
        for photo in sorted(rooms[0].iterdir())[:4]:
            (home / 'photos' / photo.name).write_bytes(photo.read_bytes())


def main(argv: list[str] | None = None) -> int:
    """Run and read all blocks; returns 1 where one fails."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('pages', nargs='*', type=Path, help='default: README.md and docs/*.md')
    args = options.parse_args(argv)
    counts, failed = Counter(), []
    chosen = [path.resolve() for path in args.pages] or pages()
    order = sorted(chosen, key=lambda path: path.stem != 'five_minutes')       # its data serve the others
    with tempfile.TemporaryDirectory(prefix='doc_blocks_') as folder:
        home = prepared(Path(folder))
        for block in (block for page in order for block in blocks(page)):
            start = time.monotonic()
            try:
                read(block)
                if block.kind != 'parsed':
                    lend_photos(home)
                    run(block, home)
                    print(f'{block.kind:7} {time.monotonic() - start:6.1f} s  {block}', flush=True)
                counts[block.kind] += 1
            except (ValueError, SyntaxError) as error:
                failed.append(block)
                print(f'FAILED  {block}: {error}', flush=True)
    print(f'{sum(counts.values())} blocks: {counts["run"]} run as they stand, {counts["small"]} run on small data, '
          f'{counts["parsed"]} read by their parsers; {len(failed)} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
