"""``tools/print_config.py``: an experiment with everything it inherits, or how it differs from another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from jrs.cli.options import add_config_options, config_from
from jrs.config import bases_of, load_config
from jrs.errors import ConfigError

EXAMPLES = """examples:
  python tools/print_config.py configs/segvggt/all24_fada.py --profile rooms             what would run, checked
  python tools/print_config.py configs/segvggt/all24_no_fada.py --diff                   what the row changes
  python tools/print_config.py configs/segvggt/all24_fada.py --profile rooms --diff work_dirs/RUN
"""
PARENT = ''                                     # --diff without OTHER
ABSENT = object()


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(prog='tools/print_config.py', description=__doc__, epilog=EXAMPLES,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('--diff', nargs='?', const=PARENT, metavar='OTHER', help='print only what differs from OTHER, a '
                         'config or a run folder; without OTHER from the experiment that this one inherits from')
    return options


def main(argv: list[str] | None = None) -> None:
    """Print the resolved config; its text is a complete config again."""
    args = parser().parse_args(argv)
    args.config = config_file(args.config)
    cfg = config_from(args)
    if args.diff is None:
        print(cfg.pretty_text)
        return
    other = parent_of(args.config) if args.diff == PARENT else config_file(args.diff)
    print(f'- {other}\n+ {args.config}')
    lines = list(difference_lines(load_other(other, args.profile)._cfg_dict, cfg._cfg_dict))
    print('\n'.join(lines) if lines else 'no difference')


def config_file(path: str) -> Path:
    """Return the config at `path`; of a run folder its `config.py`.

    Raises:
        ConfigError: a folder without one.
    """
    file = Path(path) / 'config.py' if Path(path).is_dir() else Path(path)
    if file != Path(path) and not file.is_file():
        raise ConfigError(f'{path} is a folder without a config.py, so it is no run folder. Name a config file.')
    return file


def parent_of(file: Path) -> Path:
    """Return the experiment that `file` inherits from; ConfigError for a complete one."""
    bases = bases_of(file)
    if len(bases) != 1:
        raise ConfigError(f'{file} is a complete experiment and inherits from no other. Name what to compare it with: '
                          '--diff OTHER.')
    return bases[0]


def load_other(file: Path, profile: str) -> Config:
    """Return the config in `file` at the scale of `profile`; a run's, which inherits nothing, as it ran."""
    resolved = file.is_file() and file.suffix == '.py' and not bases_of(file)
    return load_config(file, 'paper' if resolved else profile)


def difference_lines(old: Mapping, new: Mapping) -> Iterator[str]:
    """Yield for each dotted path that differs its name, then the old and the new value."""
    for path, before, after in differences(old, new):
        yield path
        yield from (f'  {sign} {_text(value)}' for sign, value in (('-', before), ('+', after)) if value is not ABSENT)


def differences(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, old value, new value); ABSENT where one side has none. Parts of another type differ as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get('type') == new.get('type'):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f'{path}.{key}' if path else str(key))
    elif _plain(old) != _plain(new):
        yield path, old, new


def _plain(value: Any) -> Any:
    """Tuples as lists: which of the two a config writes makes no difference."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    if not isinstance(value, Mapping):
        return repr(value)
    ordered = sorted(value.items(), key=lambda item: item[0] != 'type')
    return f'dict({", ".join(f"{key}={_text(item)}" for key, item in ordered)})'
