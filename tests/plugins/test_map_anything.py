"""MapAnything: released names, aliases and shapes, the order of its layers, and geometry in metres in our conventions."""

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
from jrs.engine.build import build_model, check_ready
from jrs.errors import ConfigError, DataError, WeightsError
from jrs.geometry.camera import decode_cameras, pinhole_of_rays, predicted_cameras
from jrs.heads.scale import ScaleHead
from jrs.io.weights import in_our_names, our_names, same_tensor
from jrs.losses.scale import MetricScaleLoss
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, MODELS, build, owner_of
from jrs.structures import FeatureTaps, GeometryTargets, Predictions
from tests._data import ROOT, command, random_batch
from tests.golden.test_map_anything import released
from tests.seeded_weights import fill_module_

load_plugins(['map_anything'])
MapAnything, MapAnythingGeometry = BACKBONES.get('MapAnything'), HEADS.get('MapAnythingGeometry')
MapAnythingV1, MapAnythingV1Geometry = BACKBONES.get('MapAnythingV1'), HEADS.get('MapAnythingV1Geometry')
SPEC = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec'))
KEYS, KEYS_V1 = (SPEC / 'backbones_keys' / f'mapanything_{version}.txt' for version in ('v1_1', 'v1'))
needs_keys = pytest.mark.skipif(not (KEYS.is_file() and KEYS_V1.is_file()),
                                reason=f'{KEYS} or {KEYS_V1} is not there; set JRS_SPEC to the folder that has them')
CONFIGS = sorted((ROOT / 'plugins' / 'map_anything' / 'configs').glob('*.py'))
FULL, ALONE, ALONE_V1 = (ROOT / 'plugins' / 'map_anything' / 'configs' / f'{name}.py'
                         for name in ('map_anything_fada', 'map_anything_geometry', 'map_anything_v1_geometry'))
GEOMETRY = ('backbone.', 'geometry_head.')
ENCODERS_OF_KNOWN = {'ray_dirs_encoder', 'depth_encoder', 'depth_scale_encoder', 'cam_rot_encoder', 'cam_trans_encoder',
                     'cam_trans_scale_encoder'}


def tiny(**options) -> nn.Module:
    """A MapAnything of 4 layers and width 16, with weights that let every part matter."""
    torch.manual_seed(0)
    backbone = MapAnything(**{**dict(embed_dim=16, depth=4, num_heads=2, patch_embed='vit', encoder_depth=1, img_size=42,
                                     feature_layers=(-1, 1, 2, 3)), **options})
    table = backbone.view_pos_table.clone()
    fill_module_(backbone)
    backbone.view_pos_table.copy_(table)
    return backbone


def tiny_head(**options) -> nn.Module:
    torch.manual_seed(0)
    return MapAnythingGeometry(dim_in=16, features=8, out_channels=(4, 4, 4, 4), pose_dim=8, scale_dim=16, **options)


def some_images(views=3, height=28, width=42) -> Tensor:
    return torch.rand(2, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(backbone, images):
    states = list(backbone.layers(images))
    return states, backbone.features()


def small_model(config: Path = FULL, **overrides) -> nn.Module:
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(config, 'debug', overrides).model, num_classes=5), 'model')


def listed(keys: Path = KEYS) -> dict[str, tuple[int, ...]]:
    found = {}
    for line in keys.read_text().splitlines():
        if not line.startswith('#'):
            pattern, shape = line.split('  ')[:2]
            found |= dict.fromkeys(expand(pattern), tuple(json.loads(shape)))
    return found


def test_both_parts_belong_to_the_plugin():
    assert {owner_of(part) for part in (MapAnything, MapAnythingGeometry, MapAnythingV1, MapAnythingV1Geometry)} == {
        'map_anything'}


@needs_keys
@pytest.mark.parametrize(('keys', 'count', 'query_layers', 'make'), [
    (KEYS, 812, 8, lambda: (MapAnything(), MapAnythingGeometry(dim_in=1536))),
    (KEYS_V1, 880, 12, lambda: (MapAnythingV1(), MapAnythingV1Geometry(dim_in=768)))], ids=['V1.1', 'V1'])
