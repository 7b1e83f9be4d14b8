"""Experiments as configs: inheritance, profile, overrides; what does not exist is refused before anything is built.

A config is a Python file in mmengine's text style (``_base_``, ``_delete_=True``, strings for types). Reading one runs
it: treat a config from a stranger like a program from a stranger.
"""

from __future__ import annotations

import ast
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from jrs import registry as slots
from jrs.benchmarks import register_benchmarks
from jrs.discovery import absolute, arguments_in_plugins, plugin_name, providers
from jrs.errors import ConfigError, did_you_mean
from jrs.plugins import hook_of, load_plugins
from jrs.signatures import accepted_keys

REPOSITORY = Path(__file__).resolve().parents[1]
TOP_LEVEL = ('model', 'plugins', 'data_root', 'weights', 'train_dataset', 'val_dataset', 'test_dataset', 'batches', 'train',
             'optimizer', 'parameter_groups', 'metrics', 'hooks', 'seed', 'experiment', 'benchmarks')
REQUIRED = tuple(key for key in TOP_LEVEL if key not in ('plugins', 'weights', 'benchmarks'))
SECTIONS = tuple(key for key in REQUIRED if key not in ('data_root', 'seed'))
WHOLE = dict(iterations=1, save_every=1, log_every=1, workers=0, validate_every=0, skip_nonfinite=0,
             timeout=1)                                                # of `train`: least value
TRAIN_KEYS = (*WHOLE, 'accumulate', 'warmup', 'final_lr_factor', 'clip_norm', 'sharding')
SHARDINGS = (None, 'fully_shard')
GROUP_KEYS = ('parameters', 'lr', 'weight_decay', 'optional')                                      # of `parameter_groups.*`
# Which registry a typed dict is looked up in, by the last name of its path, or by the one before for named collections.
SLOT_OF_KEY = {
    'model': slots.MODELS, 'backbone': slots.BACKBONES, 'insertion': slots.INSERTIONS, 'queries': slots.QUERIES,
    'camera_head': slots.HEADS, 'depth_head': slots.HEADS, 'geometry_head': slots.HEADS, 'feature_head': slots.HEADS,
    'class_head': slots.HEADS, 'heads': slots.HEADS, 'pretext': slots.PRETEXTS, 'alignment': slots.ALIGNMENTS,
    'costs': slots.COSTS, 'matcher': slots.MATCHERS, 'losses': slots.LOSSES, 'teacher': slots.TEACHERS,
    'postprocessor': slots.POSTPROCESSORS,
    'transfer': slots.POSTPROCESSORS, 'train_dataset': slots.DATASETS, 'val_dataset': slots.DATASETS,
    'test_dataset': slots.DATASETS, 'batches': slots.SAMPLERS, 'view_choice': slots.SAMPLERS,
    'transform': slots.TRANSFORMS, 'transforms': slots.TRANSFORMS, 'metrics': slots.METRICS, 'hooks': slots.HOOKS,
    'optimizer': slots.OPTIMIZERS,
}


