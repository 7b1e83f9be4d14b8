"""MUSt3R: released names and shapes, a memory of key views, cameras from point maps, and that it trains."""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.config import load_config
from jrs.errors import ConfigError
from jrs.geometry.camera import decode_cameras
from jrs.geometry.projection import unproject_depth
from jrs.io.weights import read_state
from jrs.layers.layout import evenly_spaced
from jrs.losses.depth import PointLoss
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, LOSSES, MODELS, build, owner_of
from jrs.structures import GeometryTargets, Predictions
from tests._data import ROOT, random_batch
from tests.heads._memory import alive_bytes, saved_bytes, some_taps
from tests.seeded_weights import fill_module_

load_plugins(['must3r'])
MUSt3R, MUSt3RGeometry = BACKBONES.get('MUSt3R'), HEADS.get('MUSt3RGeometry')
geometry = sys.modules[MUSt3RGeometry.__module__]
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys'
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
FADA, ALONE = (ROOT / 'plugins/must3r/configs' / f'must3r_{name}.py' for name in ('fada', 'geometry'))
TINY = dict(embed_dim=16, depth=3, num_heads=2, encoder_dim=24, encoder_depth=1, encoder_heads=2, feature_layers=(-1, 0, 2))


def tiny(**options) -> nn.Module:
    torch.manual_seed(0)
    backbone = MUSt3R(**{**TINY, **options})
    fill_module_(backbone)
    return backbone


def some_images(views=4, scenes=2) -> Tensor:
    return torch.rand(scenes, views, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def taps_of(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    list(backbone.layers(images))
    return backbone.features().taps


@needs_keys
def test_names_and_shapes_are_those_of_the_released_file_a_dictionary_of_both():
    expected = {}
    for part in ('encoder', 'decoder'):
        for line in (KEYS / f'must3r_512_{part}.txt').read_text().splitlines():
            if not line.startswith('#'):
                pattern, shape = line.split('  ')
                expected |= {f'{part}.{key}': tuple(json.loads(shape)) for key in expand(pattern)}
    ours = manager().hook.jrs_weight_names(keys=list(expected))
    with torch.device('meta'):
        parts = dict(backbone=MUSt3R(), geometry_head=MUSt3RGeometry(dim_in=768, patch_size=16))
    found = {f'{part}.{key}': tuple(value.shape) for part, module in parts.items()
             for key, value in module.state_dict().items()}
    assert found == {own: expected[key] for key, own in ours.items()} and len(found) == 292 + 301
    assert sum(map(math.prod, found.values())) == 303_098_880 + 120_331_264
    assert owner_of(MUSt3R) == owner_of(MUSt3RGeometry) == 'must3r'


def test_a_file_with_constructor_strings_is_read_and_nothing_in_it_runs(tmp_path):
    backbone, head = tiny(), MUSt3RGeometry(16, 16)
    decoder = {key: value for key, value in backbone.state_dict().items() if not key.startswith('encoder.')}
    decoder |= head.state_dict()
    encoder = {key.removeprefix('encoder.'): value for key, value in backbone.state_dict().items() if key not in decoder}
    torch.save(dict(args=Namespace(decoder='MUSt3R(depth=3)'), encoder=encoder, decoder=decoder), tmp_path / 'MUSt3R.pth')
    found = read_state(tmp_path / 'MUSt3R.pth').ours
    expected = {f'backbone.{key}' for key in backbone.state_dict()} | {f'geometry_head.{key}' for key in head.state_dict()}
    assert set(found) == expected


@torch.no_grad()
def test_views_are_rendered_by_themselves_against_a_memory_of_key_views():
    backbone, images = tiny(key_views=2).eval(), some_images(3)
    changed = images.clone()
    changed[:, 1] = 1 - changed[:, 1]                                           # no key view
    for before, after in zip(taps_of(backbone, images), taps_of(backbone, changed), strict=True):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.allclose(before[:, 1], after[:, 1], atol=1e-2)
    changed = images.clone()
    changed[:, 2] = 1 - changed[:, 2]                                           # a key view
    before, after = (taps_of(backbone, given)[1] for given in (images, changed))
    assert not torch.allclose(before[:, :2], after[:, :2], atol=1e-3)
    assert not torch.allclose(taps_of(tiny().eval(), images)[1], before, atol=1e-3)
    assert backbone.order_matters and backbone.layer_kinds == ('scene',) * 3


def test_key_views_are_spread_over_all_views_first_and_last_among_them():
    assert [evenly_spaced(views, count).tolist() for views, count in ((4, 3), (10, 4), (2, 5), (1, 2))] == [
        [0, 1, 3], [0, 3, 6, 9], [0, 1], [0]]


@torch.no_grad()
def test_the_memory_grows_by_two_views_and_then_by_one():
    backbone, images = tiny().eval(), some_images(4)
    whole, one = ([state.kept[f'memory{index}'] for index in range(3)] for state, _ in (
        backbone.start(images), backbone.start(images[:, :2])))
    for longer, shorter in zip(whole, one, strict=True):
        assert longer.shape == (2, 4 * 6, 16)
        torch.testing.assert_close(longer[:, :12], shorter)
    alone = backbone.start(images[:, :1])[0]
    assert alone.kept['memory0'].shape == (2, 6, 16) and len(taps_of(backbone, images[:, :1])) == 3


@pytest.mark.parametrize('level', ['attention', True])
def test_recomputation_changes_no_gradient(level):
    gradients = []
    for option in (False, level):
        backbone = tiny(activation_checkpointing=option).train()
        sum(tap.square().sum() for tap in taps_of(backbone, some_images(3))).backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], msg=name)


