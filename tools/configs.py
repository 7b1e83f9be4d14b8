"""See `python tools/configs.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.configs import main

if __name__ == '__main__':
    sys.exit(run(main))
