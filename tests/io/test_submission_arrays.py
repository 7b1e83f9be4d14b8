"""Predictions as arrays: what is written comes back, however numpy laid it out, and what does not fit is named."""

import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io import submission_arrays
from jrs.io.submission import SceneSubmission, submission_format
from jrs.io.submission_arrays import read_submission_arrays, write_submission_arrays

SCANNET, SCANNETPP = submission_format('scannet'), submission_format('scannetpp')
MASKS = np.random.default_rng(0).random((43, 5)) < 0.4
GOOD = dict(masks=MASKS, classes=np.arange(5) + 3, scores=np.array([0.1 + 0.2, 0.3, 1 / 3, 1.0, 0.0]))


@pytest.mark.parametrize('masks', [MASKS, np.asfortranarray(MASKS), MASKS.astype(np.uint8), MASKS.astype('>i4'),
                                   MASKS.astype(np.float64), MASKS.T.copy().T], ids=lambda value: value.dtype.str)
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_masks_of_any_type_and_order_are_read_in_pieces(masks, save, tmp_path, monkeypatch):
    monkeypatch.setattr(submission_arrays, 'PIECE', 64)
    save(tmp_path / 's.npz', **GOOD | dict(masks=masks))
    found = read_submission_arrays(tmp_path / 's.npz', SCANNET, 43)
    assert np.array_equal(np.unpackbits(found.masks, axis=1, count=43), MASKS.T)
    assert found.labels.tolist() == [3, 4, 5, 6, 7] and found.scores.tolist() == GOOD['scores'].tolist()


@pytest.mark.parametrize('count', [0, 3])
def test_a_round_trip_keeps_everything(count, tmp_path):
    masks, labels = np.packbits(np.ones((count, 9), bool), axis=1), np.arange(count) + 1191
    given = SceneSubmission(masks, labels, np.linspace(0, 1, count), 9)
    write_submission_arrays(tmp_path / 's.npz', given)
    found = read_submission_arrays(tmp_path / 's.npz', SCANNET, 9)
    for name in ('masks', 'labels', 'scores'):
        assert np.array_equal(getattr(found, name), getattr(given, name)) and len(getattr(found, name)) == count


@pytest.mark.parametrize(('change', 'words'), [
    (dict(scores=None), 'has no scores; there are masks, classes'),
    (dict(scores=None, pred_scores=np.ones(5)), 'has no scores; there are masks, classes, pred_scores'),
    (dict(masks=MASKS.T), r'must be \(N, M\) = \(43, 5\).*got \(5, 43\). It is the other way round'),
    (dict(masks=MASKS[:42]), r'must be \(N, M\) = \(43, 5\).*got \(42, 5\)'),
    (dict(scores=np.ones(4)), '5 classes and 4 scores'),
    (dict(masks=MASKS * 0.5), 'got 0.5. Compare probabilities'), (dict(masks=MASKS * np.nan), 'got nan'),
    (dict(masks=MASKS * 2), 'got 2'), (dict(scores=np.array([1, 1, 1, 1, np.nan])), 'scores holds what is not a number'),
    (dict(classes=np.array(list('abcde'))), 'classes must be truth values or numbers'),
    (dict(classes=np.array([1, 2, 3, 4, None])), 'classes must be truth values or numbers, got object'),
    (dict(classes=np.arange(5) + 0.5), 'whole numbers, got 0.5'), (dict(classes=np.ones((5, 1))), r'must be \(M,\)')])
def test_arrays_that_do_not_fit_are_named(change, words, tmp_path):
    np.savez(tmp_path / 's.npz', **{name: value for name, value in (GOOD | change).items() if value is not None})
    with pytest.raises(DataError, match=f's.npz.*{words}'):
        read_submission_arrays(tmp_path / 's.npz', SCANNET, 43)


def test_what_the_benchmark_refuses_is_refused(tmp_path):
    np.savez(tmp_path / 's.npz', **GOOD | dict(classes=np.arange(5) + 98))
    with pytest.raises(DataError, match='instance 2: class id 100 must be an integer in 0 .. 99'):
        read_submission_arrays(tmp_path / 's.npz', SCANNETPP, 43)


def test_files_that_are_cut_off_or_no_npz_are_named(tmp_path):
    np.savez(tmp_path / 's.npz', **GOOD)
    whole = (tmp_path / 's.npz').read_bytes()
    for data in (whole[:len(whole) // 2], b'hello', b''):
        (tmp_path / 's.npz').write_bytes(data)
        with pytest.raises(DataError, match='s.npz: not a readable npz'):
            read_submission_arrays(tmp_path / 's.npz', SCANNET, 43)
