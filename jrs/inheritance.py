"""Config files: reading one with what it inherits, and merging changes into a config."""

from __future__ import annotations

import ast
import functools
import re
import traceback
import types
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict

from jrs.discovery import absolute
from jrs.errors import ConfigError, did_you_mean
from jrs.places import experiments, is_project, own_config, project
from jrs.plugins import load_plugins
from jrs.schema import GROUP_KEYS, TOP_LEVEL, joined, keys_at, part_at, terms_of
from jrs.signatures import default_of, parsed

OF_THE_PROJECT = ('configs', 'plugins')         # folders beside the package `jrs`, in this checkout or another
# =True: replaces what the file inherits, instead of changing it. A mark ends there: inside `profiles` it drops what the
# `profiles` of the bases say, in a profile's file what that file inherits; neither empties the experiment's own part.
DELETE = '_delete_'


@dataclass
class ConfigFile:
    """What a file says together with all that it inherits from.

    Attributes:
        values: nested mappings; constants that a file names for itself (`_x`) among them.
        plugins: of the file and of its bases, each once; relative paths, which start at the file that writes them, made
            absolute.
        written: dotted paths of the values that files outside the project's own write; that of a `type` only where it
            differs from the one inherited.
        terms: names of the losses and matching costs that the config has, or one that it inherits from.
    """

    values: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    terms: set[str] = field(default_factory=set)


def read_file(path: Path) -> ConfigFile:
    """Return the config in `path`, inheritance resolved; every key of a child is checked against its parent.

    An argument of an inherited part whose `type` a file changes is dropped where the new part does not take it, as
    profiles' sizes are; what the file writes beside the new `type` stays, and is checked with the config.

    Raises:
        ConfigError: no such file, no Python, or a key that its base does not have.
        PluginError: a plugin that a file with one base names cannot be loaded.
    """
    if not path.is_file():
        named = own_config(str(path))
        if named is not None:
            raise ConfigError(f'no config file {str(path)!r}. The experiment of that name is {str(named)!r}.')
        beside = path.suffix == '.py' and path.parent.is_dir()
        near = [str(other) for other in path.parent.rglob('*.py')] if beside else experiments()
        raise ConfigError(f'no config file {str(path)!r}.{did_you_mean(str(path), near)}')
    if path.suffix != '.py':
        raise ConfigError(f'{path} is no config: experiments are Python files that end with .py.')
    tree = _parse(path)
    bases = _bases(tree, path)
    for base in bases:
        if not base.is_file():
            raise ConfigError(f'{path} inherits from {base}, which does not exist, as a file or as an experiment of '
                              'the project. Correct `_base_`.')
    inherited = _join([read_file(base) for base in bases], path)
    own = _own_values(path, tree, inherited.values)
    names = [name for node in tree.body if _assigned(node) == 'plugins' for name in _names(node, path)]
    own.pop('plugins', None)
    for name, sizes in (own.get('profiles') or {}).items():
        if name != DELETE and not isinstance(sizes, Mapping):
            raise ConfigError(f'{path}: profiles.{name} must be a mapping, dict(...), got {sizes!r}.')
        if name != DELETE and 'plugins' in sizes:
            sizes['plugins'] = absolute(sizes['plugins'], path.resolve().parent)
    plugins = absolute([*inherited.plugins, *absolute(names, path.resolve().parent)], Path.cwd())
    if bases:
        load_plugins(names, path.resolve().parent, path)               # the parts of merged configs are looked up
    if len(bases) == 1:
        checked = {key: value for key, value in own.items() if not key.startswith('_') and key != 'profiles'}
        check_known(inherited.values, checked, source=str(path))
    written = set() if of_the_project(path) else set(_written(own, inherited.values))
    inherited.values.pop('adjusted', None)                             # a run's: what inherits from it is another experiment
    values = merged(inherited.values, own)
    return ConfigFile(values, plugins, inherited.written | written, inherited.terms | set(terms_of(values)))


def bases_of(file: str | Path) -> list[Path]:
    """Return what the config in `file` inherits from: one experiment for a leaf, pieces for a complete one, or nothing."""
    return _bases(_parse(Path(file)), Path(file))


