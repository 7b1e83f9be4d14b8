import numpy as np
import pytest
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter

from jrs.errors import ConfigError, DataError
from jrs.io import scannet
from jrs.io.ply import read_ply
from jrs.io.sens import SensReader
from jrs.synth import PRESETS, find_preset, generate
from jrs.synth.camera_path import PITCH
from jrs.synth.generate import split_sizes
from jrs.synth.presets import Preset
from jrs.synth.scan import write_scan

ROOMS = 3


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp('raw')
    generate('debug', folder, jobs=1, rooms=ROOMS)
    return folder


@pytest.fixture(params=range(ROOMS))
def scan(raw, request):
    return raw / f'scene{request.param:04d}_00'


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def read_mesh(scan):
    vertices, faces = read_ply(scannet.scan_file(scan, scannet.MESH))
    return np.stack([vertices[axis] for axis in 'xyz'], axis=1).astype(float), vertices, faces


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(raw, tmp_path):
    generate('debug', tmp_path, jobs=8, rooms=ROOMS)
    first, second = contents(raw), contents(tmp_path)
    assert first.keys() == second.keys() and len(first) == ROOMS * 7 + 4 - ROOMS
    assert [name for name in first if first[name] != second[name]] == []


def test_another_seed_gives_other_rooms(raw, tmp_path):
    generate('debug', tmp_path, rooms=2, seed=1)
    name = 'scene0000_00/scene0000_00.sens'
    assert (tmp_path / name).read_bytes() != (raw / name).read_bytes()


@pytest.fixture(scope='module')
def imperfect(tmp_path_factory):
    folder = tmp_path_factory.mktemp('imperfect')
    write_scan(folder, 0, find_preset('debug', {'depth': 'sensor', 'poses': 'drift'}), seed=0)
    return folder / 'scene0000_00'


def test_an_imperfect_scan_shows_the_same_room_with_holes_in_depth_and_wrong_poses(raw, imperfect):
    exact, found = (SensReader(scannet.scan_file(folder, scannet.SENS)) for folder in (raw / imperfect.name, imperfect))
    with exact, found:
        assert all(exact.frame(view).color == found.frame(view).color for view in range(len(exact)))
        true, depth = (np.stack([sens.depth(view) for view in range(len(sens))]).astype(float) for sens in (exact, found))
        offset = np.linalg.norm(exact.world_from_cam[:, :3, 3] - found.world_from_cam[:, :3, 3], axis=1)
    assert 0.02 < (depth == 0).mean() < 0.3
    assert 1 < np.abs(depth - true)[depth > 0].mean() < 25                              # millimetres
    assert offset[0] == 0 and 0.01 < offset.max() < 0.3
    name = imperfect.name + scannet.MESH
    assert (imperfect / name).read_bytes() == (raw / imperfect.name / name).read_bytes()


def test_finished_scans_are_kept_and_missing_ones_made_again(raw, tmp_path):
    generate('debug', tmp_path, rooms=2)
    kept, missing = tmp_path / 'scene0000_00', tmp_path / 'scene0001_00'
    before = kept.stat().st_mtime_ns
    for path in missing.iterdir():
        path.unlink()
    missing.rmdir()
    lines = []
    generate('debug', tmp_path, rooms=2, progress=lines.append)
    assert kept.stat().st_mtime_ns == before and len(lines) == 2
    assert contents(missing) == contents(raw / 'scene0001_00')
    assert not [path for path in tmp_path.iterdir() if path.name.startswith('.')]


def test_a_folder_with_other_rooms_is_refused(raw):
    with pytest.raises(DataError, match="'seed': 0.*'seed': 5"):
        generate('debug', raw, rooms=2, seed=5)


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'shifted'"):
        generate('debug', tmp_path, departures={'style': 'shiftet'})
    with pytest.raises(ConfigError, match="'sensor'"):
        generate('debug', tmp_path, departures={'depth': 'senser'})
    with pytest.raises(ConfigError, match="'tiny'"):
        generate('tinny', tmp_path)
    with pytest.raises(ConfigError, match='jobs is 0'):
        generate('debug', tmp_path, jobs=0)


def test_split_lists_name_all_rooms_once(raw):
    train, val = (scannet.read_list(raw / f'scannetv2_{split}.txt') for split in ('train', 'val'))
    assert sorted(train + val) == sorted(path.name for path in raw.glob('scene*'))
    assert len(val) == 1
    assert split_sizes(PRESETS['tiny'], None) == (160, 32) and split_sizes(PRESETS['tiny'], 12) == (10, 2)
    assert split_sizes(PRESETS['tiny_test'], None) == (0, 100) and split_sizes(PRESETS['tiny_test'], 4) == (0, 4)
    assert split_sizes(PRESETS['tiny_more'], None) == (400, 0)


