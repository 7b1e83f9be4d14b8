"""What setup.cfg cannot say: a wheel carries the project's configs, plugins, weights and commands as `jrs/project/`.

In a checkout, also one that is installed with `pip install -e .`, they are read where they stand (`jrs/places.py`).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = ('configs', 'plugins', 'weights', 'tools')       # jrs.places.FOLDERS
LEFT_OUT = shutil.ignore_patterns('__pycache__', '*.pyc', '*.pth', '.*')
OWN_WEIGHTS = ('rooms_', 'README.md')           # how their names begin: not what a user has laid beside them


class BuildWithProject(build_py):
    """Copies the project's folders beside the package's modules; an editable build copies nothing."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in FOLDERS:
                for path in sorted((ROOT / name).iterdir()):
                    self.copy_into(path, Path(self.build_lib) / 'jrs' / 'project' / name / path.name)

    def copy_into(self, source: Path, target: Path) -> None:
        """Copy a file or folder of the project, without what a checkout gathers beside it."""
        others = source.parent.name == 'weights' and not source.name.startswith(OWN_WEIGHTS)
        if others or source.name.startswith(('.', '__pycache__')):
            return
        if source.is_dir():
            shutil.copytree(source, target, ignore=LEFT_OUT, dirs_exist_ok=True)
        elif source.suffix != '.pyc':
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


setup(cmdclass=dict(build_py=BuildWithProject))