def merged(base: Mapping, changes: Mapping, path: str = '') -> dict[str, Any]:
    """Return `base` with `changes`: mappings are merged, lists and tuples change by index, all else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        here, old = joined(path, key), base.get(key)
        if key == DELETE:
            continue
        if not isinstance(value, Mapping) or value.get(DELETE):
            result[key] = _alone(value)
        elif isinstance(old, Mapping):
            result[key] = merged(_taken_over(old, value, here), value, here)
        elif isinstance(old, (list, tuple)) and value and all(str(index).isdigit() for index in value):
            items = merged({str(index): item for index, item in enumerate(old)}, {str(k): v for k, v in value.items()}, here)
            result[key] = type(old)(items.values())
        else:
            result[key] = _alone(value)
    return result


def _taken_over(old: Mapping, value: Mapping, path: str) -> Mapping:
    """Return what of a part at `path` another one inherits: the arguments that it takes."""
    if 'type' not in value or 'type' not in old or value['type'] == old['type']:
        return old
    accepted = keys_at(path, value['type'])
    return old if accepted is None else {key: item for key, item in old.items() if key in accepted}


def _alone(value: Any) -> Any:
    """Return a value that stands for itself, without marks for merging."""
    if isinstance(value, Mapping):
        return {key: _alone(item) for key, item in value.items() if key != DELETE}
    return type(value)(map(_alone, value)) if type(value) in (list, tuple) else value


def of_the_project(file: Path) -> bool:
    """Return whether a config is the project's own: in `configs/` or `plugins/` of a checkout, whichever `jrs` runs, or of
    an installed package.
    """
    return any(folder.name in OF_THE_PROJECT and is_project(folder.parent) for folder in file.resolve().parents)


def check_known(base: Mapping, changes: Mapping, source: str, path: str = '') -> None:
    """Refuse a key of `changes` that `base` does not have, and text in the place of a number.

    A new key is accepted where the component's constructor takes it, where it names a further component of a collection (a
    mapping with `type`), and as a further weight, which is checked with the config.

    Args:
        source: who changes, for the message.
    """
    for key, value in changes.items():
        here = joined(path, key)
        if key == DELETE:
            continue
        if isinstance(base, (list, tuple)):
            if not str(key).isdigit() or int(key) >= len(base):
                raise ConfigError(f'{source}: {path} is a list of {len(base)}; {key!r} is no index of it.')
        elif key not in base:
            _check_addition(base, key, value, here, source)
        elif _merges(base[key], value):
            check_known(base[key], value, source, here)
        else:
            _check_number(base[key], value, here, source)


def _merges(old: Any, new: Any) -> bool:
    """True when `new` is merged into `old`; False when it stands alone in its place."""
    if not isinstance(new, Mapping) or not isinstance(old, (Mapping, list, tuple)) or new.get(DELETE):
        return False
    return 'type' not in new or isinstance(old, Mapping) and new['type'] == old.get('type')


def _check_number(old: Any, new: Any, here: str, source: str) -> None:
    """Refuse text in the place of a number."""
    if isinstance(new, str) and isinstance(old, (int, float)) and not isinstance(old, bool):
        raise ConfigError(f'{source}: {here} must be a number, got {new!r}; it was {old!r}.')


def _check_addition(base: Mapping, key: str, value: Any, here: str, source: str) -> None:
    accepted: set[str] = set()
    if 'type' in base:
        parent = here.rpartition('.')[0]
        allowed = keys_at(parent, base['type'])
        if allowed is None or key in allowed:
            _check_number(default_of(part_at(parent, base['type']), key), value, here, source)
            return
        accepted = allowed
    elif here.startswith('parameter_groups.'):
        accepted = set(GROUP_KEYS)
        if key in accepted or here.count('.') == 1 and isinstance(value, Mapping):
            return                                                     # an option of a group, or a further group
    elif isinstance(value, Mapping) and 'type' in value or here == f'model.weights.{key}':
        return                                                     # a further component of a named collection, or its weight
    elif '.' not in here and key in TOP_LEVEL:
        return
    known = accepted | {str(k) for k in base} if '.' in here else set(TOP_LEVEL)
    raise ConfigError(f'{source}: there is no {here!r} to set.{did_you_mean(key, known)}')


def _join(bases: list[ConfigFile], path: Path) -> ConfigFile:
    """Return several bases as one; a key that two of them have is refused."""
    whole = ConfigFile()
    for base in bases:
        twice = [key for key in base.values if key in whole.values and not key.startswith('_')]
        if twice:
            raise ConfigError(f'{path}: two of its bases have {twice[0]!r}. Leave it to one of them.')
        whole.values |= base.values
        whole.plugins += base.plugins
        whole.written |= base.written
        whole.terms |= base.terms
    return whole


def _own_values(path: Path, tree: ast.Module, inherited: Mapping) -> dict[str, Any]:
    """Run a file and return the names that it assigns; it sees what it inherits as ``_base_``."""
    body = [node for node in tree.body if _assigned(node) != '_base_']
    space: dict[str, Any] = {'_base_': ConfigDict(deepcopy(dict(inherited)))}
    before = {*space, '__builtins__'}
    try:
        exec(compile(ast.Module(body, []), str(path), 'exec'), space)
    except Exception as error:                                         # a config is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f', line {lines[-1]},' if lines else ''
        raise ConfigError(f'{path}{where} cannot be read: {type(error).__name__}: {error}') from error
    own = {name: value for name, value in space.items() if name not in before and not name.startswith('__')
           and not isinstance(value, (types.FunctionType, types.ModuleType))
           and not (isinstance(value, type) and name not in TOP_LEVEL)}
    for here, value in _classes(own):
        raise ConfigError(f'{path}: {here} is the class {value.__name__}; types are written as text: '
                          f'{here.rpartition(".")[2]}={value.__name__!r}.')
    return own


def _classes(value: Any, path: str = '') -> Iterator[tuple[str, type]]:
    """Yield the dotted paths of classes in nested containers: mmengine's newer configs import them and use them as types."""
    if isinstance(value, type):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _classes(item, joined(path, str(key)))