def load_config(file: str | Path, profile: str = 'paper', overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the experiment in `file` at the scale of `profile`, with `overrides` applied, fully checked.

    Args:
        file: a config file.
        profile: a file of `configs/profiles/`, merged over the experiment; 'paper' merges nothing. What the experiment names
            under `profiles` for it (``profiles = dict(rooms=dict(...))``) comes on top.
        overrides: dotted path -> value, as from ``--cfg-options a.b=c``. A plugin whose part one of them names joins the
            config's `plugins`.

    Raises:
        ConfigError: a missing file, a key that the base does not have, an unknown component or argument.
        PluginError: a plugin that the config names cannot be loaded.
    """
    cfg = read_config(file)
    base = Path(file).resolve().parent
    load_plugins(cfg.get('plugins') or (), base)
    cfg.plugins = absolute(cfg.get('plugins') or (), base)             # a run's config.py is read from another folder
    own_sizes = {name: (profile_file(name, file), sizes) for name, sizes in (cfg.pop('profiles', None) or {}).items()}
    if profile != 'paper':
        sizes = read_config(profile_file(profile, file))._cfg_dict
        merge(cfg, _without_absent_parts(cfg._cfg_dict, sizes), source=f'profile {profile!r}')
    if profile in own_sizes:
        merge(cfg, own_sizes[profile][1], source=f'{file}: profiles.{profile}')
    changes = [_nested(path, value) for path, value in (overrides or {}).items()]
    named = providers({(getattr(slot_of(path), 'name', '').upper() or None, str(component['type']))
                       for change in changes for path, component in _components(change, '')})
    load_plugins(named)
    for change in changes:
        merge(cfg, change, source='--cfg-options')
    _list_plugins(cfg, named)
    load_plugins(cfg.plugins)
    hook_of('jrs_adjust_config', cfg.plugins)(cfg=cfg)
    register_benchmarks(cfg.get('benchmarks') or {})
    check_config(cfg)
    return cfg


def parse_override(item: str) -> tuple[str, Any]:
    """Split ``a.b=value``; the value is a Python literal where it reads as one, else text."""
    path, equals, text = item.partition('=')
    if not equals or not path:
        raise ConfigError(f'--cfg-options takes a.b=value, got {item!r}.')
    try:
        return path, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):      # all that literal_eval may raise
        return path, text


def _list_plugins(cfg: Config, names: list[str]) -> None:
    """Add the plugins that `cfg` does not list to its `plugins`, and say so."""
    listed = {plugin_name(name) for name in cfg.get('plugins') or ()}
    added = [name for name in names if name not in listed]
    cfg.plugins = [*(cfg.get('plugins') or ()), *added]
    for name in added:
        print_log(f'--cfg-options names a part of the plugin `{name}`: added to `plugins`', 'current')


def read_config(file: str | Path) -> Config:
    """Return the config in `file`, inheritance resolved, with every key of a child checked against its bases."""
    path = Path(file)
    if not path.is_file():
        near = [str(p) for p in (path.parent if path.parent.is_dir() else REPOSITORY / 'configs').rglob('*.py')]
        raise ConfigError(f'no config file {str(file)!r}.{did_you_mean(str(file), near)}')
    if path.suffix != '.py':
        raise ConfigError(f'{path} is no config: experiments are Python files that end with .py.')
    tree = _parse(path)
    for base in _bases(tree, path):
        if not base.is_file():
            raise ConfigError(f'{path} inherits from {base}, which does not exist. Correct `_base_`.')
    try:
        cfg = Config.fromfile(str(path), import_custom_modules=False)
    except Exception as error:                                     # a config is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f', line {lines[-1]},' if lines else ''
        raise ConfigError(f'{path}{where} cannot be read: {type(error).__name__}: {error}') from error
    _check_child_keys(path, tree)
    for name in [key for key in cfg if key.startswith('_')]:
        cfg.pop(name)                                              # constants that a file names for itself
    return cfg


def profile_file(profile: str, experiment: str | Path) -> Path:
    """Return the file of `profile`: in a `profiles` folder above the experiment, else in the repository's configs."""
    folders = [parent / 'profiles' for parent in Path(experiment).resolve().parents] + [REPOSITORY / 'configs' / 'profiles']
    for folder in folders:
        if (folder / f'{profile}.py').is_file():
            return folder / f'{profile}.py'
    known = ['paper', *(path.stem for path in folders[-1].glob('*.py'))]
    raise ConfigError(f'no profile {profile!r}.{did_you_mean(profile, known)}')


def merge(cfg: Config, changes: Mapping, source: str) -> None:
    """Merge `changes` into `cfg` in place; a key that `cfg` does not have is refused.

    A new key is accepted where the component's constructor takes it, or where it names a further component of a
    collection (a mapping with `type`).
    """
    changes = changes._cfg_dict if isinstance(changes, Config) else ConfigDict(changes)
    _check_known(cfg._cfg_dict, changes, path='', source=source)
    cfg.merge_from_dict(_replacing_values(cfg._cfg_dict, changes))


def _replacing_values(base: Mapping, changes: Mapping) -> dict:
    """Return `changes` as mmengine merges them: None and plain values give way to mappings, tuples change by index."""
    marked = {}
    for key, value in changes.items():
        old = base.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = _replacing_values(old, value)
        elif isinstance(value, Mapping) and isinstance(old, tuple):
            value = tuple(value.get(str(index), item) for index, item in enumerate(old))
        elif isinstance(value, Mapping) and key in base and not isinstance(old, list):
            value = dict(value, _delete_=True)
        marked[key] = value
    return marked


def _without_absent_parts(base: Mapping, sizes: Mapping, path: str = '') -> dict:
    """Return what of a profile applies.

    Sizes of parts that the experiment leaves out (None) are dropped, and those that only other parts of the slot have.
    """
    kept = {}
    for key, value in sizes.items():
        here = f'{path}.{key}' if path else str(key)
        if isinstance(value, Mapping) and 'type' not in value:
            if isinstance(base.get(key), Mapping):
                kept[key] = _without_absent_parts(base[key], value, here)
            elif key not in base and not _accepts(base, key, path) and not _of_others(base, key, path):
                kept[key] = value                                      # nothing is called so: merging refuses it
        elif key in base or not _of_others(base, key, path):
            kept[key] = value
    return kept


def _accepts(base: Mapping, key: str, path: str) -> bool:
    own = accepted_keys(_part(base['type'], path)) if 'type' in base else ()
    return own is None or key in own


def _of_others(base: Mapping, key: str, path: str) -> bool:
    """True when `base` at `path` is a part without an argument `key`, and another of its slot has it, also in a plugin."""
    own, slot = accepted_keys(_part(base['type'], path)) if 'type' in base else None, slot_of(path)
    if own is None or key in own or slot is None:
        return False
    others = (accepted_keys(slot.get(other)) or () for other in slot.names())
    return any(key in accepted for accepted in others) or key in arguments_in_plugins(slot.name.upper())


def bases_of(file: str | Path) -> list[Path]:
    """Return what the config in `file` inherits from: one experiment for a leaf, pieces for a complete one, or nothing."""
    return _bases(_parse(Path(file)), Path(file))


def check_config(cfg: Mapping) -> None:
    """Check top-level keys, settings, and every component's name and arguments, before anything is built."""
    _check_keys_of(cfg, TOP_LEVEL, REQUIRED, 'the config')
    _check_settings(cfg)
    for path, component in _components(cfg._cfg_dict if isinstance(cfg, Config) else cfg, ''):
        arguments = {key: value for key, value in component.items() if key != 'type'}
        slots.check_keys(_part(component['type'], path), arguments, path)


def _check_settings(cfg: Mapping) -> None:
    """Check what no component's constructor checks: sections, `train`, `parameter_groups`, `seed`."""
    for section in SECTIONS:
        if not isinstance(cfg[section], Mapping):
            raise ConfigError(f'{section} must be a mapping, dict(...), got {cfg[section]!r}.')
    _check_keys_of(cfg['train'], TRAIN_KEYS, TRAIN_KEYS, 'train')
    for name, group in cfg['parameter_groups'].items():
        if isinstance(group, Mapping):
            _check_keys_of(group, GROUP_KEYS, ('parameters',), f'parameter_groups.{name}')
    whole = [('seed', cfg['seed'], 0), *((f'train.{key}', cfg['train'][key], least) for key, least in WHOLE.items())]
    if cfg['train']['accumulate'] is not None:                         # None: what makes an update whole (engine/update.py)
        whole.append(('train.accumulate', cfg['train']['accumulate'], 1))
    for path, value, least in whole:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f'{path} must be a whole number of at least {least}, got {value!r}.')
    _check_train(cfg['train'])


