"""Raw ScanNet++ scenes become scene folders: undistorted pictures agree with their cameras, ids in 2D and 3D agree."""

import json
import shutil

import cv2
import numpy as np
import pytest

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.prepare import driver
from jrs.datasets.prepare.devices import read_shots
from jrs.datasets.prepare.scannetpp import _estimate, prepare_scannetpp, read_classes, vertex_owner
from jrs.datasets.prepare.undistort import Undistorter
from jrs.datasets.scene import SceneFolder, check_scene, read_split
from jrs.errors import DataError
from jrs.io.colmap import read_lenses
from jrs.io.scannet import SegmentGroup
from tests.datasets._raw_scan import BOXES, trace, world_from_cam
from tests.datasets._raw_scannetpp import (
    CUSHION,
    EXCLUDED,
    LIDAR_SIZE,
    MARKERS,
    SCENES,
    SIZES,
    in_camera,
    project,
    write_raw,
)

QUIET = {'progress': lambda line: None}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    """One scene with four posed frames of each camera, the third without a pose."""
    return write_raw(tmp_path_factory.mktemp('raw'))


@pytest.fixture(scope='module', params=['iphone', 'dslr'])
def scene(request, raw):
    """The scene prepared from one of the cameras."""
    out = raw.parent / f'{raw.name}_{request.param}'
    assert prepare_scannetpp(raw, out, request.param, **QUIET).failed == {}
    return SceneFolder(out / SCENES[0])


def test_prepared_scenes_are_sound(scene):
    check_scene(scene.path)
    assert '1 of 4 frames dropped: no valid pose' in scene.record.notes
    assert [frame.index for frame in scene.frames] in ([0, 10, 30], [0, 1, 3])
    assert any(note.startswith('superpoints are computed') for note in scene.record.notes)


def test_poses_are_those_of_the_recording(scene):
    for frame, number in zip(scene.frames, (0, 1, 3), strict=True):
        np.testing.assert_allclose(frame.cam_from_world, np.linalg.inv(world_from_cam(number)), atol=1e-9)


def test_markers_are_where_the_cameras_of_undistorted_pictures_see_them(scene):
    """Centroids of white blobs against the projection by `scene.json`, which knows nothing of the lens."""
    errors = []
    for frame in scene.frames:
        camera, points = scene.camera(frame), in_camera(MARKERS, frame.cam_from_world)
        light = scene.color(frame).min(axis=-1).astype(float)
        for x, y in (points @ camera.color_intrinsics.T / points[:, 2:])[:, :2]:
            if not (9 < x < light.shape[1] - 9 and 9 < y < light.shape[0] - 9):
                continue
            rows, columns = np.mgrid[round(y) - 5:round(y) + 6, round(x) - 5:round(x) + 6]
            weight = np.clip(light[rows, columns] - 90, 0, None)
            errors.append(np.hypot((columns * weight).sum() / weight.sum() - x, (rows * weight).sum() / weight.sum() - y))
    assert len(errors) >= 9
    assert max(errors) < 0.1


def test_undistortion_moves_pixels_by_much(raw):
    """Else the test of markers would show nothing."""
    for device in SIZES:
        lens = read_lenses(raw / 'data' / SCENES[0] / device / 'colmap/cameras.txt')[1]
        new = Undistorter(lens)
        assert not new.is_identity and new.valid(None).mean() > 0.9
        rays = np.array([[0.55, 0.4, 1.0]])
        before, after = project(device, rays), (rays @ new.intrinsics.T)[:, :2]
        assert np.hypot(*(before - after)[0]) > 2


def test_ids_agree_with_analytic_visibility(scene):
    numbers = {name: number for number, name in enumerate(BOXES, start=1)}
    for frame in scene.frames:
        camera, ids = scene.camera(frame), scene.instance_ids(frame)
        _, truth = trace(np.linalg.inv(frame.cam_from_world), camera.color_intrinsics, camera.color_size)
        ids = np.where(ids == len(BOXES) + 1, numbers['chair'], ids)        # the cushion is part of the chair's box
        known = ids >= 0
        assert known.mean() > 0.85 and (ids == truth)[known].mean() > 0.99


