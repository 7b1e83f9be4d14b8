"""See `python tools/print_config.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.print_config import main

if __name__ == '__main__':
    sys.exit(run(main))
