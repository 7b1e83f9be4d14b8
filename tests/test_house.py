"""How the house is kept: what the eye would have to look for, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests._data import ROOT

PACKAGED = sorted(path.name for path in (ROOT / 'jrs').rglob('*.*') if path.suffix in ('.yaml', '.css', '.js'))


def trees(*tops: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield every Python file below folders of the repository, with its syntax tree."""
    for path in sorted(path for top in tops for path in (ROOT / top).glob('**/*.py') if 'results' not in path.parts):
        yield path.relative_to(ROOT), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding='utf-8'))


def texts(tree: ast.Module) -> list[str]:
    """Return the strings that a program uses: all but those that stand alone, which are documentation."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone]


@pytest.mark.parametrize('name', PACKAGED)
def test_a_file_of_data_has_one_reader(name):
    readers = [str(path) for path, tree in trees('jrs', 'plugins', 'tools', 'benchmarks', 'tests')
               if any(name in text for text in texts(tree))]
    assert len(readers) == 1, f'{name} is read in {readers}: call the first reader instead'
