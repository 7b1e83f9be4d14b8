"""The command that draws the paper's figures, on debug rooms with untrained models and prediction files."""

import csv

import numpy as np
import pytest
from PIL import Image

from jrs.datasets.scene import SceneFolder
from jrs.io.submission import SceneSubmission, submission_format, write_submission
from tests._data import MAIN, command


@pytest.fixture
def draw(debug_data, tmp_path, monkeypatch):
    """Draw a figure; return its rows of numbers, and the width of its PNG."""
    monkeypatch.setattr('jrs.report.figures.clouds.PIXELS', (90, 120))
    monkeypatch.setattr('jrs.report.figures.sheet.DPI', 60)

    def draw(number, *words):
        out = tmp_path / 'out'
        code = command('figures', number, MAIN, *words, '--out', out, '--profile', 'debug', '--cfg-options',
                       f'data_root={debug_data}')
        if code:
            return code
        assert (out / f'figure{number}.pdf').read_bytes().startswith(b'%PDF')
        with open(out / f'figure{number}.csv', newline='') as file:
            return list(csv.DictReader(file)), Image.open(out / f'figure{number}.png').size[0]
    return draw


@pytest.fixture
def predictions(debug_data, tmp_path):
    """Prediction files of the test scene: its largest true instance of a scored class."""
    scene = SceneFolder(debug_data / 'rooms' / 'debug' / (debug_data / 'rooms' / 'debug' / 'val.txt').read_text().split()[0])
    mesh = scene.mesh()
    scored = [one for one in scene.instances if 'scannet200' in one.classes and one.label not in ('wall', 'floor')]
    thing = max(scored, key=lambda one: (mesh.instances == one.id).sum())
    masks = np.packbits((mesh.instances == thing.id)[None], axis=1)
    write_submission(tmp_path / 'theirs', scene.name, submission_format('scannet'),
                     SceneSubmission(masks, np.array([thing.classes['scannet200']]), np.array([0.9]), len(mesh.vertices)))
    return tmp_path / 'theirs', scene.name, thing.id


def test_figures_3_and_4_put_checkpoints_side_by_side(draw):
    rows, width = draw(3, 'a=untrained', 'b=untrained', '--query', 'matcher', '--views', 4)
    assert {row['checkpoint'] for row in rows} == {'a', 'b'} and len({row['layer'] for row in rows}) == 1
    assert sum(float(row['view_attention']) for row in rows if row['checkpoint'] == 'a') == pytest.approx(1, abs=1e-4)
    assert width == pytest.approx(174 / 25.4 * 60, abs=1)
    rows, _ = draw(4, 'untrained', '--query', 'matcher', '--layers', 1, 3)
    assert {row['layer'] for row in rows} == {'1', '3'}


def test_figure_5_draws_three_views(draw):
    rows, _ = draw(5, 'untrained', '--min-score', 0)
    views = [name for name in rows[0] if name.startswith('pixels_view_')]
    assert len(views) == 3 and all(float(row['score']) >= 0 for row in rows)


def test_figures_6_and_7_take_checkpoints_and_prediction_files(draw, predictions):
    folder, scene, thing = predictions
    rows, _ = draw(6, f'theirs={folder}', '--scene', scene)
    hit, = (row for row in rows if row['prediction'])
    assert (hit['true_instance'], float(hit['iou'])) == (str(thing), 1.0)
    rows, _ = draw(7, 'ours=untrained', folder, '--min-score', 0, '--instance', thing, '--yaw', 270)
    assert {row['method'] for row in rows} == {'ours', 'theirs'}
    assert {row['true_instance'] for row in rows if row['enlarged'] == '1'} == {str(thing)}


@pytest.mark.parametrize(('words', 'said'), [
    ((5, 'untrained', 'untrained'), 'of one checkpoint'), ((7, 'untrained'), 'compares two methods'),
    ((3, 'untrained', '--scene', 'scene9'), 'not in the test split'), ((3, 'gone.safetensors'), 'no checkpoint gone'),
    ((6, 'a=untrained', 'a=untrained'), "called 'a'"), ((4, 'untrained', '--layers', 77), r'read at the layers [77]')])
def test_what_cannot_be_drawn_is_said(draw, capsys, words, said):
    assert draw(*words) == 2
    assert said in capsys.readouterr().err.replace('do not ', '')
