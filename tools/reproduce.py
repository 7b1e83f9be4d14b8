"""See `python tools/reproduce.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.reproduce import main

if __name__ == '__main__':
    sys.exit(run(main))
