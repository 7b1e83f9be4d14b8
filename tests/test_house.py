"""How the house is kept: what the eye would have to look for, read from the syntax trees."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests._data import ROOT

USERS_PACKAGES = {                             # named by the user of the project -> the rooms of jrs that import it
    'torch': {'backbones', 'heads', 'models', 'losses', 'engine', 'structures'},
    'mmengine': {'config', 'registry', 'engine'},
    'mmcv': {'datasets', 'io'}, 'numpy': {'datasets', 'geometry', 'io', 'evaluation', 'synth'},
    'scipy': {'matching', 'postprocess', 'synth'}, 'pluggy': {'plugins', 'hookspecs'}, 'yaml': {'report'},
    'tensorboard': {'report'}}
PACKAGED = sorted(path.name for path in (ROOT / 'jrs').rglob('*.*') if path.suffix in ('.yaml', '.css', '.js'))


# In brackets, a comma behind the first: 3, B, h_p, dim, head width, V*h*w, 2 * (K + 1), ceil(E / 8), ...
ATOM = r"(?:\.\.\.|(?:ceil)?\([^()]*\)|[\w']+(?: width)?)"
DIMENSION = rf'{ATOM}(?: *[*/+-]+ *{ATOM})*'
TUPLE = re.compile(rf'\({DIMENSION},(?: *{DIMENSION})?(?:, *{DIMENSION})*\)|\(\.\.\.\)')
TELLING = re.compile(r"\.\.\.|\b[A-Za-z]'?(?:_\w+)?\b|\d")                      # prose in brackets has none of these


def trees(*tops: str, holding: str = '') -> Iterator[tuple[Path, ast.Module]]:
    """Yield the Python files below folders of the repository that hold a text, with their syntax trees."""
    for path in sorted(path for top in tops for path in (ROOT / top).glob('**/*.py') if 'results' not in path.parts):
        if holding in (source := path.read_text(encoding='utf-8')):
            yield path.relative_to(ROOT), parsed(source)


parsed = cache(ast.parse)


def texts(tree: ast.Module) -> list[str]:
    """Return the strings that a program uses: all but those that stand alone, which are documentation."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone]


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the public functions of a file, and of its public classes the public methods and what calling a part does."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from ((f'{node.name}.{sub.name}', sub) for sub in node.body if isinstance(sub, ast.FunctionDef)
                        and (sub.name == '__call__' or not sub.name.startswith('_')))


def says_a_shape(docstring: str) -> bool:
    """Return whether a text holds something like (B, V, 3), (n,), (..., 4), or the word scalar."""
    return 'scalar' in docstring or any(TELLING.search(found.group()) for found in TUPLE.finditer(docstring))


def without_shapes(tree: ast.Module) -> list[str]:
    """Return line and name of the functions that take tensors or arrays and whose docstring says no shape."""
    taking = [(name, node) for name, node in public_functions(tree)
              if re.search(r'\b(Tensor|ndarray)\b', ast.unparse(node.args))]
    return [f'{node.lineno}: {name}' for name, node in taking if not says_a_shape(ast.get_docstring(node) or '')]


def test_public_functions_that_take_tensors_say_their_shapes():
    faults = [f'{path}:{fault}' for path, tree in trees('jrs', 'plugins') for fault in without_shapes(tree)]
    assert not faults, '\n'.join(['say the shapes of arguments and results (style.md 7):', *faults])


@pytest.mark.parametrize(('docstring', 'says'), [
    ('Return the mean.', False), ('Return AUC (see the paper).', False), ('Return the mean (B, V) of x (B, V, 3).', True),
    ('x (n,)', True), ('x (..., 4)', True), ('bits (..., ceil(E / 8))', True), ('a scalar', True), ('maps f(x)', False),
    ('Rooms (walls, doors and lamps) of x.', False), ('median(d), of all (d)', False), ('masks (n, V*h*w)', True),
    ('logits (B, Q, 2 * (K + 1))', True), ("(h', width, 3) uint8", True), ('', False)])
