"""Pi3X: released names and shapes, what priors do and do not do, approximate metres, and its configs."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError, DataError
from jrs.geometry.camera import rigid_from_rotation_translation, rotation_from_quaternion
from jrs.io.images import resize_to_area
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, MODELS, build, owner_of
from jrs.structures import Priors
from tests._data import ROOT, random_batch
from tests.heads._memory import check_memory
from tests.seeded_weights import fill_module_

load_plugins(['pi3', 'pi3x'])
Pi3X, Pi3XGeometry = BACKBONES.get('Pi3X'), HEADS.get('Pi3XGeometry')
SPEC = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec'))
KEYS = SPEC / 'backbones_keys' / 'pi3x.txt'
needs_keys = pytest.mark.skipif(not KEYS.is_file(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
FADA, ALONE, PRIORS = (ROOT / 'plugins' / 'pi3x' / 'configs' / f'pi3x_{name}.py' for name in ('fada', 'geometry', 'priors'))
CONDITIONING = ('depth_encoder.', 'depth_emb', 'ray_embed.', 'pose_inject_blk.')
TINY = dict(embed_dim=16, depth=3, num_heads=2, patch_embed='conv', feature_layers=(0, 2), inject_after=(1, 3))
SIZE = (28, 42)


def tiny(**options) -> nn.Module:
    """A Pi3X of 3 pairs and width 16, with weights that let every part matter."""
    torch.manual_seed(0)
    backbone = Pi3X(**{**TINY, **options})
    fill_module_(backbone)
    return backbone.eval()


def tiny_head(**options) -> nn.Module:
    torch.manual_seed(0)
    return Pi3XGeometry(dim_in=32, dim=16, patch_size=14, **dict(dict(depth=1, widths=(8, 8, 8), last_width=8), **options))


def some_images(views=3) -> Tensor:
    return torch.rand(2, views, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def all_priors(views=3) -> Priors:
    """Depth, intrinsics and cameras of every view."""
    draw = torch.Generator().manual_seed(2)
    rotation = rotation_from_quaternion(torch.randn(2, views, 4, generator=draw))
    cam_from_world = rigid_from_rotation_translation(rotation, torch.randn(2, views, 3, generator=draw))
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 38, 13], [0, 0, 1]]).expand(2, views, 3, 3)
    return Priors(1 + torch.rand(2, views, *SIZE, generator=draw), intrinsics, cam_from_world)


@torch.no_grad()
def tokens(backbone: nn.Module, images: Tensor, priors: Priors | None = None) -> Tensor:
    """Return the tokens that the last query layer hands out."""
    found = [state.tokens for state in backbone.layers(images, priors)][-1]
    backbone.features()
    return found


def small_model(config: Path, profile: str = 'debug', **overrides) -> nn.Module:
    torch.manual_seed(0)
    cfg = load_config(config, profile, overrides)
    return build(MODELS, dict(cfg.model, num_classes=5, teacher=dict(type='GroundTruthTeacher')), 'model')


def named(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@needs_keys
def test_full_size_keys_and_shapes_are_those_of_the_released_file():
    expected = {}
    for line in KEYS.read_text().splitlines():
        if not line.startswith('#'):
            pattern, shape = line.split('  ')
            expected |= dict.fromkeys(expand(pattern), tuple(json.loads(shape)))
    with torch.device('meta'):
        backbone = named(Pi3X(inject_after=(1, 9, 17, 25, 33)))
        head = named(Pi3XGeometry(dim_in=2048, dim=1024, patch_size=14))
    assert backbone | head == expected
    assert len(expected) == 1873 and sum(math.prod(shape) for shape in expected.values()) == 1_360_032_439
    names = manager().hook.jrs_weight_names(keys=list(expected))
    assert {names[name] for name in head} == {f'geometry_head.{name}' for name in head}
    assert {names[name] for name in backbone} == {f'backbone.{name}' for name in backbone}
    assert owner_of(Pi3X) == owner_of(Pi3XGeometry) == 'pi3x'


def test_without_conditioning_modules_everything_else_is_the_same():
    whole, bare = tiny(), tiny(inject_after=None)
    dropped = set(named(whole)) - set(named(bare))
    assert dropped == {name for name in named(whole) if name.startswith(CONDITIONING)}
    assert set(named(bare)) < set(named(whole))
    bare.load_state_dict({name: value for name, value in whole.state_dict().items() if name not in dropped})
    assert torch.equal(tokens(bare, some_images()), tokens(whole, some_images()))
    assert whole.takes_priors and not bare.takes_priors and bare.photo_resize is resize_to_area


def test_each_prior_says_something_and_where_none_is_used_nothing_changes():
    backbone, images, priors = tiny(), some_images(), all_priors()
    plain = tokens(backbone, images)
    none = torch.zeros(2, 3, dtype=torch.bool)
    unused = replace(priors, depth_views=none, intrinsics_views=none, camera_views=none)
    assert torch.equal(tokens(backbone, images, unused), plain)
    for part in ('depth', 'intrinsics', 'cam_from_world'):
        alone = tokens(backbone, images, Priors(**{part: getattr(priors, part)}))
        assert (alone - plain).abs().max() > 1e-3, part


def test_a_single_known_camera_says_nothing_and_other_scenes_keep_theirs():
    backbone, images, priors = tiny(), some_images(), all_priors()
    views = torch.tensor([[False, True, False], [True, True, False]])
    found = tokens(backbone, images, Priors(cam_from_world=priors.cam_from_world, camera_views=views))
    plain = tokens(backbone, images)
    assert torch.equal(found[0], plain[0]) and (found[1] - plain[1]).abs().max() > 1e-3


def test_neither_the_world_nor_the_unit_nor_the_order_of_views_matters():
    backbone, images, priors = tiny(), some_images(), all_priors()
    expected = tokens(backbone, images, priors)
    moved = priors.cam_from_world @ rigid_from_rotation_translation(
        rotation_from_quaternion(torch.tensor([0.1, -0.4, 0.2, 0.8])), torch.tensor([3.0, -1.0, 2.0]))
    elsewhere = replace(priors, cam_from_world=moved)
    torch.testing.assert_close(tokens(backbone, images, elsewhere), expected, rtol=1e-4, atol=1e-4)
    longer = priors.cam_from_world.clone()
    longer[..., :3, 3] *= 7
    scaled = replace(priors, cam_from_world=longer, depth=7 * priors.depth)
    torch.testing.assert_close(tokens(backbone, images, scaled), expected, rtol=1e-4, atol=1e-4)
    order = [2, 0, 1]
    permuted = Priors(priors.depth[:, order], priors.intrinsics[:, order], priors.cam_from_world[:, order])
    found = tokens(backbone, images[:, order], permuted).unflatten(1, (3, -1))
    torch.testing.assert_close(found, expected.unflatten(1, (3, -1))[:, order], rtol=1e-4, atol=1e-4)


def test_cameras_move_patches_alone_and_what_queries_read_is_behind_them():
    backbone, images, priors = tiny(depth=1, feature_layers=(0,), inject_after=(1,)), some_images(), all_priors()
    known = tokens(backbone, images, Priors(cam_from_world=priors.cam_from_world)).unflatten(1, (3, -1))
    plain = tokens(backbone, images).unflatten(1, (3, -1))
    assert torch.equal(known[:, :, :5], plain[:, :, :5])
    assert ((known - plain)[:, :, 5:].abs().amax(dim=-1) > 1e-4).all()


@pytest.mark.parametrize(('priors', 'words'), [
    (Priors(depth=torch.ones(2, 3, 14, 14)), r'prior depth must be of shape \(2, 3, 28, 42\)'),
    (Priors(intrinsics=torch.eye(3).expand(3, 3, 3)), r'intrinsics must be of shape \(2, 3, 3, 3\)'),
    (Priors(cam_from_world=torch.eye(4).expand(2, 3, 4, 4), camera_views=torch.ones(3, dtype=torch.bool)),
     r'camera_views of the priors must be of shape \(2, 3\)')])
def test_priors_of_another_shape_are_refused(priors, words):
    with pytest.raises(DataError, match=words):
        tokens(tiny(), some_images(), priors)


def test_without_conditioning_modules_priors_are_refused():
    with pytest.raises(DataError, match='takes no known cameras or depth'):
        tokens(tiny(inject_after=None), some_images(), all_priors())


@pytest.mark.parametrize('blocks', [(0,), (1, 1), (7,)])
def test_cameras_are_injected_after_blocks_over_the_scene(blocks):
    with pytest.raises(ConfigError, match=r'different ones of \[1, 3, 5\]'):
        Pi3X(**{**TINY, 'inject_after': blocks})


def test_lengths_are_in_metres_by_one_factor_per_scene():
    backbone, head = tiny(inject_after=None), tiny_head()
    list(backbone.layers(some_images()))
    features = backbone.features()
    with torch.no_grad():
        before = head(features)
        head.metric_head.bias += math.log(3.0)
        after = head(features)
    assert backbone.scale == 'metric, approximate' and before.extras['metric_scale'].shape == (2,)
    torch.testing.assert_close(after.depth, 3 * before.depth)
    torch.testing.assert_close(after.pose_encodings[0][..., :3], 3 * before.pose_encodings[0][..., :3])
    torch.testing.assert_close(after.pose_encodings[0][..., 3:], before.pose_encodings[0][..., 3:])
    assert torch.equal(after.depth_conf, before.depth_conf) and torch.equal(after.extras['rays'], before.extras['rays'])
    torch.testing.assert_close(after.extras['rays'].norm(dim=-1), torch.ones(2, 3, *SIZE))


def test_what_the_teacher_supervises_is_not_multiplied_and_the_factor_has_its_own_term():
    model, batch = small_model(ALONE), random_batch(2)
    before = model(batch, mode='loss')
    with torch.no_grad():
        model.geometry_head.metric_head.bias += math.log(3.0)
    after = model(batch, mode='loss')
    for name, value in before.items():
        assert torch.allclose(after[name], value, rtol=1e-4) != (name == 'loss_scale'), name


@pytest.mark.parametrize('level', [False, 'attention', True])
def test_gradients_reach_what_learns_and_flow_through_priors(level):
    backbone = tiny(activation_checkpointing=level, lora=dict(rank=2, alpha=2, dropout=0.0)).train()
    list(backbone.layers(some_images(), all_priors()))
    found = tiny_head(activation_checkpointing=level is True, views_per_chunk=4).train()(backbone.features())
    weights = torch.linspace(0.5, 2, found.pose_encodings[0].numel()).view_as(found.pose_encodings[0])
    ((found.pose_encodings[0] * weights).sum() + found.depth.log().square().mean()).backward()
    for name, value in backbone.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        assert not (value.requires_grad and name.startswith(CONDITIONING)), name
    adapted = {name for name in named(backbone) if 'lora_' in name}
    assert len(adapted) == 2 * 6 * 2 and all(re.fullmatch(r'decoder\.\d\.attn\.(qkv|proj)\.lora_[ab]', n) for n in adapted)


def test_freezing_keeps_encoder_and_blocks():
    backbone = tiny(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2, dropout=0.0))
    assert all('.lora_' in name for name, value in backbone.named_parameters() if value.requires_grad)


@pytest.mark.parametrize(('path', 'profile'), [(FADA, 'debug'), (FADA, 'rooms'), (ALONE, 'debug'), (PRIORS, 'rooms')],
                         ids=lambda value: getattr(value, 'stem', value))
def test_its_configs_learn_two_steps_under_every_profile(path, profile):
    few = {'model.backbone.depth': 5, 'model.backbone.feature_layers': (0, 1, 2, 4)}
    model = small_model(path, profile, **few)
    assert model.backbone.scale == 'metric, approximate'
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        terms = model(random_batch(2), mode='loss')
        sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
        lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking and all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()


def test_a_released_file_loads_by_its_own_names_and_what_is_not_built_is_said(tmp_path, monkeypatch):
    source = small_model(PRIORS)
    fill_module_(source)
    file = tmp_path / 'model.safetensors'
    save_file({re.sub('^(backbone|geometry_head).', '', name): value.clone() for name, value in source.state_dict().items()},
              str(file))
    said = []
    monkeypatch.setattr('jrs.io.weights.print_log', lambda words, *_: said.append(words))
    for config in (FADA, ALONE, PRIORS):
        said.clear()
        taken = build_model(load_config(config, 'debug', {'weights': str(file)})).state_dict()
        own = {name: value for name, value in source.state_dict().items() if name in taken}
        assert all(torch.equal(taken[name], value) for name, value in own.items())
        dropped = {name for name in source.state_dict() if name not in own}
        assert dropped == (set() if config == PRIORS else {f'backbone.{name}' for name in named(source.backbone)
                                                           if name.startswith(CONDITIONING)})
        assert f'{len(dropped)} left over' in said[0] and any('depth_emb' in words for words in said) == bool(dropped)


def test_files_of_pi3_and_of_pi3x_are_told_apart():
    shared = ['register_token', 'decoder.0.attn.qkv.weight', 'point_decoder.projects.weight']
    for own in (['point_head.proj.weight'], ['metric_token', 'point_head.output_block.0.0.weight']):
        names = manager().hook.jrs_weight_names(keys=[*shared, *own])
        assert {names[key] for key in own} == {f'geometry_head.{key}' for key in own}


@pytest.mark.parametrize(('dim', 'widths', 'last_width', 'views', 'share'), [
    (64, (16, 16, 64), 32, 3, 0.1),
    (512, (32, 32, 16), 8, 5, 0.2)])            # so narrow, what convolutions take on a CPU for themselves counts
def test_the_head_takes_the_memory_that_it_says(dim, widths, last_width, views, share):
    head = Pi3XGeometry(2 * dim, dim, 14, depth=2, widths=widths, last_width=last_width)
    check_memory(head, views, (56, 84), share)
