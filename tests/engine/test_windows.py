"""Windows of photos: which views go together, what is kept and refused, and all of it as one result."""

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from benchmarks.long_walk import NOISE, TrueGeometry, with_true_geometry
from jrs.config import REPOSITORY, load_config
from jrs.engine import joined
from jrs.engine import windows as engine
from jrs.engine.build import build_model
from jrs.engine.inference import Reconstructor
from jrs.engine.windows import Plan, fingerprint
from jrs.errors import DataError
from jrs.geometry.cloud import camera_corners, instance_map, point_cloud
from jrs.heads.text_class import TextClassHead
from jrs.io.images import LoadedPhotos, SourceViews
from jrs.io.ply import read_ply
from jrs.io.png import read_png16
from jrs.io.video import VideoFrames
from jrs.io.vocabulary import Vocabulary, write_vocabulary
from jrs.io.weights import save_weights
from jrs.postprocess.export import original_ids, view_in_photo
from jrs.postprocess.merging import WindowInstances, merge_windows
from jrs.structures import Instances, PackedMasks, Reconstruction
from tests._data import command


def test_windows_share_views_and_each_view_is_taken_from_one():
    plan = Plan(9, 4, 2)
    assert plan.spans == [(0, 4), (2, 6), (4, 8), (6, 9)] and plan.owned == [(0, 3), (3, 5), (5, 7), (7, 9)]
    assert Plan(3, 4, 2).spans == [(0, 3)] and Plan(4, 4, 3).spans == [(0, 4)] and Plan(5, 4, 3).spans == [(0, 4), (1, 5)]
    for views in range(1, 40):
        plan = Plan(views, 7, 3)
        assert [view for start, stop in plan.owned for view in range(start, stop)] == list(range(views))
        assert all(first <= start < stop <= last
                   for (first, last), (start, stop) in zip(plan.spans, plan.owned, strict=True))
    with pytest.raises(DataError, match='in 1 .. 3 for windows of 4'):
        Plan(9, 4, 4)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Nine photos of two shapes, so that views are padded."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(9):
        size = (60, 80, 3) if number % 4 else (40, 80, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, size, np.uint8)).save(folder / f'{number}.png')
    return folder


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp('run'))


def untrained(folder, **overrides):
    """Write an untrained debug model beside its config."""
    cfg = load_config(REPOSITORY / 'configs' / 'segvggt' / 'all24_fada.py', 'debug', overrides)
    torch.manual_seed(0)
    (folder / 'config.py').write_text(cfg.pretty_text)
    save_weights(build_model(cfg), folder / 'weights.safetensors', dict(origin='a test'))
    return folder / 'weights.safetensors'


def test_windows_of_true_geometry_are_joined_exactly_and_noise_adds_up_unless_anchored(tmp_path):
    rng, count = np.random.default_rng(0), 30
    truth, depth = np.tile(np.eye(4), (count, 1, 1)), rng.uniform(1, 4, (count, 28, 42))
    truth[:, :3, :3] = Rotation.random(count, random_state=0).as_matrix()
    truth[:, :3, 3] = rng.normal(0, 2, (count, 3))
    intrinsics = np.array([[40.0, 0, 20.5], [0, 40, 13.5], [0, 0, 1]])
    for view in range(count):
        Image.fromarray(np.full((28, 42, 3), view, np.uint8)).save(tmp_path / f'{view}.png')
    exact, noisy, held = (
        with_true_geometry(TrueGeometry(truth, intrinsics, depth, **noise), tmp_path, tmp_path / name,
                           Plan(count, 8, 3, anchors), width=42)
        for name, noise, anchors in (('exact', {}, 3), ('noisy', NOISE, 0), ('held', NOISE, 5)))
    assert exact['joined']['rmse_m'] < 1e-6 and exact['joined']['rotation_median'] < 1e-4
    assert exact['before']['rmse_m'] > 1 and exact['before']['rotation_median'] > 30
    assert exact['apart']['rmse_m'] < 1e-6 < noisy['apart']['rmse_m'] < noisy['joined']['rmse_m'] < 0.5
    assert held['joined']['rmse_m'] < 0.7 * noisy['joined']['rmse_m']
    assert list(exact['first_windows_m']) == [1, 2, 4, 6] and exact['first_windows_m'][6] == exact['joined']['rmse_m']


