"""See `python tools/plugins.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.plugins import main

if __name__ == '__main__':
    sys.exit(run(main))