def test_full_size_names_and_shapes_are_those_of_the_released_file_and_what_we_do_not_build_is_dropped(
        keys, count, query_layers, make):
    expected = listed(keys)
    assert len(expected) == count
    ours = manager().hook.jrs_weight_names(keys=list(expected))
    dropped = {key for key, name in ours.items() if name is None}
    assert {key.split('.')[0] for key in dropped} == ENCODERS_OF_KNOWN
    with torch.device('meta'):
        parts = dict(zip(('backbone', 'geometry_head'), make(), strict=True))
    assert parts['backbone'].num_query_layers == query_layers
    built = {f'{part}.{name}': tuple(value.shape) for part, module in parts.items()
             for name, value in module.state_dict().items()}
    found = {}
    for key in expected.keys() - dropped:
        assert found.setdefault(ours[key], expected[key]) == expected[key], f'{key} has two shapes'
    assert found == built
    assert len(expected) - len(dropped) - len(built) == 76      # aliases, of 736 and 804 distinct tensors


@needs_keys
@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_the_command_compares_a_config_with_the_list(config, capsys):
    assert command('convert', '--keys', KEYS_V1 if '_v1_' in config.stem else KEYS, config) == 0
    printed = capsys.readouterr().out
    assert '0 missing in the list' in printed and '0 unknown to the model' in printed


def released_file(model: nn.Module, aliases: bool = False) -> dict[str, Tensor]:
    """Return the geometry weights of `model` as the released file has them, with all names of a tensor or only the first."""
    state = {released(name): value.clone() for name, value in model.state_dict().items() if name.startswith(GEOMETRY)}
    state |= {f'{name}.norm_layer.weight': torch.ones(2) for name in ENCODERS_OF_KNOWN}
    for key in [key for key in state if aliases and key.startswith('dense_head.')]:
        twin = re.sub(r'dense_head\.1', 'dpt_regressor_head', re.sub(r'dense_head\.0', 'dpt_feature_head', key))
        level = re.fullmatch(r'(.*)\.input_process\.(\d)\.1\.weight', twin)
        state[twin] = state[key].clone()
        for part in (key, twin) if level else ():
            start = part.split('.input_process')[0]
            state[f'{start}.scratch.layer_rn.{level[2]}.weight'] = state[key].clone()
            state[f'{start}.scratch.layer{int(level[2]) + 1}_rn.weight'] = state[key].clone()
    return state


@pytest.mark.parametrize('aliases', [False, True])
@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_a_released_file_loads_by_any_name_of_a_tensor(tmp_path, config, aliases):
    source = small_model(ALONE_V1 if '_v1_' in config.stem else ALONE)
    fill_module_(source)
    state = released_file(source, aliases)
    save_file(state, str(tmp_path / 'model.safetensors'))
    found = build_model(load_config(config, 'debug', {'weights': str(tmp_path / 'model.safetensors')})).state_dict()
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items() if name.startswith(GEOMETRY))


def test_aliases_that_differ_are_refused():
    state = released_file(small_model(ALONE), aliases=True)
    state['dpt_feature_head.scratch.layer_rn.2.weight'] += 1
    with pytest.raises(WeightsError, match=r'two names of one tensor, geometry_head.scratch.layer3_rn.weight, and differ'):
        in_our_names(state, our_names(state), 'the file', same_tensor)


def test_names_of_other_files_are_left_alone():
    assert manager().hook.jrs_weight_names(keys=['scale_token', 'encoder.model.cls_token']) is None


def test_layer_states_tell_which_view_each_token_is_of_and_that_the_last_is_of_none():
    backbone = tiny()
    states, features = run(backbone, some_images())
    num_tokens = 2 * 3 + 1
    assert backbone.num_query_layers == 2 and backbone.layer_kinds == ('scene', 'scene') and backbone.scale == 'metric'
    assert [state.index for state in states] == [0, 1] and states[0].tokens.shape == (2, 3 * num_tokens + 1, 16)
    assert states[0].view_index.tolist() == [*(view for view in range(3) for _ in range(num_tokens)), -1]
    assert states[0].is_patch.tolist() == [*(3 * (6 * [True] + [False])), False]
    assert [tap.shape for tap in features.taps] == 4 * [(2, 3, num_tokens, 16)]
    assert features.patch_index.tolist() == [0, 1, 2, 3, 4, 5]
    assert features.scene_tokens.shape == (2, 1, 16)
    torch.testing.assert_close(features.taps[2].flatten(1, 2), backbone.norm(states[1].tokens[:, :-1]))