def test_ids_in_pictures_are_those_of_the_mesh_behind_them(scene):
    """Vertices that a picture sees, by depth, carry the id of the pixel they fall on, borders left out."""
    mesh = scene.mesh()
    agree = []
    for frame in scene.frames:
        camera, depth, ids = scene.camera(frame), scene.depth_m(frame), scene.instance_ids(frame)
        points = in_camera(mesh.vertices, frame.cam_from_world)
        seen = np.ones(len(points), bool)
        pixels = {}
        for name, intrinsics, size in (('depth', camera.depth_intrinsics, depth.shape),
                                       ('color', camera.color_intrinsics, ids.shape)):
            pixel = np.floor((points @ intrinsics.T / points[:, 2:])[:, :2] + 0.5).astype(int)
            seen &= (pixel >= 0).all(axis=1) & (pixel < size[::-1]).all(axis=1)
            pixels[name] = pixel
        u, v = np.where(seen[:, None], pixels['depth'], 0).T
        seen &= np.abs(depth[v, u] - points[:, 2]) < 0.03
        u, v = pixels['color'][seen].T
        around = np.ones((3, 3), np.uint8)
        same = cv2.dilate(ids.astype(np.float32), around) == cv2.erode(ids.astype(np.float32), around)
        there = (ids[v, u] > 0) & same[v, u]
        agree.append((ids[v, u] == mesh.instances[seen])[there])
    agree = np.concatenate(agree)
    assert len(agree) > 1000 and agree.mean() > 0.995


def test_the_smaller_object_has_a_vertex_that_two_claim(scene):
    mesh, table = scene.mesh(), {item.label: item for item in scene.instances}
    assert table['chair'].id == 3 and table[CUSHION].id == 7
    assert table[CUSHION].classes == {'scannetpp': 40}                      # renamed to pillow
    assert table['wall'].classes == {'scannetpp': 0} and table['strange thing'].classes == {}
    upper = (mesh.instances == 7)
    assert upper.any() and (mesh.instances == 3).any() and (mesh.vertices[upper, 2] > 0.5).all()


def test_of_many_claims_the_first_three_count_and_classless_objects_come_last():
    groups = [SegmentGroup(place, 'x', tuple(range(count))) for place, count in enumerate((5, 4, 3, 2, 1))]
    assert vertex_owner(groups, np.ones(5, bool), 6, 'x').tolist() == [2, 2, 2, 1, 0, -1]
    assert vertex_owner(groups, np.array([1, 0, 0, 1, 0], bool), 6, 'x').tolist() == [3, 3, 0, 0, 0, -1]
    with pytest.raises(DataError, match='vertex 4, the mesh has 4'):
        vertex_owner(groups, np.ones(5, bool), 4, 'x')


