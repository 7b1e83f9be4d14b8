"""Where the project's own files are: configs, plugins, weights and commands, in a checkout or in an installed package.

A wheel carries these folders as ``jrs/project/`` (`setup.py`); in a checkout they stand beside ``jrs/``. They are read,
never written to: what commands make goes to the current folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
BUNDLED = PACKAGE / 'project'
FOLDERS = ('configs', 'plugins', 'weights', 'tools')       # what a wheel carries beside the package's own files
REPOSITORY = BUNDLED if BUNDLED.is_dir() else PACKAGE.parent
NO_EXPERIMENTS = ('_base_', 'profiles')        # folders of configs/ that hold pieces
UNTRAINED = 'untrained'                         # in the place of a weights file: the model as it is before training
AVERAGED_FILE = 'weights_averaged.safetensors'  # beside the weights of a run that averages them


def installed() -> bool:
    """Return whether this is an installed package; False in a checkout, also where the checkout is installed by a link."""
    return REPOSITORY == BUNDLED


def project() -> Path:
    """Return the folder with `FOLDERS`: the current folder where that is a checkout, else the one that `jrs` came with."""
    return Path.cwd() if is_project(Path.cwd()) else REPOSITORY


def is_project(folder: Path) -> bool:
    """Return whether `folder` holds the project's own configs and plugins: a checkout, or what a package carries."""
    return folder == BUNDLED or (folder / 'jrs' / 'inheritance.py').is_file() and (folder / 'configs').is_dir()


def own_file(path: str | Path) -> Path:
    """Return the file that a config means by `path`: that of the current folder, else the project's where it has one."""
    own = project() / path
    return own if not Path(path).exists() and own.is_file() else Path(path)


def experiments(here: bool = True) -> dict[str, Path]:
    """Return the experiments that can be named: ``segvggt/all24_fada``, ``pi3/pi3_fada`` of a plugin -> file.

    The project's own come first, then those of its plugins; before them, where `here`, those of ``configs/`` in the current
    folder.
    """
    found: dict[str, Path] = {}
    roots = [*([(Path.cwd() / 'configs', '')] if here else []), (project() / 'configs', ''),
             *((folder, f'{folder.parent.name}/') for folder in sorted((project() / 'plugins').glob('*/configs')))]
    for root, prefix in roots:
        for path in sorted(root.rglob('*.py')):
            inside = path.relative_to(root)
            if inside.parts[0] not in NO_EXPERIMENTS:
                found.setdefault(prefix + inside.with_suffix('').as_posix(), path)
    return found


def config_named(text: str) -> str:
    """Return the path of the config that `text` names, `text` itself where there is none.

    A path of a file or a run folder comes first; then a path of the project (``configs/segvggt/all24_fada.py``), which an
    installed package has too; then a name: ``segvggt/all24_fada``, or its last part where no other has the same.
    """
    return text if Path(text).exists() else str(own_config(text) or text)


def own_config(text: str, here: bool = True) -> Path | None:
    """Return the config that `text` names as a path of the project or by name, as of `experiments`; None where none is."""
    path = Path(text)
    if path.is_absolute() or path == Path():
        return None
    if path.suffix == '.py' and (project() / path).is_file():
        return project() / path
    known, name = experiments(here), path.as_posix().removesuffix('.py')
    ends = [file for other, file in known.items() if other.rpartition('/')[2] == name]
    return known.get(name) or (ends[0] if len(ends) == 1 else None)


def command_words(name: str, argv: Sequence[str] | None) -> list[str]:
    """Return the words that started a command, for records and messages.

    Args:
        name: of the command.
        argv: what its `main` was given; None = it was started by its file.
    """
    if argv is None:
        return list(sys.argv)
    return [*(['jrs', name] if installed() else [f'tools/{name}.py']), *argv]


def typed(text: str) -> str:
    """Return a text with `python tools/NAME.py` as it is typed here: so in a checkout, `jrs NAME` in an install."""
    if not installed():
        return text
    text = re.sub(rf'{re.escape(str(BUNDLED))}/(?=tools/)', '', text)
    text = re.sub(r'((?:torchrun|torch\.distributed\.run)\b[^\n]*? )tools/(\w+)\.py', r'\1-m jrs \2', text)
    return re.sub(r'(?:\bpython )?(?<![\w/])tools/(\w+)\.py', r'jrs \1', text)
