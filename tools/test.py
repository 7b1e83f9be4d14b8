"""See `python tools/test.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.test import main

if __name__ == '__main__':
    sys.exit(run(main))
