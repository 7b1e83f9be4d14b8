"""``tools/plugins.py``: which plugins there are, what slots ask of a part, a new one, and whether it keeps its contract."""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

from jrs.cli.parser import Parser, config_argument
from jrs.cli.plugin_skeleton import class_name, config_lines, skeleton
from jrs.contracts.page import kinds, slot_lines, slot_text
from jrs.discovery import ENTRY_POINTS, available, plugin_folders, plugin_name, points, provided, provides
from jrs.errors import PluginError
from jrs.places import PACKAGE, REPOSITORY, installed, project
from jrs.plugins import load_plugins, manager
from jrs.registry import SLOTS, owner_of

ROOT = REPOSITORY
EXAMPLES = """examples:
  python tools/plugins.py list --config configs/baselines/vggt_mask2former_6l.py     and which of them that experiment loads
  python tools/plugins.py new total_variation                                        plugins/total_variation with a test
  python tools/plugins.py new total_variation --into my_folder                       the same outside the repository
  python tools/plugins.py new my_metric --slot METRICS                               one small part of any slot
  python tools/plugins.py describe HEADS.depth_head                                  what a part must have, with an example
  python tools/plugins.py check mask_decoder                                         a name, or the path of a folder
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/plugins.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = options.add_subparsers(dest='action')
    listing = actions.add_parser('list', help='name, folder, owner, parts; imports none')
    listing.add_argument('--config', type=config_argument, help='say which ones this experiment loads')
    new = actions.add_parser('new', help='write a working plugin to start from')
    new.add_argument('name', help='lower_case; becomes the name of the folder')
    new.add_argument('--into', type=Path, help='parent folder; default: plugins/, in a checkout the '
                     "project's")
    new.add_argument('--slot', default='ALIGNMENTS', help='what its part is: a slot, or a kind of it such as '
                     'HEADS.depth_head (see describe); default: %(default)s')
    describe = actions.add_parser('describe', help='print what a slot asks of a part, with an example that works')
    describe.add_argument('slot', nargs='?', help='BACKBONES, HEADS.depth_head, …; without it one line for each')
    docs = actions.add_parser('docs', help='write the page of all contracts, structures and hooks')
    docs.add_argument('--out', type=Path, help='file to write, docs/plugins.md; without it the page is printed')
    check = actions.add_parser('check', help='import one; run a small batch through its parts; report hooks, README, tests')
    check.add_argument('name', help='name of a plugin, or path of its folder or file')
    return options


def main(argv: list[str] | None = None) -> int:
    """Run one action, `list` where none is named; `check` returns 1 when something lacks."""
    args = parser().parse_args(argv)
    if args.action in (None, 'list'):
        print('\n'.join(list_lines(getattr(args, 'config', None))))
    elif args.action == 'new':
        print('\n'.join(new_plugin(args.name, args.into, args.slot)))
    elif args.action == 'describe':
        print('\n'.join(slot_lines()) if args.slot is None else slot_text(args.slot))
    elif args.action == 'docs':
        _write_page(args.out)
    else:
        lines, faults = check_plugin(args.name)
        print('\n'.join([*lines, *([f'  lacks     {fault}' for fault in faults] or ['  complete'])]))
        return 1 if faults else 0
    return 0


def _write_page(out: Path | None) -> None:
    from jrs.cli.plugin_page import page
    if out is None:
        print(page(), end='')
    else:
        out.write_text(page(), encoding='utf-8')
        print(f'written: {out}')


def list_lines(config: str | None = None) -> Iterator[str]:
    """Yield the description of every plugin that is found, and of those that `config` loads by path."""
    if config is not None:
        from jrs.config import read_config
        load_plugins(read_config(config).get('plugins') or (), Path(config).resolve().parent, Path(config))
    installed = {name: place for name, place in available().items() if name in points()}
    folders = {**available(), **{name: manager().places[name] for name, _ in manager().list_name_plugin()}}
    places = ', '.join(map(str, plugin_folders())) or 'no folder'
    yield f'looked in {places}, and for entry points of the group {ENTRY_POINTS!r}' + ('' if folders else ': no plugin')
    for name, folder in sorted(folders.items()):
        point = points()[name] if name in installed and folder == installed[name] else None
        yield name
        yield f'  folder    {folder or "unknown"}'
        yield f'  owner     {_owner(folder, point)}'
        yield from _part_lines(provides(folder) if folder is not None else {})
        yield f'  loaded    {"yes" if manager().has_plugin(name) else "no"}'


def new_plugin(name: str, into: Path | None = None, slot: str = 'ALIGNMENTS') -> Iterator[str]:
    """Write a working plugin with a README and a test; yields what was written and what comes next.

    Args:
        name: lower-case identifier.
        into: parent folder; None = `plugins/` of the checkout, with the test in its `tests/plugins/`; of an installed
            package `plugins/` in the current folder, with the test beside the part.
        slot: what its part is: a slot, or one of its kinds (`jrs.contracts`); of several kinds the first.

    Raises:
        PluginError: a name that does not fit or is taken; a slot that does not exist.
    """
    if into is None and installed():
        into = Path('plugins')
        into.mkdir(exist_ok=True)
    kind, folder = kinds(slot)[0], (into or ROOT / 'plugins') / name
    _check_new(name, folder)
    test = ROOT / 'tests' / 'plugins' / f'test_{name}.py' if into is None else folder / 'tests' / f'test_{name}.py'
    for path, text in skeleton(name, folder, test, kind).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        yield f'written: {path}'
    yield f'next: python -m pytest {test}'
    yield 'in a config:'
    yield from (f'  {line}' for line in config_lines(kind, name, name if into is None else str(folder.resolve())))
    if into is None:
        yield 'tests/test_registered.py wants a tiny config of each part of the repository: add a line to its TINY'


def _check_new(name: str, folder: Path) -> None:
    if folder.exists():
        raise PluginError(f'there is a {name!r} already: {folder}. Choose another name, or change that one.')
    check_name(name)
    if not folder.parent.is_dir():
        raise PluginError(f'no folder {folder.parent} to write {name!r} into: make it, or name another with --into.')


def check_name(name: str) -> None:
    """Raise a PluginError for what cannot be the name of a new plugin, or is that of another, or of another's part."""
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise PluginError(f'{name!r} is no name for a plugin: use lower-case letters, digits and underscores, such as '
                          "'total_variation'.")
    known = available()
    if name in known:
        raise PluginError(f'there is a {name!r} already: {known[name] or "an entry point"}. Choose another name, or change '
                          'that one.')
    part = class_name(name)
    mentioning = (path for path in PACKAGE.rglob('*.py') if f'class {part}' in path.read_text(encoding='utf-8-sig'))
    if part in provided() or any(part in provides(path) for path in mentioning):      # parsing all of jrs takes a second
        raise PluginError(f'the part of {name!r} would be called {part!r}, which is taken: choose another name.')


