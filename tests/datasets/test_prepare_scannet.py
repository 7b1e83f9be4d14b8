"""Raw scans become scene folders: which frames stay, what the masks say, and what survives a kill."""

import errno
import logging
import shutil

import cv2
import numpy as np
import pytest

from jrs.datasets.prepare import driver, masks, scannet
from jrs.datasets.prepare.scannet import prepare_scan, prepare_scannet
from jrs.datasets.scene import SceneFolder, SceneWriter, check_scene, read_split
from jrs.errors import DataError
from jrs.io import scannet as files
from jrs.io.sens import SensReader
from tests.datasets._raw_scan import (
    BOXES,
    COLOR_K,
    COLOR_SIZE,
    export_frames,
    trace,
    true_instance_images,
    write_instance_zip,
    write_raw,
)

QUIET = {'progress': lambda line: None}


def test_prepared_scenes_pass_the_check_and_are_listed(prepared):
    for name in ('scene0000_00', 'scene0001_00'):
        check_scene(prepared / name)
    assert read_split(prepared, 'train') == ['scene0000_00']
    assert read_split(prepared, 'val') == ['scene0001_00']


def test_lost_frames_are_dropped_after_the_stride(tmp_path):
    write_raw(tmp_path / 'raw', num_frames=9, lost=(0, 1, 4))
    prepare_scannet(tmp_path / 'raw', tmp_path / 'out', every=2, **QUIET)
    scene = SceneFolder(tmp_path / 'out' / 'scene0000_00')
    assert [frame.index for frame in scene.frames] == [2, 6, 8]         # 0 and 4 are not replaced by 1, 3 or 5
    assert scene.record.notes[0] == '2 of 5 frames dropped: no valid pose'


def test_frames_off_the_stride_are_never_read(tmp_path, monkeypatch):
    read = []
    original = SensReader.frame
    monkeypatch.setattr(SensReader, 'frame', lambda self, index: read.append(index) or original(self, index))
    write_raw(tmp_path / 'raw', lost=())
    prepare_scannet(tmp_path / 'raw', tmp_path / 'out', every=3, **QUIET)
    assert set(read) == {0, 3, 6}


def test_color_bytes_are_those_of_the_recording(prepared):
    scene = SceneFolder(prepared / 'scene0000_00')
    with SensReader(prepared.parent / 'raw/scans/scene0000_00/scene0000_00.sens') as reader:
        assert scene.color_path(scene.frames[2]).read_bytes() == reader.frame(2).color
        np.testing.assert_array_equal(np.rint(scene.depth_m(scene.frames[2]) * 1000), reader.depth(2))


def test_masks_agree_with_analytic_visibility(prepared):
    scene = SceneFolder(prepared / 'scene0000_00')
    agree = []
    for frame in scene.frames:
        ids = scene.instance_ids(frame)
        _, truth = trace(np.linalg.inv(frame.cam_from_world), COLOR_K, COLOR_SIZE)
        known = ids >= 0
        assert known.mean() > 0.93                                      # only edges are "ignore"
        agree.append((ids == truth)[known].mean())
    assert min(agree) > 0.995


def test_masks_are_consistent_between_views(prepared):
    """A labelled pixel, moved by depth and cameras into another view, meets the same id where it is not hidden."""
    scene = SceneFolder(prepared / 'scene0000_00')
    first, second = scene.frames[0], scene.frames[5]
    assert first.index == 0 and second.index == 6
    depth, ids = scene.depth_m(first), scene.instance_ids(second)
    v, u = np.mgrid[:depth.shape[0], :depth.shape[1]].reshape(2, -1)
    camera = scene.camera(first)
    points = np.linalg.inv(camera.depth_intrinsics) @ np.stack([u, v, np.ones_like(u)]) * depth.ravel()
    to_second = second.cam_from_world @ np.linalg.inv(first.cam_from_world)
    points = to_second[:3, :3] @ points + to_second[:3, 3:]
    def look_up(intrinsics, image):
        pixel = np.floor((intrinsics @ points / points[2])[:2] + 0.5).astype(int)
        inside = ((pixel >= 0) & (pixel < np.array(image.shape[::-1])[:, None])).all(axis=0)
        pixel = np.where(inside, pixel, 0)
        return np.where(inside, image[pixel[1], pixel[0]], 0)
    seen_depth, seen_id = look_up(camera.depth_intrinsics, scene.depth_m(second)), look_up(camera.color_intrinsics, ids)
    here = np.floor((camera.color_from_depth @ np.stack([u, v, np.ones_like(u)]))[:2] + 0.5).astype(int)
    own = scene.instance_ids(first)[np.clip(here[1], 0, 71), np.clip(here[0], 0, 95)]
    same_surface = (np.abs(seen_depth - points[2]) < 0.02) & (seen_id > 0) & (own > 0)
    assert same_surface.sum() > 800
    assert (seen_id == own)[same_surface].mean() > 0.98


