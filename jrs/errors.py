"""Errors that say what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar('Value')


class JrsError(Exception):
    """Base of every error that a user can act on; commands print it without a traceback and exit with 2."""


class ConfigError(JrsError):
    """A config names a part, key or value that does not exist."""


class DataError(JrsError):
    """A file or folder is missing, corrupt, or not what its format says."""


class WeightsError(JrsError):
    """A checkpoint is missing, broken, or does not fit the model."""


class PluginError(JrsError):
    """A plugin cannot be found, loaded, or registered."""


class NonFiniteError(JrsError):
    """A loss, gradient or matching cost is NaN or infinite.

    Attributes:
        place: of the batch that it is of, among those that this process takes in the update; None for the gradient of all.
    """

    place: int | None = None


class NotMeasured(JrsError):
    """A number cannot be had of this model, because a part that it would come from is None; others can."""


class LostProcessError(JrsError):
    """A process of a job of several is dead, hangs, or cannot be reached."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the spellings in `known` near `name`, else what is allowed."""
    known = sorted(set(map(str, known)))
    near = [other for other in known if other.lower() == str(name).lower()]
    near = near or difflib.get_close_matches(str(name), known, n=count, cutoff=0.6)
    if near:
        return ' Did you mean ' + ' or '.join(repr(other) for other in near) + '?'
    if not known:
        return ' Nothing is registered there.'
    shown = ', '.join(known[:20]) + (', …' if len(known) > 20 else '')
    return f' Allowed: {shown}.'


def find_named(table: Mapping[str, Value], name: str, what: str) -> Value:
    """Return ``table[name]``; a ConfigError says that there is no such `what`, and which names are near or allowed."""
    if name not in table:
        raise ConfigError(f'There is no {what} {name!r}.{did_you_mean(name, table)}')
    return table[name]
