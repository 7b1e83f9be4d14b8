"""Vocabularies: what is written is read, what does not fit is said."""

import json

import numpy as np
import pytest
import torch
import yaml

from jrs.benchmarks import get_benchmark
from jrs.errors import DataError
from jrs.io.attributes import attributes
from jrs.io.tensor_file import write_tensors
from jrs.io.vocabulary import ATTRIBUTES, Vocabulary, read_vocabulary, split_names, write_vocabulary

ROWS = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0]])


def written(folder, **changes):
    """Write a vocabulary of three words and change its YAML file; returns that file."""
    path = folder / 'words.yaml'
    write_vocabulary(path, Vocabulary(('chair', 'fire extinguisher', 'tv'), ROWS, 'clip', 'by hand', 'a photo of a {}.'))
    said = {key: value for key, value in (yaml.safe_load(path.read_text()) | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(said))
    return path


def test_a_written_vocabulary_is_read_and_its_file_may_hold_more_words(tmp_path):
    found = read_vocabulary(written(tmp_path, names=['tv', 'chair']))
    assert found.names == ('tv', 'chair') and found.embeddings.equal(ROWS[[2, 0]]) and found.width == 2
    assert (found.encoder, found.source, found.prompt) == ('clip', 'by hand', 'a photo of a {}.')
    assert found.rows(['chair']).equal(ROWS[:1])
    assert read_vocabulary(written(tmp_path, prompt=None)).prompt == '{}'


def test_embeddings_may_be_an_npz(tmp_path):
    path = written(tmp_path, embeddings='words.npz')
    np.savez(tmp_path / 'words.npz', names=['chair', 'tv', 'fire extinguisher'], embeddings=ROWS[[0, 2, 1]].numpy())
    assert read_vocabulary(path).embeddings.equal(ROWS)
    (tmp_path / 'words.npz').write_bytes(b'PK\x03\x04 cut')
    with pytest.raises(DataError, match='words.npz: no embeddings'):
        read_vocabulary(path)


@pytest.mark.parametrize(('changes', 'words'), [
    (dict(names=['chair', 'char']), "1 of 2 names have no embedding in .*: 'char'. Did you mean 'chair'"),
    (dict(names=['chair', 'chair']), "'chair' stands there twice"), (dict(names=[]), 'there is none'),
    (dict(names=['chair', False]), "False is no name: .* 'no' in quotes"), (dict(names=[' tv']), "' tv' is no name"),
    (dict(width=3), 'says that embeddings have width 3, and those of .* have 2'),
    (dict(embeddings='other.safetensors'), 'There is no file .*other.safetensors'),
    (dict(embeddings='../words.safetensors'), 'must name a file beside it'),
    (dict(prompt='a photo'), 'has no {}'), (dict(names='chair'), "names must be a list, got 'chair'"),
    (dict(encoder=None), 'encoder must be a text, got nothing'), (dict(size=2), "has no 'size'. Allowed")])
def test_a_vocabulary_that_does_not_fit_is_refused(changes, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_vocabulary(written(tmp_path, **changes))


@pytest.mark.parametrize(('tensors', 'names', 'words'), [
    ({'embeddings': torch.ones(2, 2)}, ['chair', 'tv', 'fire extinguisher'], r'must be floating numbers \(3, E\)'),
    ({'embeddings': torch.ones(3, 2).long()}, ['chair', 'tv', 'fire extinguisher'], 'int64'),
    ({'embeddings': torch.tensor([[1.0, 0], [0, float('nan')], [0, 0]])}, ['chair', 'tv', 'fire extinguisher'],
     "of 'fire extinguisher', 'tv' are not finite, or have length 0"),
    ({'weight': torch.ones(3, 2)}, ['chair', 'tv', 'fire extinguisher'], "this has 'weight'"),
    ({'embeddings': torch.ones(2, 2)}, ['tv', 'tv'], "'tv' stands there twice"), ({'embeddings': ROWS}, None, 'JSON list')])
def test_embeddings_that_do_not_fit_are_refused(tensors, names, words, tmp_path):
    path = written(tmp_path)
    write_tensors(tmp_path / 'words.safetensors', tensors, {} if names is None else {'names': json.dumps(names)})
    with pytest.raises(DataError, match=words):
        read_vocabulary(path)


@pytest.mark.parametrize(('text', 'words'), [('[1, 2', 'not YAML'), ('[1, 2]', 'this is list'), ('', 'this is NoneType')])
def test_what_is_no_vocabulary_is_said(text, words, tmp_path):
    (tmp_path / 'words.yaml').write_text(text)
    with pytest.raises(DataError, match=words):
        read_vocabulary(tmp_path / 'words.yaml')


def test_a_vocabulary_that_is_not_there_says_how_to_write_it(tmp_path):
    with pytest.raises(DataError, match='There is no vocabulary .*words.yaml. Write it with .*tools/vocabulary.py'):
        read_vocabulary(tmp_path / 'words.yaml')


def test_a_word_that_is_not_there_is_named_with_its_neighbours():
    with pytest.raises(DataError, match="no embedding of 'sofa', 'chiar'"):
        read_vocabulary(ATTRIBUTES).rows(['chair', 'sofa', 'chiar'])
    with pytest.raises(DataError, match='twice'):
        read_vocabulary(ATTRIBUTES).rows(['chair', 'chair'])


def test_names_of_a_list_may_have_blanks_inside():
    assert split_names(' chair, fire extinguisher ,,tv') == ['chair', 'fire extinguisher', 'tv']


def test_the_stand_in_is_composed_of_attributes_that_known_names_have():
    """Cosines are the mean agreement of the four; no two names are the same; what is held out occurs among the known."""
    words, known = read_vocabulary(ATTRIBUTES), set(get_benchmark('rooms_known').class_names)
    unit = torch.nn.functional.normalize(words.embeddings)
    cosine = unit @ unit.T
    place = {name: number for number, name in enumerate(words.names)}
    assert cosine[place['chair'], place['stool']] > 0.5 > cosine[place['chair'], place['picture']]
    assert (cosine - 2 * torch.eye(len(unit))).max() < 0.999
    table = attributes()
    for name in set(get_benchmark('rooms').class_names) - known:
        for attribute in ('family', 'support'):
            assert any(table[other][attribute] == table[name][attribute] for other in known), (name, attribute)
    assert len(known) == 30 and set(words.names) == set(get_benchmark('rooms').class_names)