def test_sensor_that_disagrees_makes_ignore_not_background():
    ids = np.array([[3, 3, 0, 3]])
    rendered = np.full((1, 4), 2.0)
    sensor = np.array([[2.05, 1.9, 1.0, 0.0]], np.float32)              # within 3 %, off, no object, no reading
    assert masks.reject_by_depth(ids, rendered, sensor, np.eye(3)).tolist() == [[3, -1, 0, 3]]


def test_slivers_become_ignore():
    ids = np.array([[1, 1, 1, 2, 2, 0, 0, 0]])
    assert masks.reject_slivers(ids, 3).tolist() == [[1, 1, 1, -1, -1, 0, 0, 0]]


def test_pixel_takes_the_majority_of_its_triangle_or_the_nearest_vertex():
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    vertex_ids = np.array([5, 7, 7, 9])
    face, corner = np.array([[0, 1, 1, -1]]), np.array([[0, 2, 0, 0]])
    assert masks.pixel_ids(face, corner, faces, vertex_ids).tolist() == [[7, 9, 5, 0]]


def test_renderer_returns_metric_z_depth():
    vertices = np.array([[-9, -9, 2.0], [9, -9, 2.0], [0, 20, 2.0]])
    depth, face, _ = masks.MeshRenderer(vertices, np.array([[0, 1, 2]])).render(COLOR_K, COLOR_SIZE, np.eye(4))
    assert (face == 0).all()
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)                   # z, not the length of the ray


def test_table_keeps_stuff_and_unknown_labels(prepared):
    table = {item.label: item for item in SceneFolder(prepared / 'scene0000_00').instances}
    assert set(table) == set(BOXES)
    assert table['wall'].classes == {'scannet20': 1, 'scannet200': 1}
    assert table['office chair'].classes == {'scannet20': 5, 'scannet200': 10}
    assert table['strange thing'].classes == {}
    assert [item.id for item in table.values()] == [1, 2, 3, 4, 5, 6]   # objectId + 1


def test_repeated_objects_count_once(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=2, lost=(), repeat_objects=True)
    notes = prepare_scan(raw / 'scans' / 'scene0000_00', tmp_path / 'out',
                         files.read_label_table(raw / files.LABEL_TABLE), {'every': 1, 'min_mask_pixels': None})
    assert '6 of 12 objects dropped: repeated' in notes
    assert len(SceneFolder(tmp_path / 'out' / 'scene0000_00').instances) == 6


def test_superpoints_have_no_gaps(prepared):
    mesh = SceneFolder(prepared / 'scene0000_00').mesh()
    assert np.unique(mesh.superpoints).tolist() == list(range(12 - 3))  # three boxes lie on one side of x = 0
    for superpoint in range(9):
        assert len(np.unique(mesh.instances[mesh.superpoints == superpoint])) == 1


def test_scan_without_annotation_has_no_masks(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=2, lost=())
    for ending in (files.AGGREGATION, files.SEGMENTS):
        files.scan_file(raw / 'scans' / 'scene0000_00', ending).unlink()
    prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    scene = SceneFolder(tmp_path / 'out' / 'scene0000_00')
    assert 'not annotated: no scene0000_00.aggregation.json' in scene.record.notes
    assert scene.instance_ids(scene.frames[0]) is None and not (scene.path / 'instances').exists()
    check_scene(scene.path)