def test_a_docstring_without_a_shape_is_found(docstring, says):
    for code in (f'def f(x: Tensor | None) -> int:\n    """{docstring}"""',
                 f'class A:\n    def __call__(self, x: dict[str, np.ndarray]):\n        """{docstring}"""'):
        assert bool(without_shapes(ast.parse(code))) is not says


@pytest.mark.parametrize('name', PACKAGED)
def test_a_file_of_data_has_one_reader(name):
    readers = [str(path) for path, tree in trees('jrs', 'plugins', 'tools', 'benchmarks', 'tests', holding=name)
               if any(name in text for text in texts(tree))]
    assert len(readers) == 1, f'{name} is read in {readers}: call the first reader instead'


COUNTED = (ast.stmt, ast.Call, ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp,
           ast.Lambda, ast.comprehension)
TOO_MUCH_TWICE = 11                             # such nodes of a body: below are lines like `return f(a, b)`


class Blank(ast.NodeTransformer):
    """Replaces numbers and texts by their type: what twins differ in."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(type(node.value).__name__)


def twins(files: Iterable[tuple[Path, ast.Module]]) -> list[list[str]]:
    """Return groups of functions whose bodies say the same but for numbers and texts, docstrings left out."""
    places = defaultdict(list)
    for path, tree in files:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None:]
                if sum(isinstance(sub, COUNTED) for line in body for sub in ast.walk(line)) >= TOO_MUCH_TWICE:
                    text = '\n'.join(ast.unparse(line) for line in body)
                    places[ast.dump(Blank().visit(ast.parse(text)))].append(f'{path}:{node.lineno} {node.name}')
    return [group for group in places.values() if len(group) > 1]


def test_no_two_functions_say_the_same():
    found = twins(trees('jrs', 'plugins', 'tools', 'benchmarks'))
    assert not found, '\n'.join(['let one function serve:', *map(' = '.join, found)])


def test_twins_that_differ_in_a_number_and_a_docstring_are_found():
    code = '''
class One(Base):
    def __init__(self, width: int, depth: int = 3) -> None:
        """Of one."""
        super().__init__(width, depth)
        self.last = torch.nn.Sequential(torch.nn.Conv2d(width, depth, {}), torch.nn.ReLU())
'''
    one, same, other = (ast.parse(text) for text in (code.format(2), code.format(5), code.format('depth')))
    assert twins([(Path('a.py'), one), (Path('b.py'), same)]) == [['a.py:3 __init__', 'b.py:3 __init__']]
    assert twins([(Path('a.py'), one), (Path('b.py'), other)]) == []


def importers(package: str) -> set[str]:
    """Return the rooms of jrs (`jrs.io` -> 'io') that import a package, at the top of a file or inside."""
    words = re.compile(rf'^ *(?:from|import) {package}\b', re.MULTILINE)
    return {path.relative_to(ROOT).with_suffix('').parts[1] for path in (ROOT / 'jrs').rglob('*.py')
            if words.search(path.read_text(encoding='utf-8'))}


@pytest.mark.parametrize('package', USERS_PACKAGES)
def test_each_of_the_users_eight_packages_does_work_where_it_is_said_to(package):
    assert USERS_PACKAGES[package] <= importers(package)


def test_the_operators_of_mmcv_which_mmcv_lite_lacks_are_never_imported():
    words = re.compile(r'^ *(?:(?:from|import) mmcv\.ops|from mmcv import .*\bops\b)', re.MULTILINE)
    assert words.search('    from mmcv import imread, ops') and words.search('import mmcv.ops as ops')
    tops = [ROOT / top for top in ('jrs', 'plugins', 'tools', 'benchmarks', 'configs', 'tests')]
    files = [path for top in tops for path in top.rglob('*.py')]
    assert not [path for path in files if words.search(path.read_text(encoding='utf-8'))]