def _written(own: Mapping, inherited: Any, path: str = '') -> Iterator[str]:
    """Yield the dotted path of every value that `own` writes over `inherited`."""
    for key, value in own.items():
        here, old = joined(path, key), inherited.get(key) if isinstance(inherited, Mapping) else None
        if isinstance(value, Mapping) and value:
            yield from _written(value, old, here)
        elif key != DELETE and not here.startswith(('_', 'profiles')) and not (key == 'type' and value == old):
            yield here


def _parse(path: Path) -> ast.Module:
    """Return the tree of a file, with mmengine's marks ``{{ fileDirname }}`` and ``{{_base_.x}}`` filled in."""
    try:
        return _tree(path.read_text(encoding='utf-8-sig'), path, path.resolve())
    except SyntaxError as error:
        raise ConfigError(f'{path}, line {error.lineno}: {error.msg}: {(error.text or "").strip()}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8.') from error
    except (ValueError, RecursionError, MemoryError) as error:      # a NUL, or nested without end
        raise ConfigError(f'{path} cannot be read as Python: {error or type(error).__name__}.') from error


@functools.lru_cache(maxsize=256)                                      # a base is read with each of its children
def _tree(text: str, path: Path, place: Path) -> ast.Module:
    """Return the tree of a file's `text`, for reading only; `place` is the resolved `path`."""
    marks = {'fileDirname': place.parent, 'fileBasename': path.name, 'fileBasenameNoExtension': path.stem,
             'fileExtname': path.suffix}
    for mark, value in marks.items():
        text = re.sub(rf'\{{\{{\s*{mark}\s*\}}\}}', lambda _, value=value: str(value), text)
    tree = parsed(re.sub(r'\{\{\s*(_base_\.[\w.]+)\s*\}\}', r'\1', text), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and 'read_base' in ast.unparse(node.items[0]):
            raise ConfigError(f'{path}, line {node.lineno}: the read_base() style is not supported: write '
                              f'{_as_base(node, path)} in the place of these lines, and types in quotes.')
    return tree


def _as_base(node: ast.With, path: Path) -> str:
    """Return the line that inherits from what the imports below ``with read_base()`` name."""
    files = []
    for line in ast.walk(node):
        level = getattr(line, 'level', 0)
        names = [line.module] if isinstance(line, ast.ImportFrom) and line.module else \
            [alias.name for alias in line.names] if isinstance(line, (ast.ImportFrom, ast.Import)) else []
        for name in names:
            file = '/'.join(name.split('.')) + '.py'
            if level:
                files.append(f'{"./" if level == 1 else "../" * (level - 1)}{file}')
            else:                                                      # of where Python was started, or of this project
                places = [Path.cwd() / file, project() / file]
                files.append(str(next((place for place in places if place.is_file()), file)))
    shown = files or ['./FILE.py']
    return f'_base_ = {shown[0]!r}' if len(shown) == 1 else f'_base_ = {shown!r}'


def _assigned(node: ast.stmt) -> str:
    """Return the name that a statement assigns to, '' where it is no plain assignment."""
    return getattr(node.targets[0], 'id', '') if isinstance(node, ast.Assign) else ''


def _bases(tree: ast.Module, path: Path) -> list[Path]:
    return [_base(path, base) for node in tree.body if _assigned(node) == '_base_' for base in _names(node, path)]


def _base(path: Path, name: str) -> Path:
    """Return the file that the config in `path` means by a base: beside it, else one of the project by path or name."""
    beside = (path.parent / name).resolve()
    return beside if beside.is_file() else own_config(name, here=False) or beside


def _names(node: ast.Assign, path: Path) -> list[str]:
    """Return the text, or the texts of a list, that an assignment writes down."""
    try:
        value = ast.literal_eval(node.value)
        names = [value] if isinstance(value, str) else list(value)
        return [name for name in names if Path(name)]
    except (ValueError, TypeError) as error:
        raise ConfigError(f'{path}, line {node.lineno}: must be names written out, in quotes (plugins of the bases stay): '
                          f'{ast.unparse(node)[:80]}') from error
