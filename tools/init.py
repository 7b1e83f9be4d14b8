"""See `python tools/init.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.init import main

if __name__ == '__main__':
    sys.exit(run(main))
