"""What a config consists of: its sections, and which registry a part at a dotted path belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jrs import registry as slots
from jrs.errors import ConfigError, did_you_mean
from jrs.signatures import accepted_keys

TOP_LEVEL = ('model', 'plugins', 'adjusted', 'data_root', 'weights', 'train_dataset', 'val_dataset', 'test_dataset',
             'batches', 'train', 'optimizer', 'parameter_groups', 'metrics', 'hooks', 'trackers', 'seed', 'experiment',
             'benchmarks', 'device')
OPTIONAL = ('plugins', 'adjusted', 'weights', 'benchmarks', 'trackers', 'device')
REQUIRED = tuple(key for key in TOP_LEVEL if key not in OPTIONAL)
SECTIONS = tuple(key for key in REQUIRED if key not in ('data_root', 'seed'))
NAMED_PARTS = ('metrics', 'hooks', 'trackers', 'model.losses', 'model.matcher.costs')             # name -> a part, or None
NO_PARTS = ('model.weights', 'experiment')                                                         # mappings of values
# What a run does with an accelerator; configs of older runs do not say it.
DEVICE = dict(precision=dict(convolution='tf32', matmul='ieee'), attention_kernels=['cudnn', 'flash', 'efficient'],
              compile=False, recomputation='fitting')
ATTENTION_KERNELS = (*DEVICE['attention_kernels'], 'math')
PRECISIONS = ('ieee', 'tf32')
RECOMPUTATIONS = ('fitting', 'as_configured')
GROUP_KEYS = ('parameters', 'lr', 'weight_decay', 'optional')                                      # of `parameter_groups.*`
# Which registry a typed dict is looked up in, by the last name of its path, or by the one before for named collections.
SLOT_OF_KEY = {
    'model': slots.MODELS, 'backbone': slots.BACKBONES, 'global_attention': slots.ATTENTIONS, 'queries': slots.QUERIES,
    'insertion': slots.INSERTIONS, 'self_insertion': slots.INSERTIONS,
    'camera_head': slots.HEADS, 'trunk_attention': slots.ATTENTIONS, 'depth_head': slots.HEADS,
    'geometry_head': slots.HEADS, 'scale_head': slots.HEADS, 'point_head': slots.HEADS,
    'feature_head': slots.HEADS, 'class_head': slots.HEADS, 'heads': slots.HEADS,
    'pretext': slots.PRETEXTS, 'alignment': slots.ALIGNMENTS,
    'costs': slots.COSTS, 'matcher': slots.MATCHERS, 'losses': slots.LOSSES, 'teacher': slots.TEACHERS,
    'postprocessor': slots.POSTPROCESSORS, 'suppression': slots.POSTPROCESSORS,
    'transfer': slots.POSTPROCESSORS, 'train_dataset': slots.DATASETS, 'val_dataset': slots.DATASETS,
    'test_dataset': slots.DATASETS, 'sets': slots.DATASETS, 'batches': slots.SAMPLERS, 'view_choice': slots.SAMPLERS,
    'transform': slots.TRANSFORMS, 'transforms': slots.TRANSFORMS, 'metrics': slots.METRICS, 'hooks': slots.HOOKS,
    'optimizer': slots.OPTIMIZERS, 'trackers': slots.VISBACKENDS,
}


def device_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `device` of a config, with the usual values where it says nothing."""
    given = cfg.get('device') or {}
    return {**DEVICE, **given, 'precision': {**DEVICE['precision'], **(given.get('precision') or {})}}


def slot_of(path: str) -> slots.Slot | None:
    """Return the registry that a component at `path` belongs to, None where the path does not tell."""
    for name in reversed(path.split('.')[-2:]):
        if name in SLOT_OF_KEY:
            return SLOT_OF_KEY[name]
    return None


def part_at(path: str, name: str) -> type:
    """Return the part that a config calls `name` at `path`; ConfigError where there is none."""
    slot = slot_of(path)
    if slot is not None:
        return slot.lookup(name, path)
    for slot in slots.SLOTS.values():
        if name in slot.names():
            return slot.get(name)
    known = [known for slot in slots.SLOTS.values() for known in slot.module_dict]
    raise ConfigError(f'no registry has {name!r} ({path}).{did_you_mean(name, known)}')


def components(node: Any, path: str = '') -> Iterator[tuple[str, Mapping]]:
    """Yield (path, mapping) for every mapping with a `type` below `node`."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield path, node
        for key, value in node.items():
            yield from components(value, joined(path, key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from components(value, f'{path}.{index}')


def joined(path: str, key: object) -> str:
    """Return the dotted path of `key` below `path`."""
    return f'{path}.{key}' if path else str(key)


def value_at(node: Any, path: str, default: Any = None) -> Any:
    """Return what stands at a dotted path below `node`, `default` where nothing does."""
    for key in path.split('.'):
        if not isinstance(node, Mapping) or key not in node:
            return default
        node = node[key]
    return node


def keys_at(path: str, name: str) -> set[str] | None:
    """Return what a config may set of the part `name` at `path`, None where anything.

    These are the arguments of its constructor, and the `weight` that the criterion multiplies a loss by.
    """
    accepted = accepted_keys(part_at(path, name))
    return accepted | {'weight'} if accepted is not None and slot_of(path) is slots.LOSSES else accepted


def without_teacher(model: Mapping) -> dict[str, Any]:
    """Return the config of a model without its teacher, for scoring and inference; a model may have no such slot."""
    return {key: None if key == 'teacher' else value for key, value in model.items()}


def sets_of(dataset: Mapping) -> list[Mapping]:
    """Return the data sets that a config of one consists of: those of a mixture, or itself."""
    sets, common = dataset.get('sets'), dataset.get('common') or {}
    if not isinstance(sets, Mapping):
        return [dataset]
    return [{'folder': name, **common, **one} for name, one in sets.items() if one is not None]


def terms_of(cfg: Mapping) -> dict[str, dict[str, Any]]:
    """Return the losses and matching costs of a model that weighs them: name -> path -> part, None where it is off."""
    model = cfg.get('model')
    if not isinstance(model, Mapping) or not {'losses', 'matcher'} & set(model):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for path in ('model.losses', 'model.matcher.costs'):
        named = value_at(cfg, path)
        for name, part in (named.items() if isinstance(named, Mapping) else ()):
            found.setdefault(name, {})[f'{path}.{name}'] = part
    return found