def test_finished_scenes_are_kept_and_partial_ones_are_done_again(tmp_path):
    raw = write_raw(tmp_path / 'raw', ('scene0000_00', 'scene0001_00'), num_frames=2, lost=())
    with SceneWriter(tmp_path / 'out', 'scene0001_00') as writer:
        writer.color('99', b'half')
        kill = writer.folder.rename(tmp_path / 'half')                  # the block's end deletes it, a kill does not
    kill.rename(tmp_path / 'out' / '.scene0001_00.part')
    prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    before = (tmp_path / 'out/scene0000_00/scene.json').stat().st_mtime_ns
    check_scene(tmp_path / 'out' / 'scene0001_00')
    assert not (tmp_path / 'out' / '.scene0001_00.part').exists()
    summary = prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    assert summary.kept == ['scene0000_00', 'scene0001_00'] and summary.written == []
    assert (tmp_path / 'out/scene0000_00/scene.json').stat().st_mtime_ns == before
    assert prepare_scannet(raw, tmp_path / 'out', every=2, **QUIET).written == ['scene0000_00', 'scene0001_00']


def test_a_broken_scan_is_named_and_leaves_nothing(tmp_path):
    raw = write_raw(tmp_path / 'raw', ('scene0000_00', 'scene0001_00'), num_frames=2, lost=())
    broken = raw / 'scans/scene0000_00/scene0000_00.sens'
    broken.write_bytes(broken.read_bytes()[:-500])
    summary = prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    assert list(summary.failed) == ['scene0000_00'] and 'cut off' in summary.failed['scene0000_00']
    assert summary.written == ['scene0001_00']
    assert not list((tmp_path / 'out').glob('*scene0000_00*'))


def test_processes_write_what_one_process_writes(tmp_path, prepared):
    prepare_scannet(prepared.parent / 'raw', tmp_path / 'out', every=1, jobs=2, **QUIET)
    for path in sorted(prepared.rglob('*.*')):
        if path.is_file():
            assert (tmp_path / 'out' / path.relative_to(prepared)).read_bytes() == path.read_bytes(), path


def test_missing_inputs_are_explained(tmp_path):
    with pytest.raises(DataError, match='no scans'):
        prepare_scannet(tmp_path, tmp_path / 'out', **QUIET)
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    (raw / files.LABEL_TABLE).unlink()
    with pytest.raises(DataError, match='scannetv2-labels.combined.tsv'):
        prepare_scannet(raw, tmp_path / 'out', **QUIET)


def test_missing_embreex_names_the_package(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'embreex.mesh_construction', None)
    with pytest.raises(DataError, match='pip install embreex'):
        masks.MeshRenderer(np.zeros((3, 3)), np.array([[0, 1, 2]]))


def test_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), {'free': 10})())
    with pytest.raises(DataError, match='are needed'):
        prepare_scannet(raw, tmp_path / 'out', **QUIET)
    assert list((tmp_path / 'out').iterdir()) == []


def test_the_estimate_is_near_what_is_written(prepared):
    for name in ('scene0000_00', 'scene0001_00'):
        written = sum(path.stat().st_size for path in (prepared / name).rglob('*') if path.is_file())
        estimate = driver.OVERHEAD * scannet._estimate(prepared.parent / 'raw/scans' / name, None, 1)
        assert 0.5 < estimate / written < 2


def test_notes_are_logged(tmp_path, caplog):
    write_raw(tmp_path / 'raw', num_frames=3, lost=(1,))
    with caplog.at_level(logging.INFO, 'jrs'):
        prepare_scannet(tmp_path / 'raw', tmp_path / 'out', every=1)
    assert '1 of 3 frames dropped' in caplog.text and 'strange thing' in caplog.text


