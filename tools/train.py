"""See `python tools/train.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.train import main

if __name__ == '__main__':
    sys.exit(run(main))
