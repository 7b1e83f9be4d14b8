"""See `python tools/evaluate.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.evaluate import main

if __name__ == '__main__':
    sys.exit(run(main))
