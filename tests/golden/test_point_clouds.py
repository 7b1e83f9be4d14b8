"""Sparse convolutions, U-Nets, pooling and sampling against the published definitions; sizes and cases from the files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from jrs.plugins import load_plugins
from jrs.registry import MODELS
from tests.golden._golden import golden_files, load_npz
from tests.golden._points import assert_close, load_published, published_value

load_plugins(['point_clouds'])
SparseUNet = MODELS.get('SparseUNet')
pooling = sys.modules['jrs_plugins.point_clouds.pooling']
sampling = sys.modules['jrs_plugins.point_clouds.sampling']
unet_module = sys.modules[SparseUNet.__module__]


def rows_of(coordinates: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the row of `coordinates` (n, 4) that each of `wanted` (m, 4) is."""
    place = {tuple(row): number for number, row in enumerate(coordinates.tolist())}
    return np.array([place[tuple(row)] for row in wanted.tolist()], dtype=np.int64)


@pytest.mark.parametrize('path', golden_files('baseline_sparse_conv*.npz'))
def test_submanifold_strided_and_inverse_convolutions(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        given = {name.removeprefix(f'c{number}_'): value for name, value in arrays.items() if name.startswith(f'c{number}_')}
        level, order = unet_module.sorted_level(torch.from_numpy(given['coords']), case['spatial_shape'])
        coarser, down = level.coarser()
        features = torch.from_numpy(given['feats'])[order]

        def convolved(name, rows, pairs, size, case=case, meta=meta):
            out, *_, dim_in = case['keys'][f'{name}.weight']
            part = unet_module.SparseConvolution(dim_in, out, size, bias=f'{name}.bias' in case['keys'])
            part.load_state_dict({kind: torch.from_numpy(published_value(f'{name}.{kind}', shape, meta)) for kind in
                                  ('weight', 'bias') if (shape := case['keys'].get(f'{name}.{kind}'))})
            return part(rows, pairs)
        for name, size in (('subm', 3), ('subm_bias', 3), ('subm1', 1)):
            found = convolved(name, features, level.neighbours(3), size)
            assert_close(found, given[name][order.numpy()], f'{number} {name}')
        coarse = convolved('down', features, down, 2)
        rows = rows_of(coarser.coordinates.numpy(), given['down_coords'])
        assert sorted(rows) == list(range(len(coarser)))
        assert_close(coarse[rows], given['down'], f'{number} down')
        assert len(level) - sum(map(len, down.inputs)) == case['voxels_lost']
        assert_close(convolved('up', coarse, down.back, 2), given['up'][order.numpy()], f'{number} up')


@pytest.mark.parametrize('path', golden_files('baseline_sparse_unet*.npz'))
def test_the_sparse_unet_its_levels_and_its_gradients(path):
    arrays, meta = load_npz(path)
    part = load_published(SparseUNet(meta['in_channels'], meta['planes'][0], len(meta['planes']), meta['block_reps'],
                                     trim_odd_extents=True, least_extent=max(meta['spatial_shape'])), meta).eval()
    part.extent = lambda coordinates: tuple(meta['spatial_shape'])
    coordinates, features = torch.from_numpy(arrays['coords']), torch.from_numpy(arrays['feats'])
    seen, levels = [], [module for module in part.modules() if isinstance(module, unet_module.UNetLevel)]
    handles = [module.register_forward_hook(lambda _, given, result: seen.append((given[1], result))) for module in levels]
    handles.append(part.input_conv.register_forward_hook(lambda _, given, result: seen.append((None, result))))
    with torch.no_grad():
        found = part(features, coordinates)
    for handle in handles:
        handle.remove()
    assert_close(found, arrays['out'], 'out')
    order = unet_module.sorted_level(coordinates, meta['spatial_shape'])[1].numpy()
    assert_close(seen[0][1], arrays['stem'][order], 'stem')
    for depth, (level, result) in enumerate(reversed(seen[1:])):                 # the deepest is done first
        rows = rows_of(level.coordinates.numpy(), arrays[f'level{depth}_coords'])
        assert_close(result[rows], arrays[f'level{depth}'], f'level {depth}')
    features.requires_grad_()
    result = part.train()(features, coordinates)
    assert_close(result, arrays['out_train'], 'out_train')
    (result * torch.from_numpy(arrays['cotangent'])).sum().backward()
    assert_close(features.grad, arrays['grad_feats'], 'grad_feats')
    assert_close(part.input_conv[0].weight.grad, arrays['grad_stem'], 'grad_stem')
    parameters = dict(part.named_parameters())
    assert_close(parameters['unet.blocks_tail.block0.i_branch.0.weight'].grad, arrays['grad_skip'], 'grad_skip')
    assert set(meta['grad_norms']) == set(parameters)
    for name, norm in meta['grad_norms'].items():
        assert_close(parameters[name].grad.norm()[None], np.array([norm]), f'norm of {name}', 1e-4)
    for kind in ('mean', 'var'):
        assert_close(getattr(part.output_layer[0], f'running_{kind}'), arrays[f'running_{kind}_after'], kind)


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_res16unet*.npz'))
def test_res16unet_and_its_levels(path):
    arrays, meta = load_npz(path)
    out = meta['keys']['final.kernel'][1]
    part = MODELS.get('Res16UNet34C')(meta['in_channels'] if 'in_channels' in meta else arrays['feats'].shape[1], out,
                                      meta['init_dim'], meta['conv1_kernel_size'], meta['planes'], meta['layers'])
    load_published(part, meta).eval()
    features, coordinates = torch.from_numpy(arrays['feats']), torch.from_numpy(arrays['coords']).long()
    assert_close(part(features, coordinates), arrays['logits'], 'logits')
    levels, order = part.pyramid(features, coordinates)
    base = coordinates[:, 1:].amin(dim=0).div(16, rounding_mode='floor') * 16
    assert (levels[-1][0].coordinates[:, 1:] + base).equal(coordinates[order, 1:])
    for number, (level, found) in enumerate(levels):
        stride = 2 ** (4 - number)
        places = torch.cat([level.coordinates[:, :1], level.coordinates[:, 1:] * stride + base], dim=1).numpy()
        rows = rows_of(places, arrays[f'level{number}_coords'])
        assert_close(found[rows], arrays[f'level{number}'], f'level {number}')


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_superpoint_pool*.npz'))
def test_superpoint_pooling(path):
    arrays, meta = load_npz(path)
    points = torch.from_numpy(arrays['voxel_feats'])[arrays['point_to_voxel']]
    superpoints, count = torch.from_numpy(arrays['superpoints']), meta['superpoints']
    mean = MODELS.get('MeanPooling')()(points, superpoints, count)
    largest = pooling.superpoint_max(points, superpoints, count)
    part = load_published(MODELS.get('AdaptivePooling')(meta['channels']), meta).eval()
    assert_close(mean, arrays['mean'], 'mean')
    assert_close(largest, arrays['max'], 'max')
    for name, centre, weigh in (('mean', mean, part.pooling_linear), ('max', largest, part.pooling_linear1)):
        weight = pooling.superpoint_softmax(weigh(centre[superpoints] - points)[:, 0], superpoints, count)
        assert_close(weight[:, None], arrays[f'weight_{name}'], f'weights by the {name}')
    assert_close(part(points, superpoints, count), arrays['adaptive'], 'adaptive')


@pytest.mark.parametrize('path', golden_files('baseline_fps*.npz'))
def test_farthest_points_with_the_ties_of_the_published_kernel(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        found = sampling.farthest_points(torch.from_numpy(arrays[f'c{number}_points']), case['m'])
        np.testing.assert_array_equal(found, arrays[f'c{number}_index'])
