"""Pictures to network input against the golden data: the release's Lanczos-4 rule and VGGT's PIL loader."""

import numpy as np
import pytest

from jrs.io.images import load_vggt, pad_bicubic, resize_bicubic, resize_lanczos
from tests.golden._golden import golden_files, load_npz


@pytest.mark.parametrize('path', golden_files('segvggt_preprocess*.npz'))
def test_lanczos_rule_equals_the_release(path):
    arrays, meta = load_npz(path)
    for index, case in enumerate(meta['cases']):
        actual, _ = resize_lanczos(arrays[f'in{index}'], case['target_width'])
        assert list(actual.shape) == case['out_shape']
        if case['strided']:
            actual = actual[::meta['stride'], ::meta['stride']]
        difference = np.abs(actual.astype(int) - arrays[f'out{index}'].astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.005


@pytest.mark.parametrize('path', golden_files('vggt_preprocess*.npz'))
def test_vggt_loader_equals_upstream(path):
    arrays, meta = load_npz(path)
    pictures = [arrays[f'in{index}'] for index in range(len(meta['sizes_wh_mode']))]
    for index, picture in enumerate(pictures):
        for name, rule in {'crop': resize_bicubic, 'pad': pad_bicubic}.items():
            key = f'out{index}_{name}'
            check(load_vggt([picture], rule), meta['shapes'][f'{key}_shape'], arrays[key], 7)
    check(load_vggt(pictures), meta['shapes']['batch_crop_shape'], arrays['batch_crop'], 14)


def check(actual, shape, expected, stride):
    assert list(actual.shape) == shape
    actual = actual.numpy()[..., ::stride, ::stride].reshape(expected.shape)
    assert np.abs(actual - expected).max() == 0
