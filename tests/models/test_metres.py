"""Training that learns metres: shapes in units of the scene, one scale per scene of its own, told by the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError
from jrs.evaluation.depth import depth_errors
from jrs.geometry.camera import decode_cameras
from jrs.registry import MODELS, build
from tests._data import random_batch

CONFIG = Path('configs/geometry/vggt_metric.py')
HEAD = dict(type='ScaleHead', dim=8)


def model(config: Path = CONFIG, **overrides) -> nn.Module:
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(config, 'debug', overrides).model, num_classes=5), 'model')


def of_size(metres: float):
    """A batch of one scene whose depth and cameras are `metres` times those of a random one."""
    batch = random_batch(2)
    batch.depth_m, batch.cam_from_world = metres * batch.depth_m, batch.cam_from_world.clone()
    batch.cam_from_world[..., :3, 3] *= metres
    return batch


@torch.no_grad()
def test_depth_and_cameras_are_those_of_the_other_heads_times_one_scale_per_scene_and_metric():
    metric, batch = model().eval(), random_batch(3, num_scenes=2)
    plain = model(**{'model.scale_head': None, 'model.losses.scale': None}).eval()
    plain.load_state_dict({name: value for name, value in metric.state_dict().items() if not name.startswith('scale_head')})
    found, other = metric.predict_all(batch), plain.predict_all(batch)
    scale = found.extras['metric_scale']
    assert (found.scale, other.scale) == ('metric', 'arbitrary') and scale.shape == (2,) and not scale.eq(1).any()
    torch.testing.assert_close(found.depth, scale[:, None, None, None] * other.depth)
    for own, others in zip(found.pose_encodings, other.pose_encodings, strict=True):
        torch.testing.assert_close(own[..., :3], scale[:, None, None] * others[..., :3])
        assert torch.equal(own[..., 3:], others[..., 3:])
    again = found.in_units()
    torch.testing.assert_close(again.depth, other.depth)
    scene = metric(batch, mode='predict')[1]
    assert scene.scale == 'metric'
    torch.testing.assert_close(scene.cam_from_world, decode_cameras(found.pose_encodings[-1], (56, 56))[0][1])


def test_terms_of_shape_do_not_depend_on_the_scale_and_only_its_own_term_moves_it():
    metric, batch = model().train(), of_size(3.0)
    terms = metric(batch, mode='loss')
    bias = metric.scale_head.output_proj.bias
    (terms['loss_camera'] + terms['loss_depth']).backward()
    assert bias.grad.abs().max() < 1e-5
    with torch.no_grad():
        bias += 1.0                                                             # e times as long
    moved = metric(batch, mode='loss')
    for name in ('loss_camera', 'loss_depth'):
        torch.testing.assert_close(moved[name], terms[name], rtol=1e-4, atol=1e-4)
    assert abs(moved['loss_scale'].item() - terms['loss_scale'].item()) == pytest.approx(1.0, abs=1e-3)
    larger = metric(of_size(3.0 * 2.718281828), mode='loss')
    torch.testing.assert_close(larger['loss_depth'], terms['loss_depth'], rtol=1e-4, atol=1e-4)
    assert abs(larger['loss_scale'].item() - moved['loss_scale'].item()) == pytest.approx(1.0, abs=1e-2)


def test_a_model_that_is_trained_so_is_right_without_alignment():
    """Depth is taken from the truth in units of the scene, so that nothing but metres is to be learned."""
    metric, batch = model().train(), of_size(3.0)
    target = metric.teacher(batch)
    metric.depth_head.forward = lambda taps: (target.depth, torch.full_like(target.depth, 2.0))
    optimizer = torch.optim.Adam(metric.scale_head.parameters(), lr=0.02)

    def error() -> float:
        with torch.no_grad():
            depth = metric.predict_all(batch).depth
        return depth_errors(depth[0].numpy(), batch.depth_m[0].numpy(), 'metric')['abs_rel']
    before = error()
    for _ in range(25):
        optimizer.zero_grad()
        metric(batch, mode='loss')['loss_scale'].backward()
        optimizer.step()
    assert before > 0.3 and error() < before / 3


def test_fine_tuning_starts_from_a_file_without_a_scale(tmp_path):
    source = model(**{'model.scale_head': None, 'model.losses.scale': None})
    save_file(source.state_dict(), str(tmp_path / 'vggt.safetensors'))
    found = build_model(load_config(CONFIG, 'debug', {'weights': str(tmp_path / 'vggt.safetensors')})).state_dict()
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())
    assert any(name.startswith('scale_head.') for name in found)


def test_a_head_that_has_a_scale_of_its_own_refuses_another():
    with pytest.raises(ConfigError, match='model.scale_head to None'):
        model(Path('plugins/map_anything/configs/map_anything_geometry.py'), **{'model.scale_head': HEAD})
