"""Which keyword arguments a part takes, through `**options` to whoever they are passed on to."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

READERS = ('get', 'pop', 'setdefault')         # methods by which a constructor takes one of its options for itself


def accepted_keys(part: Callable) -> set[str] | None:
    """Return the keyword arguments that `part` accepts; None when it takes any.

    `**options` takes what those take that it is passed on to: the next constructor in the order of resolution for
    ``super().__init__(**options)``, else whatever the name of the called stands for. Where that cannot be told, and where
    they are passed on to nobody, any keyword is taken.

    Args:
        part: a class, with or without a constructor of its own; a function; a `functools.partial` of either.
    """
    taken = _taken(part)
    return None if taken.any else set(taken.arguments)


def required_keys(part: Callable) -> list[str]:
    """Return the keyword arguments without which `part` cannot be called, as far as its code tells."""
    return [name for name, required in _taken(part).arguments.items() if required]


def default_of(part: Callable, name: str) -> Any:
    """Return what the argument `name` of `part` is where nobody gives it; None where there is no such value."""
    try:
        parameter = inspect.signature(part).parameters.get(name)
    except (TypeError, ValueError):                                # built in C, without a signature
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def part_name(part: Any) -> str:
    """Return the name of a class or function, through `functools.partial`."""
    return part_name(part.func) if isinstance(part, functools.partial) else getattr(part, '__name__', repr(part))


class _Taken(NamedTuple):
    """What a callable takes: name -> whether it must be given, in order; and whether it takes any other name too."""

    arguments: dict[str, bool]
    any: bool = False

    def after(self, count: int, given: Iterable[str] = ()) -> _Taken:
        """Return what is left once the first `count` arguments and those called `given` have their values."""
        left = dict(list(self.arguments.items())[count:])
        return _Taken({name: required for name, required in left.items() if name not in given}, self.any)


@functools.lru_cache(maxsize=4096)                                 # a config asks for every part at every change of a key
def _taken(part: Callable) -> _Taken:
    try:
        return _of(part)
    except RecursionError:                                         # functions that pass options on in a circle
        return _Taken({}, any=True)


def _of(part: Callable) -> _Taken:
    if isinstance(part, functools.partial):
        left = _of(part.func).after(len(part.args))
        return _Taken({name: required and name not in part.keywords for name, required in left.arguments.items()}, left.any)
    if inspect.isclass(part) and '__signature__' not in vars(part):
        return _of_constructor(part.__mro__)
    if inspect.isfunction(part) or inspect.ismethod(part):
        return _of_function(getattr(part, '__func__', part), bound=inspect.ismethod(part))
    try:
        parameters = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):
        return _Taken({}, any=True)                                # built in C, without a signature
    return _Taken(_named(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters))


def _of_constructor(order: tuple[type, ...]) -> _Taken:
    """Return what the first constructor takes that is found in the classes `order`."""
    for place, owner in enumerate(order[:-1]):                     # the last one is `object`
        for name in ('__init__', '__new__'):
            function = inspect.unwrap(vars(owner)[name]) if name in vars(owner) else None
            function = getattr(function, '__func__', function)     # of a static method
            if inspect.isfunction(function) and function.__name__ != '_no_init_or_replace_init':       # of a Protocol
                return _of_function(function, bound=True, parents=order[place + 1:])
            if inspect.isroutine(function) and not inspect.isfunction(function):
                return _Taken({}, any=True)
    return _Taken({})


def _of_function(function: Callable, bound: bool = False, parents: tuple[type, ...] = ()) -> _Taken:
    """Return what a function takes.

    Args:
        bound: its first argument is the object itself.
        parents: the classes that ``super()`` in it looks through.
    """
    function = inspect.unwrap(function)
    parameters = list(inspect.signature(function).parameters.values())
    parameters = parameters[1:] if bound and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL \
        else parameters
    arguments, options = _named(parameters), next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
    if options is None:
        return _Taken(arguments)
    tree = _source(function)
    if tree is None:                                               # typed in, not read from a file: only super() is known
        passed = [_of_constructor(parents)] if parents and '__class__' in function.__code__.co_freevars else []
    else:
        names = _holding(tree, options)
        arguments |= {name: False for name in _by_hand(tree, names) if name not in arguments}
        passed = [_passed_by(call, names, options, function, parents) for call in _calls_with(tree, names)]
    for taken in passed:
        arguments = arguments | {name: must for name, must in taken.arguments.items() if name not in arguments}
    if bound:
        arguments.pop('self', None)                                # came with *args
    return _Taken(arguments, not passed or any(taken.any for taken in passed))


def _named(parameters: Iterable[inspect.Parameter]) -> dict[str, bool]:
    return {p.name: p.default is p.empty for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


@functools.cache
def _source(function: Callable) -> ast.AST | None:
    """Return the tree of a function, None where its text is not at hand."""
    try:
        return parsed(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


def _calls_with(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    """Return the calls that pass one of the mappings `names` on as keywords, but for those that make another mapping."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and not _is_dict(node)
            and any(word.arg is None and _mentions(word.value, names) for word in node.keywords)]


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))


