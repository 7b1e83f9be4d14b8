"""See `python tools/figures.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.figures import main

if __name__ == '__main__':
    sys.exit(run(main))
