"""What the golden tests of Pi3 and Pi3X share, and VGGT-Omega's use; each file's meta says what to build."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs.geometry.camera import decode_cameras, invert_rigid, relative_to_first
from jrs.structures import Predictions
from tests.golden._golden import golden_files, relative_error
from tests.seeded_weights import seeded_array

CONSTANTS = ('image_mean', 'image_std')
STATISTICS = '_stat'                           # mean, unbiased deviation, least, largest of the complete array


def cases(pattern: str) -> list:
    """Return the golden files; those whose meta says so are marked slow."""
    found = []
    for case in golden_files(pattern):
        path = case.values[0]
        slow = path is not None and json.loads(str(np.load(path, allow_pickle=False)['meta']))['slow']
        found.append(pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) if slow else case)
    return found


def backbone_options(config: dict) -> dict:
    """Return the arguments that both backbones take."""
    encoder = config['encoder'] or {}
    options = {key: config[key] for key in ('patch_size', 'patch_embed', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio',
                                            'num_register_tokens', 'rope_base', 'img_size')}
    return dict(options, encoder_depth=encoder.get('depth', 4), encoder_heads=encoder.get('num_heads', 4),
                feature_layers=range(config['depth']))


def head_options(config: dict) -> dict:
    """Return the arguments that both heads take."""
    decoder = config['head_decoder']
    assert decoder['dim'] == 2 * decoder['camera_dim'] and decoder['dim'] == 64 * decoder['num_heads']
    return dict(dim_in=2 * config['embed_dim'], dim=decoder['dim'], depth=decoder['depth'], patch_size=config['patch_size'],
                rope_base=config['rope_base'])


@torch.no_grad()
def fill(module: nn.Module, meta: dict) -> int:
    """Give every entry its seeded values under its released name; return how many entries there are."""
    for name, tensor in module.state_dict().items():
        if name not in CONSTANTS:
            tensor.copy_(torch.from_numpy(seeded_array(name, tensor.shape, meta['seed'])))
            for pattern, factor in meta['scales']:
                tensor.mul_(factor if re.fullmatch(pattern, name) else 1)
    return len(module.state_dict())


@contextmanager
def recording(parts: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Give what the `parts` return inside, call by call; a copy, as some of it is overwritten later."""
    recorded = {name: [] for name in parts}
    hooks = [part.register_forward_hook(lambda module, inputs, output, name=name: recorded[name].append(output.clone()))
             for name, part in parts.items()]
    yield recorded
    for hook in hooks:
        hook.remove()


def head_parts(head: nn.Module) -> dict[str, nn.Module]:
    return dict(point_decoder_out=head.point_decoder, conf_decoder_out=head.conf_decoder,
                camera_decoder_out=head.camera_decoder, camera_nine=head.camera_head.fc_rot)


def geometry_arrays(found: Predictions, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return what the files have of cameras, depth and confidence, in their conventions."""
    encoding, depth, rays = found.pose_encodings[0], found.depth, found.extras['rays']
    cam_from_world = decode_cameras(encoding, size)[0]
    local = rays / rays[..., 2:] * depth[..., None]                             # (B, V, H, W, 3)
    world_from_cam = invert_rigid(cam_from_world)
    points = torch.einsum('bvij,bvhwj->bvhwi', world_from_cam[..., :3, :3], local) + world_from_cam[..., None, None, :3, 3]
    return {'z_depth': depth, 'cam_from_world': cam_from_world, 'camera_poses': world_from_cam, 'local_points': local,
            'points': points, 'rays': rays, 'fov_tangent_zero': encoding[..., 7:], 'conf': found.depth_conf[..., None],
            'cam_from_first': decode_cameras(relative_to_first(encoding), size)[0]}


def errors(outputs: dict[str, Tensor], arrays: dict[str, np.ndarray], meta: dict) -> dict[str, float]:
    """Return the error of every output that the file has, in units of what is allowed."""
    def allowed(name: str) -> float:
        return meta['tolerances'].get(name, meta['tolerance'])
    found = {}
    for name, actual in outputs.items():
        if f'{name}{STATISTICS}' in arrays and name != 'conf':                  # of the logits, there
            values = actual.double()
            stored = arrays[f'{name}{STATISTICS}']
            deviation = values.std() if values.numel() > 1 else stored[1]       # of one number there is none
            own = np.array([float(value) for value in (values.mean(), deviation, values.min(), values.max())])
            apart = np.abs(own - stored)[~np.isnan(stored)].max()
            found[f'{name}{STATISTICS}'] = apart / np.nanmax(np.abs(stored)) / allowed(name)
        if name not in arrays:
            continue
        channels = 1 if name[-1].isdigit() else -1                              # of pictures *_stage0, 1, 2
        index = [slice(None)] * actual.ndim
        index[channels] = slice(None, None, meta['strides'].get(name, 1))
        if (step := meta.get('pixel_strides', {}).get(name, 1)) > 1:
            index[2] = index[3] = slice(None, None, step)
        found[name] = relative_error(actual[tuple(index)], arrays[name]) / allowed(name)
    step = meta.get('pixel_strides', {}).get('z_depth', 1)
    log_z = np.abs(np.log(outputs['z_depth'].numpy()[:, :, ::step, ::step]) - np.log(arrays['z_depth'])).max()
    found['log_z_abs'] = log_z / meta['tolerances'].get('log_z_abs', 2e-5)
    if 'fov_tangent_zero' in arrays:
        angle = np.abs(outputs['fov_tangent_zero'].numpy() - arrays['fov_tangent_zero']).max()
        found['fov_tangent_zero'] = angle / max(1e-5, meta['tolerances'].get('fov_tangent_zero', 0))
    return found


def report(path: Path, found: dict[str, float]) -> None:
    """Print all errors, and fail where one is too large."""
    print(path.stem, 'in units of the tolerance:', {name: round(float(error), 3) for name, error in found.items()})
    assert not {name: error for name, error in found.items() if not error <= 1}
