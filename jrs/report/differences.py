"""How two resolved configs differ: dotted path, old value, new value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()


def difference_lines(old: Mapping, new: Mapping) -> Iterator[str]:
    """Yield for each dotted path that differs its name, then the old and the new value."""
    for path, before, after in differences(old, new):
        yield path
        yield from (f'  {sign} {value_text(value)}' for sign, value in (('-', before), ('+', after)) if value is not ABSENT)


def differences(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, old value, new value); ABSENT where one side has none. Parts of another type differ as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get('type') == new.get('type'):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f'{path}.{key}' if path else str(key))
    elif _plain(old) != _plain(new):
        yield path, old, new


def value_text(value: Any) -> str:
    """Return a value as a config writes it, the type of a part first."""
    if value is ABSENT:
        return '–'
    if not isinstance(value, Mapping):
        return repr(value)
    ordered = sorted(value.items(), key=lambda item: item[0] != 'type')
    return f'dict({", ".join(f"{key}={value_text(item)}" for key, item in ordered)})'


def _plain(value: Any) -> Any:
    """Tuples as lists: which of the two a config writes makes no difference."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