def _is_dict(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == 'dict'


def _holding(tree: ast.AST, options: str) -> set[str]:
    """Return the names that hold `options` or a mapping made of them: ``settings = dict(defaults, **options)``."""
    names = {options}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _mentions(node.value, names):
            value = node.value
            copied = isinstance(value, ast.Call) and (_is_dict(value) or getattr(value.func, 'attr', '') == 'copy')
            if copied or isinstance(value, (ast.Name, ast.Dict, ast.DictComp, ast.BinOp)):
                names.add(node.targets[0].id)
    return names


def _by_hand(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """Yield the keys that a function takes out of its options, or sets in them, by name."""
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
            key = node.args[0] if node.args and getattr(node.func.value, 'id', None) in names else None
        elif isinstance(node, ast.Subscript) and getattr(node.value, 'id', None) in names:
            key = node.slice
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


def _passed_by(call: ast.Call, names: set[str], options: str, function: Callable, parents: tuple[type, ...]) -> _Taken:
    """Return what a call inside `function` leaves to its options: not what it gives itself."""
    placed = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    left = _of_called(call.func, function, parents).after(placed, [word.arg for word in call.keywords if word.arg])
    as_given = any(word.arg is None and getattr(word.value, 'id', None) == options for word in call.keywords)
    return left if as_given else _Taken(dict.fromkeys(left.arguments, False), left.any)       # others may come with defaults


def _of_called(called: ast.expr, function: Callable, parents: tuple[type, ...]) -> _Taken:
    """Return what the expression `called` in `function` takes, `self` included where that is passed."""
    owner = called.value if isinstance(called, ast.Attribute) else None
    if isinstance(owner, ast.Call) and getattr(owner.func, 'id', '') == 'super':
        return _of_constructor(parents) if parents and called.attr == '__init__' else _Taken({}, any=True)
    if owner is not None and called.attr == '__init__':
        kind = _value(owner, function)
        if not inspect.isclass(kind):
            return _Taken({}, any=True)
        taken = _of_constructor(kind.__mro__)
        return _Taken({'self': False, **taken.arguments}, taken.any)
    target = _value(called, function)
    if inspect.isfunction(target):
        return _of_function(target, parents=parents)               # the constructor that a decorator has wrapped
    return _of(target) if callable(target) else _Taken({}, any=True)


def _value(node: ast.expr, function: Callable) -> Any:
    """Return what a dotted name in a function stands for, in its closure or its module; None where that is not known."""
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, function), node.attr, None)
    if not isinstance(node, ast.Name):
        return None
    known = inspect.getclosurevars(function)
    return {**known.globals, **known.nonlocals}.get(node.id)


def parsed(text: str, filename: str = '<unknown>') -> ast.Module:
    """Return the tree of Python source, as `ast.parse` does.

    CPython up to 3.11.7 rarely raises a SystemError there, "AST constructor recursion depth mismatch", when garbage is
    collected at that moment (gh-106905): then once more.
    """
    try:
        return ast.parse(text, filename)
    except SystemError:
        return ast.parse(text, filename)