def test_a_video_is_gone_through_once_though_windows_share_frames(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr('jrs.io.video.VideoFrames', lambda path: opened.append(path) or VideoFrames(path))
    writer = cv2.VideoWriter(str(tmp_path / 'walk.mkv'), cv2.VideoWriter_fourcc(*'MJPG'), 30, (80, 60))
    for frame in np.random.default_rng(0).integers(0, 256, (7, 60, 80, 3), np.uint8):
        writer.write(frame)
    writer.release()
    views, plan = SourceViews(tmp_path / 'walk.mkv', 56, kept=2), Plan(7, 4, 2)
    parts = [views.load(plan.places(number)) for number in range(3)]
    assert len(views) == 7 and len(opened) == 1 and [len(part.names) for part in parts] == [4, 4, 3]
    assert parts[0].images[2:].equal(parts[1].images[:2]) and not parts[0].images[0].equal(parts[0].images[2])


def infer(photos, out, weights, *more):
    return command('infer', photos, '--out', out, '--checkpoint', weights, '--device', 'cpu', '--no-glb', '--min-score', 0,
                   '--windows', 4, '--overlap', 2, *more)


@pytest.fixture(scope='module')
def result(photos, weights, tmp_path_factory):
    """A finished run that was killed in its third window, and went on: its folder, and the views of the later passes."""
    out, passes, whole = tmp_path_factory.mktemp('windows') / 'out', [], Reconstructor.__call__

    def dying(self, photos, *args, **options):
        if len(passes) == 2:
            raise KeyboardInterrupt
        passes.append(photos.names)
        return whole(self, photos, *args, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstructor, '__call__', dying)
        assert infer(photos, out, weights) == 130
        assert sorted(path.name for path in (out / 'windows').iterdir()) == ['0000.npz', '0001.npz', 'settings.json']
        patch.setattr(Reconstructor, '__call__', lambda self, photos, **more: passes.append(photos.names) or
                      whole(self, photos, **more))
        assert infer(photos, out, weights) == 0
    return out, passes[2:]


def test_what_is_finished_is_not_run_again(result):
    assert result[1] == [['4', '5', '6', '7'], ['6', '7', '8']]


def test_the_joined_result_has_the_usual_files_and_says_how_windows_fit(result):
    out = result[0]
    assert {path.name for path in out.iterdir()} == {'windows', 'cloud.ply', 'instances.ply', 'masks', 'views',
                                                     'instances.json', 'cameras.json', 'report.html', 'windows.json'}
    cameras = json.loads((out / 'cameras.json').read_text())['cameras']
    assert [camera['name'] for camera in cameras] == [str(number) for number in range(9)]
    np.testing.assert_allclose(cameras[0]['cam_from_world'], np.eye(4), atol=1e-6)
    for camera in cameras:
        rotation = np.array(camera['cam_from_world'])[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    windows = json.loads((out / 'windows.json').read_text())['windows']
    assert [window['views'] for window in windows] == [[0, 3], [2, 5], [4, 7], [6, 8]]
    joins = [window['to_the_one_before'] for window in windows]
    assert joins[0] is None and all(join['residual'] >= 0 and join['pairs'] > 100 for join in joins[1:])
    np.testing.assert_allclose(np.cumprod([1, *(join['scale'] for join in joins[1:])]),
                               [window['scale'] for window in windows])
    assert 'of 9 views are shown' in (out / 'report.html').read_text()


def test_masks_points_and_instances_have_the_same_numbers(result):
    out = result[0]
    record = json.loads((out / 'instances.json').read_text())['instances']
    assert record and [entry['score'] for entry in record] == sorted((entry['score'] for entry in record), reverse=True)
    assert max(len(entry['windows']) for entry in record) > 1                   # merged
    seen = set()
    for number in range(9):
        ids = read_png16(out / 'masks' / f'{number}.png')
        assert ids.shape == ((60, 80) if number % 4 else (40, 80))
        for which in np.unique(ids[ids > 0]).tolist():
            assert record[which - 1]['mask_pixels_per_view'][str(number)] > 0
            seen.add(which)
    points = read_ply(out / 'cloud.ply')[0]
    assert set(np.unique(points['view']).tolist()) == set(range(9))
    assert set(np.unique(points['instance']).tolist()) - {0} <= seen
    counts = np.bincount(points['instance'], minlength=len(record) + 1)[1:]
    assert [entry['points'] for entry in record] == counts.tolist()


def test_windows_padded_to_other_sizes_come_to_the_largest(weights, tmp_path):
    folder, out = tmp_path / 'photos', tmp_path / 'out'
    folder.mkdir()
    for number, height in enumerate((60, 40, 40)):
        pixels = np.random.default_rng(number).integers(0, 256, (height, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.png')
    assert infer(folder, out, weights, '--windows', 2, '--overlap', 1) == 0
    sizes = [tuple(np.load(out / 'windows' / f'{number:04d}.npz')['mask_size']) for number in (0, 1)]
    assert sizes[0] != sizes[1]
    assert tuple(json.loads((out / 'instances.json').read_text())['mask_size']) == max(sizes)
    assert [read_png16(out / 'masks' / f'{number}.png').shape for number in range(3)] == [(60, 80), (40, 80), (40, 80)]
    assert '3 of 3 views are shown' in (out / 'report.html').read_text()
    cameras, (height, width) = json.loads((out / 'cameras.json').read_text()), Image.open(out / 'views' / '0.jpg').size[::-1]
    assert cameras['network_input'] == [height, width]
    middles = [camera['intrinsics'][1][2] - camera['height'] / 2 for camera in cameras['cameras']]
    assert middles == pytest.approx([middles[0]] * 3)                           # of the model's input


def test_views_of_a_window_brought_to_a_larger_size_show_the_same_points_and_masks():
    rng, views = np.random.default_rng(0), 2
    depth, masks = torch.from_numpy(rng.uniform(1, 2, (views, 12, 20))).float(), rng.random((3, views, 6, 10)) > 0.5
    intrinsics = torch.tensor([[20.0, 0, 9.5], [0, 20, 5.5], [0, 0, 1]]).expand(views, 3, 3)
    images = torch.from_numpy(rng.random((views, 3, 12, 20))).float()
    instances = Instances(PackedMasks.pack(torch.from_numpy(masks)), torch.arange(3), torch.tensor([0.9, 0.8, 0.7]),
                          torch.arange(3))
    scene = Reconstruction(images, depth, depth, intrinsics, torch.eye(4).expand(views, 4, 4), instances=instances,
                           view_names=['a', 'b'])
    to_input = torch.tensor([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1.0]], dtype=torch.float64).expand(views, 3, 3)
    photos = LoadedPhotos(images, torch.ones(views, 12, 20, dtype=torch.bool), ['a', 'b'], [(24, 40)] * views, to_input, [])
    larger, padded = joined._at_size(scene, photos, (28, 24))                  # by 16 rows and 4 columns
    assert larger.images.shape[2:] == padded.valid.shape[1:] == (28, 24) and larger.instances.packed.size == (14, 12)
    before, after = (point_cloud(one, own.valid) for one, own in ((scene, photos), (larger, padded)))
    np.testing.assert_allclose(after.points, before.points, atol=1e-5)
    np.testing.assert_array_equal(after.instances, before.instances)
    np.testing.assert_allclose(camera_corners(larger, 1)[:, 1, :2], [[-0.6, -0.7]] * views, atol=1e-6)
    for view in range(views):
        ids = [original_ids(instance_map(one.instances.packed)[view], own, view)
               for one, own in ((scene, photos), (larger, padded))]
        np.testing.assert_array_equal(*ids)
        np.testing.assert_allclose(view_in_photo(padded, view).astype(int), view_in_photo(photos, view), atol=1)


def test_where_masks_overlap_the_instance_with_the_better_score_of_all_windows_has_the_pixel():
    one, two = (WindowInstances(np.array(scores), np.array([4, 5])[:len(scores)]) for scores in ([0.95], [0.9, 0.5]))
    merged = merge_windows([one, two], [[(0, 1)]])
    masks = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool).view(2, 1, 1, 3)
    second = Instances(PackedMasks.pack(masks), torch.tensor([4, 5]), torch.tensor([0.9, 0.5]), torch.tensor([7, 8]))
    ordered, own = joined._as_merged(second, merged, 1)
    assert own.tolist() == [0, 1] and ordered.queries.tolist() == [8, 7] and ordered.labels.tolist() == [4, 4]
    assert instance_map(ordered.packed).flatten().tolist() == [2, 1, 1]


def test_a_model_without_cameras_is_refused_before_the_first_pass(photos, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Reconstructor, '__call__', None)
    monkeypatch.setattr(Reconstructor, 'predicts', lambda self, head: head != 'camera_head')
    assert infer(photos, tmp_path / 'out', weights) != 0
    assert 'no camera head' in capsys.readouterr().err and not (tmp_path / 'out' / 'windows').exists()
    with pytest.raises(DataError, match='no camera head'):
        engine.run_windows(SimpleNamespace(predicts=lambda head: False), None, Plan(9, 4, 2), None)


def test_words_of_a_config_with_other_embeddings_are_other_settings(photos, weights, tmp_path):
    views, plan, found = SourceViews(photos, 56), Plan(9, 4, 2), []
    for value in (1.0, 2.0):
        embeddings = torch.tensor([[1, 0], [value, 1]])
        write_vocabulary(tmp_path / 'words.yaml', Vocabulary(('a', 'b'), embeddings, 'one', 'a test'))
        model = SimpleNamespace(class_head=TextClassHead(embedding_dim=4, vocabulary=str(tmp_path / 'words.yaml')))
        reconstruct = SimpleNamespace(model=model, cfg=SimpleNamespace(pretty_text=''), width=56, agnostic=False,
                                      min_score=0.2, keep_all=False, class_names=('a', 'b'))
        found.append(engine.settings_of(reconstruct, weights, views, plan))
    engine.StoredWindows(tmp_path, found[0])
    with pytest.raises(DataError, match='other embeddings of its words. They do not go together'):
        engine.StoredWindows(tmp_path, found[1])


def test_the_report_says_what_a_model_without_depth_leaves_out(photos, tmp_path):
    weights = untrained(tmp_path, **{'model.depth_head': None})
    assert infer(photos, tmp_path / 'out', weights, '--max-views', 5) == 0
    assert not (tmp_path / 'out' / 'cloud.ply').exists()
    assert 'scene.glb and colmap/: the model has no depth head' in (tmp_path / 'out' / 'report.html').read_text()


def test_another_model_other_photos_or_settings_are_refused(result, photos, weights, tmp_path, capsys):
    out = result[0]
    assert infer(photos, out, weights, '--overlap', 1) != 0
    assert 'overlap was 2, now 1' in capsys.readouterr().err
    assert infer(photos, out, weights, '--max-views', 5) != 0
    assert re.search(r'other photos \(9 then, 5 now\)', capsys.readouterr().err)
    other = tmp_path / 'weights.safetensors'
    (tmp_path / 'config.py').write_bytes((weights.parent / 'config.py').read_bytes())
    other.write_bytes(weights.read_bytes()[:-1] + b'\x01')
    assert fingerprint(other) != fingerprint(weights)
    assert infer(photos, out, other) != 0
    assert 'weights was' in capsys.readouterr().err


def test_what_does_not_go_with_windows_and_damage_are_said(result, photos, weights, tmp_path, capsys):
    for more, words in ((('--colmap',), '--colmap: not with --windows'),
                        (('--overlap', 4), 'must be less than the 4 views'),
                        (('--anchors', 5), '--anchors must be in 0 .. 4')):
        assert infer(photos, tmp_path / 'new', weights, *more) != 0
        assert words in capsys.readouterr().err
    for name in ('--overlap', '--anchors'):
        assert command('infer', photos, '--out', tmp_path / 'new', name, 2, '--no-glb') != 0
        assert f'{name} is of windows' in capsys.readouterr().err
    store = engine.StoredWindows(tmp_path, dict(a=1))
    store.path(0).write_bytes(b'PK\x03\x04 cut off')
    with pytest.raises(DataError, match='0000.npz cannot be read.*remove it'), store.open(0):
        pass
