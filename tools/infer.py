"""See `python tools/infer.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.infer import main

if __name__ == '__main__':
    sys.exit(run(main))
