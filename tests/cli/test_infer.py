"""The command stops early, with exit code 2 and a message that names what is wrong."""

import json
import os

import pytest
from PIL import Image

from jrs.cli import run
from jrs.cli.infer import main
from tests._data import MAIN, forget_runs
from tests.bad_inputs import untrained
from tests.io.test_images import ODD_NAMES, odd_photos


def refused(capsys, *argv):
    forget_runs()                               # loggers of earlier tests write to streams that are closed
    assert run(main, [str(item) for item in argv]) == 2
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err
    return captured.err


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.png'
    Image.new('RGB', (40, 30)).save(path)
    return path


def test_missing_photos_are_named_before_the_model_loads(capsys, tmp_path):
    assert 'nowhere' in refused(capsys, tmp_path / 'nowhere', '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_output_that_is_a_file_is_refused(capsys, photo):
    assert 'is a file' in refused(capsys, photo, '--out', photo)


def test_no_weights_says_how_to_get_some(capsys, photo, tmp_path, monkeypatch):
    monkeypatch.setattr('jrs.engine.inference.DEFAULT_WEIGHTS', tmp_path / 'weights.safetensors')
    message = refused(capsys, photo, '--out', tmp_path / 'out')
    assert 'make demo' in message and 'huggingface' in message


def test_config_without_weights_is_refused(capsys, photo, tmp_path):
    assert '--checkpoint' in refused(capsys, photo, '--out', tmp_path / 'out', '--config', 'configs/segvggt/all24_fada.py')


def test_missing_checkpoint_is_named(capsys, photo, tmp_path):
    gone = tmp_path / 'gone.safetensors'
    assert gone.name in refused(capsys, photo, '--out', tmp_path / 'out', '--checkpoint', gone)


def test_missing_trimesh_is_said_at_once(capsys, photo, tmp_path, monkeypatch):
    monkeypatch.setattr('jrs.cli.infer.find_spec', lambda name: None)
    assert '--no-glb' in refused(capsys, photo, '--out', tmp_path / 'out')


def test_what_is_known_of_a_scene_does_not_go_with_a_stream(capsys, photo, tmp_path):
    words = (photo, '--out', tmp_path / 'out', '--no-glb', '--stream', '8', '--depth', tmp_path)
    assert 'leave out --stream' in refused(capsys, *words)


@pytest.mark.parametrize('option', [('--stream', '0'), ('--confidence', '100'), ('--max-views', '0'), ('--every', '-1')])
def test_numbers_out_of_range_are_usage_errors(photo, tmp_path, option):
    with pytest.raises(SystemExit) as caught:
        main([str(photo), '--out', str(tmp_path), *option])
    assert caught.value.code == 2


@pytest.mark.parametrize(('option', 'name', 'words'), [
    ('--cameras', 'gone.json', 'no file'), ('--cameras', 'cut.json', 'no JSON'), ('--depth', 'gone', 'no folder')])
def test_what_is_known_is_checked_before_the_model_loads(capsys, photo, tmp_path, monkeypatch, option, name, words):
    monkeypatch.setattr('jrs.engine.inference.Reconstructor', None)
    (tmp_path / 'cut.json').write_text('{')
    message = refused(capsys, photo, '--out', tmp_path / 'out', option, tmp_path / name)
    assert name in message and words in message


def test_given_cameras_that_lack_a_photo_are_refused_before_the_pass(capsys, photo, tmp_path, monkeypatch):
    monkeypatch.setattr('jrs.engine.inference.Reconstructor.__call__', None)
    camera = dict(name='other', width=40, height=30, intrinsics=[[30, 0, 20], [0, 30, 15], [0, 0, 1]],
                  cam_from_world=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    (tmp_path / 'cameras.json').write_text(json.dumps(dict(cameras=[camera])))
    message = refused(capsys, photo, '--out', tmp_path / 'out', '--no-glb', '--cameras', tmp_path / 'cameras.json')
    assert 'no camera for 1 of 1 views: photo. It has: other' in message


@pytest.mark.parametrize(('words', 'said'), [
    (('--scale-from', '2.5'), 'length=METRES@VIEW:X,Y@VIEW:X,Y'), (('--scale-from', 'depth=gone'), 'no folder gone'),
    (('--scale-from', 'cameras=gone.json'), 'gone.json'),
    (('--scale-from', 'depth=2@photo:1,2', '--depth', '.'), 'already'),
    (('--scale-from', 'depth=2@photo:1,2', '--stream'), 'leave out --stream')])
def test_a_scale_that_says_nothing_is_refused_before_the_model_loads(capsys, photo, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr('jrs.engine.inference.Reconstructor', None)
    assert said in refused(capsys, photo, '--out', tmp_path / 'out', *words)


def test_a_scale_from_a_view_that_is_not_there_is_refused_before_the_pass(capsys, photo, tmp_path, monkeypatch):
    monkeypatch.setattr('jrs.engine.inference.Reconstructor.__call__', None)
    message = refused(capsys, photo, '--out', tmp_path / 'out', '--no-glb', '--scale-from', 'depth=2@door:3,4')
    assert "no view 'door'. There are: photo" in message


def test_photos_of_any_name_are_reconstructed_and_every_view_is_written(capsys, tmp_path):
    """From an OUT of such a name, to a terminal of ASCII: on the code before, each of several of these was a traceback."""
    forget_runs()
    out, weights = tmp_path / os.fsdecode(b'o u\xff#%t'), untrained(tmp_path / os.fsdecode(b'w\xff.safetensors'))
    words = [odd_photos(tmp_path / os.fsdecode(b'in\xff')), '--out', out, '--colmap', '--no-glb', '--min-score', 0,
             '--device', 'cpu', '--config', MAIN, '--profile', 'debug', '--checkpoint', weights, '--max-points', 2000]
    assert run(main, [str(word) for word in words]) == 0
    cameras = json.loads((out / 'cameras.json').read_text())['cameras']
    names = {camera['name'] for camera in cameras}
    assert len(names) == len({camera['file'] for camera in cameras}) == len(ODD_NAMES)
    assert {path.stem for path in (out / 'masks').iterdir()} == names
    assert len(list((out / 'colmap' / 'images').iterdir())) == len(names)
    report = (out / 'report.html').read_bytes().decode()
    assert 'Reconstruction of in%FF' in report and 'a%0Ab</td>' in report and '>it&#x27;s &quot;q&quot;<' in report


def test_the_command_brings_a_reconstruction_to_metres_and_says_from_what(capsys, photo, tmp_path):
    forget_runs()
    words = [photo, '--out', tmp_path / 'out', '--scale-from', 'depth=2.5@photo:20,15', '--colmap']
    assert run(main, [str(word) for word in words]) == 0
    assert 'scale: metres, from a known depth of 2.5 m; depth and translations were multiplied by' in capsys.readouterr().out
    for name in ('cameras.json', 'instances.json', 'report.html', 'cloud.ply', 'colmap/sparse/0/images.txt', 'scene.glb'):
        assert b'from a known depth of 2.5 m' in (tmp_path / 'out' / name).read_bytes(), name
