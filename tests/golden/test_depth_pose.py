"""Depth and relative-pose metrics against published evaluation programs."""

import json
import re

import numpy as np
import pytest

from jrs.evaluation.cameras import camera_scores, relative_pose_errors
from jrs.evaluation.depth import depth_errors
from tests.golden._golden import golden_files, load_npz

NAMES = {'Abs Rel': 'abs_rel', 'Sq Rel': 'sq_rel', 'RMSE': 'rmse', 'Log RMSE': 'log_rmse', 'scale': 'scale',
         'valid_pixels': 'valid_pixels', 'delta_1.25': 'delta_1.25'}
SINGLE_PRECISION = {'δ < 1.25': 'delta_1.25', 'δ < 1.25^2': 'delta_1.25^2', 'δ < 1.25^3': 'delta_1.25^3'}


def _sets(path, kind):
    arrays, _ = load_npz(path)
    expected = json.loads(path.with_suffix('.json').read_text())
    names = sorted(name for name in expected if re.fullmatch(rf'{kind}\d+', name))
    assert names
    return [(name, arrays, expected[name]) for name in names]


@pytest.mark.parametrize('path', golden_files('depth_pose_metrics*.npz'))
def test_depth_errors_match_under_every_scale(path):
    for name, arrays, protocols in _sets(path, 'depth'):
        for scale, expected in protocols.items():
            errors = depth_errors(arrays[f'{name}_pred'], arrays[f'{name}_gt'], scale)
            for key, value in expected.items():
                if key in NAMES:
                    assert errors[NAMES[key]] == pytest.approx(value, rel=1e-9), (name, scale, key)
                elif key in SINGLE_PRECISION:                      # that program counts in float32
                    assert np.float32(errors[SINGLE_PRECISION[key]]) == np.float32(value), (name, scale, key)
                else:                                              # 'δ < 1.' is 0 by definition: no ratio is below 1
                    assert value == 0.0


@pytest.mark.parametrize('path', golden_files('depth_pose_metrics*.npz'))
def test_camera_errors_match(path):
    for name, arrays, expected in _sets(path, 'pose'):
        predicted, true = arrays[f'{name}_pred_w2c'], arrays[f'{name}_gt_w2c']
        rotation, translation, moving = relative_pose_errors(predicted, true)
        np.testing.assert_allclose(rotation, expected['rot_err_deg'], rtol=0, atol=1e-4)
        np.testing.assert_allclose(translation, expected['trans_err_deg'], rtol=0, atol=1e-4)
        assert moving.all()
        thresholds = tuple(int(key[3:]) for key in expected if key.startswith('auc'))
        scores = camera_scores(predicted, true, thresholds)
        for key in expected.keys() - {'rot_err_deg', 'trans_err_deg'}:
            assert scores[key] == pytest.approx(expected[key], abs=1e-12), (name, key)
