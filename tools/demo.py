"""See `python tools/demo.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.demo import main

if __name__ == '__main__':
    sys.exit(run(main))