def test_exported_frames_give_the_scene_that_the_recording_gives(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=5, lost=(2,))
    export_frames(raw / 'scans/scene0000_00', tmp_path / 'exported' / 'scene0000_00')
    prepare_scannet(raw, tmp_path / 'sens', every=2, **QUIET)
    prepare_scannet(raw, tmp_path / 'frames', every=2, frames=tmp_path / 'exported', **QUIET)
    check_scene(tmp_path / 'frames' / 'scene0000_00')
    ours, theirs = (SceneFolder(tmp_path / name / 'scene0000_00') for name in ('frames', 'sens'))
    assert [frame.index for frame in ours.frames] == [frame.index for frame in theirs.frames] == [0, 4]
    for one, other in zip(ours.frames, theirs.frames, strict=True):
        np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=5e-6)
        np.testing.assert_array_equal(ours.depth_m(one), theirs.depth_m(other))
        assert (ours.instance_ids(one) == theirs.instance_ids(other)).mean() > 0.999
    assert '1 of 3 frames dropped: no valid pose' in ours.record.notes


def test_what_is_no_scan_and_what_no_list_has_is_said(tmp_path):
    raw, lines = write_raw(tmp_path / 'raw', num_frames=2, lost=()), []
    (raw / 'scans' / 'scene0009_00').mkdir()
    (raw / 'tasks').mkdir()
    files.write_list(raw / 'scannetv2_train.txt', ['scene0009_00'])
    files.write_list(raw / 'scannetv2_val.txt', ['scene0008_00'])
    prepare_scannet(raw, tmp_path / 'out', every=1, progress=lines.append)
    assert lines[0] == '2 folders are no scans and left out (no .sens): scene0009_00, tasks'
    assert 'split train: 0 of 1 scenes; not prepared: scene0009_00' in lines
    assert '1 scenes are in no split list and will not be read: scene0000_00' in lines
    shutil.copytree(raw / 'scans' / 'scene0000_00', raw / 'scans_test' / 'scene0000_00')
    with pytest.raises(DataError, match='scene0000_00 stands there twice'):
        prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)


def test_files_that_are_no_frames_are_counted_and_named(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=3, lost=())
    folder = tmp_path / 'exported' / 'scene0000_00'
    export_frames(raw / 'scans/scene0000_00', folder)
    (folder / 'color' / '1.jpg').rename(folder / 'color' / '1.jpeg')
    for name in ('frame-000003.color.jpg', '2.png', '2.JPG', '7.webp'):
        shutil.copy(folder / 'color' / '0.jpg', folder / 'color' / name)
    prepare_scannet(raw, tmp_path / 'out', every=1, frames=tmp_path / 'exported', **QUIET)
    scene = SceneFolder(tmp_path / 'out' / 'scene0000_00')
    check_scene(scene.path)
    assert [frame.index for frame in scene.frames] == [0, 1, 2]
    assert any(note.startswith('4 files of color were not read') and note.endswith(
        '2.jpg, 2.png, 7.webp, frame-000003.color.jpg') for note in scene.record.notes)


def test_depth_images_of_8_bits_are_refused(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    folder = tmp_path / 'exported' / 'scene0000_00'
    export_frames(raw / 'scans/scene0000_00', folder)
    cv2.imwrite(str(folder / 'depth' / '0.png'), np.full((48, 64), 9, np.uint8))
    failed = prepare_scannet(raw, tmp_path / 'out', every=1, frames=tmp_path / 'exported', **QUIET).failed
    assert 'depth/0.png: a depth image has 16 bits' in failed['scene0000_00']


def test_frames_in_the_scan_folder_are_found_without_a_recording(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=5, lost=())
    scan = raw / 'scans' / 'scene0000_00'
    export_frames(scan, scan, skip=2)
    files.scan_file(scan, files.SENS).unlink()
    prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    scene = SceneFolder(tmp_path / 'out' / 'scene0000_00')
    assert [frame.index for frame in scene.frames] == [0, 2, 4]
    assert 'frames exported by others: every 2th of the recording' in scene.record.notes


def test_resized_frames_get_the_intrinsics_of_their_size(tmp_path):
    """The exporter leaves the intrinsics of the original size beside resized pictures; ids must fall on the pictures."""
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    scan = raw / 'scans' / 'scene0000_00'
    export_frames(scan, tmp_path / 'exported' / scan.name, shrink=2)
    files.write_metadata(files.scan_file(scan, files.METADATA), {'colorHeight': 72.0, 'colorWidth': 96.0})
    prepare_scannet(raw, tmp_path / 'out', every=1, frames=tmp_path / 'exported', **QUIET)
    scene = SceneFolder(tmp_path / 'out' / scan.name)
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])
    np.testing.assert_allclose(scene.camera(scene.frames[0]).color_intrinsics, half @ COLOR_K, atol=1e-5)
    ids = scene.instance_ids(scene.frames[0])
    _, truth = trace(np.linalg.inv(scene.frames[0].cam_from_world), half @ COLOR_K, (36, 48))
    assert (ids == truth)[ids >= 0].mean() > 0.99
    files.scan_file(scan, files.METADATA).unlink()
    summary = prepare_scannet(raw, tmp_path / 'again', every=1, frames=tmp_path / 'exported', **QUIET)
    assert 'principal point' in summary.failed[scan.name]


