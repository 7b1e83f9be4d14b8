"""The dense decoder's switches and the pose head against golden files of MapAnything (README_backbones_more.md)."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from jrs.heads.pose import PoseHead, TokenConv
from jrs.layers.dpt import DenseDecoder
from jrs.structures import FeatureTaps
from tests.golden._golden import golden_files, load_npz, relative_error
from tests.seeded_weights import seeded_array

CASES = golden_files('backbone_mapanything_small*.npz', exclude=('backbone_mapanything_small_intrinsics',))
NAMES = ((r'projects\.(\d)', r'dense_head.0.input_process.\1.0.0'),
         (r'resize_layers\.(\d)', r'dense_head.0.input_process.\1.0.1'),
         (r'scratch\.output_conv1', 'dense_head.1.conv1'), (r'scratch\.output_conv2', 'dense_head.1.conv2'),
         (r'scratch\.refinenet', 'dense_head.0.scratch.refinenet'))


def released(name: str) -> str:
    """Return the key, alphabetically the first of its aliases, of one of our names."""
    if found := re.fullmatch(r'scratch\.layer(\d)_rn\.weight', name):
        return f'dense_head.0.input_process.{int(found[1]) - 1}.1.weight'
    for pattern, key in NAMES:
        name = re.sub(f'^{pattern}', key, name)
    return name


@torch.no_grad()
def filled(module: nn.Module, meta: dict, name_of) -> nn.Module:
    for name, tensor in module.state_dict().items():
        key = name_of(name)
        tensor.copy_(torch.from_numpy(seeded_array(meta['weights_prefix'] + key, tensor.shape, meta['seed'])))
        tensor.mul_(next((factor for suffix, factor in meta['scale'] if key.endswith(suffix)), 1))
    return module.eval()


@torch.inference_mode()
@pytest.mark.parametrize('path', CASES)
def test_the_decoder_without_norm_and_positions_doubles_and_cuts(path):
    arrays, meta = load_npz(path)
    dense, head = torch.from_numpy(arrays['dense_inputs']), meta['config']['head']
    height, width = arrays['images'].shape[-2:]
    grid = (height // 14, width // 14)
    decoder = DenseDecoder(dense.shape[-1], head['feature_dim'], head['layer_dims'], norm=False, positions=False,
                           skip='plain', growth='double')
    decoder.scratch.output_conv2 = nn.Sequential(nn.Conv2d(head['feature_dim'] // 2, head['regressor_hidden'], 3, padding=1),
                                                 nn.ReLU(), nn.Conv2d(head['regressor_hidden'], head['outputs'], 1))
    filled(decoder, meta, released)
    fused = []
    decoder.scratch.refinenet1.register_forward_hook(lambda module, inputs, output: fused.append(output))
    taps = FeatureTaps(list(dense), torch.arange(grid[0] * grid[1]), grid, (height, width))
    found = decoder.decode(taps, decoder.scratch.output_conv2)                  # (B, V, 6, H, W)
    step, coarse = (meta['strides'].get(name, 1) for name in ('dense_raw', 'feature_8x'))
    errors = [relative_error(found[..., ::step, ::step], arrays['dense_raw']),
              relative_error(fused[0][None, :1, :, ::coarse, ::coarse], arrays['feature_8x'])]
    print(path.stem, errors)
    assert max(errors) < meta['tolerance']


@torch.inference_mode()
@pytest.mark.parametrize('path', CASES)
def test_the_pose_head_behind_a_linear_map_gives_the_reference_numbers(path):
    arrays, meta = load_npz(path)
    last = torch.from_numpy(arrays['dense_inputs'][-1])                         # (B, V, n, C)
    head = PoseHead(meta['config']['head']['pose_hidden'], last.shape[-1], 'quaternion', TokenConv)
    filled(head, meta, lambda name: f'pose_head.{name}')
    raw = torch.cat(head.read(last.flatten(0, 1)), dim=1).unflatten(0, last.shape[:2])
    scale = torch.from_numpy(arrays['metric_scale'])[:, None, None]
    world_from_cam = head(last.flatten(0, 1)).unflatten(0, last.shape[:2])
    world_from_cam[..., :3, 3] *= scale
    errors = [relative_error(raw, arrays['pose_raw']),
              relative_error(torch.linalg.inv(world_from_cam), arrays['cam_from_world'])]
    print(path.stem, errors)
    assert max(errors) < meta['tolerance']
