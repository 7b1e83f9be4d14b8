"""See `python tools/convert.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.convert import main

if __name__ == '__main__':
    sys.exit(run(main))
