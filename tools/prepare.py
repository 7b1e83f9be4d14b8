"""See `python tools/prepare.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.prepare import main

if __name__ == '__main__':
    sys.exit(run(main))
