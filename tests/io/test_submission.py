"""Wrong prediction files are refused with the file and line; ours survive a round trip."""

import json
import os

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.submission import (
    SceneSubmission,
    read_run_lengths,
    read_submission,
    read_vertex_numbers,
    submission_format,
    write_run_lengths,
    write_submission,
    write_vertex_numbers,
)

SCANNET, SCANNETPP = submission_format('scannet'), submission_format('scannetpp')


def _submission(masks, scores):
    masks = np.array(masks, dtype=bool)
    return SceneSubmission(np.packbits(masks, axis=1), np.arange(len(masks)) + 3, np.array(scores), masks.shape[1])


@pytest.mark.parametrize('layout', [SCANNET, SCANNETPP])
def test_round_trip_keeps_masks_labels_and_every_digit_of_scores(tmp_path, layout):
    rng = np.random.default_rng(0)
    given = _submission(rng.random((5, 43)) < 0.5, [0.1 + 0.2, 0.3, 1 / 3, 1.0, 0.0])
    write_submission(tmp_path, 'scene', layout, given)
    found = read_submission(tmp_path, 'scene', layout, 43)
    assert (found.masks == given.masks).all() and (found.labels == given.labels).all()
    assert found.scores.tolist() == given.scores.tolist()


@pytest.mark.parametrize('layout', [SCANNET, SCANNETPP])
def test_scene_without_predictions_round_trips(tmp_path, layout):
    write_submission(tmp_path, 'scene', layout, _submission(np.zeros((0, 9)), []))
    assert read_submission(tmp_path, 'scene', layout, 9).masks.shape == (0, 2)


def test_run_lengths_start_at_one(tmp_path):
    write_run_lengths(tmp_path / 'mask.json', np.array([True, True, False, True]))
    assert json.loads((tmp_path / 'mask.json').read_text()) == {'length': 4, 'counts': '1 2 4 1'}
    (tmp_path / 'empty.json').write_text('{"length": 3, "counts": ""}')
    assert read_run_lengths(tmp_path / 'empty.json').tolist() == [False] * 3
    (tmp_path / 'overlap.json').write_text('{"length": 6, "counts": "5 2 2 2 3 1 1 0"}')
    assert read_run_lengths(tmp_path / 'overlap.json').tolist() == [False, True, True, False, True, True]


def test_numbers_of_several_digits_signs_and_windows_line_ends_are_read(tmp_path):
    write_vertex_numbers(tmp_path / 'gt.txt', np.array([0, 1191001, 7]))
    assert read_vertex_numbers(tmp_path / 'gt.txt').tolist() == [0, 1191001, 7]
    (tmp_path / 'mask.txt').write_bytes(b'1\r\n0\r\n-1')
    assert read_vertex_numbers(tmp_path / 'mask.txt', 3).tolist() == [1, 0, -1]


def test_repeated_mask_path_counts_once_with_its_last_score(tmp_path):
    (tmp_path / 'm.txt').write_text('1\n0\n')
    (tmp_path / 'n.txt').write_text('0\n1\n')
    (tmp_path / 'scene.txt').write_text('m.txt 5 0.9\nn.txt 6 0.8\nm.txt 7.0 0.1\n')
    found = read_submission(tmp_path, 'scene', SCANNET, 2)
    assert found.labels.tolist() == [7, 6] and found.scores.tolist() == [0.1, 0.8]


@pytest.mark.parametrize(('line', 'message'), [
    ('m.txt 5', 'scene.txt:2'),
    ('my mask.txt 5 0.5', 'no name may hold a space'),
    ('m.txt chair 0.5', "class id 'chair'"),
    ('m.txt 5 high', "confidence 'high'"),
    ('m.txt 5 nan', "confidence 'nan'"),
    ('../m.txt 5 0.5', 'inside the folder'),
    ('/m.txt 5 0.5', 'inside the folder'),
    ('gone.txt 5 0.5', 'no file .*gone.txt'),
    ('short.txt 5 0.5', 'short.txt: has 1 entries, but the mesh of this scene has 2'),
    ('words.txt 5 0.5', 'words.txt: must hold one integer per line'),
])
def test_bad_scannet_line_is_named(tmp_path, line, message):
    (tmp_path / 'm.txt').write_text('1\n0\n')
    (tmp_path / 'short.txt').write_text('1\n')
    (tmp_path / 'words.txt').write_text('1\nx\n')
    (tmp_path / 'scene.txt').write_text(f'm.txt 5 0.9\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_submission(tmp_path, 'scene', SCANNET, 2)


@pytest.mark.parametrize(('line', 'message'), [
    ('m.json 100 0.5', 'class id 100'),
    ('m.json 3.5 0.5', 'class id 3.5'),
    ('m.json 3 1.5', 'confidence 1.5'),
    ('outside.json 3 0.5', 'a run leaves the mask'),
    ('zero.json 3 0.5', 'a run leaves the mask'),
    ('odd.json 3 0.5', 'a start and a count'),
    ('list.json 3 0.5', 'must be JSON'),
])
def test_bad_scannetpp_line_is_named(tmp_path, line, message):
    contents = {'m': '1 1', 'outside': '2 2', 'zero': '0 1', 'odd': '1', 'list': [1, 1]}
    for name, counts in contents.items():
        (tmp_path / f'{name}.json').write_text(json.dumps({'length': 2, 'counts': counts}))
    (tmp_path / 'scene.txt').write_text(f'{line}\n')
    with pytest.raises(DataError, match=message):
        read_submission(tmp_path, 'scene', SCANNETPP, 2)


def test_writer_refuses_what_the_reader_would(tmp_path):
    with pytest.raises(DataError, match='confidence 2.0'):
        write_submission(tmp_path, 'scene', SCANNETPP, _submission(np.ones((1, 4)), [2.0]))
    with pytest.raises(DataError, match='space'):
        write_submission(tmp_path, 'my scene', SCANNET, _submission(np.ones((1, 4)), [0.5]))
    assert not list(tmp_path.glob('*.txt'))


def test_missing_scene_is_named(tmp_path):
    with pytest.raises(DataError, match='no file .*scene.txt'):
        read_submission(tmp_path, 'scene', SCANNET, 2)


def test_a_mask_is_found_whatever_bytes_its_name_has(tmp_path):
    for name in (b'\xff.txt', 'a\u00a0b.txt'.encode(), b'#%.txt'):
        (tmp_path / os.fsdecode(name)).write_text('1\n0\n')
        (tmp_path / 's.txt').write_bytes(name + b' 3 0.5\r\n')
        assert read_submission(tmp_path, 's', SCANNET, 2).labels.tolist() == [3]
