"""Experiments as configs: inheritance, profile, overrides; what does not exist is refused before anything is built.

A config is a Python file in mmengine's text style (``_base_``, ``_delete_=True``, strings for types). Reading one runs
it: treat a config from a stranger like a program from a stranger.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from jrs.benchmarks import register_benchmarks
from jrs.discovery import absolute, plugin_name, providers
from jrs.errors import ConfigError, JrsError, PluginError, did_you_mean
from jrs.inheritance import bases_of, check_known, merged, read_file
from jrs.places import REPOSITORY
from jrs.plugins import NAMESPACE, hook_of, implementing, load_plugins, manager
from jrs.profiles import added, profile_file, replaced, sizes_that_apply, with_own_data
from jrs.registry import CORE, check_keys, owner_of, to_list
from jrs.schema import (
    ATTENTION_KERNELS,
    DEVICE,
    GROUP_KEYS,
    NAMED_PARTS,
    NO_PARTS,
    PRECISIONS,
    RECOMPUTATIONS,
    REQUIRED,
    SECTIONS,
    TOP_LEVEL,
    components,
    device_settings,
    joined,
    keys_at,
    part_at,
    slot_of,
    terms_of,
    value_at,
)

__all__ = ['REPOSITORY', 'bases_of', 'check_config', 'load_config', 'parse_override', 'profile_notes', 'read_config',
           'resolve_config']
WHOLE = dict(iterations=1, save_every=1, log_every=1, workers=0, validate_every=0, skip_nonfinite=0,
             timeout=1)                                                # of `train`: least value
TRAIN_KEYS = (*WHOLE, 'accumulate', 'warmup', 'final_lr_factor', 'clip_norm', 'sharding')
OWN_DEFAULTS = ('clip_by', 'decay_vectors')                            # keys of `train` that configs of older runs have not
SHARDINGS = (None, 'fully_shard')
CLIPPED = ('all', 'groups', 'modules')
LITERALS = dict(true='True', false='False', none='None', null='None')  # other languages' words -> Python's
NOT_FINITE = ('nan', 'inf', 'infinity')


def load_config(file: str | Path, profile: str = 'paper', overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the experiment in `file` at the scale of `profile`, with `overrides` applied, fully checked.

    It is checked in the form in which a run saves it: its text, `Config.pretty_text`, loads again in any folder and process
    and is the same experiment.

    Whose word counts, the last one first: what a plugin's `jrs_adjust_config` does, `overrides`, what the experiment names
    for this profile, the experiment's data, the profile, the experiment. *Data* are what a config outside the project's own
    (or one that it inherits from, outside too) writes as `data_root`, `type`, `folder`, `split` and `benchmark` of a data
    set, and `benchmark` of metrics; a data set whose `type` it changes gets none of these that it does not have. What a
    profile says its weights were trained on goes with the training data. Sizes, such as `width`, `views` or `iterations`,
    are the profile's. `profile_notes` says which values gave way.

    Args:
        file: a config file.
        profile: a file of `configs/profiles/`, merged over the experiment; 'paper' merges nothing. What the experiment names
            under `profiles` for it (``profiles = dict(rooms=dict(...))``) comes on top and may be data as well.
        overrides: dotted path -> value, as from ``--cfg-options a.b=c``. A plugin whose part one of them names joins the
            config's `plugins`; those that `plugins` names join them too.

    A width of a data set that the backbone's patches do not divide becomes the nearest multiple, and a message says so; one
    of `overrides` or of the experiment's own `profiles` stays, and is refused where the data set is built.

    Raises:
        ConfigError: a missing file, a key that the base does not have, an unknown component or argument.
        PluginError: a plugin that the config names cannot be loaded.
    """
    cfg = resolve_config(file, profile, overrides)
    _adjust(cfg)
    register_benchmarks(cfg.get('benchmarks') or {})
    check_config(cfg)
    _fit_widths(cfg, Path(file), profile, overrides or {})
    return cfg


def _adjust(cfg: Config) -> None:
    """Let the plugins that `cfg` names change it, one after another in that order; those of a run's config have done so."""
    done = list(cfg.get('adjusted') or ())
    for name in implementing('jrs_adjust_config', cfg.plugins):
        if name not in done:
            try:
                hook_of('jrs_adjust_config', [name])(cfg=cfg)
            except JrsError:
                raise
            except Exception as error:                                 # a plugin may raise anything
                raise PluginError(f'jrs_adjust_config of plugin {name!r} failed: {type(error).__name__}: {error}. Its own '
                                  'traceback stands above.') from error
            cfg.adjusted = done = [*done, name]
    load_plugins(cfg.plugins)


