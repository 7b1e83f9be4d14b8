"""See `python tools/completion.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.completion import main

if __name__ == '__main__':
    sys.exit(run(main))
