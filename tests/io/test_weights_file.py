"""Weights files are told by content; what is none, or only a part, is named for what it is."""

import gzip
import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from jrs.errors import WeightsError
from jrs.io.weights_file import parts_of, read_header, read_tensors

STATE = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.ones(2)}


def same(found, state=STATE):
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin', '.ckpt', '.safetensors', '', '.weights'])
@pytest.mark.parametrize('kind', ['torch', 'safetensors'])
def test_the_content_tells_what_a_file_is_whatever_it_is_called(tmp_path, suffix, kind):
    path = tmp_path / f'w{suffix}'
    save_file(STATE, str(path)) if kind == 'safetensors' else torch.save(STATE, tmp_path / 'x')
    if kind == 'torch':
        os.rename(tmp_path / 'x', path)
    assert same(read_tensors(path))


def test_dictionaries_in_dictionaries_become_names_even_where_one_holds_itself(tmp_path):
    content = {'epoch': 3, 'model': {'module': dict(STATE)}, 'optimizer': {'state': {0: {'step': torch.ones(())}}}}
    content['again'] = content
    torch.save(content, tmp_path / 'w.pt')
    found = read_tensors(tmp_path / 'w.pt')
    assert set(found) == {'model.module.a.weight', 'model.module.a.bias', 'optimizer.state.0.step'}


def write_parts(folder, names=('w-00001-of-00002.safetensors', 'w-00002-of-00002.safetensors'), **changes):
    for name, key in zip(names, STATE, strict=True):
        save_file({key: STATE[key]}, str(folder / name), metadata={'origin': '"a test"'})
    index = folder / 'w.safetensors.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': dict(zip(STATE, names, strict=True)), **changes}))
    return index


def test_an_index_stands_for_all_its_parts(tmp_path):
    index = write_parts(tmp_path)
    assert same(read_tensors(index)) and read_header(index)['origin'] == '"a test"'
    assert [part.name for part in parts_of(index)] == ['w-00001-of-00002.safetensors', 'w-00002-of-00002.safetensors']


def test_an_index_without_all_its_parts_or_that_leads_elsewhere_is_refused(tmp_path):
    index = write_parts(tmp_path)
    (tmp_path / 'w-00002-of-00002.safetensors').unlink()
    with pytest.raises(WeightsError, match="'w-00002-of-00002.safetensors' is not there. Keep all parts beside the index"):
        read_tensors(index)
    for text, said in (('{"weight_map": {"a": "../x.safetensors"}}', 'outside its folder'), ('{', 'no index of weights'),
                       ('{"weight_map": {}}', 'no part'), ('{"weight_map": 3}', 'no index of weights'),
                       ('{"error": "gated"}', 'no index of weights')):
        index.write_text(text)
        with pytest.raises(WeightsError, match=said):
            read_tensors(index)


def zipped(path, *names):
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, b'x')
    return path.read_bytes()


def torch_file(path, content=STATE):
    torch.save(content, path)
    return path.read_bytes()


IMPOSTORS = {
    'a web page': (b'\n <!DOCTYPE html><html>404</html>', 'a web page.*DOCTYPE'), 'xml': (b'<?xml version="1">', 'web page'),
    'a page that begins as safetensors might': (b'<script>{"a": 1}</script>', 'a web page'),
    'a page with a byte-order mark': (b'\xef\xbb\xbf<html>', 'a web page'),
    'a pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n', 'Git LFS pointer.*git lfs pull'),
    'an annex': (b'/annex/objects/SHA256E-s1--0.pt\n', 'git annex get'), 'json': (b'{"error": "gated"}', 'JSON text'),
    'text': (b'Entry not found\n', "message of a server.*Entry not found"), 'zeros': (bytes(99), 'no kind that is known'),
    'gzip': (gzip.compress(b'x'), 'gzip archive: unpack'), 'a bare pickle': (b'\x80\x02}q\x00.', 'bare pickle'),
    'an array': (b'\x93NUMPY\x01\x00', 'array of numpy'), 'nothing': (b'', 'is empty'),
    'a zip': (lambda path: zipped(path, 'model/w.safetensors'), 'zip archive of model/w.safetensors: unpack'),
    'a program': (lambda path: zipped(path, 'w/data.pkl', 'w/constants.pkl', 'w/code/x.py'), 'TorchScript program'),
    'half': (lambda path: torch_file(path)[:-300], 'complete.*bytes'),
    'a list': (lambda path: torch_file(path, [torch.ones(1)]), 'holds a list'),
    'no tensors': (lambda path: torch_file(path, {'epoch': 3, 'lr': 0.1}), 'no tensor with a name; it has: epoch, lr')}


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
@pytest.mark.parametrize('case', IMPOSTORS)
def test_what_is_no_weights_file_is_named(tmp_path, case, suffix):
    content, said = IMPOSTORS[case]
    path = tmp_path / f'w{suffix}'
    content = content(tmp_path / 'scratch') if callable(content) else content
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said) as error:
        read_tensors(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 600 + len(str(path))


@pytest.mark.parametrize('left', [9, 60, -1])
def test_a_cut_safetensors_says_how_much_of_it_is_there(tmp_path, left):
    path = tmp_path / 'w.safetensors'
    save_file(STATE, str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    size = '' if left > 0 else f'{len(whole)} bytes'
    with pytest.raises(WeightsError, match=f'cut off: {len(whole[:left])} of {size}'):
        read_tensors(path)


def test_a_pickle_that_needs_more_is_refused_with_the_way_out(tmp_path):
    import types
    torch.save({'model': STATE, 'args': types.SimpleNamespace(lr=1)}, tmp_path / 'w.pt')
    with pytest.raises(WeightsError, match=r'nothing of it was executed \(.*SimpleNamespace.*where you trust the file'):
        read_tensors(tmp_path / 'w.pt')


def test_options_of_a_command_beside_the_weights_are_passed_over(tmp_path):
    import argparse
    torch.save({'model': STATE, 'args': argparse.Namespace(model='Model(depth=3)')}, tmp_path / 'w.pt')
    assert set(read_tensors(tmp_path / 'w.pt')) == {f'model.{key}' for key in STATE}


def test_a_file_that_is_not_there_is_told_with_what_is_near(tmp_path):
    save_file(STATE, str(tmp_path / 'segvggt_scannet200.safetensors'))
    with pytest.raises(WeightsError, match="no weights file .*Did you mean 'segvggt_scannet200.safetensors'"):
        read_tensors(tmp_path / 'segvgt_scannet200.safetensors')
    with pytest.raises(WeightsError, match='is a folder; name a file in it: segvggt_scannet200.safetensors'):
        read_tensors(tmp_path)
    (tmp_path / 'link.pt').symlink_to('../blobs/gone')
    with pytest.raises(WeightsError, match='It is a link to ../blobs/gone, which is not there'):
        read_tensors(tmp_path / 'link.pt')
