"""Depth Anything 3: released names and shapes, the reference and the order of views, what is frozen and adapted, rays."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.config import load_config, read_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError, DataError
from jrs.geometry.camera import decode_cameras, invert_rigid, rotation_from_quaternion
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, MODELS, build, owner_of
from tests._data import ROOT, random_batch
from tests.seeded_weights import fill_module_

load_plugins(['depth_anything_3'])
DepthAnything3, Geometry, Rays = (BACKBONES.get('DepthAnything3'), HEADS.get('DepthAnything3Geometry'),
                                  HEADS.get('DepthAnything3Rays'))
reference, rays = (sys.modules[f'jrs_plugins.depth_anything_3.{name}'] for name in ('reference', 'rays'))
geometry = sys.modules[Geometry.__module__]
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys'
CONFIGS = sorted((ROOT / 'plugins' / 'depth_anything_3' / 'configs').glob('*.py'))
LARGE = {path.stem.rpartition('_')[2]: path for path in CONFIGS if 'large' in path.stem}
TINY = dict(img_size=56, embed_dim=16, depth=6, num_heads=2, feature_layers=(2, 3, 4, 5))
DENSE = dict(features=8, out_channels=(8, 8, 8, 8))


def tiny(**options) -> nn.Module:
    """A backbone whose blocks 3 and 5 see all views, with weights that let every part matter."""
    backbone = DepthAnything3(**{**TINY, **options})
    fill_module_(backbone)
    return backbone.eval()


def some_images(views: int = 4, scenes: int = 2) -> Tensor:
    return torch.rand(scenes, views, 3, 28, 42, generator=torch.Generator().manual_seed(1))


def run(backbone: nn.Module, images: Tensor):
    states = list(backbone.layers(images))
    return states, backbone.features()


def small_model(config: Path = LARGE['fada'], **overrides) -> nn.Module:
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(config, 'debug', overrides).model, num_classes=5), 'model')


def test_the_parts_belong_to_the_plugin():
    assert {owner_of(part) for part in (DepthAnything3, Geometry, Rays)} == {'depth_anything_3'}


@pytest.mark.skipif(not KEYS.is_dir(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
@pytest.mark.parametrize('size', ['small', 'base', 'large', 'giant'])
def test_every_released_name_is_built_in_its_shape_or_listed_as_dropped(size):
    released = {}
    for line in (KEYS / f'da3_{size}.txt').read_text().splitlines():
        if not line.startswith('#'):
            pattern, shape = line.split('  ')
            released |= dict.fromkeys(expand(pattern), tuple(json.loads(shape)))
    model = read_config(next(path for path in CONFIGS if path.stem == f'da3_{size}_geometry')).model
    with torch.device('meta'):
        backbone = build(BACKBONES, dict(model.backbone, lora=None), 'model.backbone')
        head = build(HEADS, dict(model.geometry_head, type='DepthAnything3Rays'), 'model.geometry_head',
                     dim_in=backbone.feature_dim)
    ours = manager().hook.jrs_weight_names(keys=list(released))
    own = {f'backbone.{name}': tuple(value.shape) for name, value in backbone.state_dict().items()}
    own |= {f'geometry_head.{name}': tuple(value.shape) for name, value in head.state_dict().items()}
    assert {ours[key]: shape for key, shape in released.items() if ours[key] is not None} == own
    dropped = {re.sub(r'(model\.(?:cam_enc|gs_head|head\.scratch\.output_conv\d_aux\.[0-2])\.).*', r'\1', key)
               for key, name in ours.items() if name is None}
    parts = {'model.cam_enc.', *(f'model.head.scratch.output_conv{i}_aux.{j}.' for i in (1, 2) for j in (0, 1, 2))}
    assert dropped == parts | ({'model.gs_head.'} if size == 'giant' else set())
    assert backbone.alt_start == {'small': 4, 'base': 4, 'large': 8, 'giant': 13}[size]
    assert backbone.num_query_layers == {'small': 4, 'base': 4, 'large': 8, 'giant': 14}[size]


def test_a_nested_file_gives_its_any_view_part_and_other_files_are_left_alone():
    keys = ['model.da3.backbone.pretrained.camera_token', 'model.da3.head.norm.weight', 'model.da3_metric.head.norm.weight']
    found = manager().hook.jrs_weight_names(keys=keys)
    assert list(found.values()) == ['backbone.camera_token', 'geometry_head.head.norm.weight', None]
    assert manager().hook.jrs_weight_names(keys=['backbone.camera_token', 'model.head.norm.weight']) is None


def test_strategies_choose_what_they_say():
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    unit = nn.functional.normalize(tokens, dim=-1)
    chosen = {name: strategy(tokens).tolist() for name, strategy in reference.STRATEGIES.items()}
    assert chosen['first'] == [0, 0, 0] and chosen['middle'] == [2, 2, 2]
    for scene in range(3):
        alike = [[float(unit[scene, s] @ unit[scene, t]) - (s == t) for t in range(5)] for s in range(5)]
        ranges = [max(row) - min(row) for row in alike]
        assert chosen['saddle_sim_range'][scene] == ranges.index(max(ranges))
        numbers = [[sum(row) / 4 for row in alike], [float(token.norm()) for token in tokens[scene]],
                   [float(token.var()) for token in unit[scene]]]
        scores = [sum(abs((of[s] - min(of)) / (max(of) - min(of) + 1e-8) - 0.5) for of in numbers) for s in range(5)]
        assert chosen['saddle_balanced'][scene] == scores.index(min(scores))
    for name in chosen:
        order = reference.order_of_views(tokens.float(), name)
        assert order[:, 0].tolist() == chosen[name]
        assert all(row[1:] == [view for view in range(5) if view != row[0]] for row in order.tolist())
        assert reference.order_of_views(tokens[:, :2], name) is None


def choosing(views: list[int], monkeypatch) -> None:
    """Let scene i take the reference views[i]."""
    monkeypatch.setitem(reference.STRATEGIES, 'saddle_balanced', lambda tokens: torch.tensor(views))


@torch.no_grad()
def test_scenes_with_different_references_come_out_as_each_alone_in_the_order_of_the_images(monkeypatch):
    backbone, images = tiny(), some_images()
    choosing([2, 3], monkeypatch)
    states, features = run(backbone, images)
    assert [state.view_index.tolist() for state in states] == 2 * [[v for v in range(4) for _ in range(7)]]
    assert features.patch_index.tolist() == [1, 2, 3, 4, 5, 6]
    for scene, order in enumerate([[2, 0, 1, 3], [3, 0, 1, 2]]):
        choosing([0], monkeypatch)
        ahead, moved = run(backbone, images[scene:scene + 1, order])            # the reference is first already
        place = torch.tensor(order).argsort()
        for tap, expected in zip(features.taps, moved.taps, strict=True):
            torch.testing.assert_close(tap[scene], expected[0, place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.geometry_tokens[scene], moved.geometry_tokens[0, place], rtol=1e-4, atol=1e-5)
        for state, expected in zip(states, ahead, strict=True):
            torch.testing.assert_close(state.tokens[scene].view(4, 7, -1), expected.tokens[0].view(4, 7, -1)[place],
                                       rtol=1e-4, atol=1e-5)
    choosing([0, 0], monkeypatch)
    other = run(backbone, images)[1]
    assert not torch.allclose(other.taps[1], features.taps[1], atol=1e-2)       # the choice matters


@torch.no_grad()
def test_permuting_the_views_permutes_tokens_cameras_depth_and_rays():
    backbone, head, images, order = tiny(), Rays(dim_in=32, **DENSE).eval(), some_images(), [2, 3, 0, 1]
    fill_module_(head)
    _, features = run(backbone, images)
    _, permuted = run(backbone, images[:, order])
    before, after = head(features), head(permuted)
    pairs = [*zip(features.taps, permuted.taps, strict=True), (before.depth, after.depth),
             (before.pose_encodings[0], after.pose_encodings[0]),
             (before.extras['ray_confidence'], after.extras['ray_confidence'])]
    for one, other in pairs:
        torch.testing.assert_close(other, one[:, order], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_early_and_even_blocks_see_one_view_and_taps_pair_them_with_the_current_one():
    backbone, images = tiny(feature_layers=(1, 2, 3, 4, 5), reference_view='first'), some_images()
    changed = images.clone()
    changed[:, 3] = 1 - changed[:, 3]
    before, after = (run(backbone, given)[1].taps for given in (images, changed))
    assert [step.scope for step in backbone.steps()] == ['view', 'view', 'view', 'scene', 'view', 'scene']
    for number, (one, other) in enumerate(zip(before, after, strict=True), start=1):
        same = [torch.equal(one[:, :3, :, half], other[:, :3, :, half]) for half in (slice(0, 16), slice(16, 32))]
        assert same == [number < 4, number < 3]         # block 3 is paired with block 2
        if number in (1, 2, 4):
            torch.testing.assert_close(backbone.norm(one[..., :16]), one[..., 16:])


@torch.no_grad()
@pytest.mark.parametrize('start', [1, 2, 3])
def test_the_first_half_is_of_the_last_block_inside_views_before_the_camera_token_came(start):
    backbone, outputs = tiny(alt_start=start, feature_layers=tuple(range(6)), reference_view='first'), {}
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda module, inputs, output, index=index: outputs.update({index: output}))
    _, features = run(backbone, some_images())
    scopes = [step.scope for step in backbone.steps()]
    for number, tap in enumerate(features.taps):
        inside = max(index for index in range(number + 1) if scopes[index] == 'view')
        assert torch.equal(tap[..., :16].flatten(0, 1), outputs[inside])
        torch.testing.assert_close(tap[..., 16:], backbone.norm(outputs[number].view(2, 4, 7, 16)))


def test_rotation_norms_and_eps_start_together():
    backbone = DepthAnything3(**TINY, alt_start=3)
    assert [step.rope for step in backbone.steps()] == [None, None, None, 'scene', 'view', 'scene']
    assert [isinstance(block.attn.q_norm, nn.LayerNorm) for block in backbone.blocks] == 3 * [False] + 3 * [True]
    assert {block.norm1.eps for block in backbone.blocks} == {1e-6} and backbone.norm.eps == 1e-5
    assert backbone.blocks[3].attn.k_norm.eps == 1e-5


@pytest.mark.parametrize(('options', 'words'), [
    (dict(mlp='swiglufused'), 'gelu, swiglu'), (dict(reference_view='saddle'), 'saddle_balanced'),
    (dict(alt_start=0), 'alt_start=0'), (dict(alt_start=6), 'alt_start=6'), (dict(depth=1, feature_layers=(0,)), 'depth=1'),
    (dict(feature_layers=(6,)), r'0 \.\. 5'), (dict(photo_sizes='longest'), 'longest_side')])
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        DepthAnything3(**{**TINY, **options})


@pytest.mark.parametrize(('before', 'between', 'after', 'filters'), [
    ((480, 640), (378, 504), (378, 504), ('AREA',)),                            # whole patches at once
    ((641, 480), (504, 377), (504, 378), ('AREA', 'CUBIC')),                    # the second time a side grows
    ((97, 201), (243, 504), (238, 504), ('CUBIC', 'AREA')),                     # small photos are enlarged
    ((371, 504), (371, 504), (378, 504), ('CUBIC',)),                           # between two multiples: the larger one
    ((4, 1000), (2, 504), (14, 504), ('AREA', 'CUBIC'))])
def test_photos_come_to_size_as_the_original_does_it(before, between, after, filters):
    assert DepthAnything3(**TINY).photo_resize is None
    resize = DepthAnything3(**TINY, photo_sizes='longest_side').photo_resize
    picture = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)
    expected, steps = picture, [size for size in (between, after) if size != before]
    for size, name in zip(dict.fromkeys(steps), filters, strict=True):
        expected = cv2.resize(expected, size[::-1], interpolation=getattr(cv2, f'INTER_{name}'))
    found, to_input = resize(picture, 504, 14)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    corners = np.array([[-0.5, -0.5, 1], [before[1] - 0.5, before[0] - 0.5, 1]]).T     # of the picture
    np.testing.assert_allclose((to_input @ corners)[:2].T, [[-0.5, -0.5], [after[1] - 0.5, after[0] - 0.5]], atol=1e-9)


@pytest.mark.parametrize(('frozen', 'learning'), [
    (dict(patch_embed=True), r'camera_token|norm\..*|blocks\.[2-5]\..*'),
    (dict(blocks=True), r'cls_token|pos_embed|patch_embed\..*|blocks\.[01]\..*|.*lora_[ab]'),
    (dict(patch_embed=True, blocks=True), r'.*lora_[ab]')])
def test_freezing_keeps_what_sees_one_view_or_the_rest_and_adapters_go_on_the_rest(frozen, learning):
    backbone = DepthAnything3(**TINY, freeze=frozen, lora=dict(rank=2, alpha=2, dropout=0.0)).train()
    names = {name for name, value in backbone.named_parameters() if value.requires_grad}
    adapters = {f'blocks.{i}.attn.{layer}.lora_{side}' for i in range(2, 6) for layer in ('qkv', 'proj') for side in 'ab'}
    others = {name for name, _ in backbone.named_parameters() if re.fullmatch(learning, name)}
    under = {name for name in others if re.fullmatch(r'.*attn\.(qkv|proj)\.(weight|bias)', name) and name in names} | names
    assert adapters <= names and names - adapters <= others and names == under
    assert backbone.blocks[0].training == ('patch_embed' not in frozen) and backbone.blocks[2].training


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_resolve_under_every_profile(path):
    for profile in ('paper', 'rooms', 'rooms_small', 'debug'):
        model = load_config(path, profile).model
        head = 'DepthAnything3Rays' if path.stem.endswith('rays') else 'DepthAnything3Geometry'
        assert model.backbone.type == 'DepthAnything3' and model.geometry_head.type == head
    cfg = read_config(path)
    licence = 'Apache-2.0' if re.search('small|base', path.stem) else 'CC BY-NC'
    assert licence in cfg.experiment.weights_licence and 'Table' in path.read_text().splitlines()[0]


@pytest.mark.parametrize(('kind', 'profile'), [('fada', 'debug'), ('geometry', 'debug'), ('fada', 'rooms')])
def test_its_configs_learn_for_two_steps_and_every_parameter_gets_a_gradient(kind, profile):
    torch.manual_seed(0)
    cfg = load_config(LARGE[kind], profile, {'model.teacher': dict(type='GroundTruthTeacher', _delete_=True)})
    model = build(MODELS, dict(cfg.model, num_classes=5), 'model').train()
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        terms = model(random_batch(3), mode='loss')
        sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
        lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking and all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()


def test_recomputation_changes_no_gradient():
    gradients = []
    for level in (False, 'attention', True):
        backbone = tiny(activation_checkpointing=level).train()
        _, features = run(backbone, some_images(views=3, scenes=1))
        sum(tap.square().sum() for tap in features.taps).backward()
        gradients.append([value.grad for value in backbone.parameters()])
    for other in gradients[1:]:
        for one, again in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(again, one, rtol=1e-4, atol=1e-5)


def released(model: nn.Module) -> dict[str, Tensor]:
    """Return the geometry weights of `model` under released names, and some that it does not build."""
    names = {name: re.sub(r'^backbone\.', 'model.backbone.pretrained.', re.sub(
        r'^geometry_head\.', 'model.', re.sub(r'(output_conv\d_aux)\.', r'\1.3.', name))) for name in model.state_dict()}
    kept = {names[name]: value.clone() for name, value in model.state_dict().items()
            if name.startswith(('backbone.', 'geometry_head.'))}
    return kept | {'model.cam_enc.token_norm.weight': torch.ones(3),
                   'model.head.scratch.output_conv1_aux.0.0.weight': torch.ones(3)}


def test_a_released_file_loads_and_what_is_dropped_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('jrs.io.weights.print_log', lambda text, *_: said.append(text))
    source = small_model(LARGE['rays'])
    fill_module_(source.backbone)
    save_file(released(source), str(tmp_path / 'model.safetensors'))
    expected = source.state_dict()
    for kind in ('geometry', 'rays'):
        state = build_model(load_config(LARGE[kind], 'debug', {'weights': str(tmp_path / 'model.safetensors')})).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
        assert (len(state) < len(expected)) == (kind == 'geometry')
    assert sum('2 entries of cam_enc, head are known and no part' in text for text in said) == 2
    assert sum('left over: geometry_head.head.scratch.output_conv1_aux' in text for text in said) == 1


@torch.no_grad()
def test_the_config_with_rays_reconstructs_with_cameras_from_them():
    found, = small_model(LARGE['rays']).eval()(random_batch(3), mode='predict')
    assert found.cam_from_world.shape == (3, 4, 4) and found.intrinsics.isfinite().all() and found.instances is None
    assert found.extras['ray_origins'].shape == (3, 32, 32, 3) and found.scale == 'arbitrary'
    torch.testing.assert_close(found.cam_from_world[0], torch.eye(4), rtol=0, atol=1e-5)


def test_cameras_come_out_as_cam_from_world_and_start_in_the_middle():
    torch.manual_seed(0)
    encoding = torch.randn(2, 3, 9)
    rotation = rotation_from_quaternion(encoding[..., 3:7])
    found = decode_cameras(geometry.invert_encoding(encoding), (28, 42))[0]
    torch.testing.assert_close(found[..., :3, :3], rotation.mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((rotation @ found[..., :3, 3:]).squeeze(-1), -encoding[..., :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(geometry.invert_encoding(geometry.invert_encoding(encoding)), encoding, rtol=1e-4, atol=1e-5)
    start = geometry.CameraDecoder(32)(torch.zeros(1, 1, 32))[0, 0]
    assert start[6] > 0.5 and (start[7:] > 0.5).all()


def ray_map(size: tuple[int, int], focal: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rays (1, h, w, 6) of a camera (4, 4) with focal lengths over half a side, and confidences with a few liars."""
    torch.manual_seed(1)
    world_from_cam = torch.eye(4, dtype=torch.float64)
    world_from_cam[:3, :3] = rotation_from_quaternion(torch.randn(4, dtype=torch.float64) * 0.2 + torch.tensor([0, 0, 0, 1]))
    world_from_cam[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    plane = rays.plane_points(size, torch.device('cpu'))
    directions = torch.cat([plane / torch.tensor(focal), torch.ones(len(plane), 1)], dim=1) @ world_from_cam[:3, :3].mT
    directions = directions * (0.5 + torch.rand(len(plane), 1))                 # of any length
    values = torch.cat([directions, world_from_cam[:3, 3].expand(len(plane), -1)], dim=1).view(*size, 6)
    confidence = 1 + torch.rand(size)
    values[0, :3, :3] = torch.randn(3, 3)
    confidence[0, :3] = 3                               # sure, and wrong
    return values[None], world_from_cam, confidence[None]


@pytest.mark.parametrize('size', [(16, 24), (96, 112)])
def test_cameras_are_found_among_rays_that_lie_and_a_flat_ray_does_not_count(size):
    values, world_from_cam, confidence = ray_map(size, (1.3, 0.9))
    values[0, 1, 1, 2] = 1e-5
    found = rays.cameras_from_rays(values, confidence)
    torch.testing.assert_close(found.world_from_cam[0], world_from_cam, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.focal[0], torch.tensor([1.3, 0.9]).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.principal[0], torch.ones(2).double(), rtol=0, atol=1e-5)
    expected = torch.tensor([[1.3 * 21, 0, 21], [0, 0.9 * 14, 14], [0, 0, 1]]).double()
    torch.testing.assert_close(found.intrinsics((28, 42))[0], expected, rtol=0, atol=1e-4)
    assert torch.equal(rays.cameras_from_rays(values, confidence).focal, found.focal)       # draws are always the same


def test_rays_of_no_camera_are_refused_by_view():
    good, _, confidence = ray_map((8, 8), (1.0, 1.0))
    flat = good.clone()
    flat[..., 2] = 0
    with pytest.raises(DataError, match='1 of 2 views, such as view 1'):
        rays.cameras_from_rays(torch.cat([good, flat]), torch.cat([confidence, confidence]))


@torch.no_grad()
def test_a_head_may_take_its_cameras_from_rays_and_rays_leave_in_the_frame_of_the_first_camera(monkeypatch):
    features = run(tiny(), some_images(views=3, scenes=1))[1]
    head = Rays(dim_in=32, **DENSE, poses='rays').eval()
    maps = [ray_map((16, 24), (1.3, 0.9)) for _ in range(3)]
    values, confidence = (torch.cat([one[i] for one in maps])[None].float() for i in (0, 2))
    monkeypatch.setattr(head.head, 'rays', lambda features: (values, confidence))
    found = head(features)
    cam_from_world = decode_cameras(found.pose_encodings[-1], (28, 42))[0]
    expected = invert_rigid(torch.stack([one[1] for one in maps])).float()
    torch.testing.assert_close(cam_from_world[0], expected, rtol=0, atol=1e-5)
    assert found.intrinsics.shape == (1, 3, 3, 3) and abs(found.intrinsics[0, 0, 0, 0] - 1.3 * 21) < 1e-3
    inner = found.extras['ray_directions'][0, :, 4, 6]
    slopes = inner[:, :2] / inner[:, 2:]
    plane = rays.plane_points((16, 24), torch.device('cpu')).view(16, 24, 2)[4, 6] / torch.tensor([1.3, 0.9])
    torch.testing.assert_close(slopes, plane.float().expand(3, 2), rtol=1e-4, atol=1e-4)
    assert found.extras['ray_origins'].abs().max() < 1e-4                       # all three are the first camera
    with pytest.raises(ConfigError, match='for inference'):
        head.train()(features)
    with pytest.raises(ConfigError, match='tokens, rays'):
        Rays(dim_in=32, **DENSE, poses='ray')


def test_a_backbone_without_geometry_tokens_is_told_apart():
    _, features = run(tiny(), some_images())
    with pytest.raises(ValueError, match='geometry tokens'):
        Geometry(dim_in=32, **DENSE)(replace(features, geometry_tokens=None))
