"""Pages of the site: every block of code is of a kind and can be read, every page is listed, docstrings are shown."""

import json
import re
import sys
from importlib import import_module

import pytest

from jrs.cli import COMMANDS
from tests import doc_blocks
from tests._data import ROOT

sys.path.insert(0, str(ROOT / 'docs' / 'site'))
from reference import as_rst  # noqa: E402

sys.path.pop(0)


@pytest.mark.parametrize('path', doc_blocks.pages(), ids=lambda path: path.name)
def test_every_block_of_code_can_be_read(path):
    for block in doc_blocks.blocks(path):
        doc_blocks.read(block)


def test_pages_that_newcomers_follow_are_run():
    kinds = {path.name: {block.kind for block in doc_blocks.blocks(path)} for path in doc_blocks.pages()}
    assert kinds['five_minutes.md'] == {'run', 'small'} and 'run' in kinds['conventions.md'] and 'small' in kinds['data.md']


@pytest.mark.parametrize(('text', 'fault'), [
    ('    jrs trian segvggt/all24_fada', 'no command'), ('    jrs train X --profil rooms --resmue', 'resmue'),
    ('```python\ndef f(:\n```', 'invalid syntax'), ('<!-- block: often -->\n\n    jrs configs', 'kinds are'),
    ('<!-- block: run -->\n\nNo block.', 'before no block'),
    ('    torchrun --nproc_per_node 8 tools/train.py X --lancher', 'lanch')])
def test_a_broken_block_fails(tmp_path, text, fault):
    page = tmp_path / 'page.md'
    page.write_text(f'# Page\n\n{text}\n')
    with pytest.raises((ValueError, SyntaxError), match=fault):
        for block in doc_blocks.blocks(page):
            doc_blocks.read(block)


@pytest.mark.parametrize('name', COMMANDS)
def test_examples_of_commands_are_as_wide_as_a_terminal(name):
    wide = [line for line in getattr(import_module(f'jrs.cli.{name}'), 'EXAMPLES', '').splitlines() if len(line) > 132]
    assert wide == [], 'a backslash that should be shown ends a line of the text'


def test_a_block_that_fails_when_it_is_run_fails(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- block: run -->\n\n```python\nassert 1 == 2, "one is not two"\n```\n')
    (block,) = doc_blocks.blocks(page)
    (tmp_path / 'home').mkdir()
    with pytest.raises(ValueError, match='one is not two'):
        doc_blocks.run(block, tmp_path / 'home')


def test_the_contents_list_every_page():
    listed = set(re.findall(r'^(\w+)$', (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8'), re.MULTILINE))
    assert listed == {path.stem for path in (ROOT / 'docs').glob('*.md')} - {'index'}


def test_docstrings_become_lists_and_code():
    lines = ['Return `x*` of a_b (see ``y``).', '', '    verbatim *as* it is', '', 'Args:', '    a, b: two',
             '        lines.', '', 'Raises:', '    DataError: it is not `there`.']
    as_rst(lines)
    text = '\n'.join(lines)
    assert 'Return ``x*`` of a\\_b (see ``y``).' in text and '\n::\n' in text and '    verbatim *as* it is' in text
    assert '**Arguments**\n\n- ``a``, ``b``: two\n  lines.' in text and '- ``DataError``: it is not ``there``.' in text


def test_notebooks_hold_code_that_parses_and_no_outputs():
    for path in (ROOT / 'docs' / 'notebooks').glob('*.ipynb'):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        for cell in cells:
            if cell['cell_type'] == 'code':
                compile(''.join(cell['source']), str(path), 'exec')
                assert cell['outputs'] == [], path
        assert any(cell['cell_type'] == 'code' for cell in cells)
