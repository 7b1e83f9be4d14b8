"""README and the pages beside it say what is true: paths exist, options exist, rows without a config are named."""

import argparse
import importlib
import re
import shlex
from itertools import product

import pytest

from jrs.cli import COMMANDS
from jrs.cli.parser import Parser
from jrs.report.tables import load_tables
from tests import newcomer
from tests._data import ROOT

PLACES = ('README.md', 'docs/*.md', 'weights/*.md', 'plugins/**/README.md')
PAGES = sorted(path.relative_to(ROOT).as_posix() for place in PLACES for path in ROOT.glob(place))
FOLDERS = 'configs|tools|jrs|plugins|docs|benchmarks|tests|requirements|weights/rooms\\w*'
PATH = re.compile(rf'(?<![\w/.-])(?:{FOLDERS})/[\w./{{}},*-]*[\w}}]')
MADE = re.compile(r'plugins/my_|tests/plugins/test_$')                # by a reader, by `plugins.py new`
HANDS_OVER = dict(evaluate=['ground_truth'])                           # commands that another one's first word calls
README = (ROOT / 'README.md').read_text(encoding='utf-8')
LINK = re.compile(r'\[[^\]]*\]\(([^)#\s]+)|<img src="([^"]+)"')


def expanded(text):
    """Return what a shell makes of braces: a{b,c}d -> abd, acd."""
    parts = re.split(r'\{([^}]*)\}', text)
    choices = [part.split(',') if index % 2 else [part] for index, part in enumerate(parts)]
    return [''.join(choice) for choice in product(*choices)]


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'docs/bad_inputs.md'])      # wrong ones are its subject
def test_every_path_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    named = {path for found in PATH.findall(text) for path in expanded(found) if not MADE.match(path)}
    missing = sorted(path for path in named if not any(ROOT.glob(path)))
    assert not missing, missing


def options_of(tool):
    """Return the options of a command and of its subcommands."""
    modules = [importlib.import_module(f'jrs.cli.{name}') for name in (tool, *HANDS_OVER.get(tool, ()))]
    parsers, found = [(getattr(module, 'parser', None) or module._parser)() for module in modules], set()
    while parsers:
        for action in parsers.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found


@pytest.mark.parametrize('page', PAGES)
def test_every_option_of_a_command_exists(page):
    text = (ROOT / page).read_text(encoding='utf-8').replace('\\\n', ' ')
    unknown = []
    typed = re.findall(r'python (?:\S*/)?tools/(\w+)\.py([^\n`|#]*)', text)
    typed += [(tool, rest) for tool, rest in re.findall(r'\bjrs (\w+)([^\n`|#]*)', text) if tool in COMMANDS]
    for tool, rest in typed:
        unknown += [f'{tool} {option}' for option in re.findall(r'(?<!\S)\[?(--[a-z][\w-]*)', rest)
                    if option not in options_of(tool)]
    assert not unknown, unknown


def test_every_part_of_the_package_stands_where_the_page_says():
    """And nothing that is not there any more."""
    listed = page_text('docs/house.md').partition('## Where things stand')[2].partition('Imports point down')[0]
    words = {word.removeprefix('jrs/').rstrip('/') for word in re.findall(r'[\w/]+(?:\.py|/)', listed)}
    here = {path.name for path in (ROOT / 'jrs').iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert here - {'__init__.py'} == words - {'configs', 'tools', 'tests', 'plugins', 'benchmarks'}


def test_the_page_of_rows_says_which_have_no_config():
    page = page_text('docs/reproducing.md')
    rows = [row for number in range(1, 10) for row in load_tables([number])[0].rows]
    external = [row for row in rows if row.kind == 'external']
    lacking = [row for row in rows if row.kind == 'native' and not all(map(exists, row.configs.values()))]
    sentence = f"Of the {len(rows)} rows of the paper's tables {len(rows) - len(lacking) - len(external)} have a config here"
    if lacking:
        names = sorted({row.method for row in lacking}, key=str.casefold)
        sentence += f', {len(lacking)} not yet ({"; ".join(names)})'
    sentence += f", and {len(external)} are filled by the methods' own code ({'; '.join(row.method for row in external)})."
    assert sentence in ' '.join(page.split()), f'docs/reproducing.md must say: {sentence}'
    assert not (lacking and 'very row of the paper is a config' in README + page)


def exists(path):
    """Return whether a path from the root of the project is there."""
    return (ROOT / path).is_file()


def page_text(page):
    return (ROOT / page).read_text(encoding='utf-8')


@pytest.mark.parametrize('page', PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    links = [''.join(found) for found in LINK.findall(page_text(page))]
    lost = [link for link in links if '://' not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not lost, lost


def test_the_readme_is_short_and_every_page_can_be_reached_from_it():
    assert README.count('\n') <= 130
    reached, waiting = set(), ['README.md']
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = [(ROOT / page).parent.joinpath(''.join(found)).resolve() for found in LINK.findall(page_text(page))]
        own = {link.relative_to(ROOT).as_posix() for link in links if link.suffix == '.md' and link.is_relative_to(ROOT)}
        waiting += own - reached
    assert {page for page in PAGES if page.startswith('docs/')} <= reached, set(PAGES) - reached


def test_every_command_of_the_readme_is_one_that_the_newcomer_types():
    """`make newcomer` types them in a fresh environment; here each is read by its own command."""
    lines = newcomer.commands(README)
    shown = re.findall(r'^    (\S.*)$', re.sub(r'```.*?```', '', README, flags=re.DOTALL), re.MULTILINE)
    assert len(lines) == len(shown) and len(lines) > 12
    for line in lines:
        program, *words = shlex.split(newcomer.as_typed(line))
        if program == 'jrs':
            assert words[0] in COMMANDS, line
            importlib.import_module(f'jrs.cli.{words[0]}')
            parser_of(words[0]).parse_args(words[1:])
    starts = {*newcomer.SMALL, *newcomer.MAKES} - {'jrs train my_idea'}        # of the README that `jrs init` writes
    assert all(any(line.startswith(start) for line in lines) for start in starts)


def parser_of(name):
    module = importlib.import_module(f'jrs.cli.{name}')
    return (getattr(module, 'parser', None) or module._parser)()


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_every_command_is_written_as_it_is_typed(name):
    """Commands of an install have other names than the files of a checkout (`jrs.places.typed`)."""
    assert isinstance(parser_of(name), Parser)
