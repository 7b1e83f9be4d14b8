"""What a shell offers: commands, options of each, subcommands and names of experiments."""

import re
import subprocess

import pytest

from jrs.cli import COMMANDS, EXIT_CODES
from jrs.cli.completion import script
from jrs.cli.output import READER_LEFT
from jrs.cli.reproduce import FAILED, INCOMPLETE
from tests._data import ROOT


@pytest.fixture(scope='module')
def bash():
    return script('bash')


@pytest.mark.parametrize(('typed', 'offered'), [
    ('jrs tr', {'train'}), ('jrs train --res', {'--resume'}), ('jrs prepare sc', {'scannet', 'scannetpp'}),
    ('jrs train segvggt/early', {'segvggt/early12_fada'}), ('jrs plugins des', {'describe'}),
    ('jrs infer --colm', {'--colmap'})])
def test_bash_offers_what_fits(bash, typed, offered):
    words = typed.split()
    line = f'COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _jrs; echo "${{COMPREPLY[@]}}"'
    found = subprocess.run(['bash', '-c', f'{bash}\n{line}'], capture_output=True, text=True, check=True).stdout
    assert set(found.split()) == offered


def test_every_shell_knows_every_command(bash):
    for text in (bash, script('zsh'), script('fish')):
        assert all(name in text for name in COMMANDS)
    assert 'bashcompinit' in script('zsh') and "-l profile" in script('fish')


def test_exit_codes_are_those_of_the_page():
    page = (ROOT / 'docs' / 'interfaces.md').read_text(encoding='utf-8').partition('## Exit codes')[2]
    assert re.findall(r'^\| (\d+) \|', page, re.MULTILINE) == sorted(re.findall(r'\b(?<!\.)\d+(?=  )', EXIT_CODES), key=int)
    assert (READER_LEFT, FAILED, INCOMPLETE) == (141, 1, 3)