def test_segments_objects_and_labels_agree(raw, scan):
    _, vertices, faces = read_mesh(scan)
    count = len(vertices['x'])
    assert faces.max() == count - 1 and vertices['x'].dtype == np.float32 and list(vertices)[3:] == [
        'red', 'green', 'blue', 'alpha']
    segments = scannet.read_segments(scannet.scan_file(scan, scannet.SEGMENTS), count)
    groups = scannet.read_aggregation(scannet.scan_file(scan, scannet.AGGREGATION))
    assert [group.object_id for group in groups] == list(range(len(groups)))
    listed = [segment for group in groups for segment in group.segments]
    assert sorted(listed) == np.unique(segments).tolist()   # every segment belongs to exactly one object
    assert np.unique(segments, return_counts=True)[1].min() >= 20
    objects = scannet.vertex_objects(segments, groups)
    labelled, labelled_faces = read_ply(scannet.scan_file(scan, scannet.MESH_LABELS))
    table = scannet.read_label_table(raw / scannet.LABEL_TABLE)
    nyu40 = np.array([table[group.label].nyu40id for group in groups])
    np.testing.assert_array_equal(labelled['label'], nyu40[objects])
    np.testing.assert_array_equal(labelled['x'], vertices['x'])
    np.testing.assert_array_equal(labelled_faces, faces)


def test_most_instances_are_large_enough_to_be_scored(raw):
    sizes = []
    for scan in raw.glob('scene*_00'):
        segments = scannet.read_segments(scannet.scan_file(scan, scannet.SEGMENTS))
        groups = scannet.read_aggregation(scannet.scan_file(scan, scannet.AGGREGATION))
        sizes.append(np.bincount(scannet.vertex_objects(segments, groups)))
    assert (np.concatenate(sizes) >= 100).mean() > 0.9


def test_mesh_vertices_project_into_the_depth_images(tmp_path):
    write_scan(tmp_path, 1, Preset('fine', 1, 1, 20, (126, 168), object_vertices=300), seed=0)
    scan = tmp_path / 'scene0001_00'
    points, _, _ = read_mesh(scan)
    best, floating, smooth_hits = np.full(len(points), np.inf), 0, 0
    with SensReader(scannet.scan_file(scan, scannet.SENS)) as sens:
        height, width = sens.header.depth_size
        k = sens.header.intrinsic_depth[:3, :3]
        for view in range(len(sens)):
            cam_from_world = np.linalg.inv(sens.world_from_cam[view].astype(float))
            local = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
            pixel = (local @ k.T / local[:, 2:])[:, :2]
            inside = (local[:, 2] > 0.05) & (pixel >= 0).all(axis=1) & (pixel < [width - 1, height - 1]).all(axis=1)
            depth = np.maximum(sens.depth(view) / sens.header.depth_shift, 1e-3)
            at = pixel[inside, ::-1].T                                                  # (2, n)
            behind = local[inside, 2] - 1.0 / map_coordinates(1.0 / depth, at, order=1)    # inverse depth is planar
            best[inside] = np.minimum(best[inside], np.abs(behind))
            edge = maximum_filter(depth, 3) > 1.05 * minimum_filter(depth, 3)
            smooth = map_coordinates(edge.astype(float), at, order=1) == 0
            floating, smooth_hits = floating + (behind[smooth] < -0.05).sum(), smooth_hits + smooth.sum()
    assert (best < 0.02).mean() > 0.8                       # the rest lies on edges, between pixels (see test_mesh)
    assert floating < 0.02 * smooth_hits                    # away from edges hardly one floats before the surface


def test_depth_is_dense_metric_and_poses_are_rigid(scan):
    with SensReader(scannet.scan_file(scan, scannet.SENS)) as sens:
        assert len(sens) == PRESETS['debug'].frames and sens.header.color_size == PRESETS['debug'].size
        rotation = sens.world_from_cam[:, :3, :3].astype(float)
        np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(3), rotation.shape),
                                   atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-5)
        down = rotation[:, 2, 2]                            # world z of the viewing direction
        assert (down > np.sin(np.radians(PITCH[0])) - 0.02).all() and (down < np.sin(np.radians(PITCH[1])) + 0.02).all()
        depth = np.stack([sens.depth(view) for view in range(len(sens))])
        assert (depth > 0).mean() > 0.999 and 1000 < np.median(depth) < 5000
        colour = np.stack([sens.color(view) for view in range(len(sens))])
        assert 60 < colour.mean() < 230 and colour.std() > 20


def test_the_axis_alignment_turns_the_floor_flat_and_the_walls_square(scan):
    metadata = scannet.read_metadata(scannet.scan_file(scan, scannet.METADATA))
    points, _, _ = read_mesh(scan)
    aligned = points @ metadata['axisAlignment'][:3, :3].T + metadata['axisAlignment'][:3, 3]
    segments = scannet.read_segments(scannet.scan_file(scan, scannet.SEGMENTS))
    groups = scannet.read_aggregation(scannet.scan_file(scan, scannet.AGGREGATION))
    labels = np.array([group.label for group in groups])[scannet.vertex_objects(segments, groups)]
    assert np.abs(aligned[labels == 'floor', 2]).max() < 0.02
    _, _, faces = read_mesh(scan)
    walls = aligned[faces[(labels[faces] == 'wall').all(axis=1)]]                       # (n, 3 corners, 3)
    normals = np.abs(np.cross(walls[:, 1] - walls[:, 0], walls[:, 2] - walls[:, 0]))
    assert (normals.max(axis=1) > 0.999 * np.linalg.norm(normals, axis=1)).mean() > 0.97
    assert metadata['numColorFrames'] == PRESETS['debug'].frames and isinstance(metadata['sceneType'], str)