@torch.no_grad()
def test_even_layers_see_all_views_and_odd_ones_their_view():
    backbone, images = tiny().eval(), some_images()
    changed = images.clone()
    changed[:, 2] = 1 - changed[:, 2]
    before, after = (run(backbone, given)[1].taps for given in (images, changed))
    assert torch.equal(before[0][:, :2], after[0][:, :2])                       # the encoder
    assert not torch.allclose(before[1][:, :2], after[1][:, :2], atol=1e-3)
    step = backbone.steps()[1]
    assert step.scope == 'view' and [step.scope for step in backbone.steps()] == 2 * ['scene', 'view']
    assert {module.eps for module in backbone.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}


@torch.no_grad()
def test_only_the_first_view_is_special():
    backbone, images, order = tiny().eval(), some_images(4), [0, 3, 1, 2]
    before, after = run(backbone, images)[1], run(backbone, images[:, order])[1]
    torch.testing.assert_close(after.taps[-1], before.taps[-1][:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.scene_tokens, before.scene_tokens, rtol=1e-4, atol=1e-5)
    other = run(backbone, images[:, [3, 0, 1, 2]])[1]
    assert not torch.allclose(other.taps[-1], before.taps[-1][:, [3, 0, 1, 2]], atol=1e-2)


@pytest.mark.parametrize('checkpointing', [False, 'attention', True])
def test_gradients_reach_every_parameter(checkpointing):
    backbone = tiny(activation_checkpointing=checkpointing).train()
    head = tiny_head(activation_checkpointing=bool(checkpointing), views_per_chunk=4).train()
    found = head(run(backbone, some_images())[1])
    weights = torch.linspace(0.5, 2, found.pose_encodings[0].numel()).view_as(found.pose_encodings[0])
    terms = [(found.pose_encodings[0] * weights).sum(), found.depth.square().mean(), found.depth_conf.log().mean(),
             found.extras['validity_logits'].square().mean(), found.extras['metric_scale'].log().sum()]
    sum(terms).backward()
    for part in (backbone, head):
        lacking = [name for name, value in part.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
        assert not lacking, lacking


@torch.no_grad()
def test_v1_follows_its_description_step_by_step():
    """No golden data: the encoder's norm, the linear map of patches and scale token, no class tokens, the first branch."""
    torch.manual_seed(0)
    backbone = MapAnythingV1(embed_dim=16, depth=4, num_heads=2, patch_embed='vit', encoder_depth=1, encoder_dim=24,
                             encoder_heads=2, img_size=42, feature_layers=(-1, 1, 2, 3)).eval()
    table = backbone.view_pos_table.clone()
    fill_module_(backbone)
    backbone.view_pos_table.copy_(table)
    images = some_images()
    states, features = run(backbone, images)
    seen = []
    hook = backbone.encoder.blocks[-1].register_forward_hook(lambda block, given, tokens: seen.append(tokens))
    backbone.encode(images)
    hook.remove()
    patches = backbone.fusion_norm_layer(backbone.encoder.norm(seen[0])[:, 1:]).unflatten(0, (2, 3))   # (B, V, 6, 24)
    torch.testing.assert_close(features.maps['encoder_patches'], patches)
    tokens = backbone.proj_embed(patches)
    torch.testing.assert_close(features.taps[0], tokens)
    offset = torch.zeros(3, 1, 16)
    offset[0, 0, 1::2] = 1                                                      # 0, 1, 0, 1, ... for the first view
    scale_token = backbone.proj_embed(backbone.scale_token).expand(2, 1, 16)
    scene = backbone.self_attention_blocks[0](torch.cat([(tokens + offset).flatten(1, 2), scale_token], dim=1))
    torch.testing.assert_close(states[0].tokens, scene)
    view = backbone.self_attention_blocks[1](scene[:, :-1].reshape(6, 6, 16)).view(2, 18, 16)
    torch.testing.assert_close(features.taps[1].flatten(1, 2), backbone.norm(view))
    scene = backbone.self_attention_blocks[2](torch.cat([view, scene[:, -1:]], dim=1))
    torch.testing.assert_close(features.scene_tokens, backbone.norm(scene[:, -1:]))
    head = MapAnythingV1Geometry(dim_in=16, encoder_dim=24, features=8, out_channels=(4, 4, 4, 4), pose_dim=8, scale_dim=16)
    assert [project.in_channels for project in head.projects] == [24, 16, 16, 16]
    before, other = head(features), replace(features, maps={'encoder_patches': patches.roll(1, dims=2)})
    assert not torch.allclose(head(other).depth, before.depth, rtol=1e-3)
    ignored = replace(features, taps=[torch.zeros_like(features.taps[0]), *features.taps[1:]])
    torch.testing.assert_close(head(ignored).depth, before.depth)


@torch.no_grad()
def test_depth_along_rays_becomes_z_depth_in_metres_and_cameras_are_turned_round():
    head, features = tiny_head(), run(tiny().eval(), some_images())[1]
    head.scratch.output_conv2[2].weight.zero_()
    head.scratch.output_conv2[2].bias.copy_(torch.tensor([0.0, 3.0, 4.0, math.log(5.0), 0.7, -0.4]))
    head.scale_head.output_proj.weight.zero_()
    head.scale_head.output_proj.bias.fill_(math.log(2.0))
    head.pose_head.fc_t.weight.zero_()
    head.pose_head.fc_t.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    head.pose_head.fc_rot.weight.zero_()
    head.pose_head.fc_rot.bias.copy_(torch.tensor([0.0, 0.0, 3.0, 3.0]))        # a quarter turn about z, of any length
    found = head(features)
    torch.testing.assert_close(found.extras['rays'][0, 0, 0, 0], torch.tensor([0.0, 0.6, 0.8]))
    torch.testing.assert_close(found.depth, torch.full((2, 3, 28, 42), 2 * 5 * 0.8))
    torch.testing.assert_close(1 - 1 / found.depth_conf, torch.sigmoid(torch.full((2, 3, 28, 42), 0.7)))
    assert found.extras['metric_scale'].tolist() == pytest.approx([2.0, 2.0])
    cam_from_world = decode_cameras(found.pose_encodings[-1], (28, 42))[0][0, 0]
    expected = torch.tensor([[0.0, 1, 0, -4], [-1, 0, 0, 2], [0, 0, 1, -6], [0, 0, 0, 1]])  # inverse of [R | 2 t]
    torch.testing.assert_close(cam_from_world, expected, rtol=0, atol=1e-5)
    own = found.in_units()
    torch.testing.assert_close(own.depth, torch.full((2, 3, 28, 42), 4.0))
    torch.testing.assert_close(own.pose_encodings[-1][..., :3], found.pose_encodings[-1][..., :3] / 2)


@pytest.mark.parametrize('size', [(28, 42), (120, 70)])
def test_the_pinhole_of_exact_rays_is_theirs_wherever_its_principal_point_is(size):
    intrinsics = torch.tensor([[[40.0, 0, 17], [0, 55, 12], [0, 0, 1]], [[90.0, 0, -5], [0, 30, 33], [0, 0, 1]]])
    v, u = torch.meshgrid(*(torch.arange(side) for side in size), indexing='ij')
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).float()
    rays = nn.functional.normalize(torch.einsum('nij,hwj->nhwi', torch.linalg.inv(intrinsics), pixels), dim=-1)
    torch.testing.assert_close(pinhole_of_rays(rays), intrinsics, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('rays', ['alike', 'random', 'backwards'])
def test_the_pinhole_of_any_rays_is_finite_and_looks_forward_and_so_is_its_gradient(rays):
    torch.manual_seed(0)
    given = dict(alike=torch.ones(2, 28, 42, 3), random=torch.randn(2, 28, 42, 3),
                 backwards=-torch.rand(2, 28, 42, 3))[rays].requires_grad_()
    found = pinhole_of_rays(nn.functional.normalize(given, dim=-1))
    assert found.isfinite().all() and (found[:, [0, 1], [0, 1]] > 0).all()
    found[:, :2].log1p().nansum().backward()
    assert given.grad.isfinite().all()


def test_the_scale_head_reads_a_scene_token_and_without_one_the_mean_camera_token():
    torch.manual_seed(0)
    head, cameras = ScaleHead(6, 4), torch.randn(2, 3, 6)
    features = FeatureTaps([], torch.arange(0), (0, 0), (0, 0), geometry_tokens=cameras)
    torch.testing.assert_close(head(features), head.read(cameras.mean(dim=1)).exp())
    features.scene_tokens = torch.randn(2, 1, 6)
    torch.testing.assert_close(head(features), head.read(features.scene_tokens[:, 0]).exp())


def test_the_scale_term_is_the_difference_of_logarithms_and_says_what_it_needs():
    unit = torch.ones(2, 1, 1, 1)
    target = GeometryTargets(unit, unit, unit.bool(), unit_m=torch.tensor([2.0, 3.0]))
    scene = Predictions([], extras={'metric_scale': torch.tensor([4.0, 3.0])})
    torch.testing.assert_close(MetricScaleLoss()(scene, target), torch.tensor(math.log(2.0) / 2))
    target.unit_m[0] = torch.nan                                                # nobody knows
    assert MetricScaleLoss()(scene, target) == 0
    with pytest.raises(ConfigError, match='metric_scale'):
        MetricScaleLoss()(Predictions([]), target)
    target.unit_m = None
    with pytest.raises(ConfigError, match='GroundTruthTeacher'):
        MetricScaleLoss()(scene, target)


def test_geometry_is_taught_in_units_of_the_scene_and_only_the_scale_term_moves_the_scale():
    """So that a teacher without metres does not unlearn them."""
    model, batch = small_model(ALONE), random_batch(2, num_scenes=2)
    terms = model(batch, mode='loss')
    head = model.geometry_head.scale_head.output_proj.bias
    (terms['loss_camera'] + terms['loss_depth']).backward(retain_graph=True)
    assert head.grad is None or head.grad.abs().max() < 1e-6
    terms['loss_scale'].backward()
    assert head.grad.abs().max() > 1e-2


@torch.no_grad()
def test_the_model_says_metres_with_its_own_head_and_nothing_of_them_with_others():
    scene = small_model(ALONE).eval()(random_batch(2), mode='predict')[0]
    assert scene.scale == 'metric' and scene.intrinsics.shape == (2, 3, 3) and scene.extras['metric_scale'].shape == ()
    other = small_model(ALONE, **{'model.geometry_head': None, 'model.losses.scale': None,
                                  'model.camera_head': dict(type='CameraHead', num_heads=2, trunk_depth=1)})
    assert other.eval()(random_batch(2), mode='predict')[0].scale == 'arbitrary'


@torch.no_grad()
def test_cameras_of_the_model_are_those_of_its_rays():
    found = small_model(ALONE).eval().predict_all(random_batch(2))
    _, intrinsics = predicted_cameras(found, (56, 56))
    torch.testing.assert_close(intrinsics, pinhole_of_rays(found.extras['rays']))


def test_freezing_and_adapting():
    backbone = tiny(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2, dropout=0.0)).train()
    learning = [name for name, value in backbone.named_parameters() if value.requires_grad]
    assert len(learning) == 4 * 2 * 2 and not backbone.encoder.training         # layers, qkv and proj, A and B
    assert all(re.fullmatch(r'self_attention_blocks\.\d\.attn\.(qkv|proj)\.lora_[ab]', name) for name in learning)
    frozen = tiny(freeze=dict(patch_embed=True))
    assert {name.split('.')[0] for name, value in frozen.named_parameters() if not value.requires_grad} == {'encoder'}


@pytest.mark.parametrize('options, said', [
    (dict(patch_embed='dinov2_vitl14_reg'), "no encoder 'dinov2_vitl14_reg'"),
    (dict(patch_embed='dinov2_vitg14'), 'tokens of width 1536'), (dict(feature_layers=(-2, 1)), r'-1 \.\. 3')])
def test_what_does_not_fit_is_said(options, said):
    with pytest.raises(ConfigError, match=said):
        tiny(**options)


@pytest.mark.parametrize('profile', ['debug', 'rooms'])
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_learn_two_steps_under_every_profile(path, profile):
    torch.manual_seed(0)
    cfg = load_config(path, profile, {'seed': 1})
    few = dict(cfg.model.backbone, depth=4, feature_layers=(-1, 1, 2, 3), encoder_depth=1)
    model = build(MODELS, dict(cfg.model, num_classes=5, backbone=few, teacher=dict(type='GroundTruthTeacher')), 'model')
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        terms = model(random_batch(2, num_scenes=2), mode='loss')
        sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
        lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking and all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()


def test_queries_read_at_the_layers_that_see_the_scene():
    assert small_model().predict_all(random_batch(2), track_views=True).queries.view_attention.shape == (2, 1, 12, 2)


def test_a_missing_file_is_asked_for_where_it_comes_from(debug_data):
    cfg = load_config(FULL, 'debug', {'weights': 'gone.safetensors', 'data_root': str(debug_data)})
    with pytest.raises(DataError, match='gone.safetensors.*facebook/map-anything'):
        check_ready(cfg, 'train_dataset')
