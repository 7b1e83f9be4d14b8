"""One registry per slot of the architecture, and building parts from configs with errors that help.

Importing this module imports neither torch nor any part: a registry imports its package on first look-up.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import mmengine.registry as mm
from mmengine.registry import Registry

from jrs.contracts import check_part
from jrs.discovery import provided
from jrs.errors import ConfigError, PluginError, did_you_mean
from jrs.signatures import accepted_keys, part_name, required_keys

CORE = ('jrs', 'mmengine')                     # owners that are no plugins
_owner = 'jrs'                                 # who registers right now: 'jrs' or the name of a plugin
_owners: dict[type, str] = {}                  # registered class -> owner
_new: list[tuple[Slot, str]] = []              # what that owner has registered


class Slot(Registry):
    """A registry of scope `jrs` that knows who registered a part and explains failed look-ups."""

    def __init__(self, name: str, packages: tuple[str, ...], parent: Registry | None = None) -> None:
        super().__init__(name, scope='jrs', parent=parent, locations=list(packages))

    def _register_module(self, module, module_name=None, force=False) -> None:
        owner = 'jrs' if module.__module__.startswith('jrs.') else _owner      # a plugin may be the first to import a room
        names = [module_name or part_name(module)] if not isinstance(module_name, (list, tuple)) else list(module_name)
        for name in names:
            self._check_free(name, module, owner, force)
        super()._register_module(module, names, force)
        _owners[module] = owner
        _new.extend((self, name) for name in names if owner == _owner)

    def _check_free(self, name: str, part: Any, owner: str, force: bool) -> None:
        """Refuse a name that another owner has: a plugin's part would take the place of it in every config."""
        if owner != 'jrs':
            for registry in (self, self.parent):                       # the built-in parts come first, whoever asks first
                if registry is not None:
                    registry.import_from_location()
        inherited = self.parent.module_dict if self.parent is not None and owner != 'jrs' else {}
        taken = self._module_dict.get(name) or inherited.get(name)
        if taken is None or force and owner_of(taken) == owner:
            return
        other = owner_of(taken)
        plugins = [who for who in (owner, other) if who not in CORE]
        advice = f'Rename the class of the plugin {plugins[0]!r}.' if len(plugins) == 1 else 'Rename one.'
        raise PluginError(f'{self.name.upper()} already has a {name!r}: it belongs to {other!r} ({_file_of(taken)}), and '
                          f'{owner!r} registers it again ({_file_of(part)}). {advice}')

    def names(self) -> list[str]:
        """Return the registered names, those of the parent registry included."""
        self.import_from_location()
        parent = self.parent.module_dict if self.parent is not None else {}
        return sorted(set(self._module_dict) | set(parent))

    def lookup(self, name: Any, path: str) -> type:
        """Return the part registered as `name`; `path` is the config path that asks, for the message.

        Raises:
            ConfigError: no such part. Names the near spellings and the plugin that would provide it.
        """
        if not isinstance(name, str):
            return name
        names = self.names()
        if name not in names:
            raise ConfigError(f'{self.name.upper()} has no {name!r} ({path}).{_hint(name, names)}')
        return self.get(name)


def _hint(name: str, names: list[str]) -> str:
    """Say what is near `name` among `names` and in plugins that are not loaded."""
    elsewhere = {part: plugin for part, plugin in provided().items() if part not in names}
    near = difflib.get_close_matches(name, [*names, *elsewhere], n=1, cutoff=0.6)
    if not near or near[0] not in elsewhere:
        return f'{did_you_mean(name, names)} A part of a plugin is known once `plugins` names its file or folder.'
    spelling = '' if near[0] == name else f' Did you mean {near[0]!r}?'
    return f'{spelling} {to_list(elsewhere[near[0]])}'


def to_list(plugin: str) -> str:
    """Say that a part comes from a plugin that the config has to name."""
    return f'It is provided by the plugin `{plugin}`, which this config does not list: add it to `plugins`.'


def _file_of(part: Any) -> str:
    """Return where a part is written, for messages."""
    try:
        return str(inspect.getsourcefile(getattr(part, 'func', part)))
    except TypeError:
        return 'built in'


def _slot(name: str, *packages: str, parent: Registry | None = None) -> Slot:
    return Slot(name, packages, parent)


BACKBONES = _slot('backbones', 'jrs.backbones')
ATTENTIONS = _slot('attentions', 'jrs.layers.attention')
INSERTIONS = _slot('insertions', 'jrs.queries')
QUERIES = _slot('queries', 'jrs.queries')
HEADS = _slot('heads', 'jrs.heads')
ALIGNMENTS = _slot('alignments', 'jrs.alignment')
COSTS = _slot('costs', 'jrs.matching', 'jrs.alignment')
MATCHERS = _slot('matchers', 'jrs.matching')
LOSSES = _slot('losses', 'jrs.losses', 'jrs.alignment')
PRETEXTS = _slot('pretexts', 'jrs.losses')
TEACHERS = _slot('teachers', 'jrs.models')
POSTPROCESSORS = _slot('postprocessors', 'jrs.postprocess')

