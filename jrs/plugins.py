"""Plugins: loading the ones a config names, and calling their hooks.

A plugin is a folder `plugins/<name>/` with an `__init__.py`, a folder or file given by its path, an entry point of the
group `jrs.plugins`, or an importable module. Importing it registers its parts; only `load_plugins` imports it.
Importing `jrs` loads none. A process holds one plugin of a name.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pluggy

from jrs import hookspecs
from jrs.discovery import (
    ENTRY_POINTS,
    available,
    is_path,
    module_place,
    places_of,
    plugin_folders,
    plugin_name,
    points,
)
from jrs.errors import PluginError, did_you_mean
from jrs.registry import CORE, registering_as

hook = pluggy.HookimplMarker(hookspecs.PROJECT)
NAMESPACE = 'jrs_plugins'                    # folder plugins are imported as jrs_plugins.<name>


class Plugins(pluggy.PluginManager):
    """pluggy's manager, which also knows the folder or file of each plugin.

    Attributes:
        places: name of a plugin -> where it was loaded from.
    """

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self.places: dict[str, Path] = {}


_manager: Plugins | None = None


def manager() -> Plugins:
    """Return the one plugin manager of this process."""
    global _manager
    if _manager is None:
        _manager = Plugins()
    return _manager


def load_plugins(names: Iterable[str], base: Path | None = None, config: Path | None = None) -> Plugins:
    """Import the plugins called `names`, register their hooks and check them.

    Args:
        names: plugin names, paths of folders or files, entry points, or importable modules.
        base: relative paths start here (the folder of the config); the current folder when None.
        config: the file that names them, for messages.

    Raises:
        PluginError: not found, fails to import (its own traceback attached), misspells a hook, takes a taken name, or
            another plugin of that name is loaded.
    """
    plugins = manager()
    for name in names:
        key, place = plugin_name(name), find_plugin(name, base, config)
        if not plugins.has_plugin(key):
            _load(name, place)
        elif plugins.places[key] != place:
            raise PluginError(f'two plugins are called {key!r}: {plugins.places[key]}, which is loaded, and {place}, which '
                              'is asked for. A process holds one of a name: rename one of the two.')
    return plugins


def hook_of(name: str, listed: Iterable[str]) -> Callable:
    """Return what calls the hook `name` of the loaded plugins among `listed`, as a config names them, and of no other."""
    own = {plugin_name(plugin) for plugin in listed}
    others = [plugin for key, plugin in manager().list_name_plugin() if key not in own]
    return manager().subset_hook_caller(name, remove_plugins=others)


def implementing(name: str, listed: Iterable[str]) -> list[str]:
    """Return the names of those among `listed` that implement the hook `name`, in that order."""
    found = {implementation.plugin_name for implementation in getattr(manager().hook, name).get_hookimpls()}
    return [key for key in map(plugin_name, listed) if key in found]


def find_plugin(name: str, base: Path | None = None, config: Path | None = None) -> Path:
    """Return the folder or file of the plugin `name`; arguments as for `load_plugins`.

    Raises:
        PluginError: there is none, or two that the name may mean.
    """
    base = base or Path.cwd()
    if is_path(name):
        path = (base / name).resolve()
        if not _source(path).is_file():
            raise PluginError(f'plugin {name!r}: no file {_source(path)}. {_moved(path, base, config)}')
        return path.parent if path.name == '__init__.py' else path
    places = places_of(name) or [place.resolve() for place in [module_place(name)] if place is not None]
    if len(places) > 1:
        raise PluginError(f'two plugins are called {name!r}: {" and ".join(map(str, places))}. Name the one that you mean '
                          'by its path.')
    if not places:
        raise PluginError(f'no plugin {name!r}: not in {", ".join(map(str, plugin_folders())) or "plugins/"}, no entry '
                          f'point of group {ENTRY_POINTS!r}, no importable module.{_advice(name, base)}')
    return places[0]


def _advice(name: str, base: Path) -> str:
    """Say how to name a plugin that lies in `base`, else which spellings are near."""
    for beside in (name, f'{name}.py'):
        if _source(base / beside).is_file():
            return f' There is one in {base.resolve()}: write {f"./{beside}"!r}.'
    return did_you_mean(name, available())


def _moved(path: Path, base: Path, config: Path | None) -> str:
    """Say what to do about a plugin whose path leads nowhere."""
    if path.exists():
        return 'Give a folder with an __init__.py, or a .py file.'
    since = '' if config is None else f' since {config} was written, which names it'
    words = f'It is not there, or not any more (moved, renamed or removed{since}): give its place as it is now.'
    key = plugin_name(str(path))
    beside = [base / key, base / f'{key}.py', *filter(None, [available().get(key)])]
    found = [str(place.resolve()) for place in beside if _source(place).is_file()]
    return words + (f' One of that name is {found[0]}.' if found else '')


def _source(path: Path) -> Path:
    return path / '__init__.py' if path.is_dir() else path


def _load(name: str, place: Path) -> None:
    """Import a plugin and register its hooks; of one that fails nothing stays."""
    key, plugins = plugin_name(name), manager()
    if key in CORE:
        raise PluginError(f'plugin {str(place)!r}: {key!r} is the name of the built-in parts\' owner. Rename it.')
    with registering_as(key):
        try:
            module = _import(name, key, place)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:         # whatever a plugin raises ends the run, cause attached
            raise PluginError(f'plugin {name!r} failed to load: {type(error).__name__}: {error}. '
                              'Its own traceback stands above.') from error
        try:
            _check_marked(key, module)
            plugins.register(module, name=key)
            plugins.check_pending()
        except pluggy.PluginValidationError as error:
            plugins.unregister(name=key)
            raise PluginError(f'plugin {key!r} does not fit the hook specifications (jrs/hookspecs.py): {error}. '
                              f'The hooks are {", ".join(_hooks().values())}.') from error
    plugins.places[key] = place


def _hooks() -> dict[str, str]:
    """Return the name of each hook -> its name with its arguments."""
    return {name: f'{name}({", ".join(inspect.signature(spec).parameters)})' for name, spec in vars(hookspecs).items()
            if inspect.isfunction(spec)}


def _check_marked(key: str, module: types.ModuleType) -> None:
    """Refuse a function that is called like a hook and is not marked as one: nobody would call it."""
    for name in _hooks():
        function = getattr(module, name, None)
        if inspect.isfunction(function) and not hasattr(function, f'{hookspecs.PROJECT}_impl'):
            raise PluginError(f'plugin {key!r}: {name} is not marked as a hook: write @hook above it (from jrs.plugins '
                              'import hook).')


def _import(name: str, key: str, place: Path) -> types.ModuleType:
    point = None if is_path(name) else points().get(name)
    if point is not None and module_place(point.value.partition(':')[0]).resolve() == place:
        return point.load()
    if is_path(name) or place in places_of(name):
        return _import_path(key, place)
    return importlib.import_module(name)


def _import_path(key: str, place: Path) -> types.ModuleType:
    """Import the plugin folder or file `place` as ``jrs_plugins.<key>``."""
    parent = sys.modules.setdefault(NAMESPACE, types.ModuleType(NAMESPACE))
    parent.__path__ = []
    name, source = f'{NAMESPACE}.{key.replace(".", "_")}', _source(place)
    if name in sys.modules and Path(sys.modules[name].__file__).resolve() == source.resolve():
        return sys.modules[name]
    if name in sys.modules:
        raise PluginError(f'two plugins would be imported as {name}: {sys.modules[name].__file__} and {source}. Rename one.')
    search = [str(place)] if place.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=search)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for loaded in [other for other in sys.modules if other == name or other.startswith(f'{name}.')]:
            del sys.modules[loaded]
        raise
    return module
