"""Search for files that a reader cannot bear, guided by coverage: `python tests/fuzz/run.py --minutes 10`.

Needs atheris (requirements/fuzz.txt, Linux). Readers take turns, one process each, which lives until its time is over or a
file is found. What is found is written to --out; put into tests/corpus/<reader>/ it is a case of the tests.
`--keep` adds the smallest files that together reach what the search reached, at most a few per reader.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
CORPUS = ROOT / 'tests' / 'corpus'
SECONDS = 5                                      # for one file
MEMORY = 1 << 30                                 # bytes of address space over what the process has with everything imported
LONGEST = 4096                                   # bytes of a file, or a little more than the longest example
KEPT, KEPT_BYTES = 4, 1000                      # per reader, in the corpus: files, and bytes of each


def main() -> int:
    """Give each reader its share of the time; return 1 when a file was found that one of them cannot bear."""
    args = parser().parse_args()
    if args.reader:
        return search(args.reader, args.work, args.seconds)
    from tests.fuzz.readers import READERS
    names = args.only or list(READERS)
    work = Path(tempfile.mkdtemp(prefix='fuzz', dir='/dev/shm' if Path('/dev/shm').is_dir() else None))
    for name in names:
        before = time.monotonic()
        found = run_one(name, work, 60 * args.minutes / len(names), args)
        print(f'{name:32} {time.monotonic() - before:5.0f} s  {found}', flush=True)
    crashes = sorted(work.glob('*/crash/*'))
    for path in crashes:
        target = args.out / path.parents[1].name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.rmtree(work)
    print(f'found: {len(crashes)} files' + (f', in {args.out}' if crashes else ''))
    return int(bool(crashes))


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(prog='tests/fuzz/run.py', description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--minutes', type=float, default=10, help='for all readers together; default %(default)s')
    options.add_argument('--only', nargs='+', metavar='READER', help='names of tests/fuzz/readers.py')
    options.add_argument('--out', type=Path, default=Path('outputs/fuzz'), help='found files; default %(default)s')
    options.add_argument('--keep', action='store_true', help='keep the smallest files of the search in tests/corpus')
    options.add_argument('--reader', help=argparse.SUPPRESS)
    options.add_argument('--work', type=Path, help=argparse.SUPPRESS)
    options.add_argument('--seconds', type=float, help=argparse.SUPPRESS)
    return options


def run_one(name: str, work: Path, seconds: float, args: argparse.Namespace) -> str:
    """Search in a process of its own; return the last thing that it said, or what it found."""
    folder = work / name.replace(' ', '_')
    words = [sys.executable, __file__, '--reader', name, '--work', str(folder), '--seconds', str(seconds)]
    log = folder.with_suffix('.log')
    with log.open('w') as file:
        code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    said = log.read_text(errors='replace').splitlines()
    if args.keep:
        keep(folder, CORPUS / folder.name)
    if code == 0:
        return next(line for line in reversed(said) if line.startswith('Done'))
    shutil.copy(log, folder / 'crash' / 'log.txt')
    reasons = [line for line in said if line.startswith(('FOUND', 'SUMMARY', '=='))]
    return f'ended with {code}: {(reasons or said[-1:])[0][:200]}'


def keep(folder: Path, target: Path) -> None:
    """Add small files of the search to the corpus, spread over the order in which they were found."""
    examples = {path.read_bytes() for path in (folder / 'examples').glob('*')}
    found = [path for path in sorted((folder / 'corpus').glob('*'), key=lambda path: path.stat().st_mtime)
             if 0 < path.stat().st_size <= KEPT_BYTES and path.read_bytes() not in examples]
    step = max(1, len(found) // KEPT)
    for path in found[step - 1::step][:KEPT]:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.name[:12])


def search(name: str, folder: Path, seconds: float) -> int:
    """Run atheris on one reader; the process ends with it."""
    import atheris
    warnings.simplefilter('ignore')
    with atheris.instrument_imports(include=['jrs', 'PIL', 'zipfile'], enable_loader_override=False):
        from jrs.errors import JrsError
        from tests.fuzz.damage import WORDS
        from tests.fuzz.readers import READERS
    reader = READERS[name]
    for part in ('corpus', 'examples', 'crash', 'place'):
        (folder / part).mkdir(parents=True)
    sound = reader.sound()
    for number, data in enumerate(sound):
        (folder / 'examples' / str(number)).write_bytes(data)
    path = reader.prepare(folder / 'place')
    for data in sound:                           # imports what is imported late
        reader.try_on(data, path)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY,) * 2)

    def try_one(data: bytes) -> None:
        try:
            reader.try_on(data, path)
        except JrsError:
            pass
        except BaseException as error:
            (folder / 'crash' / hashlib.sha1(data).hexdigest()).write_bytes(data)
            print(f'FOUND {type(error).__name__}: {error}', flush=True)
            raise
    (folder / 'words').write_text(''.join(map(dictionary_entry, filter(None, WORDS))))
    starts = [folder / 'corpus', folder / 'examples', CORPUS / folder.name]
    atheris.Setup([sys.argv[0], f'-max_total_time={max(1, int(seconds))}', f'-timeout={SECONDS}', '-rss_limit_mb=0',
                   f'-max_len={max(LONGEST, 2 * max(map(len, sound)))}', f'-artifact_prefix={folder / "crash"}/',
                   f'-dict={folder / "words"}', '-len_control=20', *(str(start) for start in starts if start.is_dir())],
                  try_one)
    atheris.Fuzz()
    return 0


def dictionary_entry(word: bytes) -> str:
    """Return a line of libFuzzer's dictionary: a word that it tries anywhere."""
    return '"' + ''.join(f'\\x{byte:02x}' for byte in word[:40]) + '"\n'


def address_space() -> int:
    """Return how many bytes of addresses this process has."""
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == '__main__':
    sys.exit(main())
