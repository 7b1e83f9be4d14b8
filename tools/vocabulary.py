"""See `python tools/vocabulary.py --help`."""

import sys

from jrs.cli import run
from jrs.cli.vocabulary import main

if __name__ == '__main__':
    sys.exit(run(main))
