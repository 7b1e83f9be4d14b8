"""``tools/print_config.py``: an experiment with everything it inherits, or how it differs from another."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from jrs.cli.options import add_config_options, config_from, notes_of
from jrs.cli.parser import Parser, config_argument
from jrs.config import bases_of, load_config, resolve_config
from jrs.errors import ConfigError
from jrs.report.differences import difference_lines

EXAMPLES = """examples:
  python tools/print_config.py configs/segvggt/all24_fada.py --profile rooms             what would run, checked
  python tools/print_config.py configs/segvggt/all24_no_fada.py --diff                   what the row changes
  python tools/print_config.py configs/segvggt/all24_fada.py --profile rooms --diff work_dirs/RUN
"""
PARENT = ''                                     # --diff without OTHER


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/print_config.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('--diff', type=config_argument, nargs='?', const=PARENT, metavar='OTHER', help='print only what '
                         'differs from OTHER, a config or a run folder; without OTHER from the experiment that this one '
                         'inherits from')
    return options


def main(argv: list[str] | None = None) -> None:
    """Print the resolved config; its text is a complete config again."""
    args = parser().parse_args(argv)
    args.config = config_file(args.config)
    cfg = config_from(args)
    if args.diff is None:
        print(''.join(f'# {note}\n' for note in notes_of(args)), end='')
        print(cfg.pretty_text)
        return
    other = parent_of(args.config) if args.diff == PARENT else config_file(args.diff)
    before = resolve_config(other, args.profile) if args.diff == PARENT else load_other(other, args.profile)
    print('\n'.join([f'- {other}', f'+ {args.config}', *notes_of(args)]))
    lines = list(difference_lines(before._cfg_dict, cfg._cfg_dict))
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
