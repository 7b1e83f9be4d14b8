"""`tools/prepare.py` from the outside: rooms and scans become data sets, faults become one message."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jrs.cli import run
from jrs.cli.prepare import main
from jrs.datasets.dataset import SceneDataset
from jrs.datasets.scene import SceneFolder, read_split, write_mesh
from jrs.io.png import write_png8
from tests.datasets._raw_scan import write_raw
from tests.datasets._raw_scannetpp import write_raw as write_scannetpp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def rooms(tmp_path_factory):
    """Two rooms of the smallest preset, by the command."""
    out = tmp_path_factory.mktemp('data') / 'rooms' / 'debug'
    assert run(main, ['rooms', '--preset', 'debug', '--rooms', '2', '--out', str(out)]) == 0
    return out


def test_rooms_are_sound_scenes_with_both_splits(rooms, capsys):
    assert run(main, ['check', str(rooms)]) == 0
    assert '2 scenes are sound' in capsys.readouterr().err
    assert len(read_split(rooms, 'train')) == len(read_split(rooms, 'val')) == 1
    assert not (rooms / 'raw').exists()


def test_rooms_have_instances_of_both_benchmarks(rooms):
    for benchmark in ('scannet20', 'scannet200'):
        batch = SceneDataset('debug', 'val', benchmark, width=56, data_root=rooms.parent, mode='test')[0]
        assert len(batch.instances[0].ids) >= 4
        seen = set(batch.instance_ids.unique().tolist()) - {-1, 0}
        assert len(seen) >= 4 and seen <= set(batch.instances[0].ids.tolist())
        assert np.unique(batch.ground_truth[0].vertex_ids // 1000).size > 3


def test_rooms_masks_cover_what_the_sensor_sees(rooms):
    """Rendered from the mesh and tested against the depth, nearly every pixel has an owner and few are doubted."""
    for name in read_split(rooms, 'train') + read_split(rooms, 'val'):
        scene = SceneFolder(rooms / name)
        ids = np.stack([scene.instance_ids(frame) for frame in scene.frames])
        assert (ids == -1).mean() < 0.15 and (ids > 0).mean() > 0.75


def test_rooms_are_not_made_twice(rooms, capsys):
    before = (rooms / 'train.txt').stat().st_mtime_ns
    assert run(main, ['rooms', '--preset', 'debug', '--rooms', '2', '--out', str(rooms)]) == 0
    assert 'the rooms are there' in capsys.readouterr().err
    assert (rooms / 'train.txt').stat().st_mtime_ns == before


@pytest.mark.parametrize('words, said', [
    (['tiny', '--rooms', '90'], True), (['tiny'], False), (['tiny', '--rooms', '192'], False),
    (['tiny_demo', '--rooms', '60'], False), (['tiny', '--rooms', '90', '--style', 'shifted'], False)])
def test_rooms_held_out_that_the_weights_have_seen_are_named(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('jrs.cli.prepare._same_rooms', lambda options: True)            # they are there
    assert run(main, ['rooms', '--preset', *words, '--out', str(tmp_path)]) == 0
    assert ("among the first 160 of 'tiny'" in capsys.readouterr().err) == said


def test_rooms_are_the_frozen_ones(rooms, capsys):
    """To the byte with the versions that the fingerprints name, else within the tolerance: anything else is a fault."""
    assert run(main, ['rooms', '--preset', 'debug', '--rooms', '2', '--out', str(rooms), '--verify']) == 0
    assert ' 0 different' in capsys.readouterr().err


def test_changed_rooms_are_not_the_frozen_ones(rooms, tmp_path, capsys):
    copy = shutil.copytree(rooms, tmp_path / 'copy')
    first, second = (copy / read_split(copy, split)[0] for split in ('train', 'val'))
    shutil.rmtree(first / 'depth')
    shutil.copytree(second / 'depth', first / 'depth')
    assert run(main, ['rooms', '--preset', 'debug', '--rooms', '2', '--out', str(copy), '--verify']) == 2
    assert f'1 rooms are not the frozen ones ({first.name}' in capsys.readouterr().err


def test_only_a_preset_as_it_is_can_be_verified(tmp_path, capsys):
    words = ['rooms', '--preset', 'debug', '--out', str(tmp_path / 'out'), '--verify', '--style', 'shifted']
    assert run(main, words) == 2
    assert "{'style': 'shifted'}" in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_rooms_of_another_style_need_another_folder(rooms, capsys):
    words = ['rooms', '--preset', 'debug', '--rooms', '2', '--out', str(rooms)]
    assert run(main, [*words, '--depth', 'sensor']) == 2
    assert "'depth': 'sensor'" in capsys.readouterr().err


def test_folder_of_other_rooms_is_refused(rooms, capsys):
    assert run(main, ['rooms', '--preset', 'debug', '--rooms', '3', '--out', str(rooms)]) == 2
    assert 'Use another --out' in capsys.readouterr().err


def test_unknown_preset_is_refused_and_leaves_nothing(tmp_path, capsys):
    assert run(main, ['rooms', '--preset', 'debog', '--out', str(tmp_path / 'out')]) == 2
    assert "'debug'" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_scans_are_prepared_with_progress(tmp_path, capsys):
    write_raw(tmp_path / 'raw', num_frames=5)
    assert run(main, ['scannet', '--raw', str(tmp_path / 'raw'), '--out', str(tmp_path / 'out'), '--every', '2']) == 0
    said = capsys.readouterr().err
    assert 'GB are free' in said and '1/1 scene0000_00' in said and 'scenes/min' in said
    assert [frame.index for frame in SceneFolder(tmp_path / 'out/scene0000_00').frames] == [0, 2]


def test_scannetpp_is_prepared_from_either_camera(tmp_path, capsys):
    raw = write_scannetpp(tmp_path / 'raw', num_frames=2, lost=())
    for camera in ('iphone', 'dslr'):
        out = tmp_path / camera
        assert run(main, ['scannetpp', '--raw', str(raw), '--out', str(out), '--camera', camera, '--depth', 'rendered']) == 0
        assert run(main, ['check', str(out)]) == 0
    assert 'depth is rendered from the mesh' in capsys.readouterr().err
    assert run(main, ['scannetpp', '--raw', str(raw), '--out', str(tmp_path / 'x'), '--camera', 'phone']) == 2
    assert 'iphone, dslr' in capsys.readouterr().err


def test_photos_are_prepared_and_checked(tmp_path):
    for number in range(3):
        write_png8(tmp_path / 'photos' / f'{number}.png', np.full((30, 40, 3), number, np.uint8))
    assert run(main, ['images', str(tmp_path / 'photos'), '--out', str(tmp_path / 'mine'), '--name', 'den']) == 0
    assert run(main, ['check', str(tmp_path / 'mine')]) == 0
    assert len(SceneFolder(tmp_path / 'mine' / 'den').frames) == 3


def test_failed_scan_gives_code_2_after_the_others_are_done(tmp_path, capsys):
    raw = write_raw(tmp_path / 'raw', ('scene0000_00', 'scene0001_00'), num_frames=2, lost=())
    (raw / 'scans/scene0000_00/scene0000_00_vh_clean_2.ply').write_bytes(b'no mesh')
    assert run(main, ['scannet', '--raw', str(raw), '--out', str(tmp_path / 'out'), '--every', '1']) == 2
    assert 'scene0000_00' in capsys.readouterr().err
    assert SceneFolder(tmp_path / 'out' / 'scene0001_00').exists()


def test_check_names_the_fault_and_the_missing_scene(rooms, tmp_path, capsys):
    copy = shutil.copytree(rooms, tmp_path / 'copy')
    name = read_split(copy, 'train')[0]
    (copy / name / 'depth' / '0.png').unlink()
    assert run(main, ['check', str(copy / name)]) == 2
    assert "missing ['0']" in capsys.readouterr().err
    shutil.rmtree(copy / name)
    assert run(main, ['check', str(copy)]) == 2
    assert f'1 scenes of the list are missing, first {name}' in capsys.readouterr().err


def test_tool_prints_one_message_and_exits_with_2(tmp_path):
    done = subprocess.run([sys.executable, ROOT / 'tools/prepare.py', 'check', tmp_path], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 2 and done.stderr.startswith('DataError: ') and 'Traceback' not in done.stderr


def test_help_imports_neither_torch_nor_numpy():
    words = 'import sys; from jrs.cli.prepare import _parser; _parser(); print({"torch", "numpy"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'


def test_superpoints_are_computed_where_there_are_none_and_stay_where_there_are(rooms, tmp_path, capsys):
    copy = shutil.copytree(rooms, tmp_path / 'copy')
    names = read_split(copy, 'train') + read_split(copy, 'val')
    before = SceneFolder(copy / names[0]).mesh()
    write_mesh(copy / names[0] / 'mesh.ply', replace(before, superpoints=None))
    assert run(main, ['superpoints', str(copy)]) == 0
    said = capsys.readouterr().err
    assert f'{names[1]}: has superpoints, which stay' in said and '1 scenes got superpoints' in said
    assert run(main, ['check', str(copy)]) == 0
    scene = SceneFolder(copy / names[0])
    after = scene.mesh()
    assert 'superpoints are computed' in scene.record.notes[-1] and len(np.unique(after.superpoints)) > 10
    assert np.array_equal(after.instances, before.instances) and np.array_equal(after.vertices, before.vertices)
    vertices = np.where(np.arange(len(before.vertices))[:, None] == 3, np.nan, before.vertices)
    write_mesh(copy / names[1] / 'mesh.ply', replace(before, vertices=vertices, superpoints=None))
    assert run(main, ['superpoints', str(copy)]) == 2
    assert f'{copy / names[1] / "mesh.ply"}: The mesh has vertices that are not finite' in capsys.readouterr().err
