"""tools/vocabulary.py: the stand-in, an encoder in the place of transformers, and transformers itself where it is there."""

import json
import re
import sys
import types

import pytest
import torch

from jrs.benchmarks import get_benchmark
from jrs.cli.vocabulary import names_of
from jrs.io.text_encoder import TextEncoder
from jrs.io.vocabulary import ATTRIBUTES, read_vocabulary
from tests._data import command


def test_the_stand_in_is_written_and_read_as_it_is(tmp_path, capsys):
    assert command('vocabulary', tmp_path / 'all.yaml', '--encoder', 'attributes') == 0
    found, own = read_vocabulary(tmp_path / 'all.yaml'), read_vocabulary(ATTRIBUTES)
    assert found.names == own.names and found.embeddings.equal(own.embeddings) and found.encoder == own.encoder
    assert '40 words, width' in capsys.readouterr().out
    some = tmp_path / 'some.yaml'
    assert command('vocabulary', some, '--encoder', 'attributes', '--names', 'rooms_known', 'desk,chair') == 0
    assert read_vocabulary(some).names == (*get_benchmark('rooms_known').class_names, 'desk')


def encoder_folder(folder, kind='clip'):
    (folder / 'config.json').write_text(json.dumps({'model_type': kind}))
    return folder


@pytest.fixture
def transformers(monkeypatch):
    """A module that encodes a text as its length and its number of blanks, and notes how it was called."""
    calls = []

    class Tokenizer:
        def __call__(self, texts, **options):
            calls.append((texts, options))
            return {'input_ids': torch.tensor([[len(text), text.count(' ') + 1] for text in texts])}

    class Model:
        config = types.SimpleNamespace(text_config=types.SimpleNamespace(max_position_embeddings=7))

        def eval(self):
            return self

        def get_text_features(self, input_ids):
            assert not torch.is_grad_enabled()
            return input_ids.double()
    module = types.ModuleType('transformers')
    module.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda folder, local_files_only: Tokenizer())
    module.AutoModel = types.SimpleNamespace(from_pretrained=lambda folder, local_files_only, dtype: Model())
    monkeypatch.setitem(sys.modules, 'transformers', module)
    return calls


def test_names_are_encoded_in_their_prompt_each_once(transformers, tmp_path):
    words = tmp_path / 'words.txt'
    words.write_text('chair\n\nfire extinguisher\n')
    out = tmp_path / 'words' / 'mine.yaml'
    assert command('vocabulary', out, '--encoder', encoder_folder(tmp_path), '--names', words, 'chair, tv', '--prompt',
                   'a {}', '--encoder-name', 'tiny') == 0
    found = read_vocabulary(out)
    assert found.names == ('chair', 'fire extinguisher', 'tv') and found.encoder == 'tiny' and found.prompt == 'a {}'
    assert found.embeddings.tolist() == [[7, 2], [19, 3], [4, 2]]
    assert names_of([str(words.rename(tmp_path / 'words.list'))]) == ['chair', 'fire extinguisher']      # no strange word
    assert transformers[0][1] == dict(padding=True, truncation=True, max_length=7, return_tensors='pt')


def test_many_names_are_encoded_in_pieces_and_siglip_is_padded_to_its_length(transformers, tmp_path):
    encoder = TextEncoder(encoder_folder(tmp_path, 'siglip'))
    assert encoder(['a' * number for number in range(1, 200)])[:, 0].tolist() == list(range(1, 200))
    assert len(transformers) == 4 and transformers[0][1]['padding'] == 'max_length'


@pytest.mark.parametrize(('words', 'said'), [
    (['--encoder', 'FOLDER'], 'say which words'),
    (['--encoder', 'FOLDER', '--names', 'scannet2oo'], "Did you mean .*'scannet200'"),
    (['--encoder', 'FOLDER', '--names', 'tv', '--prompt', 'a photo'], 'has no {}'),
    (['--encoder', 'none', '--names', 'tv'], 'none is no folder of a CLIP or SigLIP.*Download one'),
    (['--encoder', 'attributes', '--names', 'tv,sofa'], "no embedding of 'sofa'"),
    (['--encoder', 'FOLDER', '--names', 'there_is_no.txt'], 'cannot be read')])
def test_what_cannot_be_encoded_is_said(words, said, transformers, tmp_path, capsys):
    words = [encoder_folder(tmp_path) if word == 'FOLDER' else word for word in words]
    assert command('vocabulary', tmp_path / 'words.yaml', *words) == 2
    assert not (tmp_path / 'words.yaml').exists()

    assert re.search(said, capsys.readouterr().err)


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    assert command('vocabulary', tmp_path / 'words.yaml', '--encoder', encoder_folder(tmp_path), '--names', 'tv') == 2
    assert 'pip install "jrs[text]"' in capsys.readouterr().err
    encoder_folder(tmp_path, 'bert')
    assert command('vocabulary', tmp_path / 'words.yaml', '--encoder', tmp_path, '--names', 'tv') == 2
    assert "type 'bert'" in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['CLIP', 'Siglip'])
def test_a_saved_model_of_transformers_encodes_each_text_by_itself(kind, tmp_path):
    """A tiny one with random weights, where transformers is installed (extra `text`)."""
    transformers = pytest.importorskip('transformers')
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f'{letter}</w>' for letter in letters), '<|startoftext|>', '<|endoftext|>']
    (tmp_path / 'vocab.json').write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n')
    transformers.CLIPTokenizer(str(tmp_path / 'vocab.json'), str(tmp_path / 'merges.txt')).save_pretrained(tmp_path)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = getattr(transformers, f'{kind}Config')(
        text_config=dict(sizes, vocab_size=len(tokens), max_position_embeddings=32, eos_token_id=len(tokens) - 1),
        vision_config=dict(sizes, image_size=28, patch_size=14))
    torch.manual_seed(0)
    getattr(transformers, f'{kind}Model')(config).save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path)
    both = encoder(['a chair', 'a fire extinguisher'])
    assert both.dtype == torch.float32 and (both[0] - both[1]).abs().max() > 1e-3
    torch.testing.assert_close(encoder(['a chair']), both[:1])