def test_official_images_are_read_and_their_faults_stated(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=2, lost=(), repeat_objects=True)
    scan = raw / 'scans' / 'scene0000_00'
    write_instance_zip(scan, true_instance_images(2))
    prepare_scannet(raw, tmp_path / 'out', every=1, mask_source='official', **QUIET)
    scene = SceneFolder(tmp_path / 'out' / scan.name)
    check_scene(scene.path)
    _, truth = trace(np.linalg.inv(scene.frames[1].cam_from_world), COLOR_K, COLOR_SIZE)
    ids = scene.instance_ids(scene.frames[1])
    np.testing.assert_array_equal(ids[ids >= 0], truth[ids >= 0])
    assert (ids >= 0).mean() > 0.99 and any('not tested against the depth' in note for note in scene.record.notes)


def test_repeated_objects_keep_the_first_id_in_official_images(tmp_path):
    """scene0217_00 lists every object twice; its images may have either number."""
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=(), repeat_objects=True)
    scan = raw / 'scans' / 'scene0000_00'
    image = np.zeros(COLOR_SIZE, np.uint8)
    image[:, :30], image[:, 30:60], image[:, 60:90] = 3, 3 + len(BOXES), 200             # 200: of no object
    write_instance_zip(scan, {'instance-filt/0.png': cv2.imencode('.png', image)[1].tobytes()})
    prepare_scannet(raw, tmp_path / 'out', every=1, mask_source='official', **QUIET)
    scene = SceneFolder(tmp_path / 'out' / scan.name)
    ids = scene.instance_ids(scene.frames[0])
    assert ids[0, [0, 30, 60, 95]].tolist() == [3, 3, -1, 0]


def test_a_missing_zip_says_what_to_do(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    summary = prepare_scannet(raw, tmp_path / 'out', every=1, mask_source='official', **QUIET)
    assert '2d-instance-filt.zip' in summary.failed['scene0000_00']


def test_known_defects_are_named(tmp_path):
    raw = write_raw(tmp_path / 'raw', ('scene0384_00',), num_frames=1, lost=())
    said = []
    prepare_scannet(raw, tmp_path / 'out', every=1, progress=said.append)
    assert any('scene0384_00: its labels.ply has label 149' in line for line in said)


def test_what_a_kill_left_is_cleared_and_a_second_run_is_refused(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    (tmp_path / 'out/.scene0000_00.old/color').mkdir(parents=True)
    (tmp_path / 'out/.train.txt.abc.part').write_text('scene')
    prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    assert not list((tmp_path / 'out').glob('.*'))
    with driver._alone(tmp_path / 'out'), pytest.raises(DataError, match='another run'):
        prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)


def test_a_disk_that_fills_up_is_said_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')
    raw = write_raw(tmp_path / 'raw', num_frames=1, lost=())
    monkeypatch.setattr(SceneWriter, 'depth', full)
    with pytest.raises(DataError, match='disk is full'):
        prepare_scannet(raw, tmp_path / 'out', every=1, **QUIET)
    assert not list((tmp_path / 'out').iterdir())
