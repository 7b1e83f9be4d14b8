"""Every bad input of the tests and the answer to it, as a table: `python -m tests.bad_inputs_table > docs/bad_inputs.md`.

Each command is run. Exits with 1 when one of them shows a traceback of ours, or does not exit with 2.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests._data import ROOT
from tests.bad_inputs import CASES, OWN_TRACEBACK, Site

HEAD = """# Bad inputs and their answers

Written by `python -m tests.bad_inputs_table > docs/bad_inputs.md` from the cases of `tests/bad_inputs.py`, which
`tests/test_bad_inputs.py` runs too. Every command exits with 2. `TMP` is a folder of the case.

| Input | Answer |
|---|---|"""


def main() -> int:
    """Print a row per case; return 1 when an answer is not one that a person can act on."""
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        site = Site.make(Path(name))
        print(HEAD)
        for case in CASES:
            code, said = answer(case, site)
            if code != 2 or ('Traceback' in said and case not in OWN_TRACEBACK):
                wrong.append(case)
            print(f'| {case} | {cell(said, site)} |', flush=True)
    print(f'{len(CASES)} inputs, without a proper answer: {", ".join(wrong) or "none"}', file=sys.stderr)
    return int(bool(wrong))


def answer(case: str, site: Site) -> tuple[int, str]:
    """Run one case in an empty folder; return the exit code and what stood on the error stream."""
    shutil.rmtree(site.tmp, ignore_errors=True)
    site.tmp.mkdir()
    before, said = Path.cwd(), io.StringIO()
    os.chdir(site.tmp)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = CASES[case][0](site)
    finally:
        os.chdir(before)
    return code, said.getvalue()


def cell(said: str, site: Site) -> str:
    """Return the message without what stands before it, as one line of a table."""
    lines = said.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if 'Error: ' in line or ': error: ' in line]
    text = ' '.join(line.strip() for line in lines[starts[-1] if starts else 0:])
    for path, name in ((str(site.tmp), 'TMP'), (str(site.tmp.parent), 'TMP'), (f'{ROOT}/', '')):
        text = text.replace(path, name)
    return text.replace('|', '\\|').replace('<', '&lt;')


if __name__ == '__main__':
    sys.exit(main())
