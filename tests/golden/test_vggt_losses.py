"""Camera, depth and point losses, their gradients and the scene normalisation against the reference (vggt_losses*)."""

import numpy as np
import pytest
import torch

from jrs.geometry.camera import encode_cameras
from jrs.geometry.normalisation import normalise_scene
from jrs.losses.camera import CameraLoss
from jrs.losses.criterion import Criterion
from jrs.structures import GeometryTargets, Predictions
from tests.golden._golden import golden_files, load_npz, relative_error

TOLERANCE = 1e-5
TERMS = {'T': ('camera', 'translation'), 'R': ('camera', 'rotation'), 'FL': ('camera', 'field_of_view')}
TERMS |= {f'{term}_{what}': (what, part) for what in ('depth', 'point')
          for term, part in (('conf', 'confidence'), ('reg', 'regression'), ('grad', 'gradient'))}
PARTS_OF = {'camera': 'CameraLoss', 'depth': 'DepthLoss', 'point': 'PointLoss'}
RENAMED = {'loss_type': 'distance', 'gradient_loss_fn': 'gradient'}
CASES = golden_files('vggt_losses*.npz')


def criterion_of(config: dict) -> Criterion:
    """The objective of one configuration of the golden file, as jrs spells it."""
    losses = {name: entry and {'type': PARTS_OF[name]} | {RENAMED.get(key, key): value for key, value in entry.items()
                                                         if key != 'weight'} for name, entry in config.items()}
    return Criterion(losses, {name: entry['weight'] for name, entry in config.items() if entry})


def predictions_of(arrays: dict) -> Predictions:
    leaves = {name: torch.from_numpy(value).requires_grad_() for name, value in arrays.items()
              if name.startswith('pred_')}
    return Predictions(pose_encodings=list(leaves['pred_pose_enc_list'].unbind()), depth=leaves['pred_depth'][..., 0],
                       depth_conf=leaves['pred_depth_conf'], points=leaves['pred_world_points'],
                       points_conf=leaves['pred_world_points_conf']), leaves


def targets_of(arrays: dict, configuration: str) -> GeometryTargets:
    masks = 'point_masks2' if configuration == 'masked_first_frame' else 'point_masks'
    return GeometryTargets(*(torch.from_numpy(arrays[name]) for name in ('gt_pose_enc', 'norm_depths', masks)),
                           points=torch.from_numpy(arrays['norm_world_points']))


@pytest.mark.parametrize('path', CASES)
def test_every_term_of_every_configuration_equals_the_reference(path):
    arrays, meta = load_npz(path)
    for configuration, config in meta['configs'].items():
        predictions, _ = predictions_of(arrays)
        terms = criterion_of(config)(predictions, geometry=targets_of(arrays, configuration))
        expected = {name.split('/loss_')[1]: value for name, value in meta['results'].items()
                    if name.startswith(f'{configuration}/loss_')}
        camera = terms['loss_camera'].item() / config['camera']['weight']
        assert camera == pytest.approx(expected.pop('camera'), rel=TOLERANCE), configuration
        for term, value in expected.items():
            assert terms['/'.join(TERMS[term])].item() == pytest.approx(value, rel=TOLERANCE), (configuration, term)
        objective = sum(value for name, value in terms.items() if 'loss' in name).item()
        assert objective == pytest.approx(meta['results'][f'{configuration}/objective'], rel=TOLERANCE)


@pytest.mark.parametrize('path', CASES)
def test_gradients_of_the_objective_equal_the_reference(path):
    arrays, meta = load_npz(path)
    stored = [name for name in arrays if '_grad_' in name]
    assert stored
    for configuration in meta['configs']:
        wanted = {name.removeprefix(f'{configuration}_grad_'): arrays[name] for name in stored
                  if name.startswith(f'{configuration}_grad_')}
        predictions, leaves = predictions_of(arrays)
        terms = criterion_of(meta['configs'][configuration])(predictions, geometry=targets_of(arrays, configuration))
        sum(value for name, value in terms.items() if 'loss' in name).backward()
        for name, gradient in wanted.items():
            error = relative_error(leaves[f'pred_{name}'].grad.numpy(), gradient)
            assert error < TOLERANCE, (configuration, name, error)


@pytest.mark.parametrize('path', CASES)
def test_a_scene_counts_for_the_camera_only_by_its_first_view(path):
    arrays, _ = load_npz(path)
    predictions, _ = predictions_of(arrays)
    target = targets_of(arrays, 'default')
    target.valid = target.valid.clone()
    target.valid[:, 0] = False
    nothing = CameraLoss()(predictions, target)
    assert {name: value.item() for name, value in nothing.items()} == dict.fromkeys(nothing, 0.0)
    target.valid[:, 0] = True
    target.valid[:, 1:] = False
    assert np.isclose(CameraLoss()(predictions, target)['translation'].item(),
                      CameraLoss()(predictions, targets_of(arrays, 'default'))['translation'].item())


@pytest.mark.parametrize('path', CASES)
def test_scene_normalisation_and_target_encoding_equal_the_reference(path):
    arrays, meta = load_npz(path)
    cam_from_world, points, depth, masks, intrinsics = (torch.from_numpy(arrays[name]) for name in (
        'raw_extrinsics', 'raw_world_points', 'raw_depths', 'point_masks', 'intrinsics'))
    row = torch.tensor([0.0, 0, 0, 1]).expand(*cam_from_world.shape[:2], 1, 4)
    scene = normalise_scene(torch.cat([cam_from_world, row], dim=-2), points, depth, masks)
    cam_points = torch.from_numpy(arrays['raw_cam_points'][:, :, ::3, ::3]) / scene.scale[:, None, None, None, None]
    actual = {'norm_extrinsics': scene.cam_from_world[..., :3, :], 'norm_world_points': scene.world_points,
              'norm_depths': scene.depth, 'norm_cam_points': cam_points,
              'gt_pose_enc': encode_cameras(scene.cam_from_world, intrinsics, (meta['H'], meta['W']))}
    for name, value in actual.items():
        assert relative_error(value.numpy(), arrays[name]) < TOLERANCE, name