def test_excluded_vertices_reach_the_scoring(raw, scene):
    np.testing.assert_array_equal(np.flatnonzero(scene.mesh().excluded), EXCLUDED)
    folder = scene.path.parent
    dataset = SceneDataset(folder.name, 'val', 'scannetpp', width=56, data_root=folder.parent, mode='test')
    truth = dataset[0].ground_truth[0]
    np.testing.assert_array_equal(truth.excluded, EXCLUDED)
    assert set(np.unique(truth.vertex_ids // 1000)) >= {3, 9, 11, 40}       # table, chair, office chair, pillow
    assert dataset[0].instances[0].ids.tolist() == [3, 4, 6, 7]


def test_anonymised_pixels_are_ignored(scene):
    first, other = scene.frames[0], scene.frames[1]
    assert (scene.instance_ids(first)[53:57, 85:95] == -1).all()
    assert (scene.instance_ids(other)[53:57, 85:95] >= 0).any()
    if scene.record.settings['camera'] == 'dslr':                           # whose depth is the mesh's
        assert (scene.depth_m(first)[53:57, 85:95] == 0).all() and (scene.depth_m(other)[53:57, 85:95] > 0).any()


def test_depth_is_the_sensors_or_the_meshs(scene):
    for frame in scene.frames:
        camera, depth = scene.camera(frame), scene.depth_m(frame)
        truth, _ = trace(np.linalg.inv(frame.cam_from_world), camera.depth_intrinsics, camera.depth_size)
        both = (depth > 0) & (truth > 0)
        assert both.sum() > 0.9 * (truth > 0).sum() and np.median(np.abs(depth - truth)[both]) < 0.01


def test_nerfstudio_cameras_are_colmaps(raw, tmp_path):
    folder = raw / 'data' / SCENES[0] / 'dslr'
    (tmp_path / 'nerfstudio').mkdir()
    data = json.loads((folder / 'nerfstudio/transforms.json').read_text())
    data['frames'][1]['is_bad'] = True
    (tmp_path / 'nerfstudio/transforms.json').write_text(json.dumps(data))
    (lens, shots), (other_lens, other_shots) = read_shots(tmp_path), read_shots(folder)
    np.testing.assert_allclose(lens.intrinsics, other_lens.intrinsics)
    assert [shot.name for shot in shots] == [shot.name for shot in other_shots]
    assert [shot.bad for shot in shots] == [False, True, False, False]
    for shot, other in zip(shots, other_shots, strict=True):
        if np.isfinite(other.cam_from_world).all():
            np.testing.assert_allclose(shot.cam_from_world, other.cam_from_world, atol=1e-9)


def test_videos_and_raw_depth_give_the_scene_that_extracted_files_give(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=3, lost=(), video=True, lidar='bin')
    assert prepare_scannetpp(raw, tmp_path / 'out', every=20, **QUIET).failed == {}
    scene = SceneFolder(tmp_path / 'out' / SCENES[0])
    check_scene(scene.path)
    assert [frame.index for frame in scene.frames] == [0, 20]
    first, second = ((scene.instance_ids(frame)[53:57, 85:95] == -1).mean() for frame in scene.frames)
    assert first == 1 and second < 0.5                                      # the mask of the first frame
    for frame, number in zip(scene.frames, (0, 2), strict=True):
        assert scene.depth_m(frame).shape == LIDAR_SIZE and scene.color(frame).max() > 150
        truth, _ = trace(world_from_cam(number), scene.camera(frame).depth_intrinsics, LIDAR_SIZE)
        assert np.median(np.abs(scene.depth_m(frame) - truth)) < 0.01


def test_pictures_that_are_undistorted_already_are_taken_as_they_are(raw, tmp_path):
    """What we undistort, written as the official tool leaves it, gives the same scene again, without the lens."""
    prepare_scannetpp(raw, tmp_path / 'out', 'dslr', **QUIET)
    first = SceneFolder(tmp_path / 'out' / SCENES[0])
    shutil.copytree(raw, tmp_path / 'raw')
    folder = tmp_path / 'raw' / 'data' / SCENES[0] / 'dslr'
    shutil.rmtree(folder / 'resized_images')
    (folder / 'resized_undistorted_images').mkdir()
    for frame in first.frames:
        shutil.copy(first.color_path(frame), folder / 'resized_undistorted_images' / f'{frame.name}.JPG')
    data = json.loads((folder / 'nerfstudio/transforms.json').read_text())
    k = first.camera(first.frames[0]).color_intrinsics
    data |= {'camera_model': 'PINHOLE', 'fl_x': k[0, 0], 'fl_y': k[1, 1], 'cx': k[0, 2] + 0.5, 'cy': k[1, 2] + 0.5}
    (folder / 'nerfstudio/transforms_undistorted.json').write_text(json.dumps(data))
    assert prepare_scannetpp(tmp_path / 'raw', tmp_path / 'again', 'dslr', **QUIET).failed == {}
    again = SceneFolder(tmp_path / 'again' / SCENES[0])
    check_scene(again.path)
    np.testing.assert_allclose(again.camera(again.frames[0]).color_intrinsics, k)
    assert '1 of 4 frames dropped: no picture' in again.record.notes
    for one, other in zip(first.frames[1:], again.frames[1:], strict=True):
        np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=1e-9)
        assert (first.instance_ids(one) == again.instance_ids(other)).mean() > 0.99


def test_splits_are_those_of_the_benchmark(tmp_path):
    raw = write_raw(tmp_path / 'raw', SCENES, num_frames=1, lost=())
    said = []
    summary = prepare_scannetpp(raw, tmp_path / 'out', 'dslr', progress=said.append)
    assert summary.written == sorted(SCENES)
    assert read_split(tmp_path / 'out', 'train') == [SCENES[0]] and read_split(tmp_path / 'out', 'val') == [SCENES[1]]
    assert any('scenes/min' in line and 'left' in line for line in said)
    again = prepare_scannetpp(raw, tmp_path / 'out', 'dslr', **QUIET)
    assert again.kept == sorted(SCENES) and again.written == []


def test_scenes_without_annotation_have_no_masks_and_what_lacks_is_said(tmp_path):
    raw, lines = write_raw(tmp_path / 'raw', num_frames=2, lost=(), lidar=None), []
    folder = raw / 'data' / SCENES[0]
    (folder / 'scans/segments_anno.json').unlink()
    (folder / 'iphone/rgb/frame_000003.jpg').write_bytes(b'')
    (raw / 'data' / 'stray').mkdir()
    assert prepare_scannetpp(raw, tmp_path / 'out', progress=lines.append).failed == {}
    scene = SceneFolder(tmp_path / 'out' / SCENES[0])
    check_scene(scene.path)
    assert scene.record.instances is None and 'depth is rendered from the mesh' in scene.record.notes
    assert {'not annotated: no scans/segments_anno.json', '1 pictures without a pose: frame_000003.jpg',
            '1 of 2 frames have no mask: nothing of them counts as anonymised'} <= {*scene.record.notes}
    assert lines[0].endswith('data are left out (no scans/mesh_aligned_0.05.ply): stray')


def test_the_table_of_names_is_optional_and_said_to_be_missing(raw, tmp_path):
    said = []
    assert read_classes(raw, said.append)[CUSHION] == 40 and said == []
    classes = read_classes(tmp_path, said.append)
    assert classes['chair'] == 9 and CUSHION not in classes and 'map_benchmark.csv is not there' in said[0]


@pytest.mark.parametrize(('options', 'message'), [
    ({'camera': 'panocam'}, 'iphone, dslr'), ({'camera': 'dslr', 'depth': 'sensor'}, 'with an iPhone'),
    ({'every': 0}, '--every'), ({'jobs': 0}, '--jobs')])
def test_wrong_options_are_explained(raw, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        prepare_scannetpp(raw, tmp_path / 'out', **options, **QUIET)


def test_a_data_set_that_is_not_there_names_the_right_command(tmp_path):
    with pytest.raises(DataError, match=r'prepare.py scannetpp --raw DIR --out .*scannetpp\.'):
        SceneDataset('scannetpp', 'val', 'scannetpp', width=56, data_root=tmp_path)


def test_faults_of_a_scene_are_named(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    folder = raw / 'data' / SCENES[0]
    segments = folder / 'scans/segments.json'
    right = segments.read_text()
    segments.write_text(right.replace('[0, 1', '[1, 0'))
    assert 'wrong vertices' in prepare_scannetpp(raw, tmp_path / 'out', **QUIET).failed[SCENES[0]]
    segments.write_text(right)
    (folder / 'iphone/rgb/frame_000000.jpg').unlink()
    assert 'no picture' in prepare_scannetpp(raw, tmp_path / 'out', **QUIET).failed[SCENES[0]]
    (folder / 'iphone/colmap/cameras.txt').unlink()
    (folder / 'iphone/nerfstudio/transforms.json').unlink()
    assert 'transforms.json' in prepare_scannetpp(raw, tmp_path / 'out', **QUIET).failed[SCENES[0]]
    assert not list((tmp_path / 'out').glob(f'*{SCENES[0]}*'))
    with pytest.raises(DataError, match='no scenes'):
        prepare_scannetpp(tmp_path / 'nowhere', tmp_path / 'out', **QUIET)


def test_the_estimate_is_near_what_is_written(raw, scene):
    written = sum(path.stat().st_size for path in scene.path.rglob('*') if path.is_file())
    estimate = driver.OVERHEAD * _estimate(raw / 'data' / scene.name, scene.record.settings)
    assert 0.5 < estimate / written < 2


def test_what_does_not_fit_is_refused_before_anything_is_written(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(driver.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 10})())
    with pytest.raises(DataError, match='are needed'):
        prepare_scannetpp(raw, tmp_path / 'out', 'dslr', **QUIET)
    assert list((tmp_path / 'out').iterdir()) == []
