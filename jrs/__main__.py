"""``python -m jrs COMMAND ...``, also behind torchrun's ``-m``."""

import sys

from jrs.cli import main

if __name__ == '__main__':
    sys.exit(main())
