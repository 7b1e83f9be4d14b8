"""Keeps what hypothesis remembers out of the repository."""

import atexit
import shutil
import tempfile

from hypothesis.configuration import set_hypothesis_home_dir

HOME = tempfile.mkdtemp(prefix='hypothesis')
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
set_hypothesis_home_dir(HOME)
