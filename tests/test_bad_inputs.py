"""What goes wrong in users' hands: each command says what was given and what to do, exits with 2, shows no traceback."""

from __future__ import annotations

import subprocess

import pytest

from tests._data import MAIN, tool
from tests.bad_inputs import CASES, OWN_TRACEBACK, Site, untrained


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp('weights') / 'weights.safetensors')


@pytest.fixture
def site(tmp_path, debug_data, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Site(tmp_path, debug_data, weights)


@pytest.mark.parametrize('case', CASES)
def test_bad_input_is_answered_with_what_was_given_and_what_to_do(case, site, capsys):
    action, expected = CASES[case]
    code = action(site)
    answer = capsys.readouterr().err
    assert code == 2, answer
    assert 'Traceback' not in answer or case in OWN_TRACEBACK
    lacking = [word for word in expected if word not in answer]
    assert not lacking, f'does not say {lacking}: {answer}'
    assert len(answer.splitlines()) <= 12 or 'Traceback' in answer, answer


@pytest.mark.parametrize(('name', 'words', 'expected'), [
    ('train', [MAIN], ['weights/VGGT-1B/model.pt', 'facebook/VGGT-1B', 'data/scannet', 'tools/prepare.py scannet',
                       '--profile rooms']),
    ('test', [MAIN, 'gone.pth', '--profile', 'rooms'], ['rooms/tiny', 'tools/prepare.py rooms --preset tiny']),
    ('evaluate', ['--predictions', '.', '--ground-truth', '.', '--benchmark', 'scannet200'], ['no <scene>.txt']),
])
def test_a_process_stops_before_anything_is_built_with_one_message_and_exit_code_2(name, words, expected, tmp_path):
    done = subprocess.run(tool(name, *words), capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert all(word in done.stderr for word in expected), done.stderr
    assert done.stdout == '' and list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_answered_with_near_ones(capsys):
    from jrs.cli import main
    assert main(['trian']) == 2 and "'train'" in capsys.readouterr().err
    assert main([]) == 2


def test_images_of_another_size_or_shape_are_refused_by_the_model(weights):
    import torch

    from jrs.config import load_config
    from jrs.engine.build import build_model
    from tests._data import random_batch
    model = build_model(load_config(MAIN, 'debug', {'model.teacher': None}))
    for shape in ((1, 2, 3, 60, 56), (2, 3, 56, 56), (1, 2, 4, 56, 56)):
        batch = random_batch(2)
        batch.images = torch.zeros(shape)
        with pytest.raises(ValueError, match=r'images must be \(B, V, 3, H, W\).*14') as error:
            model(batch)
        assert str(shape) in str(error.value)