def check_plugin(name: str) -> tuple[list[str], list[str]]:
    """Import the plugin `name`, run a small batch through its parts; return what it is and what it lacks, as lines.

    Raises:
        PluginError: it cannot be found or imported, takes a taken name, or misspells a hook.
    """
    key = plugin_name(name)
    module, place = load_plugins([name]).get_plugin(key), manager().places[key]
    registered = {name: slot.name.upper() for slot in SLOTS.values() for name, part in slot.module_dict.items()
                  if owner_of(part) == key}
    hooks = sorted(caller.name for caller in manager().get_hookcallers(module) or [])
    tests = list(_tests(key, place))
    tried, wrong = _trials(key)
    lines = [key, f'  folder    {place}', *_part_lines(registered), f'  hooks     {", ".join(hooks) or "none"}',
             *(f'  tests     {test}' for test in tests), *(f'  tried     {part}: keeps its contract' for part in tried)]
    return lines, [*_faults(key, place, registered, hooks, tests), *wrong]


def _faults(key: str, place: Path, registered: dict[str, str], hooks: list[str], tests: list[Path]) -> Iterator[str]:
    if not registered and not hooks:
        yield 'a part or a hook: it adds nothing. Decorate a class with @SLOT.register_module(), SLOT from jrs.registry'
    for part, slot in provides(place).items():
        if part not in registered:
            yield f'{slot}.{part}: decorated in its files, but not registered: __init__.py does not import that file'
    for slot in SLOTS.values():
        for name, part in slot.module_dict.items():
            if owner_of(part) == key and name != part.__name__:
                yield f'the class name as registered name: {slot.name.upper()} has {part.__name__} as {name!r}'
            if owner_of(part) == key and not (part.__doc__ or '').strip():
                yield f'a docstring of {part.__name__}: what it is for, shapes, and each argument'
    if place.is_dir() and not (place / 'README.md').is_file():
        yield f'{place / "README.md"}: one command and its expected result'
    if not tests and not (installed() and place.parent == ROOT / 'plugins'):       # those stay in the repository
        inside = f', or {place}/tests/test_*.py' if place.is_dir() else ''
        where = f'tests/plugins/test_{key}.py in the repository' if place.parent == ROOT / 'plugins' else (
            f'test_{key}.py in {place.parent}')
        yield f'tests: {where}{inside}'


def _trials(key: str) -> tuple[list[str], list[str]]:
    """Return which parts of a plugin keep their contracts in a trial, and what the others do that theirs do not allow."""
    from jrs.trials import faults_of, is_tried
    right, wrong = [], []
    for slot in SLOTS.values():
        for name, part in slot.module_dict.items():
            if owner_of(part) == key and is_tried(slot, part):
                faults = [f'{slot.name.upper()}.{name}: {fault}' for fault in faults_of(part, slot)]
                wrong += faults
                right += [] if faults else [f'{slot.name.upper()}.{name}']
    return right, wrong


def _tests(key: str, place: Path) -> Iterator[Path]:
    if place.parent == ROOT / 'plugins':
        yield from (ROOT / 'tests' / 'plugins').glob(f'test_{key}.py')
    if place.is_dir():
        yield from sorted(place.rglob('test_*.py'))
    yield from place.parent.glob(f'test_{key}.py')                      # beside it
    yield from sorted((place.parent / 'tests').rglob(f'test_{key}.py'))


def _owner(folder: Path | None, point: EntryPoint | None) -> str:
    if point is not None:
        return f'package {point.dist.name} {point.dist.version}, entry point {point.value}'
    if folder is not None and folder.parent in (ROOT / 'plugins', project() / 'plugins'):
        return 'the package jrs' if installed() else 'this repository'
    return '$JRS_PLUGIN_PATH' if folder is not None and folder.parent in plugin_folders() else 'a config, by path'


def _part_lines(parts: dict[str, str]) -> Iterator[str]:
    by_slot: dict[str, list[str]] = {}
    for part, slot in sorted(parts.items()):
        by_slot.setdefault(slot, []).append(part)
    yield from (f'  provides  {slot}: {", ".join(names)}' for slot, names in sorted(by_slot.items()))
    if not by_slot:
        yield '  provides  no part'
