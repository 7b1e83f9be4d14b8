"""See `python tools/compare_runs.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.compare_runs import main

if __name__ == '__main__':
    sys.exit(run(main))
