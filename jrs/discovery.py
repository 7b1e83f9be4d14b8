"""Where plugins are, and what their files would register: read, never imported."""

from __future__ import annotations

import ast
import functools
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from jrs.places import project
from jrs.signatures import parsed

ENTRY_POINTS = 'jrs.plugins'


def plugin_folders() -> list[Path]:
    """Return the folders that hold plugin folders: ``$JRS_PLUGIN_PATH`` (os.pathsep between), then the project's."""
    listed = [Path(entry) for entry in os.environ.get('JRS_PLUGIN_PATH', '').split(os.pathsep) if entry]
    return [folder for folder in [*listed, project() / 'plugins'] if folder.is_dir()]


def points() -> dict[str, EntryPoint]:
    """Return the plugins that installed packages bring: name -> entry point."""
    return dict(_points(tuple((folder, _changed(folder)) for folder in sys.path)))


@functools.lru_cache(maxsize=8)
def _points(searched: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Return the entry points of the packages in the folders `searched`, as they were when each was changed last."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or '.').st_mtime_ns
    except OSError:
        return 0


def available() -> dict[str, Path | None]:
    """Return the plugins that can be named without a path: name -> folder or file; None for a package that is not there."""
    found = {name: module_place(point.value.partition(':')[0]) for name, point in points().items()}
    for folder in reversed(plugin_folders()):
        found.update({path.parent.name: path.parent for path in sorted(folder.glob('*/__init__.py'))})
    return found


def places_of(name: str) -> list[Path]:
    """Return every folder or file that the plugin name `name` may mean, without a path."""
    folders = [folder / name for folder in plugin_folders() if (folder / name / '__init__.py').is_file()]
    installed = [module_place(points()[name].value.partition(':')[0])] if name in points() else []
    return list(dict.fromkeys(place.resolve() for place in [*folders, *installed] if place is not None))


def module_place(module: str) -> Path | None:
    """Return the folder of a package, the file of a module; None where there is none. Nothing is imported."""
    top, *inner = module.split('.')
    try:
        spec = find_spec(top)
    except ValueError:                                                 # a module without a spec, such as __main__
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    if not folders:
        return Path(spec.origin) if spec and spec.origin and not inner and Path(spec.origin).is_file() else None
    for place in (folder.joinpath(*inner) for folder in folders):
        if (place / '__init__.py').is_file():
            return place
        if inner and place.with_name(f'{place.name}.py').is_file():
            return place.with_name(f'{place.name}.py')
    return None


def is_path(name: str) -> bool:
    """Return whether a config names a plugin by its path."""
    return os.sep in name or '/' in name or name.endswith('.py')


def plugin_name(name: str) -> str:
    """Return the name by which a plugin is known: the last part of a path, without `.py`."""
    return Path(os.path.normpath(name.removesuffix('/__init__.py'))).name.removesuffix('.py') if is_path(name) else name


def absolute(names: Iterable[str], base: Path) -> list[str]:
    """Return `names`, each once, with the paths among them, which start at `base`, made absolute."""
    return list(dict.fromkeys(str((base / name).resolve()) if is_path(name) else name for name in names))


def provides(place: Path) -> dict[str, str]:
    """Return what a plugin's folder or file would register, without importing it: name -> slot (``'COSTS'``).

    Of a plugin inside a package, the modules of the package that it imports count too. Files that are no Python are passed
    over: importing the plugin says what is wrong with them.
    """
    return {name: slot for name, slot, _ in _registrations(place)}


def provided() -> dict[str, str]:
    """Return the names that plugins would register which can be named without a path: name of the part -> plugin."""
    return {part: plugin for plugin, place in available().items() if place is not None for part in provides(place)}


def providers(parts: Collection[tuple[str | None, str]]) -> list[str]:
    """Return the plugins that register one of `parts`: slot (None: any) and name."""
    wanted = set(parts)
    return [plugin for plugin, place in available().items() if wanted and place is not None
            and any({(slot, name), (None, name)} & wanted for name, slot in provides(place).items())]


def arguments_in_plugins(slot: str) -> set[str]:
    """Return the constructor arguments of the parts that plugins would register in `slot`."""
    nodes = [node for place in available().values() if place is not None
             for _, of, node in _registrations(place) if of == slot and node is not None]
    makers = [item for node in nodes for item in [node, *node.body]
              if isinstance(item, ast.FunctionDef) and (item is node or item.name == '__init__')]
    return {word.arg for maker in makers for word in [*maker.args.args, *maker.args.kwonlyargs]} - {'self'}


def _registrations(place: Path) -> Iterator[tuple[str, str, ast.ClassDef | ast.FunctionDef | None]]:
    """Yield name, slot and definition of everything that the files of a plugin register by name."""
    for path in _files(place):
        yield from _registered(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _registered(path: Path, changed: int) -> list[tuple[str, str, ast.ClassDef | ast.FunctionDef | None]]:
    """Return name, slot and definition of everything that a file registers by name, as it was at the time `changed`."""
    tree = _tree(path, changed)
    nodes = list(ast.walk(tree)) if tree is not None else []
    defined = {node.name: node for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    slots = {alias.asname: alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
             if alias.asname}
    decorators = {id(decorator): node for node in defined.values() for decorator in node.decorator_list}
    found = []
    for node in nodes:
        target = node.func if isinstance(node, ast.Call) else node if id(node) in decorators else None
        if isinstance(target, ast.Attribute) and target.attr == 'register_module':
            slot = getattr(target.value, 'id', getattr(target.value, 'attr', ''))
            part = decorators.get(id(node)) or defined.get(_word(node, 'module', 1))
            name = _word(node, 'name', 0) or getattr(part, 'name', None)
            if name is not None:
                found.append((name, slots.get(slot, slot), part))
    return found


def _word(node: ast.expr, keyword: str, place: int) -> str | None:
    """Return the text or name that a call of `register_module` gives as `keyword`, or at `place`."""
    if not isinstance(node, ast.Call):
        return None
    values = [word.value for word in node.keywords if word.arg == keyword] or node.args[place:place + 1]
    return getattr(values[0], 'value', getattr(values[0], 'id', None)) if values else None


def _files(place: Path) -> list[Path]:
    """Return the files of a plugin, and those of the package it lies in that they import, directly or not."""
    files = sorted(place.rglob('*.py')) if place.is_dir() else [place]
    top = place if place.is_dir() else place.parent
    while (top.parent / '__init__.py').is_file():
        top = top.parent
    if top == place or not (top / '__init__.py').is_file():
        return files
    for path in files:                                                 # grows while it is walked
        files += [file for file in _imported(path, top) if file not in files]
    return files


def _imported(path: Path, top: Path) -> Iterator[Path]:
    """Yield the files of the package in `top` that the module in `path` imports."""
    for node in ast.walk(_tree(path, path.stat().st_mtime_ns) or ast.Module([], [])):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            own = [top.name, *path.relative_to(top).parts[:-1]]
            start = own[:len(own) + 1 - node.level] if node.level else []
            stem = [*start, *(node.module.split('.') if node.module else [])]
            modules = [stem, *([*stem, alias.name] for alias in node.names)]
        for module in modules:
            place = top.parent.joinpath(*module)
            yield from (file for file in (place / '__init__.py', place.with_name(f'{place.name}.py'))
                        if module[0] == top.name and file.is_file())


@functools.lru_cache(maxsize=512)
def _tree(path: Path, changed: int) -> ast.Module | None:
    """Return the tree of a file as it was at the time `changed`; None where it is no Python."""
    try:
        return parsed(path.read_text(encoding='utf-8-sig'))
    except (SyntaxError, ValueError):
        return None