MODELS = _slot('models', 'jrs.models', parent=mm.MODELS)
DATASETS = _slot('datasets', 'jrs.datasets', parent=mm.DATASETS)
SAMPLERS = _slot('samplers', 'jrs.datasets', parent=mm.DATA_SAMPLERS)
TRANSFORMS = _slot('transforms', 'jrs.datasets', parent=mm.TRANSFORMS)
FUNCTIONS = _slot('functions', 'jrs.datasets', parent=mm.FUNCTIONS)
METRICS = _slot('metrics', 'jrs.evaluation', parent=mm.METRICS)
HOOKS = _slot('hooks', 'jrs.engine', parent=mm.HOOKS)
LOOPS = _slot('loops', 'jrs.engine', parent=mm.LOOPS)
OPTIM_WRAPPERS = _slot('optim_wrappers', 'jrs.engine', parent=mm.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _slot('optim_wrapper_constructors', 'jrs.engine', parent=mm.OPTIM_WRAPPER_CONSTRUCTORS)
VISUALIZERS = _slot('visualizers', 'jrs.engine', parent=mm.VISUALIZERS)
VISBACKENDS = _slot('vis_backends', 'jrs.engine', parent=mm.VISBACKENDS)

# mmengine asks for every one of its root registries in our scope; these we leave as they are.
OPTIMIZERS = _slot('optimizers', 'mmengine.optim', parent=mm.OPTIMIZERS)
PARAM_SCHEDULERS = _slot('param_schedulers', 'mmengine.optim', parent=mm.PARAM_SCHEDULERS)
EVALUATORS = _slot('evaluators', parent=mm.EVALUATOR)
LOG_PROCESSORS = _slot('log_processors', 'jrs.engine', parent=mm.LOG_PROCESSORS)
RUNNERS = _slot('runners', parent=mm.RUNNERS)
RUNNER_CONSTRUCTORS = _slot('runner_constructors', parent=mm.RUNNER_CONSTRUCTORS)
MODEL_WRAPPERS = _slot('model_wrappers', parent=mm.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _slot('weight_initializers', parent=mm.WEIGHT_INITIALIZERS)
TASK_UTILS = _slot('task_utils', parent=mm.TASK_UTILS)
INFERENCERS = _slot('inferencers', parent=mm.INFERENCERS)
STRATEGIES = _slot('strategies', parent=mm.STRATEGIES)

SLOTS = {slot.name: slot for slot in list(globals().values()) if isinstance(slot, Slot)}


def current_owner() -> str:
    """Return to whom belongs what is registered now: 'jrs', or the plugin that is imported."""
    return _owner


def owner_of(part: type) -> str:
    """Return who registered `part`: 'jrs', a plugin's name, or 'mmengine'."""
    return _owners.get(part, 'mmengine')


@contextmanager
def registering_as(owner: str):
    """Parts registered inside the block belong to `owner` (a plugin); none of them stays where the block fails."""
    global _owner, _new
    before, (_owner, _new) = (_owner, _new), (owner, [])
    try:
        yield
    except BaseException:
        for slot, name in _new:
            sys.modules.pop(slot._module_dict.pop(name).__module__, None)      # imported again, it registers again
        raise
    finally:
        _owner, _new = before


def build(slot: Slot, cfg: Any, path: str, **offers: Any) -> Any:
    """Build the part that `cfg` describes; the random numbers that it starts from are those of its path (`own_draws`).

    Args:
        slot: the registry to look in.
        cfg: a mapping with `type` and the part's arguments; None and finished objects are returned unchanged.
        path: where `cfg` stands in the config (`model.matcher.costs.fada`), for messages.
        offers: values that the part receives where its constructor asks for them and `cfg` does not set them.

    Raises:
        ConfigError: unknown type, unknown or missing argument.
        PluginError: the part does not keep the contract of its slot (`jrs.contracts`); names everything that it lacks.
    """
    if cfg is None:
        return None
    if not isinstance(cfg, dict):
        return _checked(cfg, slot, path)
    if 'type' not in cfg:
        raise ConfigError(f'{path} has no `type`; it needs the name of one of {slot.name.upper()}: '
                          f'{", ".join(slot.names())}.')
    part = slot.lookup(cfg['type'], path)
    arguments = {key: value for key, value in cfg.items() if key != 'type'}
    allowed = accepted_keys(part)
    check_keys(part, arguments, path)
    arguments.update({key: value for key, value in offers.items()
                      if key not in arguments and (allowed is None or key in allowed)})
    missing = [name for name in required_keys(part) if name not in arguments]
    if missing:
        raise ConfigError(f'{path}: {part_name(part)} needs {", ".join(map(repr, missing))}, which the config does not set.')
    from jrs.draws import own_draws  # torch, which whoever only looks names up does without
    with own_draws(path):
        return _checked(part(**arguments), slot, path)


def _checked(part: Any, slot: Slot, path: str) -> Any:
    check_part(part, slot.name.upper(), path, owner_of(type(part)))
    return part


def check_keys(part: type, arguments: Iterable[str], path: str, allowed: set[str] | None = None) -> None:
    """Raise a ConfigError for the first of `arguments` that is not `allowed`: by default, that `part` does not accept."""
    allowed = accepted_keys(part) if allowed is None else allowed
    for key in arguments:
        if allowed is not None and key not in allowed:
            raise ConfigError(f'{path}: {part_name(part)} has no argument {key!r}.{did_you_mean(key, allowed)}')


def check_shape(value: Any, shape: tuple[int, ...], letters: str, what: str, part: Any) -> None:
    """Raise a PluginError unless `value`, which `part` returned, is a tensor of `shape`.

    Args:
        letters: the shape as the contract writes it, '(Q, G)'.
        what: what the value is, for the message.
    """
    found = getattr(value, 'shape', None)
    if found is None or tuple(found) != shape:
        owner = owner_of(type(part))
        whose = '' if owner in ('jrs', 'mmengine') else f' of plugin {owner!r}'
        raise PluginError(f'{what} ({type(part).__name__}{whose}) must be {letters} = {shape}, got '
                          f'{type(value).__name__ if found is None else tuple(found)}.')
