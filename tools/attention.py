"""See `python tools/attention.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.attention import main

if __name__ == '__main__':
    sys.exit(run(main))
