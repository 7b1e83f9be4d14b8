"""See `python tools/benchmark.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.benchmark import main

if __name__ == '__main__':
    sys.exit(run(main))
