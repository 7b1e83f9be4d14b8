"""What a part takes is read through `**options` to whoever they are passed on to."""

import ast
import functools

import pytest
from torch import nn

from jrs.errors import ConfigError
from jrs.registry import Slot, build
from jrs.signatures import accepted_keys, parsed, required_keys


class Reader:
    def __init__(self, width, depth=3):
        self.width, self.depth = width, depth


class Handing(Reader):
    def __init__(self, own=1, **options):
        super().__init__(**options)


class WithoutItsOwn(Handing):
    pass


class Named(Reader):
    def __init__(self, own, **options):
        Reader.__init__(self, **options)


class Filling(Reader):
    def __init__(self, **options):
        self.extra = options.pop('extra', None)
        super().__init__(width=3, **options)


class Mixing(Reader):
    def __init__(self, **options):
        settings = dict(width=3, **options)
        super().__init__(**settings)


def loud(constructor):
    def wrapper(*args, **kwargs):
        return constructor(*args, **kwargs)
    return wrapper


class Wrapped(Reader):
    @loud
    def __init__(self, own, **options):
        super().__init__(**options)


class Between:
    def __init__(self, between=0, **options):
        super().__init__(**options)


class Cooperating(Between, Reader):
    def __init__(self, **options):
        super().__init__(**options)


class Module(nn.Module):
    def __init__(self, width, **options):
        super().__init__(**options)


class Holding:
    def __init__(self, own, **options):
        self.reader = Reader(**options)


class Swallowing:
    def __init__(self, **options):
        self.options = options


def make(own, **options):
    return Handing(**options)


def circle(own, **options):
    return circle(own, **options)


@pytest.mark.parametrize(('part', 'accepted', 'required'), [
    (Reader, {'width', 'depth'}, ['width']), (Handing, {'own', 'width', 'depth'}, ['width']),
    (WithoutItsOwn, {'own', 'width', 'depth'}, ['width']), (Named, {'own', 'width', 'depth'}, ['own', 'width']),
    (Filling, {'extra', 'depth'}, []), (Mixing, {'width', 'depth'}, []),
    (Wrapped, {'own', 'width', 'depth'}, ['own', 'width']),
    (Cooperating, {'between', 'width', 'depth'}, ['width']), (Module, {'width'}, ['width']),
    (Holding, {'own', 'width', 'depth'}, ['own', 'width']), (make, {'own', 'width', 'depth'}, ['own', 'width']),
    (functools.partial(Handing, own=2), {'own', 'width', 'depth'}, ['width']),
    (functools.partial(Handing, 2), {'width', 'depth'}, ['width']), (Swallowing, None, []), (circle, None, [])],
    ids=lambda value: getattr(value, '__name__', None))
def test_options_are_followed_to_whoever_they_are_passed_on_to(part, accepted, required):
    assert accepted_keys(part) == accepted and required_keys(part) == required


def test_a_constructor_without_its_source_at_hand_is_followed_too():
    space = {'Reader': Reader}
    exec('class Typed(Reader):\n    def __init__(self, own=1, **options):\n        super().__init__(**options)', space)
    assert accepted_keys(space['Typed']) == {'own', 'width', 'depth'}


def test_a_subclass_with_options_gets_the_offers_that_its_parent_takes_and_no_other():
    slot = Slot('readers', ())
    slot.register_module(module=Handing)
    part = build(slot, dict(type='Handing', width=2), 'model.reader', depth=7, num_classes=5)
    assert (part.width, part.depth) == (2, 7)
    with pytest.raises(ConfigError, match="Handing has no argument 'dept'.*'depth'"):
        build(slot, dict(type='Handing', width=2, dept=7), 'model.reader')
    with pytest.raises(ConfigError, match="Handing needs 'width'"):
        build(slot, dict(type='Handing'), 'model.reader')


def test_a_rare_fault_of_the_interpreter_is_tried_once_more(monkeypatch):
    parse, faults = ast.parse, [SystemError('AST constructor recursion depth mismatch (before=171, after=183)')]

    def rarely_failing(*words):
        if faults:
            raise faults.pop()
        return parse(*words)
    monkeypatch.setattr(ast, 'parse', rarely_failing)
    assert ast.unparse(parsed('a = 1')) == 'a = 1' and not faults
