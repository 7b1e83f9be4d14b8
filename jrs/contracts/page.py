"""Contracts, structures and hooks as Markdown, from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping

from jrs.contracts.contract import CONTRACTS, Contract
from jrs.contracts.examples import EXAMPLES
from jrs.errors import PluginError, did_you_mean

ORDER = ('BACKBONES', 'ATTENTIONS', 'INSERTIONS', 'QUERIES', 'HEADS', 'ALIGNMENTS', 'COSTS', 'MATCHERS', 'LOSSES',
         'PRETEXTS', 'TEACHERS', 'POSTPROCESSORS', 'DATASETS', 'TRANSFORMS', 'SAMPLERS', 'METRICS', 'HOOKS')
SECTIONS = ('Args', 'Attributes', 'Returns', 'Raises')


def kinds(slot: str) -> list[Contract]:
    """Return the contracts that a config can choose, of a slot `HEADS` or of one kind `HEADS.depth_head`, in any case.

    Raises:
        PluginError: no such slot or kind.
    """
    wanted = slot.partition('.')[0].upper() + ''.join(slot.partition('.')[1:])
    found = [one for one in CONTRACTS.get(wanted.partition('.')[0], []) if one.public and wanted in (one.slot, one.name)]
    if not found:
        names = [*ORDER, *(one.name for group in CONTRACTS.values() for one in group if one.public)]
        raise PluginError(f'no slot {slot!r} has a contract.{did_you_mean(slot.upper(), names)}')
    return found


def slot_lines() -> Iterator[str]:
    """Yield one line per kind of part: its name, and what it is for."""
    for slot in ORDER:
        yield from (f'{one.name:30} {summary(one.protocol)}' for one in kinds(slot))


def summary(thing: object) -> str:
    """Return the first sentence of a docstring."""
    return ' '.join(inspect.cleandoc(thing.__doc__).split('\n\n')[0].split())


def slot_text(slot: str, level: int = 1) -> str:
    """Return the contracts of a slot, or of one kind, with an example of each.

    Args:
        slot: as of `kinds`.
        level: of the headings.
    """
    found = kinds(slot)
    if len(found) == 1:
        return contract_text(found[0], level)
    listed = '\n'.join(f'- `{one.name.partition(".")[2]}`: {summary(one.protocol)}' for one in found)
    return '\n\n'.join([f'{"#" * level} {found[0].slot}', f'Several kinds of part:\n\n{listed}',
                        *(contract_text(one, level + 1) for one in found)])


def contract_text(one: Contract, level: int) -> str:
    """Return one contract: what it is for, attributes, methods, offers, a config, an example."""
    example = EXAMPLES[one.name]
    base = [f'Derives from `{one.base}`.'] if one.base else []
    methods = [_method(name, method, one) for name, method in one.methods.items()]
    offers = [f'- `{name}`: {words}' for name, words in one.offers.items()]
    offered = ['Its constructor is offered, where it names them:\n\n' + '\n'.join(offers)] if offers else []
    config = fenced(example.config.format(part=example.class_name))
    return '\n\n'.join([
        f'{"#" * level} {one.name}', docstring(one.protocol, lambda name: _attribute(name, one)), *base, *methods, *offered,
        f'In a config:\n\n{config}', f'An example:\n\n{fenced(example.part)}'])


def _attribute(name: str, one: Contract) -> str:
    words = inspect.formatannotation(one.attributes[name]).replace('collections.abc.', '').replace('typing.', '')
    if one.requires(name):
        return f'{words}'
    value = vars(one.protocol)[name]
    return f'{words}; optional' + ('' if value is ... else f', without it {value!r}')


def _method(name: str, method: Callable, one: Contract) -> str:
    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())[1:]
    words = str(signature.replace(parameters=parameters)).replace("'", '')
    kept = '' if one.requires(name) else ' Optional.'
    return f'**`{name}{words}`**{kept}\n{docstring(method)}'


def docstring(thing: object, kind: Callable[[str], str] | None = None) -> str:
    """Return a docstring of the project's style as Markdown: its sections become lists.

    Args:
        thing: whose docstring.
        kind: attribute -> what stands in brackets behind its name.
    """
    blocks: list[str] = []
    listing = None
    for line in inspect.cleandoc(thing.__doc__).replace('``', '`').splitlines():
        section = re.fullmatch(rf'({"|".join(SECTIONS)}):', line)
        if section:
            listing = section[1]
            blocks.append({'Args': 'Arguments', 'Attributes': 'Attributes'}.get(listing, listing) + ':\n')
        elif listing and (entry := re.match(r' {4}([\w, *]+): (.*)', line)):
            names = ', '.join(_named(name.strip(), kind) for name in entry[1].split(','))
            blocks.append(f'- {names}: {entry[2]}')
        elif listing and line.startswith('    '):
            blocks.append(f'  {line.strip()}')
        else:
            listing = None if line and not line.startswith(' ') else listing
            blocks.append(line)
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(blocks)).strip()


def _named(name: str, kind: Callable[[str], str] | None) -> str:
    return f'`{name}`' if kind is None else f'`{name}` ({kind(name)})'


def structure_text(structure: type, level: int) -> str:
    """Return a dataclass as parts see it: where it is, its docstring, and the methods and properties that have one."""
    members = [f'- `{words}`: {summary(member)}' for words, member in _members(structure)]
    return '\n\n'.join([f'{"#" * level} {structure.__name__}', f'`{structure.__module__}`', docstring(structure),
                        *(['Beside its fields:\n\n' + '\n'.join(members)] if members else [])])


def _members(structure: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(structure).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith('_') or not (member.__doc__ or '').strip():
            continue
        if isinstance(member, property):
            yield name, member
        elif inspect.isfunction(function):
            parameters = list(inspect.signature(function).parameters.values())[1:]
            given = ', '.join(one.name if one.default is one.empty else f'{one.name}={one.default!r}' for one in parameters)
            yield f'{structure.__name__ + "." if function is not member else ""}{name}({given})', function


def hook_text(hooks: Mapping[str, Callable]) -> str:
    """Return hook specifications as a list."""
    return '\n\n'.join(f'**`{name}{inspect.signature(spec)}`**\n{docstring(spec)}'.replace("'", '')
                       for name, spec in hooks.items())


def fenced(code: str) -> str:
    """Return code as a block of Python."""
    return f'```python\n{code.strip()}\n```'
