"""See `python tools/view.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.view import main

if __name__ == '__main__':
    sys.exit(run(main))
