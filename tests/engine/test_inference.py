"""From a checkpoint to saved results: what loads, what is refused, and what the output says about the weights."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from jrs.cli import infer
from jrs.config import REPOSITORY, load_config
from jrs.engine import inference
from jrs.engine.build import build_model
from jrs.engine.inference import Reconstructor, advice, default_weights, pick_device, weights_card
from jrs.errors import ConfigError, WeightsError
from jrs.io.known_geometry import known_geometry, read_cameras
from jrs.io.png import write_png16
from jrs.io.video import VideoFrames
from jrs.io.weights import save_weights
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES
from tests._data import command
from tests.seeded_weights import fill_module_

EXPERIMENT = REPOSITORY / 'configs' / 'segvggt' / 'all24_fada.py'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder as training leaves it: config.py and weights.safetensors, of an untrained debug model."""
    folder = tmp_path_factory.mktemp('run')
    cfg = load_config(EXPERIMENT, 'debug')
    torch.manual_seed(0)
    (folder / 'config.py').write_text(cfg.pretty_text)
    card = dict(origin='a test', licence='Apache-2.0', trained_on='built-in rooms (preset debug)', benchmark='scannet200')
    save_weights(build_model(cfg), folder / 'weights.safetensors', card)
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Photos of mixed sizes, one with alpha."""
    folder = tmp_path_factory.mktemp('photos')
    for name, mode, size in (('a.png', 'RGB', (80, 60)), ('b.png', 'RGBA', (60, 80))):
        noise = torch.randint(0, 256, (size[1], size[0], len(mode)), dtype=torch.uint8)
        Image.fromarray(noise.numpy(), mode).save(folder / name)
    return folder


def test_five_lines_give_every_file(run, photos, tmp_path):
    reconstruct = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu', min_score=0.0)
    scene = reconstruct(photos)
    written = {path.name for path in scene.save(tmp_path, glb=False)}
    assert written == {'cloud.ply', 'instances.ply', 'masks', 'views', 'instances.json', 'cameras.json', 'report.html'}
    cameras = json.loads((tmp_path / 'cameras.json').read_text())['cameras']
    np.testing.assert_allclose(cameras[0]['cam_from_world'], np.eye(4), atol=1e-6)
    assert [(camera['width'], camera['height']) for camera in cameras] == [(80, 60), (60, 80)]
    assert [Image.open(tmp_path / 'masks' / f'{name}.png').size for name in 'ab'] == [(80, 60), (60, 80)]
    report = (tmp_path / 'report.html').read_text()
    assert 'no match for real photos' in report and 'segvggt_scannet200.pt' in report and 'Apache-2.0' in report


def test_photos_are_resized_by_the_filter_that_the_config_tests_with(run, photos):
    reconstruct = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu')
    views = {None: reconstruct.load(photos / 'a.png').images}
    for kind in ('lanczos', 'area'):
        reconstruct.cfg.test_dataset.resize = kind
        views[kind] = reconstruct.load(photos / 'a.png').images
    assert views[None].equal(views['lanczos']) and not views[None].equal(views['area'])
    reconstruct.cfg.test_dataset.resize = 'larea'
    with pytest.raises(ConfigError, match="filter of test_dataset.resize 'larea'.*'area'"):
        reconstruct.load(photos / 'a.png')


def test_each_query_gives_one_instance_unless_all_are_kept(run, photos):
    one = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu', agnostic=True, min_score=0.0)(photos / 'a.png')
    assert one.class_names == ('object',) and one.reconstruction.images.shape[0] == 1
    queries = one.instances.queries.tolist()
    assert len(queries) == len(set(queries)) and not one.instances.labels.any()
    every = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu', keep_all=True)(photos / 'a.png')
    assert len(every.instances.scores) > 12                                    # 12 queries, several classes each


def test_the_default_is_one_named_file_from_any_folder_whatever_is_newer(tmp_path, monkeypatch):
    newer = tmp_path / 'weights' / 'newer' / 'weights.safetensors'
    newer.parent.mkdir(parents=True)
    (newer.parent / 'config.py').write_text('')
    save_weights({'queries.token': torch.zeros(1)}, newer, {})
    monkeypatch.chdir(tmp_path)
    assert default_weights() == REPOSITORY / 'weights' / 'rooms_tiny_all24_fada' / 'weights.safetensors'
    assert 'rooms_tiny_all24_fada/weights.safetensors' in infer.parser().format_help()
    assert Reconstructor(device='cpu').weights['file'] == str(default_weights())


def test_a_missing_default_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, 'DEFAULT_WEIGHTS', tmp_path / 'weights.safetensors')
    with pytest.raises(WeightsError, match='make demo') as caught:
        default_weights()
    assert str(tmp_path / 'weights.safetensors') in str(caught.value) and 'segvggt_scannet200.pt' in str(caught.value)


def test_weights_that_do_not_fit_are_refused(run, tmp_path):
    with pytest.raises(WeightsError, match='another size|does not fit'):
        Reconstructor(EXPERIMENT, run / 'weights.safetensors', 'rooms', device='cpu')
    with pytest.raises(WeightsError, match='no checkpoint'):
        Reconstructor(checkpoint=tmp_path / 'none.safetensors')
    alone = tmp_path / 'alone.safetensors'
    alone.write_bytes((run / 'weights.safetensors').read_bytes()[:-100])
    with pytest.raises(ConfigError, match='No config.py beside'):
        Reconstructor(checkpoint=alone)
    with pytest.raises(WeightsError, match='no readable safetensors'):
        Reconstructor(run / 'config.py', alone, device='cpu')
    with pytest.raises(WeightsError, match='--checkpoint'):
        Reconstructor(config=EXPERIMENT)


def test_unknown_devices_are_named():
    with pytest.raises(ConfigError, match="'tpu9'"):
        pick_device('tpu9')
    assert pick_device('cpu').type == 'cpu'


def test_advice_depends_on_what_the_weights_saw(run):
    card, backbone = weights_card(run / 'weights.safetensors'), Reconstructor(checkpoint=run / 'weights.safetensors',
                                                                             device='cpu').model.backbone
    assert card['origin'] == 'a test' and 'no match for real photos' in advice(card, backbone)
    assert 'JinyuanQu/SegVGGT' in advice(card, backbone) and 'non-commercial' in advice(weights_card('other.pt'), backbone)
    trained = {**card, 'trained_on': 'ScanNet', 'licence': 'X'}
    assert advice(trained, backbone) == 'The weights were trained on ScanNet; licence: X.'


@pytest.mark.parametrize(('plugin', 'name', 'page'), [
    ('pi3', 'Pi3', 'yyfz233/Pi3'), ('pi3x', 'Pi3X', 'yyfz233/Pi3X'), ('stream_vggt', 'StreamVGGT', 'lch01/StreamVGGT'),
    ('vggt_omega', 'VGGTOmega', 'facebook/VGGT-Omega'), ('map_anything', 'MapAnything', 'facebook/map-anything-apache'),
    ('depth_anything_3', 'DepthAnything3', 'huggingface.co/depth-anything')])
def test_advice_names_the_released_weights_of_the_backbone_in_use(plugin, name, page):
    load_plugins([plugin])
    backbone = object.__new__(BACKBONES.get(name))
    torch.nn.Module.__init__(backbone)
    for card in (dict(trained_on='built-in rooms'), dict(trained_on=inference.UNSTATED)):
        said = advice(card, backbone)
        assert 'SegVGGT' not in said and name in said and backbone.weights_licence in said
    assert page in advice(dict(trained_on='built-in rooms'), backbone)


def test_advice_does_not_invent_released_weights():
    said = advice(dict(trained_on='built-in rooms'), torch.nn.Linear(1, 1))
    assert 'train Linear on recordings of real places' in said and 'http' not in said


def write_known(folder, sizes) -> tuple:
    """Write cameras 2 m apart in a world of their own, and a wall 3 m away in millimetres; return file and folder."""
    (folder / 'depth').mkdir()
    cameras = []
    for index, (name, (width, height)) in enumerate(sizes.items()):
        cam_from_world = np.eye(4)
        cam_from_world[:3, 3] = 2 * index, 1, 0.5
        cameras.append(dict(name=name, width=width, height=height, cam_from_world=cam_from_world.tolist(),
                            intrinsics=[[70, 0, width / 2], [0, 71, height / 2], [0, 0, 1]]))
        write_png16(folder / 'depth' / f'{name}.png', np.full((height // 2, width // 2), 3000, np.uint16))
    (folder / 'known.json').write_text(json.dumps(dict(scale='metric', cameras=cameras)))
    return folder / 'known.json', folder / 'depth'


@pytest.mark.parametrize('parts', [('cameras',), ('depth',), ('cameras', 'depth')])
def test_what_is_given_is_what_results_hold_and_a_backbone_of_images_is_not_told(run, photos, tmp_path, parts):
    file, depth = write_known(tmp_path, dict(a=(80, 60), b=(60, 80)))
    reconstruct = Reconstructor(checkpoint=run / 'weights.safetensors', device='cpu')
    loaded = reconstruct.load(photos)
    known = known_geometry(loaded, read_cameras(file) if 'cameras' in parts else None, depth if 'depth' in parts else None)
    scene = reconstruct(loaded, known=known)
    assert not reconstruct.takes_priors and 'VGGT reconstructs from images alone' in scene.facts['given']
    scene.save(tmp_path / 'out', glb=False)
    written = json.loads((tmp_path / 'out' / 'cameras.json').read_text())
    assert written['scale'] == 'metres'
    assert written['source'] == {part: 'given' if part in parts else 'predicted' for part in ('cameras', 'depth')}
    assert 'reconstructs from images alone' in (tmp_path / 'out' / 'report.html').read_text()
    if 'cameras' in parts:
        for before, after in zip(json.loads(file.read_text())['cameras'], written['cameras'], strict=True):
            assert after['cam_from_world'] == before['cam_from_world']
            np.testing.assert_allclose(after['intrinsics'], before['intrinsics'], atol=1e-9)
    if len(parts) == 2:
        points = scene.cloud(confidence=0).points
        np.testing.assert_allclose(points[:, 2], 3 - 0.5, atol=1e-5)            # the wall, in the given world


def test_a_backbone_that_takes_priors_is_told(photos, tmp_path):
    cfg = load_config(REPOSITORY / 'plugins' / 'pi3x' / 'configs' / 'pi3x_priors.py', 'debug')
    torch.manual_seed(0)
    model = build_model(cfg)
    fill_module_(model)
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    save_weights(model, tmp_path / 'weights.safetensors', {})
    file, depth = write_known(tmp_path, dict(a=(80, 60), b=(60, 80)))
    reconstruct = Reconstructor(checkpoint=tmp_path / 'weights.safetensors', device='cpu')
    loaded = reconstruct.load(photos)
    plain = reconstruct(loaded)
    found = reconstruct(loaded, known=known_geometry(loaded, depth=depth))
    assert reconstruct.takes_priors and 'Pi3X is told them (priors)' in found.facts['given']
    assert (found.reconstruction.extras['rays'] - plain.reconstruction.extras['rays']).abs().max() > 1e-3
    assert plain.scale == 'metric, approximate' and found.scale == 'metric' and 'given' not in plain.facts


@pytest.fixture(scope='module')
def streaming_run(tmp_path_factory):
    """A run folder of an untrained causal model."""
    folder = tmp_path_factory.mktemp('streaming')
    cfg = load_config(REPOSITORY / 'plugins' / 'stream_vggt' / 'configs' / 'stream_vggt_fada.py', 'debug')
    torch.manual_seed(0)
    (folder / 'config.py').write_text(cfg.pretty_text)
    save_weights(build_model(cfg), folder / 'weights.safetensors', dict(trained_on='built-in rooms', licence='Apache-2.0'))
    return folder


def test_a_video_is_streamed_window_by_window_and_every_view_is_timed(streaming_run, tmp_path, capsys, monkeypatch):
    """All frames, 7 in windows of 3; the world of all is the first camera of the first."""
    opened = []
    monkeypatch.setattr('jrs.io.video.VideoFrames', lambda path: opened.append(path) or VideoFrames(path))
    writer = cv2.VideoWriter(str(tmp_path / 'walk.mkv'), cv2.VideoWriter_fourcc(*'MJPG'), 30, (80, 60))
    for frame in np.random.default_rng(0).integers(0, 256, (7, 60, 80, 3), np.uint8):
        writer.write(frame)
    writer.release()
    assert command('infer', tmp_path / 'walk.mkv', '--out', tmp_path / 'out', '--stream', 3, '--checkpoint',
                   streaming_run / 'weights.safetensors', '--device', 'cpu', '--no-glb', '--min-score', 0, '--colmap') == 0
    assert len(opened) == 2 and [path.name for path in sorted((tmp_path / 'out').rglob('colmap/images/*'))] == [
        f'frame_{number:06}.jpg' for number in range(7)]       # read once for the views, once for the pictures
    line = r'view \d, frame_00000\d: [\d.]+ s, kept of earlier views [\d.]+ MB, memory [\d.]+ GB, peak [\d.]+ GB'
    assert len(re.findall(line, capsys.readouterr().out)) == 7
    record = json.loads((tmp_path / 'out' / 'stream.json').read_text())
    assert [len(window['views']) for window in record['windows']] == [3, 3, 1] and record['window'] == 3
    assert record['windows'][1]['kept_mb'] == record['windows'][2]['kept_mb'] > 0
    assert all(window['instances'] is not None and min(window['seconds_per_view']) > 0 for window in record['windows'])
    cameras = [json.loads((tmp_path / 'out' / f'window_000{number}' / 'cameras.json').read_text())['cameras']
               for number in range(3)]
    np.testing.assert_allclose(cameras[0][0]['cam_from_world'], np.eye(4), atol=1e-6)
    assert not np.allclose(cameras[1][0]['cam_from_world'], np.eye(4), atol=1e-4)
    assert [camera['name'] for camera in cameras[2]] == ['frame_000006']
    assert (tmp_path / 'out' / 'window_0002' / 'report.html').is_file()


def test_a_stream_of_another_model_or_of_mixed_shapes_is_refused(run, streaming_run, photos, tmp_path, capsys):
    for folder, words in ((run, 'VGGT sees all views at once'), (streaming_run, 'views that come one at a time are of one')):
        assert command('infer', photos, '--out', tmp_path, '--stream', '--device', 'cpu', '--no-glb', '--checkpoint',
                       folder / 'weights.safetensors') != 0
        assert words in ' '.join(capsys.readouterr().err.split())
