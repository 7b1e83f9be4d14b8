"""The ten scenes of Tables 2 and 9: one rule, data where the whole list is public, selectable as a split."""

import hashlib
import shutil

import pytest

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.splits import draw_scenes, published_draws, split_names, subset_name
from jrs.errors import DataError
from jrs.report.identity import ABSENT, data_digest
from jrs.report.plan import write_subset

TEST_SCANS = [f'scene{number:04d}_00' for number in range(707, 807)]                    # data.md section 3


def write_list(root, split, names):
    (root / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))


def test_draw_is_the_ten_smallest_digests_whatever_the_order():
    names = [f'scene{number:04d}_00' for number in range(300)]
    expected = sorted(names, key=lambda name: hashlib.sha256(b'jrs 0 ' + name.encode()).hexdigest())[:10]
    assert draw_scenes(names) == draw_scenes(reversed(names)) == draw_scenes(names * 2) == sorted(expected)
    assert draw_scenes(['b', 'a']) == ['a', 'b']


def test_a_scene_that_is_not_there_changes_at_most_one_of_the_ten():
    names = [f'scene{number:04d}_00' for number in range(100)]
    whole = set(draw_scenes(names))
    for name in names:
        assert len(whole & set(draw_scenes(set(names) - {name}))) == (9 if name in whole else 10)


def test_published_draws_are_the_rule_on_public_lists():
    assert published_draws() == {'test': draw_scenes(TEST_SCANS)}


def test_split_is_drawn_from_its_list_and_a_written_list_counts_as_it_stands(tmp_path):
    names = [f'{number:010x}' for number in range(50)]
    assert split_names(tmp_path, 'val_random10') is None
    write_list(tmp_path, 'val', names)
    assert split_names(tmp_path, 'val') == names and split_names(tmp_path, 'va') is None
    drawn = split_names(tmp_path, 'val_random10')
    assert drawn == draw_scenes(names) and not (tmp_path / 'val_random10.txt').exists()
    assert write_subset(tmp_path / 'val_random10.txt') == drawn == split_names(tmp_path, 'val_random10')
    write_list(tmp_path, 'val_random10', ['mine'])
    assert split_names(tmp_path, 'val_random10') == ['mine']


def test_test_scans_that_were_not_prepared_are_missed_not_replaced(tmp_path):
    ten = published_draws()['test']
    write_list(tmp_path, 'test', [name for name in TEST_SCANS if name != ten[3]])
    assert split_names(tmp_path, 'test_random10') == ten
    with pytest.raises(DataError, match=f'10 of 10 scenes are missing, first {ten[0]}'):
        SceneDataset(tmp_path.name, 'test_random10', 'scannet20', 56, data_root=tmp_path.parent, mode='test')
    write_list(tmp_path, 'test', ['kitchen'])                                            # another data set
    assert split_names(tmp_path, 'test_random10') == ['kitchen']


def test_ten_scenes_can_be_scored_without_writing_a_list(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / 'out')
    found = SceneDataset('out', subset_name('val'), 'scannet20', 56, data_root=tmp_path, mode='test')
    assert [scene.name for scene in found.scenes] == ['scene0001_00'] and len(found[0].view_names[0]) > 1
    digests = [data_digest(dict(data_root=str(tmp_path), test_dataset=dict(folder='out', split=split)), 'test_dataset')
               for split in ('val', 'val_random10', 'tests_random10')]
    assert digests[0] == digests[1] != digests[2] == ABSENT
