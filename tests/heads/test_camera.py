"""The camera head: steps, precision, gradients."""

import pytest
import torch

from jrs.errors import ConfigError
from jrs.heads.camera import CameraHead
from jrs.registry import HEADS, build
from tests.heads._taps import permute, some_features
from tests.seeded_weights import fill_module_


def camera_head(**options):
    head = CameraHead(16, trunk_depth=2, num_heads=2, **options)
    fill_module_(head, prefix='camera_head.')
    return head


def test_camera_head_takes_the_width_the_model_offers():
    head = build(HEADS, dict(type='CameraHead', num_heads=2), 'model.camera_head', dim_in=16, num_classes=3)
    assert head.token_norm.normalized_shape == (16,)


def test_every_step_is_returned_with_fields_of_view_that_are_not_negative():
    stages = camera_head(iterations=3)(some_features())
    assert [stage.shape for stage in stages] == 3 * [(2, 3, 9)]
    assert all((stage[..., 7:] >= 0).all() for stage in stages)
    assert not torch.allclose(stages[0], stages[1])


def test_permuting_views_permutes_cameras():
    head, features, order = camera_head(), some_features(), [2, 0, 1]
    torch.testing.assert_close(head(permute(features, order))[-1], head(features)[-1][:, order], rtol=1e-4, atol=1e-5)


def test_cameras_of_a_scene_depend_on_all_its_views():
    head, features = camera_head(), some_features()
    changed = permute(features, [0, 1, 1])
    assert not torch.allclose(head(changed)[-1][:, 0], head(features)[-1][:, 0], atol=1e-3)


def test_camera_head_runs_in_float32_whatever_the_autocast():
    head, features = camera_head(), some_features()
    expected = head(features)[-1]
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(head(features)[-1], expected, rtol=0, atol=0)


def test_gradients_reach_every_parameter_and_the_tokens():
    head, features = camera_head(), some_features()
    sum(stage.square().mean() for stage in head(features)).backward()
    assert not [name for name, parameter in head.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert features.taps[-1].grad.abs().sum() > 0


def test_a_step_does_not_learn_through_the_one_before():
    head = camera_head(iterations=2)
    first, second = head(some_features())
    (second - first)[..., :7].sum().backward()              # what the second step adds
    assert not head.empty_pose_tokens.grad.abs().sum() > 0  # only the first step reads it


def test_camera_head_says_so_when_there_are_no_geometry_tokens():
    features = some_features()
    features.geometry_tokens = None
    with pytest.raises(ConfigError, match='leaves None: .*model.camera_head=None'):
        camera_head()(features)
