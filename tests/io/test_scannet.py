import json

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io import scannet
from jrs.io.scannet import LabelRow, SegmentGroup


def test_metadata_comes_back_with_alignment_first_and_scene_type_last(tmp_path):
    path = tmp_path / 'a.txt'
    alignment = np.arange(16.0).reshape(4, 4)
    scannet.write_metadata(path, {'sceneType': 'Living room / Lounge', 'colorHeight': 84, 'fx_color': 93.25,
                                  'axisAlignment': alignment})
    lines = path.read_text().splitlines()
    assert lines[0].startswith('axisAlignment = 0.000000 1.000000')
    assert lines[-1] == 'sceneType = Living room / Lounge'
    found = scannet.read_metadata(path)
    np.testing.assert_array_equal(found.pop('axisAlignment'), alignment)
    assert found == {'colorHeight': 84, 'fx_color': 93.25, 'sceneType': 'Living room / Lounge'}


def test_segments_and_objects_come_back(tmp_path):
    groups = [SegmentGroup(0, 'office chair', (7, 90)), SegmentGroup(1, 'wall', (12,))]
    segments = np.array([90, 12, 7, 5])
    scannet.write_segments(tmp_path / 'a.json', 'scene0000_00', segments)
    scannet.write_aggregation(tmp_path / 'b.json', 'scene0000_00', groups)
    np.testing.assert_array_equal(scannet.read_segments(tmp_path / 'a.json', 4), segments)
    assert scannet.read_aggregation(tmp_path / 'b.json') == groups
    np.testing.assert_array_equal(scannet.vertex_objects(segments, groups), [0, 1, 0, -1])


def test_objects_listed_twice_count_once(tmp_path):
    groups = [SegmentGroup(0, 'chair', (1, 2)), SegmentGroup(31, 'chair', (1, 2))]
    scannet.write_aggregation(tmp_path / 'b.json', 'scene0217_00', groups)
    assert scannet.read_aggregation(tmp_path / 'b.json') == groups[:1]


def test_the_last_group_of_a_segment_wins():
    groups = [SegmentGroup(0, 'chair', (1, 2)), SegmentGroup(1, 'table', (2, 3))]
    np.testing.assert_array_equal(scannet.vertex_objects(np.array([1, 2, 3, 4]), groups), [0, 1, 1, -1])


def test_the_label_table_has_17_columns_and_survives_windows_line_ends(tmp_path):
    path = tmp_path / 'labels.tsv'
    table = {'door': LabelRow(5, 8, 'door'), 'doors': LabelRow(5, 8, 'door')}
    scannet.write_label_table(path, table)
    assert {len(line.split('\t')) for line in path.read_text().splitlines()} == {17}
    path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert scannet.read_label_table(path) == table


def test_a_list_skips_empty_lines(tmp_path):
    scannet.write_list(tmp_path / 'a.txt', ['scene0000_00', 'scene0001_00', ''])
    assert scannet.read_list(tmp_path / 'a.txt') == ['scene0000_00', 'scene0001_00']


@pytest.mark.parametrize(('read', 'text'), [
    (scannet.read_metadata, 'no separator'), (scannet.read_metadata, 'axisAlignment = 1 2 3'),
    (scannet.read_metadata, 'axisAlignment = a'), (scannet.read_segments, '{"segIndices": [1, 2'),
    (scannet.read_segments, '[]'), (scannet.read_segments, '{"segIndices": [1, -2]}'),
    (scannet.read_segments, '{"segIndices": [1, [2]]}'), (scannet.read_segments, '{"segIndices": [1, "2"]}'),
    (scannet.read_aggregation, '{"segGroups": [{"objectId": 0}]}'), (scannet.read_aggregation, '{"segGroups": [3]}'),
    (scannet.read_aggregation, '{"segGroups": [{"objectId": "0", "label": "a", "segments": []}]}'),
    (scannet.read_label_table, ''), (scannet.read_label_table, 'id\traw_category\tnyu40id\nx\ty\tz'),
])
def test_a_corrupt_file_is_a_data_error_that_names_it(tmp_path, read, text):
    path = tmp_path / 'broken'
    path.write_text(text)
    with pytest.raises(DataError, match='broken'):
        read(path)


def test_a_missing_or_binary_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match='cannot be read'):
        scannet.read_segments(tmp_path / 'none')
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='not UTF-8'):
        scannet.read_list(tmp_path / 'binary')


def test_a_wrong_number_of_vertices_is_refused(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps({'segIndices': [1, 2]}))
    with pytest.raises(DataError, match='2 segment indices, the mesh has 3'):
        scannet.read_segments(tmp_path / 'a.json', 3)