@pytest.mark.parametrize('feedback', ['single_linear', None])
def test_feedback_is_linear_or_left_out(feedback):
    backbone = tiny(feedback=feedback)
    names = [name for name in backbone.state_dict() if name.startswith('feedback')]
    assert names == ([] if feedback is None else ['feedback_norm.weight', 'feedback_norm.bias', 'feedback_layer.weight',
                                                  'feedback_layer.bias'])
    assert all(tap.isfinite().all() for tap in taps_of(backbone, some_images(3)))


def test_what_it_cannot_be_is_refused():
    for options, words in ((dict(feedback='double'), "'single_mlp'"), (dict(key_views=1), 'at least 2'),
                           (dict(feature_layers=(3,)), 'must be numbers of layers of MUSt3R')):
        with pytest.raises(ConfigError, match=words):
            tiny(**options)
    with pytest.raises(ConfigError, match='no step over the whole scene'):
        tiny().query_step(0)
    assert tiny(lora=dict(rank=2, alpha=2)).blocks_dec[1].cross_attn.projk.lora_a.shape == (2, 16)
    assert not any(value.requires_grad for value in tiny(freeze=dict(patch_embed=True, blocks=True)).parameters())


# Cameras

def seen_scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return points in the world, in the cameras, `cam_from_world` and intrinsics of 2 x 3 views of 24 x 32 pixels."""
    torch.manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, 3))[0]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    cam_from_world = torch.eye(4).repeat(2, 3, 1, 1)
    cam_from_world[..., :3, :3], cam_from_world[..., :3, 3] = rotation, torch.randn(2, 3, 3)
    intrinsics = torch.tensor([[40.0, 0, 16], [0, 40, 12], [0, 0, 1]]).repeat(2, 3, 1, 1)
    local, points = unproject_depth(1 + torch.rand(2, 3, 24, 32), intrinsics, cam_from_world)
    return points, local, cam_from_world, intrinsics


def test_cameras_are_those_that_the_points_were_seen_by():
    points, local, cam_from_world, intrinsics = seen_scene()
    found, focal = geometry.cameras_of_points(points, local, 1 + torch.rand(2, 3, 24, 32))
    torch.testing.assert_close(found, cam_from_world, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(focal, intrinsics, atol=1e-3, rtol=1e-4)


def test_sure_points_and_most_pixels_decide_on_cameras():
    points, local, cam_from_world, intrinsics = seen_scene()
    confidence = torch.full((2, 3, 24, 32), 2.0)
    confidence[..., :3], points[..., :3, :], local[..., 3:5, 5, :] = 1.0, 9.0, torch.tensor([7.0, -3.0, 1.0])
    found, focal = geometry.cameras_of_points(points, local, confidence)
    assert (focal - intrinsics).abs().max() < 0.5                               # two points of 768 are wrong
    confidence[..., 3:5, 5] = 1.0
    found, _ = geometry.cameras_of_points(points, local, confidence)
    torch.testing.assert_close(found, cam_from_world, atol=1e-5, rtol=1e-4)


def test_points_that_say_nothing_have_finite_cameras():
    nothing = torch.zeros(1, 1, 16, 16, 3)
    found, intrinsics = geometry.cameras_of_points(nothing, nothing, torch.ones(1, 1, 16, 16))
    assert found.isfinite().all() and intrinsics[0, 0, 0, 0] == 16


def test_the_head_gives_what_its_points_say():
    torch.manual_seed(0)
    backbone, head = tiny().eval(), MUSt3RGeometry(16, 16)
    list(backbone.layers(some_images(3)))
    found = head(backbone.features())
    assert found.points.shape == (2, 3, 32, 48, 3)
    assert found.depth.equal(found.extras['points_local'][..., 2].clamp_min(1e-6))
    assert (found.depth_conf > 1).all() and not found.pose_encodings[0].requires_grad and found.points.requires_grad
    cam_from_world, _ = decode_cameras(found.pose_encodings[0], (32, 48))
    wanted, _ = geometry.cameras_of_points(found.points, found.extras['points_local'], found.points_conf)
    torch.testing.assert_close(cam_from_world, wanted, atol=1e-5, rtol=1e-4)


def test_the_head_says_the_memory_that_it_takes():
    head, size, views = MUSt3RGeometry(16, 16), (128, 160), 2
    features = some_taps(views, size, 16, 16)
    said, pixels = head.memory(views, size, torch.device('cpu')), views * size[0] * size[1]
    alive = said.chunk + 4 * 2 * pixels + views * said.outputs                  # depth and confidence stay too
    assert saved_bytes(head, features) == pytest.approx(views * said.saved, rel=0.1)
    assert alive_bytes(head, features) == pytest.approx(alive, rel=0.1)


def test_local_points_are_supervised_in_the_frames_of_their_cameras():
    points, local, cam_from_world, intrinsics = seen_scene()
    encoding = torch.cat([torch.zeros(2, 3, 6), torch.ones(2, 3, 1), 2 * torch.atan(torch.tensor(
        [[12 / 40, 16 / 40]])).expand(2, 3, 2)], dim=-1)
    target = GeometryTargets(encoding, local[..., 2], torch.ones(2, 3, 24, 32, dtype=torch.bool), points)
    loss = build(LOSSES, dict(type='LocalPointLoss'), 'model.losses.points_local')
    given = Predictions([encoding], depth_conf=torch.full((2, 3, 24, 32), 2.0), extras={'points_local': local})
    assert isinstance(loss, PointLoss) and loss(given, target)['regression'] < 1e-5
    given.extras['points_local'] = local + 1
    assert loss(given, target)['regression'] > 1
    with pytest.raises(ConfigError, match='MUSt3RGeometry'):
        loss(Predictions([encoding]), target)


# Training

@pytest.mark.parametrize('config', [FADA, ALONE], ids=lambda path: path.stem)
def test_every_parameter_that_learns_gets_a_gradient(config):
    torch.manual_seed(0)
    model = build(MODELS, dict(load_config(config, 'debug').model, num_classes=5), 'model')
    terms = model(random_batch(), mode='loss')
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not lacking
    assert model.eval()(random_batch(), mode='predict')[0].cam_from_world.shape == (3, 4, 4)
