"""Folders become results: outputs of `infer`, scene folders, prediction files; nothing outside them is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jrs.benchmarks import BENCHMARKS
from jrs.datasets.scene import SceneFolder
from jrs.errors import DataError
from jrs.geometry.cloud import point_cloud
from jrs.io.submission import SceneSubmission, submission_format, write_submission
from jrs.io.submission_arrays import write_submission_arrays
from jrs.postprocess.export import export_scene
from jrs.viewer.read import find_sources, read_output, read_predictions, read_scene
from tests.small_scene import small_photos, small_scene

SCANNET200 = BENCHMARKS['scannet200']


@pytest.fixture
def output(tmp_path):
    """An output folder as `infer` writes it."""
    scene = small_scene()
    photos = small_photos(scene)
    colours = np.full((3, 8, 12, 3), 9, np.uint8)
    cloud = point_cloud(scene, photos.valid, drop_percent=0, feature_colours=colours)
    palette = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    export_scene(tmp_path / 'out', scene, photos, cloud, ('chair', 'table'), palette, glb=False)
    return tmp_path / 'out'


@pytest.fixture
def room(debug_data):
    """A scene folder of the debug rooms."""
    return next(path.parent for path in sorted((debug_data / 'rooms' / 'debug').glob('*/scene.json')))


def test_an_output_says_what_was_exported(output):
    result = read_output(output)
    assert [(one.name, round(one.score, 3), one.colour.tolist()) for one in result.found] == [
        ('table', 0.9, [255, 0, 0]), ('chair', 0.6, [0, 0, 255])]
    assert set(np.unique(result.instances)) == {0, 1, 2} and (result.feature_colours == 9).all()
    assert result.confidence.min() >= 1 and not result.metric and result.scale.startswith('arbitrary') and result.notes == []
    view = result.views[1]
    assert view.name == 'b' and view.size == (40, 48) and np.allclose(view.cam_from_world[:3, 3], [-0.5, 0, 0])
    assert view.picture().shape == (20, 24, 3) and set(np.unique(view.instances())) == {0, 1}


def test_an_output_of_an_older_version_is_shown_without_what_it_lacks(output):
    shutil.rmtree(output / 'views')
    (output / 'instances.json').unlink()
    with pytest.raises(DataError, match='instances.json has 0: the files are of different runs'):
        read_output(output)
    (output / 'cameras.json').unlink()
    vertices = (output / 'cloud.ply').read_bytes().replace(b'property int instance', b'property int instancx')
    (output / 'cloud.ply').write_bytes(vertices)
    result = read_output(output)
    assert result.found == [] and result.views == [] and 'cameras.json is missing' in ' '.join(result.notes)


@pytest.mark.parametrize('name', ['cloud.ply', 'instances.json', 'cameras.json', 'views/b.jpg', 'masks/b.png'])
def test_a_link_out_of_the_folder_is_refused(output, tmp_path, name):
    elsewhere = tmp_path / 'elsewhere'
    shutil.move(output / name, elsewhere)
    (output / name).symlink_to(elsewhere)
    with pytest.raises(DataError, match='leads out of the folder'):
        read_output(output)


def test_a_view_that_is_named_as_a_path_is_not_looked_for_elsewhere(output, tmp_path):
    Image.new('RGB', (4, 4)).save(tmp_path / 'secret.jpg')
    record = json.loads((output / 'cameras.json').read_text())
    for name in ('../../secret', str(tmp_path / 'secret')):
        record['cameras'][0]['name'] = name
        (output / 'cameras.json').write_text(json.dumps(record))
        try:
            assert read_output(output).views[0].picture is None
        except DataError as error:
            assert 'leads out of the folder' in str(error)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda record: record.update(instances=[{'class': 'chair'}]), 'not as tools/infer.py writes it'),
    (lambda record: record['instances'][0].update(score='x'), 'not as tools/infer.py writes it'),
    (lambda record: record['instances'][0].update(score=float('nan')), 'not finite'),
    (lambda record: record['instances'].pop(), 'of different runs')])
def test_broken_instances_are_named(output, change, words):
    record = json.loads((output / 'instances.json').read_text())
    change(record)
    (output / 'instances.json').write_text(json.dumps(record))
    with pytest.raises(DataError, match=words):
        read_output(output)


def test_a_scene_folder_shows_its_annotation(room):
    result, scene = read_scene(room), SceneFolder(room)
    mesh = scene.mesh()
    assert result.true and result.metric and len(result.points) == len(mesh.vertices)
    for index, one in enumerate(scene.instances, start=1):
        np.testing.assert_array_equal(result.mask(index), mesh.instances == one.id)
        assert result.found[index - 1].name == one.label
    frame, view = scene.frames[0], result.views[0]
    np.testing.assert_array_equal(view.instances() == 1, scene.instance_ids(frame) == scene.instances[0].id)
    assert view.picture().shape[:2] == view.size


def test_predictions_stand_on_the_mesh_and_are_seen_where_depth_agrees(room, tmp_path):
    scene = SceneFolder(room)
    mesh = scene.mesh()
    thing = max(scene.instances, key=lambda one: (mesh.instances == one.id).sum() if 'scannet200' in one.classes else 0)
    whole = mesh.instances == thing.id
    half = whole & (np.cumsum(whole) <= whole.sum() // 2)
    masks = np.packbits(np.stack([whole, half]), axis=1)
    label = thing.classes['scannet200']
    write_submission(tmp_path, room.name, submission_format('scannet'),
                     SceneSubmission(masks, np.array([label, label]), np.array([0.3, 0.8]), len(whole)))
    result = read_predictions(tmp_path, room, SCANNET200)
    assert [one.score for one in result.found] == [0.8, 0.3]
    assert result.found[0].name == SCANNET200.name_of_id.get(label, f'class {label}')
    np.testing.assert_array_equal(result.instances, np.where(half, 1, np.where(whole, 2, 0)))
    np.testing.assert_array_equal(result.mask(2), whole)                # of all its points, not of those left over
    arrays = tmp_path / 'arrays'
    write_submission_arrays(arrays / f'{room.name}.npz', SceneSubmission(masks, np.array([label] * 2), np.array([0.3, 0.8]),
                                                                         len(whole)))
    source, = find_sources([arrays], room.parent, SCANNET200)
    np.testing.assert_array_equal(source.read().instances, result.instances)
    (arrays / f'{room.name}.txt').write_text('')
    with pytest.raises(DataError, match='keep the one that is meant'):
        source.read()
    ours = [(view.instances() > 0) for view in result.views]
    true = [scene.instance_ids(frame) == thing.id for frame in scene.frames]
    shared = sum((a & b).sum() for a, b in zip(ours, true, strict=True))
    assert shared > 500 and shared > 0.8 * sum(mask.sum() for mask in ours)     # the mesh is coarse: not every pixel is hit


def test_what_there_is_to_view_is_found(output, room, debug_data, tmp_path):
    windows = tmp_path / 'stream'
    for number in (0, 1):
        shutil.copytree(output, windows / f'window_000{number}')
    found = find_sources([output, windows, room, room.parent], None, SCANNET200, truth=room)
    rooms = sorted(path.parent.name for path in room.parent.glob('*/scene.json'))
    names = [source.name for source in found]
    assert names[:3] == ['out', 'stream/window_0000', 'stream/window_0001'] and len(set(names)) == len(names)
    assert names[3] == f'{room.name} (4)' and [name.partition(' ')[0] for name in names[4:]] == rooms
    assert found[0].truth().true and found[3].truth is None


def test_the_folder_that_one_is_in_has_its_name(output, monkeypatch):
    monkeypatch.chdir(output)
    assert [(one.name, one.read().name) for one in find_sources([Path('.')], None, SCANNET200)] == [('out', 'out')]


@pytest.mark.parametrize(('made', 'words'), [
    ('nothing', 'no folder'), ('empty', 'nothing to view'), ('test', 'test again with --save-predictions'),
    ('predictions', 'name the data set of scene folders that they are of with --scenes')])
def test_what_cannot_be_viewed_says_what_to_do(tmp_path, made, words):
    folder = tmp_path / 'it'
    if made != 'nothing':
        folder.mkdir()
    if made == 'test':
        (folder / 'results.json').write_text('{}')
    if made == 'predictions':
        (folder / 'scene0000_00.txt').write_text('')
    with pytest.raises(DataError, match=words):
        find_sources([folder], None, SCANNET200)
    if made == 'predictions':
        with pytest.raises(DataError, match='there is no scene'):
            find_sources([folder], tmp_path, SCANNET200)
