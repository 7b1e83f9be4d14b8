"""Names of files, which need not be text, become names of results."""

import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.names import (
    MAX_NAME,
    check_names,
    distinct,
    distinct_names,
    expanded,
    hidden_beside,
    openable,
    plain_name,
    readable,
    view_name,
)


@pytest.mark.parametrize(('name', 'shown'), [
    (b'a b#%41\'"-.jpg', 'a b#%41\'"-.jpg'), ('é照'.encode(), 'é照'), (b'\xff\xc3.jpg', '%FF%C3.jpg'),
    (b'a\nb\tc', 'a%0Ab%09c'),
    (b'\x1b[31m', '%1B[31m'), ('a\u202eb'.encode(), 'a%E2%80%AEb'), ('a\x85b'.encode(), 'a%C2%85b')])
def test_what_is_no_text_or_moves_the_cursor_is_percent_encoded_and_nothing_else(name, shown):
    assert readable(os.fsdecode(name)) == shown
    shown.encode()


def test_a_surrogate_that_json_may_hold_is_readable_too():
    assert readable('a\ud800') == 'a%ED%A0%80'


def test_names_of_views_are_stems_apart_for_every_file_system():
    decomposed = unicodedata.normalize('NFD', 'é')
    assert distinct_names(['x/a b.jpg', 'x/a.b.png', 'y/a b.jpg', 'A B.JPG']) == ['a b', 'a.b', 'a b-2', 'A B-3']
    assert distinct_names(['é.jpg', f'{decomposed}.jpg']) == ['é', f'{decomposed}-2']
    assert distinct_names(['a\nb.jpg', 'a%0Ab.jpg', 'a%0Ab.png']) == ['a%0Ab-3', 'a%0Ab', 'a%0Ab-2']
    assert view_name('a\\b') == 'a%5Cb'


def test_who_has_a_numbered_name_of_its_own_keeps_it():
    names = ['a', 'a', 'a-2', 'A-3', 'a']
    assert distinct(names, names) == ['a', 'a-4', 'a-2', 'A-3', 'a-5']
    assert distinct(['a_b', 'a_b', 'a_b'], ['a b', 'a_b', 'a#b']) == ['a_b-2', 'a_b', 'a_b-3']
    assert distinct(['a'] * 4000, ['a'] * 4000)[-1] == 'a-4000'


def test_names_that_are_too_long_are_cut_and_stay_apart():
    whole = '照' * 83                                                               # 249 bytes
    assert view_name(whole) == whole
    cut = distinct_names([f'{whole}aaaa.jpg', f'{whole}bbbb.jpg', f'{whole}aaaa.png', os.fsdecode(b'\xff' * 200)])
    assert len(set(cut)) == 4 and all(len(name.encode()) <= MAX_NAME for name in cut)
    assert cut[0].startswith('照' * 80) and cut[3].startswith('%FF')


@pytest.mark.parametrize(('name', 'plain'), [
    ('WhatsApp Image at 10.01', 'WhatsApp_Image_at_10.01'), ('a\u00a0b\u3000c', 'a_b_c'), ('#1 50% "x"', '_1_50___x_'),
    (os.fsdecode(b'\xff'), '_FF'), ('IMG(1)-é照+', 'IMG(1)-é照+')])
def test_a_plain_name_is_one_word(name, plain):
    assert plain_name(name) == plain and len(plain.split()) == 1


@pytest.mark.parametrize('name', [b'x' * 255, b'\xff' * 255, '照'.encode() * 85, b'a\nb', b'-'])
def test_a_file_of_any_legal_name_is_written_whole(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    with atomic_write(path) as file:
        file.write(b'1')
        assert os.fsencode(next(tmp_path.iterdir()).name).startswith(b'.' + name[:13])
    assert path.read_bytes() == b'1' and len(list(tmp_path.iterdir())) == 1
    hidden = hidden_beside(path, 'part')
    hidden.mkdir()
    assert hidden == hidden_beside(path, 'part') != hidden_beside(path, 'old') and hidden.name.startswith('.')


def test_a_name_that_the_system_refuses_is_found_before_work(tmp_path):
    check_names(tmp_path, ['a b.png', os.fsdecode(b'\xff.png'), 'x' * 255])
    with pytest.raises(DataError, match=r"can be called 'xxx.*File name too long"):
        check_names(tmp_path, ['a.png', 'x' * 256])
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_only_where_no_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', '/home/me')
    assert expanded('~/a.jpg') == expanded('/home/me/a.jpg') and str(expanded('~IMG_1.jpg')) == '~IMG_1.jpg'
    (tmp_path / '~').mkdir()
    assert str(expanded('~')) == '~'


def test_libraries_that_take_text_open_a_file_of_any_name(tmp_path):
    for name in (b'\xff', b'a'):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(b'content')
        with openable(path) as text, open(text.encode()) as file:
            assert file.read() == 'content'


def test_a_terminal_without_utf8_gets_names_in_escapes(tmp_path):
    """Also one that is told to be ASCII: nothing ends in a UnicodeEncodeError."""
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii:strict'}
    words = [sys.executable, '-c', 'import sys; from jrs.cli import run; from jrs.errors import DataError\n'
             'def main(argv):\n    print(argv[0])\n    raise DataError(argv[0])\n'
             'sys.exit(run(main, sys.argv[1:]))', os.fsdecode('照\x1b'.encode() + b'\xff')]
    done = subprocess.run(words, capture_output=True, env=environment)
    assert done.returncode == 2 and done.stdout == b'\\u7167\x1b%FF\n' and done.stderr == b'DataError: \\u7167%1B%FF\n'


def test_a_name_that_is_too_long_is_no_traceback(capsys):
    from jrs.cli import run
    from jrs.cli.infer import main
    assert run(main, ['x' * 300, '--out', 'o', '--no-glb']) == 2
    assert 'File name too long' in capsys.readouterr().err


@given(st.lists(st.binary(min_size=1, max_size=255).filter(lambda name: not {*b'/\0'} & {*name}), max_size=12))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_names_of_any_bytes_become_text_that_fits_and_is_apart(names):
    files = [os.fsdecode(name) for name in names]
    for found in (distinct_names(files), distinct([plain_name(view_name(file)) for file in files], files)):
        assert len({unicodedata.normalize('NFC', name).casefold() for name in found}) == len(files)
        assert all(readable(name) == name and len(name.encode()) <= MAX_NAME and '/' not in name for name in found)
