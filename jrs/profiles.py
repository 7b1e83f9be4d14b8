"""Scale profiles: whose data a run reads, and which sizes meet a part that has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jrs.discovery import arguments_in_plugins
from jrs.errors import ConfigError, did_you_mean
from jrs.inheritance import DELETE
from jrs.places import project
from jrs.schema import joined, keys_at, part_at, slot_of, value_at
from jrs.signatures import accepted_keys

# What says which data are used, for what. Sizes are all the rest.
DATA_OF_A_SET = ('type', 'folder', 'split', 'benchmark')
DATA_KEYS = re.compile(rf'data_root|\w+_dataset\.({"|".join(DATA_OF_A_SET)})|metrics\.\w+\.benchmark')
SAID_OF_WEIGHTS = ('experiment.trained_on', 'experiment.weights_licence')      # true of the profile's training data only


def profile_file(profile: str, experiment: str | Path) -> Path:
    """Return the file of `profile`: in a `profiles` folder above the experiment, else in the project's configs."""
    folders = [parent / 'profiles' for parent in Path(experiment).resolve().parents] + [project() / 'configs' / 'profiles']
    for folder in folders:
        if (folder / f'{profile}.py').is_file():
            return folder / f'{profile}.py'
    known = ['paper', *(path.stem for path in folders[-1].glob('*.py'))]
    raise ConfigError(f'no profile {profile!r}.{did_you_mean(profile, known)}')


def with_own_data(base: Mapping, sizes: Mapping, written: Collection[str]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Return a profile's `sizes` without what would put other data in the place of those of the config `base`.

    A data key that `written` has stays the config's. A data set whose type it has gets no data key that it does not have:
    only what it inherits gives way. What a profile says of its training data is left out where those are not read.

    Args:
        written: dotted paths that configs outside the project's own write (`ConfigFile.written`).

    Returns:
        The sizes that are left; path and value of what was left out.
    """
    own = {path for path in written if DATA_KEYS.fullmatch(path)}
    of_own_type = {joined(section, key) for section in base if joined(section, 'type') in own for key in DATA_OF_A_SET}
    own |= {path for path in of_own_type if value_at(base, path) is None}
    said = SAID_OF_WEIGHTS if 'train_dataset.folder' in own else ()
    left_out: list[tuple[str, Any]] = []

    def kept(node: Mapping, path: str) -> dict[str, Any]:
        result = {}
        for key, value in node.items():
            here = joined(path, key)
            if here in own or here in said:
                left_out.append((here, value))
            else:
                result[key] = kept(value, here) if isinstance(value, Mapping) else value
        if len(result) < len(node) and path.endswith('_dataset'):
            result.pop(DELETE, None)                                   # what stays must have something to stay in
        return result
    return kept(sizes, ''), left_out


def sizes_that_apply(base: Mapping, sizes: Mapping, path: str = '') -> dict[str, Any]:
    """Return what of a profile applies to the config `base`.

    Sizes of parts that the experiment leaves out (None) are dropped, and those that only other parts of the slot have.
    """
    kept = {}
    for key, value in sizes.items():
        here = joined(path, key)
        if isinstance(value, Mapping) and 'type' not in value:
            if isinstance(base.get(key), Mapping):
                kept[key] = sizes_that_apply(base[key], value, here)
            elif key not in base and not _accepts(base, key, path) and not _of_others(base, key, path):
                kept[key] = value                                      # nothing is called so: merging refuses it
        elif key in base or not _of_others(base, key, path):
            kept[key] = value
    return kept


def _accepts(base: Mapping, key: str, path: str) -> bool:
    own = keys_at(path, base['type']) if 'type' in base else ()
    return own is None or key in own


def _of_others(base: Mapping, key: str, path: str) -> bool:
    """True when `base` at `path` is a part without an argument `key`, and another of its slot has it, also in a plugin."""
    own, slot = keys_at(path, base['type']) if 'type' in base else None, slot_of(path)
    if own is None or key in own or slot is None:
        return False
    others = (accepted_keys(slot.get(other)) or () for other in slot.names())
    return any(key in accepted for accepted in others) or key in arguments_in_plugins(slot.name.upper())


def added(written: Collection[str], before: Mapping, after: Mapping) -> Iterator[tuple[str, Any]]:
    """Yield path and value of what a profile sets of a data set of the experiment's own, and the experiment does not.

    What the data set would do anyway, by a default of its constructor, is left out.
    """
    own = {path.rpartition('.')[0] for path in written if path.endswith(('_dataset.type', '_dataset.folder'))}
    for section in sorted(own):
        known = inspect.signature(part_at(section, after[section]['type'])).parameters
        for key, value in after[section].items():
            if key not in before[section] and not (key in known and known[key].default == value):
                yield joined(section, key), value


def replaced(written: Collection[str], before: Mapping, after: Mapping) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, old and new value of what an experiment writes and a profile replaces; '–' for what is no longer there."""
    for path in sorted(written):
        old, new = value_at(before, path, '–'), value_at(after, path, '–')
        if old != new:
            yield path, old, new
