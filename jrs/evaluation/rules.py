"""Rules of transfer by name: what each changes of the transfer that a metric has (evaluation.md section 7).

`vote=any` is the same transfer with the vote 'any', `vote=any+superpoint_vote=None` changes two arguments; `all` stands for
what the part itself offers as `alternatives`, one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jrs.config import parse_override
from jrs.errors import ConfigError, did_you_mean
from jrs.registry import POSTPROCESSORS, build, check_keys
from jrs.signatures import accepted_keys

ALL = 'all'
JOINED = '+'
OWN = 'as configured'                          # what tables call a metric's own transfer


@dataclass(frozen=True)
class TransferRule:
    """A transfer that stands beside a metric's own.

    Attributes:
        name: what it changes, `argument=value` joined by '+'.
        transfer: the part.
        sees_the_same: whether its `visible_pixels` are those of the metric's own transfer.
    """

    name: str
    transfer: Any
    sees_the_same: bool


def build_rules(settings: Mapping, own: Any, rules: Sequence[str], path: str) -> list[TransferRule]:
    """Return the transfers that `rules` make of a metric's own, each once, in that order.

    Args:
        settings: config of the metric's own transfer.
        own: the part that it describes.
        rules: 'all', or what a rule changes.
        path: where the rules stand in the config, for messages.

    Raises:
        ConfigError: a rule that cannot be read, or that names no argument or value of the part.
    """
    if isinstance(rules, str):
        raise ConfigError(f'{path} must be a list of rules, got {rules!r}: write [{rules!r}].')
    taken = accepted_keys(type(own))
    offered = [changes for changes in getattr(own, 'alternatives', ()) if taken is None or set(changes) <= taken]
    voting = set(getattr(own, 'voting', ()))
    found = {}
    for rule in rules:
        for changes in _others(own, offered, path) if rule == ALL else (_read(rule, offered, path),):
            check_keys(type(own), changes, f'{path}, rule {_name(changes)!r}')
            found[_name(changes)] = changes
    return [TransferRule(name, build(POSTPROCESSORS, {**settings, **changes}, f'{path}, rule {name!r}'),
                         set(changes) <= voting) for name, changes in found.items()]


def _others(own: Any, offered: list[Mapping], path: str) -> Iterator[Mapping]:
    """Yield the alternatives that differ from the part as it is."""
    if not offered:
        raise ConfigError(f'{path}: {type(own).__name__} offers no `alternatives`, so that {ALL!r} stands for nothing: name '
                          'rules, argument=value.')
    return (changes for changes in offered if any(getattr(own, name) != value for name, value in changes.items()))


def _read(rule: str, offered: list[Mapping], path: str) -> dict[str, Any]:
    """Return what the text of a rule changes: argument -> value."""
    items = ['='.join(word.strip() for word in item.split('=', 1)) for item in str(rule).split(JOINED)]
    if not all(name and equals for name, equals, _ in (item.partition('=') for item in items)):
        names = [_name(changes) for changes in offered]
        near = [name for name in names if name.endswith(f'={rule}') and JOINED not in name]
        advice = f' Did you mean {" or ".join(map(repr, near))}?' if near else did_you_mean(str(rule), [ALL, *names])
        raise ConfigError(f'{path}: there is no rule {rule!r}.{advice} A rule is {ALL!r}, or what it changes of the '
                          f'transfer: argument=value, several joined by {JOINED!r}.')
    return dict(map(parse_override, items))


def _name(changes: Mapping[str, Any]) -> str:
    return JOINED.join(f'{name}={value}' for name, value in changes.items())
