"""Photos and videos become scene folders of which only the pictures are known; readers say what cannot be done."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from jrs.datasets.dataset import SceneDataset, collate_scenes
from jrs.datasets.prepare.images import prepare_images
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import SceneFolder, SceneWriter, check_scene, read_split
from jrs.errors import DataError
from jrs.io.images import load_photos
from tests.io.test_images import odd_photos

QUIET = {'progress': lambda line: None}


@pytest.fixture
def photos(tmp_path):
    """A folder kitchen with 1.jpg, 2.png, 10.bmp and a note, 40 x 30 pixels each."""
    folder = tmp_path / 'kitchen'
    folder.mkdir()
    for number, name in enumerate(('1.jpg', '2.png', '10.bmp')):
        Image.new('RGB', (40, 30), (60 * number, 90, 120)).save(folder / name)
    (folder / 'note.txt').write_text('x')
    return folder


def test_photos_become_a_sound_scene_in_natural_order(photos, tmp_path):
    assert prepare_images([photos], tmp_path / 'mine', **QUIET).written == ['kitchen']
    scene = SceneFolder(tmp_path / 'mine' / 'kitchen')
    check_scene(scene.path)
    assert [frame.name for frame in scene.frames] == ['1', '2', '10'] and not scene.record.has_geometry
    assert sorted(path.name for path in scene.path.iterdir()) == ['color', 'scene.json']
    for name in ('1.jpg', '2.png'):
        assert (scene.path / 'color' / name).read_bytes() == (photos / name).read_bytes()
    assert (scene.color(scene.frames[2]) == [120, 90, 120]).all()
    assert read_split(tmp_path / 'mine', 'all') == ['kitchen']


def test_photos_of_any_name_become_a_sound_scene(tmp_path):
    prepare_images([odd_photos(tmp_path / 'in.2024')], tmp_path / 'mine', **QUIET)
    check_scene(tmp_path / 'mine' / 'in.2024')
    assert load_photos(tmp_path / 'mine' / 'in.2024', 56).images.equal(load_photos(tmp_path / 'in.2024', 56).images)
    assert prepare_images([tmp_path / 'in.2024'], tmp_path / 'mine', **QUIET).kept == ['in.2024']
    long = 'x' * 200
    assert prepare_images([tmp_path / 'in.2024'], tmp_path / 'mine', long, every=8, **QUIET).written == [long]


def test_test_mode_serves_what_infer_reads(photos, tmp_path):
    """`SceneDataset`, and `load_photos` on photos and on the scene folder, give the same network input."""
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    batch = collate_scenes([SceneDataset('mine', 'all', 'scannet200', width=56, data_root=tmp_path, mode='test')[0]])
    assert batch.view_names == [['1', '2', '10']]
    for name in ('intrinsics', 'cam_from_world', 'depth_m', 'instance_ids', 'ground_truth'):
        assert getattr(batch, name) is None
    for source in (photos, tmp_path / 'mine' / 'kitchen'):
        loaded = load_photos(source, 56)
        assert loaded.names == ['1', '2', '10']
        torch.testing.assert_close(loaded.images, batch.unpacked().images[0])


def test_training_on_photos_is_refused(photos, tmp_path):
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    dataset = SceneDataset('mine', 'all', 'scannet200', width=56, data_root=tmp_path)
    with pytest.raises(DataError, match='cannot be trained on'):
        dataset[SampleRequest(0, 0, 2, 1.0)]


def test_frames_of_a_video_are_spread_over_it(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'walk.mkv'), cv2.VideoWriter_fourcc(*'MJPG'), 30, (40, 30))
    for number in range(21):
        writer.write(np.full((30, 40, 3), 10 * number, np.uint8))
    writer.release()
    prepare_images([tmp_path / 'walk.mkv'], tmp_path / 'mine', every=2, max_views=3, **QUIET)
    scene = SceneFolder(tmp_path / 'mine' / 'walk')
    check_scene(scene.path)
    assert [frame.name for frame in scene.frames] == ['frame_000000', 'frame_000010', 'frame_000020']
    assert [round(scene.color(frame).mean(), -1) for frame in scene.frames] == [0, 100, 200]


def test_a_scene_is_kept_until_its_photos_change(photos, tmp_path):
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    assert prepare_images([photos], tmp_path / 'mine', **QUIET).kept == ['kitchen']
    shutil.copy(photos / '1.jpg', photos / '3.jpg')
    assert prepare_images([photos], tmp_path / 'mine', **QUIET).written == ['kitchen']
    assert len(SceneFolder(tmp_path / 'mine' / 'kitchen').frames) == 4


def test_a_scene_of_another_folder_is_not_replaced(photos, tmp_path):
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    other = shutil.copytree(photos, tmp_path / 'upstairs' / 'kitchen')            # names and sizes are equal too
    with pytest.raises(DataError, match=r'mine/kitchen is there already.*tmp.*/kitchen.*upstairs/kitchen.*--name'):
        prepare_images([other], tmp_path / 'mine', **QUIET)
    assert prepare_images([other], tmp_path / 'mine', 'upstairs', **QUIET).written == ['upstairs']
    assert prepare_images([photos], tmp_path / 'mine', **QUIET).kept == ['kitchen']


def test_turned_photos_and_other_sizes_are_understood(photos, tmp_path):
    turned = Image.new('RGB', (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6                                                        # a quarter turn
    turned.save(photos / '3.jpg', exif=exif)
    Image.new('RGB', (10, 10)).save(photos / 'webp.jpg', format='WEBP')     # not what its suffix says
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    scene = SceneFolder(tmp_path / 'mine' / 'kitchen')
    check_scene(scene.path)
    sizes = {frame.name: scene.camera(frame).color_size for frame in scene.frames}
    assert sizes == {'1': (30, 40), '2': (30, 40), '3': (40, 30), '10': (30, 40), 'webp': (10, 10)}
    assert scene.record.notes == ['1 file was not read: note.txt (no picture)', 'pictures of 3 sizes']
    assert scene.color_path(scene.frames[-1]).suffix == '.png'


def test_faults_are_named(photos, tmp_path, monkeypatch):
    with pytest.raises(DataError, match='no file or folder'):
        prepare_images([tmp_path / 'gone.jpg'], tmp_path / 'mine', **QUIET)
    with pytest.raises(DataError, match='no video'):
        prepare_images([tmp_path / 'gone.mp4'], tmp_path / 'mine', **QUIET)
    with pytest.raises(DataError, match='--name'):
        prepare_images([photos], tmp_path / 'mine', name='../up', **QUIET)
    (photos / '2.png').write_bytes(b'broken')
    assert '2.png' in prepare_images([photos], tmp_path / 'mine', **QUIET).failed['kitchen']
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == ['all.txt']
    monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), {'free': 10})())
    with pytest.raises(DataError, match='are needed'):
        prepare_images([photos], tmp_path / 'mine', **QUIET)


def test_a_scene_with_some_poses_only_is_not_sound(photos, tmp_path):
    prepare_images([photos], tmp_path / 'mine', **QUIET)
    scene = SceneFolder(tmp_path / 'mine' / 'kitchen')
    record = scene.record
    record.frames[0] = dataclasses.replace(record.frames[0], cam_from_world=np.eye(4))
    with SceneWriter(tmp_path / 'mine', 'half') as writer:
        shutil.copytree(scene.path / 'color', writer.folder / 'color', dirs_exist_ok=True)
        writer.finish(dataclasses.replace(record, name='half'))
    with pytest.raises(DataError, match="none may have one.*'1'"):
        check_scene(tmp_path / 'mine' / 'half')
