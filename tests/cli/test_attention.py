"""The command that shows where queries look, on debug rooms with untrained models."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jrs.cli.attention import default_label, named_checkpoints, write_pictures
from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError
from jrs.io.photo import read_photo
from jrs.io.weights import save_weights
from tests._data import MAIN, ROOT, command


@pytest.fixture(scope='module')
def run(debug_data, tmp_path_factory):
    """A run folder of another experiment: queries at layers 1 and 3 only, no alignment in its matcher."""
    folder = tmp_path_factory.mktemp('interleaved')
    cfg = load_config(ROOT / 'configs' / 'segvggt' / 'interleaved12_fada.py', 'debug', {
        'data_root': str(debug_data), 'model.matcher.costs.fada': None})
    (folder / 'config.py').write_text(cfg.pretty_text)
    torch.manual_seed(1)
    save_weights(build_model(cfg), folder / 'weights.safetensors', {})
    return folder


@pytest.fixture(scope='module')
def written(debug_data, run, tmp_path_factory):
    out = tmp_path_factory.mktemp('attention')
    assert command('attention', MAIN, 'untrained', f'late & few={run / "weights.safetensors"}', '--profile', 'debug',
                   '--out', out, '--layers', 1, 3, '--heads', '--cfg-options', f'data_root={debug_data}') == 0
    return out


def test_numbers_stand_side_by_side_for_every_layer_of_each_checkpoint(written):
    found = json.loads((written / 'attention.json').read_text())
    assert [(row['checkpoint'], row['layer']) for row in found['layers']] == [
        *(('untrained', layer) for layer in range(4)), ('late & few', 1), ('late & few', 3)]
    assert 'fada' in found['checkpoints']['untrained']['costs'] and 'fada' not in found['checkpoints']['late & few']['costs']
    for row in found['layers']:
        for name in ('view_mass', 'pixel_mass', 'special_mass', 'entropy', 'js'):
            assert 0 <= row[name] <= 1 + 1e-6 and 0 <= row[f'even_{name}'] <= 1 + 1e-6
    late = [row['entropy'] for row in found['layers'] if row['checkpoint'] == 'late & few']
    few = found['slopes'][1]
    assert few['checkpoint'] == 'late & few' and few['entropy'] == pytest.approx(late[1] - late[0])
    with open(written / 'attention.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['pixel_mass']) for row in rows] == [row['pixel_mass'] for row in found['layers']]


def test_an_instance_is_drawn_for_each_checkpoint_and_its_numbers_kept(written):
    first, second = json.loads((written / 'attention.json').read_text())['shown']
    assert (first['scene'], first['instance']) == (second['scene'], second['instance'])
    for shown in (first, second):
        assert list(shown['view_attention']) == ['1', '3'] and sum(shown['visibility']) == pytest.approx(1)
        assert all(sum(shares) == pytest.approx(1, abs=1e-5) for shares in shown['view_attention'].values())
    stem = f'{first["scene"]}_{first["instance"]}'
    assert {path.name for path in (written / 'maps').iterdir()} == {
        f'{stem}_{label}{what}.png' for label in ('untrained', 'late-few') for what in ('', '-layer-1-by-head',
                                                                                       '-layer-3-by-head')}


def test_every_class_layer_and_view_fill_a_folder_per_class(debug_data, run, tmp_path, capsys):
    out = tmp_path / 'out'
    words = ('--class', 'all', '--layers', 'all', '--views', 'all', '--query', 'score')
    assert command('attention', MAIN, f'late={run / "weights.safetensors"}', '--profile', 'debug', '--out', out, *words,
                   '--cfg-options', f'data_root={debug_data}') == 0
    shown = json.loads((out / 'attention.json').read_text())['shown']
    folders = sorted(path.name for path in (out / 'labels').iterdir())
    assert len(folders) == len(shown) == len({item['instance'] for item in shown}) > 0
    said = capsys.readouterr().out
    scene, = {item['scene'] for item in shown}
    absent = set(map(int, re.findall(rf'late: no query is of instance (\d+) of {scene}; it is not drawn', said)))
    assert not absent & {item['instance'] for item in shown}
    for folder in folders:
        assert [path.name for path in sorted((out / 'labels' / folder).iterdir())] == ['layer_01.png', 'layer_03.png']
    height, width = read_photo(out / 'labels' / folders[0] / 'layer_01.png').shape[:2]
    views = len(shown[0]['views'])
    zoomed = (width - 4 * (min(views, 8) - 1)) // min(views, 8)
    rows = -(-views // 8)
    assert zoomed >= 200 and height == rows * (18 + 2 * zoomed * 3 // 4 + 4) - 4


def test_the_page_needs_nothing_else(written):
    page = (written / 'attention.html').read_text()
    assert page.count('<img src="data:image/') == 6 and page.count('<svg') == 4
    assert 'late &amp; few' in page and not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.parametrize(('options', 'words'), [
    (['--scene', 'scene0404_00'], 'scene0404_00 is not in the test split, which has: scene0'),
    (['--instance', 999], 'no query is matched to an instance 999'),
    (['--layers', 0, 7], r'untrained do not read at the layers \[7\]'),
    (['--layers', 'all', 1], "'all' stands alone"),
    (['--device', 'abacus'], "'abacus' cannot be used")])
def test_what_cannot_be_shown_is_refused(debug_data, tmp_path, capsys, options, words):
    assert command('attention', MAIN, 'untrained', '--profile', 'debug', '--out', tmp_path / 'out', *options,
                   '--cfg-options', f'data_root={debug_data}') == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_checkpoints_are_named_by_label_or_run_and_built_from_their_own_config(run, tmp_path, capsys):
    cfg = load_config(MAIN, 'debug')
    (tmp_path / 'a=b.safetensors').touch()
    plain, labelled, odd = named_checkpoints(
        ['untrained', f'mine={run / "weights.safetensors"}', str(tmp_path / 'a=b.safetensors')], cfg)
    assert (plain.label, labelled.label, odd.label) == ('untrained', 'mine', 'a=b')
    assert plain.cfg is odd.cfg is cfg and labelled.cfg.model.queries.insertion.type == 'InterleavedLayers'
    assert default_label(str(run / 'weights.safetensors')) == run.name
    with pytest.raises(ConfigError, match="two checkpoints are called 'untrained'"):
        named_checkpoints(['untrained', 'untrained'], cfg)
    assert command('attention', MAIN, 'gone.safetensors', '--out', tmp_path / 'out') == 2
    assert 'no checkpoint gone.safetensors' in capsys.readouterr().err


def test_maps_whose_labels_become_equal_as_file_names_are_all_written(tmp_path, monkeypatch):
    monkeypatch.setattr('jrs.cli.attention.pictures_of', lambda item, every: {'': np.zeros((4, 4, 3), np.uint8)})
    item = SimpleNamespace(scene='s', instance=1, query=0, label=0)
    found = [SimpleNamespace(checkpoint=SimpleNamespace(label=label), shown=[item]) for label in ('a b', 'a/b', 'a-b')]
    write_pictures(tmp_path, found, ('chair',))
    assert sorted(path.name for path in (tmp_path / 'maps').iterdir()) == ['s_1_a-b-2.png', 's_1_a-b-3.png', 's_1_a-b.png']
