"""What a contract is, and whether a built part keeps it.

A contract is a `typing.Protocol` with a docstring. What its class body annotates, a part must have; an attribute with a
value there is optional, and the value is what its absence means (``...``: the docstring says what); methods marked
`optional` may be missing. A method is written as it is called: positional parameters are given by position, keyword-only
ones by name.
"""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from numbers import Integral, Real
from types import FunctionType, UnionType

from jrs.errors import PluginError

CONTRACTS: dict[str, list[Contract]] = {}      # slot -> the kinds of part that it takes, in the order of the page


@dataclass(frozen=True)
class Contract:
    """What a slot, at some key of a config, asks of a part.

    Attributes:
        name: the slot, `BACKBONES`, and where it takes several kinds of part which of them, `HEADS.depth_head`.
        protocol: the class whose docstring, attributes and methods say it.
        keys: patterns of the config paths whose part must be of this kind; none = any path of the slot.
        base: dotted name of a class that parts derive from; None = any class.
        offers: constructor arguments that the builder has ready -> what they are. A part takes those that it names; a value
            in the config comes first.
        public: False for what no config can choose.
    """

    name: str
    protocol: type
    keys: tuple[str, ...] = ()
    base: str | None = None
    offers: Mapping[str, str] = field(default_factory=dict)
    public: bool = True

    @property
    def slot(self) -> str:
        """The name of the registry."""
        return self.name.partition('.')[0]

    @property
    def attributes(self) -> dict[str, object]:
        """Return name -> annotation of every attribute."""
        return inspect.get_annotations(self.protocol, eval_str=True)

    @property
    def methods(self) -> dict[str, FunctionType]:
        """Return name -> function of every method."""
        return {name: value for name, value in vars(self.protocol).items()
                if inspect.isfunction(value) and value.__module__ == self.protocol.__module__}

    def requires(self, name: str) -> bool:
        """Return whether a part must have the attribute or method `name`."""
        value = vars(self.protocol).get(name)
        return not getattr(value, '__optional__', name in self.attributes and name in vars(self.protocol))


def contract(name: str, *keys: str, base: str | None = None, offers: Mapping[str, str] | None = None,
             public: bool = True) -> Callable[[type], type]:
    """Make the decorated protocol the contract `name`; arguments as of `Contract`."""
    def add(protocol: type) -> type:
        one = Contract(name, protocol, keys, base, offers or {}, public)
        CONTRACTS.setdefault(one.slot, []).append(one)
        return protocol
    return add


def optional(method: FunctionType) -> FunctionType:
    """Mark a method of a protocol that a part may leave out."""
    method.__optional__ = True
    return method


def check_part(part: object, slot: str, path: str, owner: str) -> None:
    """Raise one PluginError with everything that a built part lacks or has of another kind.

    Args:
        part: what was built.
        slot: name of the registry, in capitals.
        path: where it stands in the config, `model.camera_head`; it says which kind of part is asked for.
        owner: who registered it: 'jrs', 'mmengine', or a plugin.
    """
    found = {one.name: list(faults(part, one)) for one in candidates(part, slot, path)}
    if not found or not all(found.values()):
        return
    name, lacking = min(found.items(), key=lambda item: len(item[1]))
    whose = '' if owner in ('jrs', 'mmengine') else f' of plugin {owner!r}'
    raise PluginError(f'{path}: {type(part).__name__}{whose} does not keep the contract of {name}: {"; ".join(lacking)}. '
                      f'`python tools/plugins.py describe {slot}` prints it, with an example that works.')


def candidates(part: object, slot: str, path: str) -> list[Contract]:
    """Return the contracts of which `part` must keep one: those of its path, else those that its own words choose.

    The words are attributes of which each kind of part has a value of its own, such as `reads` of losses.
    """
    kinds = CONTRACTS.get(slot, [])
    kinds = [one for one in kinds if any(fnmatch(path, key) for key in one.keys)] or kinds
    for name in {name for one in kinds for name in one.attributes}:
        kinds = [one for one in kinds if _allows(one, name, part)] or kinds
    return kinds


