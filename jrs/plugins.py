"""Plugins: where they are found, loading the ones a config names, and who provides a name.

A plugin is a folder `plugins/<name>/` with an `__init__.py`, a folder or file given by its path, an entry point of the
group `jrs.plugins`, or an importable module. Importing it registers its parts; only `load_plugins` imports it.
Importing `jrs` loads none.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import pluggy

from jrs import hookspecs
from jrs.errors import PluginError, did_you_mean
from jrs.registry import registering_as

hook = pluggy.HookimplMarker(hookspecs.PROJECT)
NAMESPACE = 'jrs_plugins'                    # folder plugins are imported as jrs_plugins.<name>
ENTRY_POINTS = 'jrs.plugins'

_manager: pluggy.PluginManager | None = None


def manager() -> pluggy.PluginManager:
    """Return the one plugin manager of this process."""
    global _manager
    if _manager is None:
        _manager = pluggy.PluginManager(hookspecs.PROJECT)
        _manager.add_hookspecs(hookspecs)
    return _manager


def plugin_folders() -> list[Path]:
    """Return the folders that hold plugin folders: ``$JRS_PLUGIN_PATH`` (os.pathsep between), then the repository's."""
    listed = [Path(entry) for entry in os.environ.get('JRS_PLUGIN_PATH', '').split(os.pathsep) if entry]
    return [folder for folder in [*listed, Path(__file__).resolve().parents[1] / 'plugins'] if folder.is_dir()]


def available() -> dict[str, Path | None]:
    """Return the plugins that can be named without a path: name -> its folder, None for an entry point."""
    found: dict[str, Path | None] = {point.name: None for point in entry_points(group=ENTRY_POINTS)}
    for folder in reversed(plugin_folders()):
        found.update({path.parent.name: path.parent for path in sorted(folder.glob('*/__init__.py'))})
    return found


def load_plugins(names: Iterable[str], base: Path | None = None) -> pluggy.PluginManager:
    """Import the plugins called `names`, register their hooks and check them.

    Args:
        names: plugin names, paths of folders or files, entry points, or importable modules.
        base: relative paths start here (the folder of the config); the current folder when None.

    Raises:
        PluginError: not found, fails to import (its own traceback attached), misspells a hook, or takes a taken name.
    """
    plugins = manager()
    for name in names:
        key = plugin_name(name)
        if plugins.has_plugin(key):
            continue
        module = _import(name, base or Path.cwd())
        try:
            plugins.register(module, name=key)
            plugins.check_pending()
        except pluggy.PluginValidationError as error:
            plugins.unregister(name=key)
            raise PluginError(f'plugin {key!r} does not fit the hook specifications (jrs/hookspecs.py): {error}') from error
    return plugins


def absolute(names: Iterable[str], base: Path) -> list[str]:
    """Return `names` with the paths among them, which start at `base`, made absolute."""
    return [str((base / name).resolve()) if _is_path(name) else name for name in names]


def plugin_name(name: str) -> str:
    """Return the name by which a plugin is known: the last part of a path, without suffix."""
    return Path(name).stem if _is_path(name) else name


def _is_path(name: str) -> bool:
    return os.sep in name or '/' in name or name.endswith('.py')


def _import(name: str, base: Path) -> types.ModuleType:
    with registering_as(plugin_name(name)):
        try:
            return _find(name, base)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:         # whatever a plugin raises ends the run, cause attached
            raise PluginError(f'plugin {name!r} failed to load: {type(error).__name__}: {error}. '
                              'Its own traceback stands above.') from error


def _find(name: str, base: Path) -> types.ModuleType:
    if _is_path(name):
        return _import_path((base / name).resolve())
    folder = available().get(name)
    if folder is not None:
        return _import_path(folder)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()
    if importlib.util.find_spec(name.partition('.')[0]) is not None:
        return importlib.import_module(name)
    raise PluginError(f'no plugin {name!r}: not in {", ".join(map(str, plugin_folders())) or "plugins/"}, no entry point '
                      f'of group {ENTRY_POINTS!r}, no importable module.{did_you_mean(name, available())}')


def _import_path(path: Path) -> types.ModuleType:
    """Import the plugin folder or file `path` as ``jrs_plugins.<name>``."""
    source = path / '__init__.py' if path.is_dir() else path
    if not source.is_file():
        raise PluginError(f'plugin {str(path)!r}: no file {source}. Give a folder with an __init__.py, or a .py file.')
    parent = sys.modules.setdefault(NAMESPACE, types.ModuleType(NAMESPACE))
    parent.__path__ = []
    name = f'{NAMESPACE}.{path.stem}'
    if name in sys.modules:
        return sys.modules[name]
    search = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=search)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def provides(folder: Path) -> dict[str, str]:
    """Return what a plugin's folder or file would register, without importing it: class name -> slot (``'COSTS'``).

    Files that are no Python are passed over: importing the plugin says what is wrong with them.
    """
    return {node.name: slot for node, slot in _registrations(folder)}


def _registrations(folder: Path) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    for path in sorted(folder.rglob('*.py')) if folder.is_dir() else [folder]:
        with suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                    yield from ((node, slot) for slot in _slots_of(node))


def _slots_of(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Attribute) and target.attr == 'register_module' and isinstance(target.value, ast.Name):
            yield target.value.id


def provided_by_unlisted() -> dict[str, str]:
    """Return the names that plugins which are not loaded would register: class name -> plugin."""
    return {part: plugin for plugin, folder in _unlisted() for part in provides(folder)}


def providers(names: Collection[str]) -> list[str]:
    """Return the plugins, loaded or not, whose folder registers one of the class names `names`."""
    return [plugin for plugin, folder in available().items()
            if names and folder is not None and not set(provides(folder)).isdisjoint(names)]


def arguments_of_unlisted(slot: str) -> set[str]:
    """Return the constructor arguments of the parts that plugins which are not loaded would register in `slot`."""
    nodes = [node for _, folder in _unlisted() for node, of in _registrations(folder) if of == slot]
    makers = [item for node in nodes for item in [node, *node.body]
              if isinstance(item, ast.FunctionDef) and (item is node or item.name == '__init__')]
    return {word.arg for maker in makers for word in [*maker.args.args, *maker.args.kwonlyargs]} - {'self'}


def _unlisted() -> list[tuple[str, Path]]:
    return [(name, folder) for name, folder in available().items()
            if folder is not None and not manager().has_plugin(name)]
