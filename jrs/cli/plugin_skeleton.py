"""The files of a new plugin: the example of a slot's contract under a name of its own, a test of its claim, a README."""

from __future__ import annotations

import re
from pathlib import Path

from jrs.contracts.contract import Contract
from jrs.contracts.examples import EXAMPLES

INIT = '''"""One sentence: what {name} adds, and where it comes from."""

from jrs_plugins.{name} import part  # noqa: F401
'''
PART = '''"""One sentence: what {part} is."""

{code}'''
README = '''# {name}

What it adds, in one sentence. Registers `{part}` (`{slot}`).

A config that uses it:

{config}

One command, run in the repository:

    python -m pytest {test}

Expected: 2 passed.
'''
TEST = '''"""What {part} of {name} claims."""

{imports}

load_plugins([{load}])
PART = {slot}.get('{part}')


def test_it_keeps_the_contract_of_its_slot():
    assert faults_of(PART, {slot}) == []


{claim}'''


def class_name(name: str) -> str:
    """Return ``TotalVariation`` for ``total_variation``."""
    return ''.join(word.capitalize() for word in name.split('_'))


def config_lines(kind: Contract, name: str, plugin: str) -> list[str]:
    """Return the lines of an experiment that puts the part of the plugin `name` into its place.

    Args:
        plugin: how the config names the plugin.
    """
    words = EXAMPLES[kind.name].config.format(part=class_name(name))
    return ["_base_ = 'segvggt/all24_fada'", f'plugins = [{plugin!r}]', *words.splitlines()]


def skeleton(name: str, folder: Path, test: Path, kind: Contract) -> dict[Path, str]:
    """Return path -> text of a new plugin `name` in `folder` with its test at `test`.

    Args:
        kind: what its part is, one of `jrs.contracts`.
    """
    example, inside = EXAMPLES[kind.name], folder in test.parents
    plugin = str(folder.resolve()) if inside else name
    config = '\n'.join(f'    {line}' for line in config_lines(kind, name, plugin))
    imports = example.imports + ('from pathlib import Path\n' if inside else '') + (
        f'from jrs.plugins import load_plugins\nfrom jrs.registry import {kind.slot}\nfrom jrs.trials import faults_of\n')
    facts = dict(name=name, part=class_name(name), slot=kind.slot, config=config, imports=_sorted(imports),
                 load='str(Path(__file__).parents[1])' if inside else repr(name), claim=example.claim,
                 test=test.resolve() if inside else f'tests/plugins/{test.name}',
                 code=re.sub(rf'\b{example.class_name}\b', class_name(name), example.whole))
    return {folder / '__init__.py': INIT.format(**facts), folder / 'part.py': PART.format(**facts),
            folder / 'README.md': README.format(**facts), test: TEST.format(**facts)}


def _sorted(imports: str) -> str:
    """Return import lines in the order that linters want: the standard library's, packages', ours."""
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for line in imports.splitlines():
        if line:
            module = line.split()[1].partition('.')[0]
            groups[2 if module == 'jrs' else 0 if module in ('pathlib', 'types') else 1].append(line)
    return '\n\n'.join('\n'.join(sorted(lines, key=lambda line: (line.startswith('from'), line)))
                       for lines in groups.values() if lines)
