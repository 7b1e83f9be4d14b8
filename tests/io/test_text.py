"""Every text file that is read may begin with a UTF-8 byte-order mark, as editors of Windows write it."""

import ast
import json
from codecs import BOM_UTF8

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.known_geometry import read_cameras
from jrs.io.submission import read_vertex_numbers
from jrs.io.text import read_json, read_text
from tests._data import ROOT
from tests.fuzz.readers import READERS

BINARY = ('sens', 'png16', 'png16 with right sums', 'photo', 'picture of an exported frame', 'video', 'lidar depth',
          'instance zip', 'safetensors', 'checkpoint', 'pickle in a checkpoint', 'predictions as arrays', 'embeddings',
          'embeddings as arrays')
NO_FILE = 'override'


@pytest.mark.parametrize('name', [name for name in READERS if name not in (*BINARY, NO_FILE)])
def test_a_byte_order_mark_is_read(name, tmp_path):
    reader, read = READERS[name], 0
    for example in reader.examples(tmp_path):
        if b'\0' not in example:
            path = tmp_path / reader.file
            path.parent.mkdir(parents=True, exist_ok=True)
            reader.around(tmp_path)
            path.write_bytes(BOM_UTF8 + example)
            reader.read(path)
            read += 1
    assert read


def test_what_is_read_behind_the_mark_is_what_stands_there(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(BOM_UTF8 + b'3\n14\n')
    assert read_text(path) == '3\n14\n' and read_vertex_numbers(path).tolist() == [3, 14]
    path.write_bytes(BOM_UTF8 + b'1\n0\n')
    assert read_vertex_numbers(path).tolist() == [1, 0]
    eye = np.eye(4).tolist()
    camera = dict(name='a', width=4, height=3, intrinsics=[[3, 0, 2], [0, 3, 1], [0, 0, 1]], cam_from_world=eye)
    path.write_bytes(BOM_UTF8 + json.dumps(dict(cameras=[camera])).encode())
    assert read_json(path)['cameras'] == [camera] and list(read_cameras(path).cameras) == ['a']


def test_text_of_another_code_is_refused_with_what_to_do(tmp_path):
    (tmp_path / 'a.txt').write_text('a', encoding='utf-16')
    with pytest.raises(DataError, match='a.txt: not UTF-8 text .* begins as UTF-16 does: save it as UTF-8'):
        read_text(tmp_path / 'a.txt')


def test_no_file_of_text_is_read_without_its_mark_taken_off():
    """What writes opens in a mode; what reads says its code, and the code is one that takes the mark off."""
    faults = []
    for top in ('jrs', 'plugins'):
        for path in (ROOT / top).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in ('read_text', 'open'):
                    codes = [ast.unparse(word.value) for word in node.keywords if word.arg == 'encoding']
                    modes = [value for value in map(ast.unparse, [*node.args, *(word.value for word in node.keywords)])
                             if value.strip("'") in ('r', 'w', 'a', 'x', 'r+')]
                    if codes == ["'utf-8'"] and modes in ([], ["'r'"]):
                        faults.append(f'{path.relative_to(ROOT)}:{node.lineno}')
    assert not faults, f'read with encoding="utf-8-sig": {faults}'