def _allows(one: Contract, name: str, part: object) -> bool:
    annotation, value = one.attributes.get(name), getattr(part, name, vars(one.protocol).get(name))
    return typing.get_origin(annotation) is not typing.Literal or value in typing.get_args(annotation)


def faults(part: object, one: Contract) -> Iterator[str]:
    """Yield what `part` lacks, all names in one line, then each thing that is of another kind."""
    if one.base is not None and not isinstance(part, pkgutil.resolve_name(one.base)):
        yield f'it must derive from {one.base}'
    names = {name: name for name in one.attributes} | {name: call_words(name, method)
                                                       for name, method in one.methods.items()}
    missing = [words for name, words in names.items() if one.requires(name) and not _has(part, name)]
    if missing:
        yield f'it lacks {", ".join(missing)}'
    for name, annotation in one.attributes.items():
        if _has(part, name) and not is_kind(getattr(part, name), annotation):
            yield f'{name} is {getattr(part, name)!r}, not {kind_words(_alternatives(one, name, annotation))}'
    for name, method in one.methods.items():
        if _has(part, name):
            yield from _call_faults(part, name, method)


def _alternatives(one: Contract, name: str, annotation: object) -> object:
    """Return `annotation`, or what all kinds of the slot allow where each kind has a word of its own."""
    if typing.get_origin(annotation) is not typing.Literal:
        return annotation
    words = [typing.get_args(other.attributes[name]) for other in CONTRACTS[one.slot]
             if other.public and name in other.attributes]
    return typing.Literal[tuple(word for group in words for word in group)]


def _has(part: object, name: str) -> bool:
    if name == '__call__':
        # torch gives every module a `forward` that only raises.
        return callable(part) and getattr(getattr(part, 'forward', None), '__name__', '') != '_forward_unimplemented'
    return hasattr(type(part) if name.startswith('__') else part, name)


def _call_faults(part: object, name: str, method: FunctionType) -> Iterator[str]:
    """Yield why the method `name` of `part` cannot be called as the contract writes it."""
    function = part if name == '__call__' else getattr(part, name)
    if name == '__call__' and hasattr(part, 'register_forward_hook'):          # a torch module: its call takes anything
        function = part.forward
    if not callable(function):
        yield f'{name} is {function!r}, not a method'
        return
    parameters = list(inspect.signature(method).parameters.values())[1:]
    by_name = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):                                            # written in C, without a signature
        return
    try:
        signature.bind(*[None] * (len(parameters) - len(by_name)), **by_name)
    except TypeError as error:
        yield f'it is called as {call_words(name, method)}, and its own is {name}{signature}: {error}'


def call_words(name: str, method: FunctionType) -> str:
    """Return a call as it is made: ``read(state, layer)``, ``__call__(pred, target)``."""
    given = [f'{one.name}={one.name}' if one.kind is one.KEYWORD_ONLY else one.name
             for one in list(inspect.signature(method).parameters.values())[1:]]
    return f'{name}({", ".join(given)})'


def is_kind(value: object, annotation: object) -> bool:
    """Return whether `value` is of the kind that an attribute's annotation names; kinds that cannot be told are."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, UnionType):
        return any(is_kind(value, one) for one in arguments)
    if origin in (Sequence, tuple):
        return isinstance(value, origin) and not isinstance(value, str) and all(is_kind(one, arguments[0]) for one in value)
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not isinstance(value, bool)
    if annotation is None or annotation is type(None):
        return value is None
    return not isinstance(annotation, type) or isinstance(value, annotation)


def kind_words(annotation: object) -> str:
    """Return an annotation in words: ``one of 'arbitrary', 'metric'``, ``a sequence of int``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f'one of {", ".join(map(repr, arguments))}' if len(arguments) > 1 else repr(arguments[0])
    if origin in (typing.Union, UnionType):
        return ' or '.join(kind_words(one) for one in arguments)
    if origin in (Sequence, tuple):
        return f'a {"tuple" if origin is tuple else "sequence"} of {kind_words(arguments[0])}'
    return 'None' if annotation is type(None) else getattr(annotation, '__name__', str(annotation))
