"""``tools/init.py``: a project of your own: an experiment that inherits, a plugin with its test, a README."""

from __future__ import annotations

import argparse
from pathlib import Path

from jrs.cli.parser import Parser
from jrs.cli.plugin_skeleton import class_name, config_lines, skeleton
from jrs.cli.plugins import check_name
from jrs.contracts.page import kinds
from jrs.errors import DataError

EXAMPLES = """examples:
  python tools/init.py total_variation                       its alignment is yours to change
  python tools/init.py my_rows --name far_views --slot SAMPLERS

written: README.md, configs/NAME.py, plugins/NAME with a part of the slot that works and a test of what it claims. In that
folder every command takes the experiment by its name. Nothing of it is registered anywhere: move it, or put it under git.
"""
README = '''# {name}

`configs/{name}.py` is SegVGGT with `{part}` of `plugins/{name}` as {place}. Run in this folder:

    jrs plugins check plugins/{name}                   # what the plugin must have
    python -m pytest plugins                           # what it claims; needs pytest
    jrs print_config {name} --diff                     # what the experiment changes
    jrs prepare rooms --preset debug --out data/rooms/debug
    jrs train {name} --profile debug                   # seconds; without --profile the paper's setting
'''


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/init.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('folder', type=Path, metavar='FOLDER', help='to make; one that is there must be empty')
    options.add_argument('--name', help='of the experiment and its plugin, lower_case; default: the name of the folder')
    options.add_argument('--slot', default='ALIGNMENTS', help='what its part is: a slot, or a kind of it such as '
                         'HEADS.depth_head (`plugins describe` lists them); default: %(default)s')
    return options


def main(argv: list[str] | None = None) -> None:
    """Write the project; DataError where FOLDER holds files, PluginError for a name or slot that will not do."""
    args = parser().parse_args(argv)
    for path, text in files_of(args.folder, args.name or args.folder.resolve().name, args.slot).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        print(f'written: {path}')
    print(f'next: cd {args.folder}, and what README.md says')


def files_of(folder: Path, name: str, slot: str) -> dict[Path, str]:
    """Return path -> text of a new project in `folder`; arguments as of the command.

    Raises:
        DataError: the folder holds files, or is none.
        PluginError: a name that does not fit or is taken; a slot that does not exist.
    """
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise DataError(f'{folder} is there already and not empty: name another folder for the project.')
    kind, plugin = kinds(slot)[0], folder / 'plugins' / name
    check_name(name)
    files = skeleton(name, plugin, plugin / 'tests' / f'test_{name}.py', kind)
    of_plugin = plugin / 'README.md'
    files[of_plugin] = files[of_plugin].replace(f'{folder.resolve()}/', '').replace(
        "= ['plugins/", "= ['../plugins/").replace('run in the repository:', 'run in the folder of the project:')
    config = '\n'.join(config_lines(kind, name, f'../plugins/{name}'))
    place = f'its part of the slot {kind.name}'
    return {folder / 'README.md': README.format(name=name, part=class_name(name), place=place),
            folder / 'configs' / f'{name}.py': f'# What this experiment changes in SegVGGT.\n{config}\n', **files}
