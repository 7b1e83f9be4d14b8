"""What training programs put around a model in a checkpoint: dictionaries, words before names, averaged copies.

A dictionary that holds the model's, and a word before its names, are one thing here, since `read_tensors` joins both with
dots: `{'state_dict': {'model._orig_mod.x': …}}` and `state_dict.model._orig_mod.x` are alike. A key sheds such words until
it is a name that the model knows, so that a model with a part of its own called `net` keeps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from jrs.errors import WeightsError, did_you_mean

Names = dict[str, str | None]                  # key -> our name; None = known, and no part of our models
# Words that stand before names: dictionaries of training programs, Lightning, DDP, DeepSpeed.
WRAPPERS = frozenset((
    'module', 'model', 'net', 'network', 'state_dict', 'model_state_dict', 'model_state', 'model_states', 'model_dict',
    'model_weights', 'net_state_dict', 'params', 'weights', 'state', 'app', 'wrapped_model', 'inner_model', 'base_model',
    'lit_module', 'pl_module', 'lightning_module', 'checkpoint', 'generator_state_dict'))
# Words that stand anywhere in names: torch.compile, FSDP, activation checkpointing, Fabric.
INNER = frozenset(('_orig_mod', '_fsdp_wrapped_module', '_fpw_module', '_checkpoint_wrapped_module', '_forward_module'))
AVERAGED = re.compile(r'(^|_)(ema|swa|avg|averaged?|averaging|polyak|shadow)(_|$)|^current_model_state$')
BESIDE = re.compile(r'^(optim|opt$|lr_|(param_)?sched|(grad_)?scaler|amp$|rng|random_state|message_hub|callbacks|loops)')
COUNTERS = ('n_averaged', 'steps', 'num_updates', 'decay', 'updates')      # of averaged copies: torch, mmengine, others
TORCH_COUNTER = 'n_averaged'
SWAPPED = {                                    # a key or its beginning -> what a program does with both copies
    'ema_state_dict.steps': 'mmengine keeps the averaged weights in state_dict and the trained ones in ema_state_dict',
    'current_model_state.': 'Lightning keeps the averaged weights in state_dict and the trained ones in current_model_state'}
FEWEST_HITS, LEAST_SHARE = 10, 0.3             # of a model's names, for a word that nobody knows to be a wrapping
DEEPEST = 3                                    # such words
HOW_TO_CHOOSE = '--copy NAME of tools/infer.py, test.py and convert.py takes the one under that name'


@dataclass
class Unwrapped:
    """One copy of a model in a file.

    Attributes:
        keys: key of the file -> the same without what wraps it.
        names: key of the file -> our name; None = known, and no part of our models.
        removed: word -> how many keys it was taken off.
        copy: the name in the file of the copy that was taken, '' for the model itself.
        averaged: whether that is an averaged one, as far as names tell.
        others: names of further copies.
        notes: what else a reader must know.
    """

    keys: dict[str, str]
    names: Names
    removed: Counter[str] = field(default_factory=Counter)
    copy: str = ''
    averaged: bool = False
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.keys)
        words = [f'{word}.' + ('' if count == total else f' ({count} of {total})') for word, count in self.removed.items()]
        parts = [f'taken off the names: {", ".join(words)}'] if words else []
        parts += [f'taken: {"the averaged copy " if self.averaged else ""}{self.copy}'] if self.copy else []
        if self.others:
            taken = '' if self.copy else 'taken: the model itself; '
            parts.append(f'{taken}the file also holds {", ".join(self.others)}: {HOW_TO_CHOOSE}')
        return '; '.join([*parts, *self.notes])


def unwrap(keys: Sequence[str], known: Collection[str], translate: Callable[[list[str]], Names], source: str,
           copy: str | None = None) -> Unwrapped:
    """Return one copy of a model in a file, its names without what wraps them.

    Args:
        keys: of the file.
        known: names of the model that is to be filled; may be empty.
        translate: returns our names of keys without wrapping.
        source: the file, for messages.
        copy: take what stands under this name in the file; None = the model itself where it is there, else a copy.

    Raises:
        WeightsError: no such copy, or several models of which none is the one.
    """
    known = frozenset(known)
    groups = copies(keys, known)
    if copy is None:
        chosen = _default(groups)
        prefix = chosen
        taken = groups.get(chosen, [])
    else:
        chosen = prefix = _named_copy(copy, groups)
        taken = groups.get(chosen) or [key for key in keys if key.startswith(f'{chosen}.')]
        if not taken:
            offered = {*filter(None, groups), *(key.partition('.')[0] for key in keys if '.' in key)}
            raise WeightsError(f'{source}: there is no copy {copy!r} of the model in it.{did_you_mean(copy, offered)}')
    found = _shed({key: key[len(prefix) + 1:] if prefix else key for key in taken}, known, translate)
    if known and not _hits(found, known):
        found = _behind_a_word(found, known, translate, source)
    found.copy, found.averaged = chosen, bool(chosen) and chosen in groups
    found.others = [label for label in groups if label not in (chosen, '') and 2 * len(groups[label]) >= len(taken)]
    if chosen and copy is None and groups.get('') and 2 * len(groups['']) >= len(taken):
        found.others.append('the model itself')
    found.notes += [words for mark, words in SWAPPED.items() if any(key.startswith(mark) for key in keys)]
    return found


def copies(keys: Sequence[str], known: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the keys of each copy of a model in a file, by its name there: '' is the model itself, others are averaged."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        label = _label(key, known)
        if label is not None:
            groups.setdefault(label, []).append(key)
    own = groups.get('', [])
    for counter in [key for key in own if key.rpartition('.')[2] == TORCH_COUNTER]:     # torch's AveragedModel says no more
        place = counter.removesuffix(TORCH_COUNTER) + 'module'
        averaged = [key for key in own if key.startswith(f'{place}.')]
        rest = [key for key in own if key not in set(averaged) and key != counter]
        if averaged:
            groups[place], groups[''] = averaged, rest
            own = rest
    return {label: kept for label, group in groups.items() if (kept := _without_counters(label, group))}


def _without_counters(label: str, group: list[str]) -> list[str]:
    """Return the keys of a copy without those that say how it was averaged."""
    return [key for key in group if not (label and key[len(label) + 1:] in COUNTERS)]


def _label(key: str, known: Collection[str]) -> str | None:
    """Return which copy a key is of, '' for the model itself; None for what is no model, such as an optimizer's state."""
    words, last = key.split('.'), -1
    for place, word in enumerate(words[:-1]):
        if '.'.join(words[place:]) in known:
            break
        if BESIDE.search(word):
            return None
        if AVERAGED.search(word):
            last = place
        elif word not in WRAPPERS and word not in INNER:
            break
    return '.'.join(words[:last + 1])


