"""The table of names and nerfstudio's cameras; the geometry is tested where scenes are prepared."""

import json

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.scannetpp import read_label_map, read_transforms

GOOD = {'camera_model': 'PINHOLE', 'fl_x': 5, 'fl_y': 6, 'cx': 4, 'cy': 3, 'w': 8, 'h': 6,
        'frames': [{'file_path': 'a.jpg', 'transform_matrix': np.eye(4).tolist()}],
        'test_frames': [{'file_path': 'b.jpg', 'transform_matrix': np.zeros((4, 4)).tolist(), 'is_bad': True}]}


def test_empty_keeps_the_name_and_a_word_replaces_it(tmp_path):
    (tmp_path / 'map.csv').write_text('\ufeffclass,count,semantic_map_to,instance_map_to\nchair,9,,\n'
                                      '"sofa, large",2,sofa,sofa\nfloor mat,1,,None\n', encoding='utf-8')
    assert read_label_map(tmp_path / 'map.csv') == {'chair': 'chair', 'sofa, large': 'sofa', 'floor mat': 'None'}


def test_other_tables_are_refused(tmp_path):
    (tmp_path / 'map.csv').write_text('name,to\na,b\n')
    with pytest.raises(DataError, match='class'):
        read_label_map(tmp_path / 'map.csv')
    with pytest.raises(DataError, match='cannot be read'):
        read_label_map(tmp_path / 'gone.csv')


def test_transforms_list_test_frames_too_and_what_is_bad(tmp_path):
    (tmp_path / 't.json').write_text(json.dumps(GOOD))
    found = read_transforms(tmp_path / 't.json')
    assert [image.name for image in found.images] == ['a.jpg', 'b.jpg'] and found.bad == {'b.jpg'}
    np.testing.assert_array_equal(found.lens.intrinsics, [[5, 0, 3.5], [0, 6, 2.5], [0, 0, 1]])
    assert not np.isfinite(found.images[1].cam_from_world).any()            # no pose, to be dropped and counted


@pytest.mark.parametrize('change', [{'fl_x': None}, {'frames': 3}, {'camera_model': 'LENS'}, {'w': 0},
                                    {'frames': [{'file_path': 'a', 'transform_matrix': [[1]]}]}])
def test_broken_transforms_are_named(tmp_path, change):
    (tmp_path / 't.json').write_text(json.dumps(GOOD | change))
    with pytest.raises(DataError, match='t.json'):
        read_transforms(tmp_path / 't.json')