def resolve_config(file: str | Path, profile: str = 'paper', overrides: Mapping[str, Any] | None = None) -> Config:
    """Return what `load_config` does before any plugin adjusts it, unchecked: what files, profile and overrides say."""
    return _resolve(Path(file), profile, overrides)[0]


def profile_notes(file: str | Path, profile: str, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Return lines that say what of a config outside the project's own a profile replaces, and what its card will miss."""
    return [note for path, note in _resolve(Path(file), profile, overrides)[1] if path not in (overrides or {})]


def read_config(file: str | Path) -> Config:
    """Return the config in `file`, inheritance resolved (`read_file`), without profile; nothing else is checked."""
    source = read_file(Path(file))
    return _as_config(source.values, source.plugins, Path(file))


def _resolve(file: Path, profile: str, overrides: Mapping[str, Any] | None) -> tuple[Config, list[tuple[str, str]]]:
    """Return the resolved config, and path and words of what the profile does to what the experiment writes."""
    source = read_file(file)
    values, plugins, notes, exchanged = source.values, source.plugins, [], []
    load_plugins(plugins, file.resolve().parent, file)
    own_sizes = {name: (profile_file(name, file), sizes) for name, sizes in (values.pop('profiles', None) or {}).items()}
    if profile != 'paper':
        sizes = read_file(profile_file(profile, file))
        plugins = [*plugins, *sizes.plugins]
        load_plugins(sizes.plugins)
        changes, left_out = with_own_data(values, _public(sizes.values), source.written)
        before, values = values, _changed(values, sizes_that_apply(values, changes), f'profile {profile!r}')
        said = [(path, f'this config\'s own stays, not {value!r}') for path, value in left_out]
        notes = [(path, f'profile {profile!r}: {path}: {words}') for path, words in said]
        exchanged = [(path, new, f'in place of {old!r}') for path, old, new in replaced(source.written, before, values)]
        exchanged += [(path, new, 'set by the profile alone') for path, new in added(source.written, before, values)]
    for changes, where, folder in ((own_sizes.get(profile, ('', {}))[1], f'{file}: profiles.{profile}', file.parent),
                                   (_combined(overrides or {}), '--cfg-options', Path.cwd())):
        named = changes.get('plugins') or []
        plugins = [*plugins, *absolute([named] if isinstance(named, str) else named, folder.resolve())]
        plugins += _providing(changes, plugins) if where == '--cfg-options' else []
        load_plugins(plugins)
        values = _changed(values, {key: value for key, value in changes.items() if key != 'plugins'}, where)
    notes += [(path, f'profile {profile!r}: {path}: {new!r} {words}') for path, new, words in exchanged
              if value_at(values, path, '–') == new]                   # else `profiles` or an override says it
    cfg = _as_config(values, list({plugin_name(name): name for name in reversed(plugins)}.values())[::-1], file)
    _drop_idle_weights(cfg, source.terms)
    written = {*source.written, *_paths(own_sizes.get(profile, ('', {}))[1]), *(overrides or {})}
    if 'train_dataset.folder' in written and 'experiment.trained_on' not in written:
        inherited = value_at(cfg._cfg_dict, 'experiment.trained_on')
        notes.append(('experiment.trained_on', f'experiment.trained_on: still {inherited!r}, which the card of the weights '
                      'will say: write what the data of this run are'))
    return cfg, notes


def _paths(changes: Mapping, path: str = '') -> Iterator[str]:
    for key, value in changes.items():
        yield from _paths(value, joined(path, key)) if isinstance(value, Mapping) else (joined(path, key),)


def _as_config(values: Mapping, plugins: list[str], file: Path) -> Config:
    try:
        return Config(dict(_public(values), plugins=absolute(plugins, Path.cwd())), filename=str(file))
    except KeyError as error:                                          # a name that mmengine has taken for itself
        raise ConfigError(f'{file}: {error}') from error


def _public(values: Mapping) -> dict[str, Any]:
    """Return values without the constants that a file names for itself."""
    return {key: value for key, value in values.items() if not key.startswith('_')}


def _changed(values: Mapping, changes: Mapping, source: str) -> dict[str, Any]:
    check_known(_public(values), changes, source)
    return merged(values, changes)


def _combined(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted paths and their values as one nested mapping: a part's new type and its arguments come together."""
    whole: dict[str, Any] = {}
    for path, value in overrides.items():
        for key in reversed(path.split('.')):
            value = {key: value}
        whole = _joined_changes(whole, value)
    return whole


def _joined_changes(old: Mapping, new: Mapping) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        result[key] = _joined_changes(old[key], value) if both else value
        if isinstance(value, Mapping) and isinstance(old.get(key), (list, tuple)):
            result[key] = merged({key: old[key]}, {key: value})[key]
    return result


def _providing(changes: Mapping, listed: list[str]) -> list[str]:
    """Return the plugins that are not `listed` and have a part that `changes` name, and say that they join."""
    own = {plugin_name(name) for name in listed}
    wanted = []
    for path, component in components(changes):
        slot, name = slot_of(path), component['type']
        known = slot is not None and isinstance(name, str) and name in slot.names()
        if isinstance(name, str) and not (known and owner_of(slot.get(name)) in (*CORE, *own)):
            wanted.append((slot.name.upper() if slot is not None else None, name))
    found = providers(wanted)
    added = [] if own.intersection(found) else found
    for name in added:
        print_log(f'--cfg-options names a part of the plugin `{name}`: added to `plugins`', 'current')
    return added


def _drop_idle_weights(cfg: Config, terms: Collection[str]) -> None:
    """Drop the weights of losses and costs (`terms`) that the experiment inherits from had, and it has not."""
    model = cfg.get('model')
    if isinstance(model, Mapping) and isinstance(model.get('weights'), Mapping):
        for name in [name for name in model.weights if name in terms and name not in terms_of(cfg._cfg_dict)]:
            del model.weights[name]


def check_config(cfg: Mapping) -> None:
    """Check top-level keys, settings, and every component's name, arguments and plugin, before anything is built."""
    _check_keys_of(cfg, TOP_LEVEL, REQUIRED, 'the config')
    _check_settings(cfg)
    plain = cfg._cfg_dict if isinstance(cfg, Config) else cfg
    _check_text(plain, '')
    _check_named_parts(plain)
    listed = _listed(cfg.get('plugins') or ())
    for path, component in components(plain):
        part = part_at(path, component['type'])
        if owner_of(part) not in listed and part.__module__.partition('.')[0] not in listed:
            raise ConfigError(f'{path}: {component["type"]!r}. {to_list(owner_of(part))}')
        check_keys(part, [key for key in component if key != 'type'], path, keys_at(path, component['type']))
    _check_weights(plain)


def _check_named_parts(cfg: Mapping) -> None:
    """Refuse one part where several stand by name, a name whose value is no part, and a part where there are none."""
    for path in NAMED_PARTS:
        named = value_at(cfg, path)
        if named is not None and (not isinstance(named, Mapping) or isinstance(named.get('type'), str)):
            one = f'dict(type={named["type"]!r}, ...)' if isinstance(named, Mapping) else 'dict(type=..., ...)'
            raise ConfigError(f'{path} holds parts by name, not one part: write dict(NAME={one}) there, under any name; the '
                              'name of an inherited part changes that one.')
        for name, part in (named or {}).items():
            if part is not None and (not isinstance(part, Mapping) or 'type' not in part):
                raise ConfigError(f'{path}.{name} must be a part, dict(type=...), or None to go without, got {part!r}.')
    for path in NO_PARTS:
        if isinstance(value_at(cfg, f'{path}.type'), str):
            raise ConfigError(f'{path} holds values by name and is no part: it has no `type`. Remove it.')


def _listed(plugins: Collection[str]) -> set[str]:
    """Return whose parts a config may use: owners, and packages, of which one plugin may be the first to import another."""
    names = {plugin_name(name) for name in plugins}
    packages = {getattr(manager().get_plugin(name), '__name__', '').partition('.')[0] for name in names}
    return {*CORE, *names, *packages - {'', NAMESPACE}}


def _check_text(value: Any, path: str) -> None:
    """Refuse values that do not come back from a saved config as they were."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f'{path}.{key}' if path else str(key)
            if not isinstance(key, str) or keyword.iskeyword(key):
                raise ConfigError(f'{here}: {key!r} cannot be the name of a setting. Choose text that is no word of Python.')
            _check_text(item, here)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_text(item, f'{path}.{index}')
    elif type(value) not in (str, bool, int, float, type(None)) or isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f'{path} is {value!r}, a {type(value).__name__}: a run saves its config as text, from which this '
                          'would not come back. Write finite numbers, text, True, False, None, lists and mappings of them.')


def _check_weights(cfg: Mapping) -> None:
    """Check that every loss and cost that is on has its weight, and every weight a loss or a cost."""
    model, terms = cfg['model'], terms_of(cfg)
    if not {'losses', 'matcher'} & set(model):
        return                                                         # another kind of model
    weights = model.get('weights') or {}
    for name, value in weights.items():
        if name not in terms:
            raise ConfigError(f'model.weights.{name}: no loss and no matching cost is called so.{did_you_mean(name, terms)}')
        _check_weight(f'model.weights.{name}', value)
    for name, parts in terms.items():
        for path, part in parts.items():
            if isinstance(part, Mapping) and 'weight' in part:
                _check_weight(f'{path}.weight', part['weight'])
            elif part is not None and name not in weights:
                raise ConfigError(f'{path} has no weight: model.weights does not name {name!r}. Write model = '
                                  f'dict(weights=dict({name}=1.0)); a loss and a matching cost of one name share it.')


def _check_weight(path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f'{path} must be a number, got {value!r}. To turn a term off set its loss and its cost to None.')


def nearest_multiple(size: int, patch_size: int) -> int:
    """Return the multiple of `patch_size` nearest to `size`, the larger of two, at least one patch."""
    return max(1, (2 * size + patch_size) // (2 * patch_size)) * patch_size


def backbone_patch_size(cfg: Mapping) -> int | None:
    """Return the patch size of the backbone as the config, else its class says it; None where neither does."""
    backbone = cfg['model'].get('backbone')
    if not isinstance(backbone, Mapping) or 'type' not in backbone:
        return None
    said = [backbone['patch_size']] if 'patch_size' in backbone else []
    for owner in getattr(part_at('model.backbone', backbone['type']), '__mro__', ()):
        said += [vars(owner)['patch_size']] if 'patch_size' in vars(owner) else []
        constructor = vars(owner).get('__init__')
        argument = inspect.signature(constructor).parameters.get('patch_size') if inspect.isfunction(constructor) else None
        said += [] if argument is None else [argument.default]
    return said[0] if said and type(said[0]) is int and said[0] > 0 else None


def _fit_widths(cfg: Config, file: Path, profile: str, overrides: Mapping[str, Any]) -> None:
    """Round the widths of data sets to what the patches of the backbone divide, but for those that somebody asked for."""
    for name in ('train_dataset', 'val_dataset', 'test_dataset'):
        patch_size, width = cfg[name].get('patch_size', backbone_patch_size(cfg)), cfg[name].get('width')
        if type(width) is not int or type(patch_size) is not int or patch_size < 1 or width % patch_size == 0:
            continue
        own = (read_file(file).values.get('profiles') or {}).get(profile) or {}
        if not any('width' in (asked.get(name) or {}) for asked in (own, _combined(overrides))):
            cfg[name].width = nearest_multiple(width, patch_size)
            print_log(f'{name}.width is {cfg[name].width}, not {width}: the nearest multiple of the patch size {patch_size}',
                      'current')


def parse_override(item: str) -> tuple[str, Any]:
    """Split ``a.b=value``; the value is a Python literal where it reads as one, else text.

    Raises:
        ConfigError: without ``=``; for another language's word (``true``, ``null``), which would pass for a text; and for
            ``nan``, ``inf`` and a number too large for a float (``1e999``), of which no setting makes sense.
    """
    path, equals, text = item.partition('=')
    if not equals or not path:
        raise ConfigError(f'--cfg-options takes a.b=value, got {item!r}.')
    word = text.strip().lower()
    if word in LITERALS and text not in ('True', 'False', 'None'):
        raise ConfigError(f'--cfg-options {item}: values are written as in Python. Write {path}={LITERALS[word]}, or for '
                          f'the text {path}=\'"{text}"\'.')
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):      # all that literal_eval may raise
        value = text
    if word.lstrip('+-') in NOT_FINITE or not _all_finite(value):
        raise ConfigError(f'--cfg-options {item}: {text} is, or holds, no finite number. Give one, or for the text '
                          f'{path}=\'"{text}"\'.')
    return path, value


def _all_finite(value: Any) -> bool:
    """Return whether no number in nested containers is NaN or infinite."""
    if isinstance(value, Mapping):
        return all(map(_all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_settings(cfg: Mapping) -> None:
    """Check what no component's constructor checks: sections, `train`, `parameter_groups`, `seed`."""
    for section in SECTIONS:
        if not isinstance(cfg[section], Mapping):
            raise ConfigError(f'{section} must be a mapping, dict(...), got {cfg[section]!r}.')
    _check_keys_of(cfg['train'], (*TRAIN_KEYS, *OWN_DEFAULTS), TRAIN_KEYS, 'train')
    for name, group in cfg['parameter_groups'].items():
        if isinstance(group, Mapping):
            _check_keys_of(group, GROUP_KEYS, ('parameters',), f'parameter_groups.{name}')
        elif group is not None:
            raise ConfigError(f'parameter_groups.{name} must be dict(parameters=[patterns], ...), or None to go without, '
                              f'got {group!r}.')
    whole = [('seed', cfg['seed'], 0), *((f'train.{key}', cfg['train'][key], least) for key, least in WHOLE.items())]
    if cfg['train']['accumulate'] is not None:                         # None: what makes an update whole (engine/update.py)
        whole.append(('train.accumulate', cfg['train']['accumulate'], 1))
    for path, value, least in whole:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f'{path} must be a whole number of at least {least}, got {value!r}.')
    _check_train(cfg['train'])
    _check_device(cfg)


def _check_device(cfg: Mapping) -> None:
    """Check the section `device`, which may be left out."""
    given = cfg.get('device') or {}
    if not isinstance(given, Mapping) or not isinstance(given.get('precision') or {}, Mapping):
        raise ConfigError(f'device and device.precision must be mappings, dict(...), got {given!r}.')
    _check_keys_of(given, tuple(DEVICE), (), 'device')
    _check_keys_of(given.get('precision') or {}, tuple(DEVICE['precision']), (), 'device.precision')
    settings = device_settings(cfg)
    for path, value, allowed in (*((f'device.precision.{name}', value, PRECISIONS)
                                   for name, value in settings['precision'].items()),
                                 ('device.recomputation', settings['recomputation'], RECOMPUTATIONS)):
        if value not in allowed:
            raise ConfigError(f'{path} must be one of {", ".join(map(repr, allowed))}, got {value!r}.')
    if not isinstance(settings['compile'], bool):
        raise ConfigError(f'device.compile must be True or False, got {settings["compile"]!r}.')
    kernels = settings['attention_kernels']
    if not isinstance(kernels, (list, tuple)) or not kernels:
        raise ConfigError(f'device.attention_kernels must be a list out of {", ".join(ATTENTION_KERNELS)}, best first, got '
                          f'{kernels!r}.')
    for name in kernels:
        if name not in ATTENTION_KERNELS:
            raise ConfigError(f'device.attention_kernels has no kernel {name!r}.'
                              f'{did_you_mean(str(name), ATTENTION_KERNELS)}')


def _check_train(train: Mapping) -> None:
    """Check how the settings of `train` go together."""
    if train['sharding'] not in SHARDINGS:
        raise ConfigError(f'train.sharding must be None or {SHARDINGS[1]!r}, got {train["sharding"]!r}.')
    if train.get('clip_by', 'all') not in CLIPPED:
        raise ConfigError(f'train.clip_by must be one of {", ".join(CLIPPED)}, got {train["clip_by"]!r}.')
    if not isinstance(train.get('decay_vectors', True), bool):
        raise ConfigError(f'train.decay_vectors must be True or False, got {train["decay_vectors"]!r}.')


def _check_keys_of(mapping: Mapping, allowed: Collection[str], required: Collection[str], path: str) -> None:
    for key in mapping:
        if key not in allowed:
            raise ConfigError(f'{path} has an unknown key {key!r}.{did_you_mean(key, allowed)}')
    missing = [key for key in required if key not in mapping]
    if missing:
        raise ConfigError(f'{path} lacks {", ".join(map(repr, missing))}. An experiment inherits these from a complete one, '
                          'such as configs/segvggt/all24_fada.py, or sets them.')