def _named_copy(copy: str, groups: dict[str, list[str]]) -> str:
    """Return the whole name of a copy that is named by the end of it."""
    ends = [label for label in groups if label and label.endswith(f'.{copy}')]
    return ends[0] if copy not in groups and len(ends) == 1 else copy.rstrip('.')


def _default(groups: dict[str, list[str]]) -> str:
    """Return the label of the model itself, or of the largest copy where the model is not there."""
    largest = max(groups, key=lambda label: len(groups[label]), default='')
    return '' if 2 * len(groups.get('', [])) >= len(groups.get(largest, [])) else largest


def _shed(keys: dict[str, str], known: Collection[str], translate: Callable[[list[str]], Names]) -> Unwrapped:
    """Return `keys` (key of the file -> what is left of it), each without as many words as make it a known name.

    A key that does not become one sheds what most others had to shed; all of its wrapping where none is known.
    """
    levels = _levels(keys, bool(known))
    names = [translate(list(dict.fromkeys(level.values()))) for level in levels]

    def fits(key: str, number: int) -> bool:
        name = names[number][levels[number][key]]
        return name is None or name in known

    place = {key: next((number for number in range(len(levels)) if fits(key, number)), None) for key in keys}
    usual = Counter(number for number in place.values() if number is not None)
    fallback = max(usual, key=usual.get) if usual else len(levels) - 1
    found, removed = Unwrapped({}, {}), Counter()
    for key, number in place.items():
        level = fallback if number is None else number
        found.keys[key] = levels[level][key]
        found.names[key] = names[level][levels[level][key]]
        removed.update(_removed(key, found.keys[key]))
    found.removed = removed
    return found


def _levels(keys: dict[str, str], inside: bool) -> list[dict[str, str]]:
    """Return the keys as they are, without inner words, then without one more wrapping word before them, and so on.

    With `inside` the last level also lacks `module` anywhere: a part of the model that DDP has wrapped.
    """
    levels = [dict(keys), {key: _join(word for word in left.split('.') if word not in INNER) for key, left in keys.items()}]
    while True:
        shorter = {key: _without_first(left) for key, left in levels[-1].items()}
        if shorter == levels[-1]:
            break
        levels.append(shorter)
    return [*levels, {key: _join(word for word in left.split('.') if word != 'module') for key, left in levels[-1].items()}
            ] if inside else levels


def _without_first(key: str) -> str:
    first, dot, rest = key.partition('.')
    return rest if dot and first in WRAPPERS else key


def _join(words) -> str:
    return '.'.join(words)


def _removed(key: str, left: str) -> list[str]:
    """Return the words of `key` that are not in `left`, each once."""
    missing = Counter(key.split('.')) - Counter(left.split('.'))
    return [word for word in dict.fromkeys(key.split('.')) if word in missing]


def _hits(found: Unwrapped, known: Collection[str]) -> int:
    return len({name for name in found.names.values() if name in known})


def _behind_a_word(found: Unwrapped, known: Collection[str], translate: Callable[[list[str]], Names],
                   source: str) -> Unwrapped:
    """Return the part of a file whose names fit behind a word that is no usual wrapping, such as `segmenter.`; else `found`.

    Raises:
        WeightsError: they fit behind several.
    """
    under: dict[str, dict[str, str]] = {}
    for key, left in found.keys.items():
        words = left.split('.')
        for count in range(1, min(DEEPEST, len(words) - 1) + 1):
            under.setdefault('.'.join(words[:count]), {})[key] = '.'.join(words[count:])
    tried = {word: _shed(keys, known, translate) for word, keys in under.items() if len(keys) >= FEWEST_HITS}
    hits = {word: _hits(part, known) for word, part in tried.items()}
    most = max(hits.values(), default=0)
    if most < max(FEWEST_HITS, LEAST_SHARE * len(known)):
        return found
    best = [word for word, count in hits.items() if count == most]
    best = [word for word in best if not any(word.startswith(f'{other}.') for other in best)]
    if len(best) > 1:
        raise WeightsError(f'{source} holds {len(best)} copies of the model, {", ".join(best)}: choose, {HOW_TO_CHOOSE}.')
    return tried[best[0]]