def _check_train(train: Mapping) -> None:
    """Check how the settings of `train` go together."""
    if train['sharding'] not in SHARDINGS:
        raise ConfigError(f'train.sharding must be None or {SHARDINGS[1]!r}, got {train["sharding"]!r}.')


def _check_keys_of(mapping: Mapping, allowed: Collection[str], required: Collection[str], path: str) -> None:
    for key in mapping:
        if key not in allowed:
            raise ConfigError(f'{path} has an unknown key {key!r}.{did_you_mean(key, allowed)}')
    missing = [key for key in required if key not in mapping]
    if missing:
        raise ConfigError(f'{path} lacks {", ".join(map(repr, missing))}. An experiment inherits these from a complete one, '
                          'such as configs/segvggt/all24_fada.py, or sets them.')


def slot_of(path: str) -> slots.Slot | None:
    """Return the registry that a component at `path` belongs to, None where the path does not tell."""
    for name in reversed(path.split('.')[-2:]):
        if name in SLOT_OF_KEY:
            return SLOT_OF_KEY[name]
    return None


def _part(name: str, path: str) -> type:
    slot = slot_of(path)
    if slot is not None:
        return slot.lookup(name, path)
    for slot in slots.SLOTS.values():
        if name in slot.names():
            return slot.get(name)
    known = [known for slot in slots.SLOTS.values() for known in slot.module_dict]
    raise ConfigError(f'no registry has {name!r} ({path}).{did_you_mean(name, known)}')


def _components(node: Any, path: str) -> Iterator[tuple[str, Mapping]]:
    """Yield (path, mapping) for every mapping with a `type` below `node`."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield path, node
        for key, value in node.items():
            yield from _components(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _components(value, f'{path}.{index}')


def _check_known(base: Mapping, changes: Mapping, path: str, source: str) -> None:
    for key, value in changes.items():
        if key == '_delete_':
            continue
        here = f'{path}.{key}' if path else str(key)
        if isinstance(base, (list, tuple)):
            if not str(key).isdigit() or int(key) >= len(base):
                raise ConfigError(f'{source}: {path} is a list of {len(base)}; {key!r} is no index of it.')
            continue
        if key not in base:
            _check_addition(base, key, value, here, source)
        elif _merges(base[key], value):
            _check_known(base[key], value, here, source)


def _merges(old: Any, new: Any) -> bool:
    """True when `new` is merged into `old`; False when it stands alone in its place."""
    if not isinstance(new, Mapping) or not isinstance(old, (Mapping, list, tuple)) or new.get('_delete_'):
        return False
    return 'type' not in new or not isinstance(old, Mapping) or new['type'] == old.get('type')


def _check_addition(base: Mapping, key: str, value: Any, here: str, source: str) -> None:
    accepted: set[str] = set()
    if 'type' in base:
        parent = here.rpartition('.')[0]
        allowed = accepted_keys(_part(base['type'], parent))
        if allowed is None or key in allowed:
            return
        accepted = allowed
    elif here.startswith('parameter_groups.'):
        accepted = set(GROUP_KEYS)
        if key in accepted or here.count('.') == 1 and isinstance(value, Mapping):
            return                                                     # an option of a group, or a further group
    elif isinstance(value, Mapping) and 'type' in value:
        return                                                     # a further component of a named collection
    elif '.' not in here and key in TOP_LEVEL:
        return
    known = accepted | {str(k) for k in base} if '.' in here else set(TOP_LEVEL)
    raise ConfigError(f'{source}: there is no {here!r} to set.{did_you_mean(key, known)}')


def _nested(path: str, value: Any) -> dict:
    for key in reversed(path.split('.')):
        value = {key: value}
    return value


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding='utf-8'), filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f'{path}, line {error.lineno}: {error.msg}: {(error.text or "").strip()}') from error
    except (ValueError, RecursionError, MemoryError) as error:      # no UTF-8, a NUL, or nested without end
        raise ConfigError(f'{path} cannot be read as Python: {error or type(error).__name__}.') from error


def _bases(tree: ast.Module, path: Path) -> list[Path]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_':
            listed = _names(node, path)
            return [(path.parent / base).resolve() for base in listed]
    return []


def _names(node: ast.Assign, path: Path) -> list[str]:
    """Return the text, or the texts of a list, that an assignment writes down."""
    try:
        value = ast.literal_eval(node.value)
        names = [value] if isinstance(value, str) else list(value)
        return [name for name in names if Path(name)]
    except (ValueError, TypeError) as error:
        raise ConfigError(f'{path}, line {node.lineno}: must be names written out, in quotes: '
                          f'{ast.unparse(node)[:80]}') from error


def _check_child_keys(path: Path, tree: ast.Module) -> None:
    """Refuse keys of a child that its single parent experiment does not have."""
    bases = _bases(tree, path)
    if len(bases) != 1:
        return                                                     # several bases: a complete file over _base_ pieces
    parent = Config.fromfile(str(bases[0]), import_custom_modules=False)
    load_plugins(parent.get('plugins') or (), base=bases[0].parent)
    own = {}
    for node in tree.body:
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ''
        if name == 'plugins':
            load_plugins(_names(node, path), base=path.parent)
        if name and not name.startswith('_') and name != 'profiles':
            own[name] = _literal(node.value)
    _check_known(parent._cfg_dict, own, path='', source=str(path))


def _literal(node: ast.expr) -> Any:
    """Return the nested mappings that `node` writes down; other values become None, only keys and types matter."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {word.arg: _literal(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        return {key.value: _literal(value) for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)}
    return node.value if isinstance(node, ast.Constant) else None
