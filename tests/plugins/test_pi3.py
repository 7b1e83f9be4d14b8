"""Pi3: released names and shapes, no reference view, its own cameras and depth in our conventions, and one override."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.config import load_config, read_config
from jrs.engine.build import build_model, check_ready
from jrs.engine.memory import RUNTIME, parameter_bytes, training_memory
from jrs.errors import ConfigError, DataError
from jrs.geometry.camera import decode_cameras, invert_rigid, rotation_from_quaternion
from jrs.geometry.rotation import nearest_rotation
from jrs.heads.pixels import PixelHead
from jrs.heads.pose import PoseHead, TokenConv
from jrs.heads.view_geometry import encode
from jrs.io.weights import read_metadata
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, MODELS, build, owner_of
from tests._data import MAIN, ROOT, command, random_batch
from tests.engine.test_memory import batch_of, peak_bytes
from tests.heads._memory import check_memory
from tests.seeded_weights import fill_module_

load_plugins(['pi3'])
Pi3, Pi3Geometry = BACKBONES.get('Pi3'), HEADS.get('Pi3Geometry')
geometry = sys.modules[Pi3Geometry.__module__]
SPEC = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec'))
KEYS = SPEC / 'backbones_keys' / 'pi3.txt'
needs_keys = pytest.mark.skipif(not KEYS.is_file(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
CONFIGS = sorted((ROOT / 'plugins' / 'pi3' / 'configs').glob('*.py'))
FULL, ALONE = (ROOT / 'plugins' / 'pi3' / 'configs' / f'{name}.py' for name in ('pi3_fada', 'pi3_geometry'))
TINY = dict(embed_dim=16, depth=3, num_heads=2, patch_embed='conv', feature_layers=(0, 2))


def tiny(**options) -> nn.Module:
    """A Pi3 of 3 pairs and width 16, with weights that let every part matter."""
    torch.manual_seed(0)
    backbone = Pi3(**{**TINY, **options})
    fill_module_(backbone)
    return backbone


def tiny_head(**options) -> nn.Module:
    torch.manual_seed(0)
    return Pi3Geometry(dim_in=32, dim=16, patch_size=14, **dict(dict(depth=1), **options))


def given(predictions) -> tuple:
    return predictions.pose_encodings, predictions.depth, predictions.depth_conf


def some_images(views=3, height=28, width=42) -> Tensor:
    return torch.rand(2, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(backbone, images):
    states = list(backbone.layers(images))
    return states, backbone.features()


def small_model(config: Path = FULL, **overrides) -> nn.Module:
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(config, 'debug', overrides).model, num_classes=5), 'model')


def test_both_parts_belong_to_the_plugin():
    assert owner_of(Pi3) == owner_of(Pi3Geometry) == 'pi3'


@needs_keys
def test_full_size_keys_and_shapes_are_those_of_the_released_file():
    expected = {}
    for line in KEYS.read_text().splitlines():
        if not line.startswith('#'):
            pattern, shape = line.split('  ')
            expected |= dict.fromkeys(expand(pattern), tuple(json.loads(shape)))
    with torch.device('meta'):
        parts = [Pi3(), Pi3Geometry(dim_in=2048, dim=1024, patch_size=14)]
    assert {name: tuple(value.shape) for part in parts for name, value in part.state_dict().items()} == expected
    assert len(expected) == 1210 and sum(math.prod(shape) for shape in expected.values()) == 958_696_738


@needs_keys
@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_the_command_compares_a_config_with_the_list(config, capsys):
    assert command('convert', '--keys', KEYS, config) == 0
    printed = capsys.readouterr().out
    assert '1210 agree in name and shape' in printed and '0 missing in the list' in printed
    assert '0 unknown to the model' in printed


def test_layer_states_tell_which_view_each_token_is_of():
    states, features = run(tiny(), some_images())
    num_tokens = 5 + 2 * 3
    assert [state.index for state in states] == [0, 1, 2] and states[0].tokens.shape == (2, 3 * num_tokens, 16)
    assert states[0].view_index.tolist() == [view for view in range(3) for _ in range(num_tokens)]
    assert states[0].is_patch.tolist() == 3 * ([False] * 5 + [True] * 6)
    assert [tap.shape for tap in features.taps] == 2 * [(2, 3, num_tokens, 32)]
    assert features.patch_index.tolist() == [5, 6, 7, 8, 9, 10]
    torch.testing.assert_close(features.taps[1][..., 16:].flatten(1, 2), states[2].tokens)


def test_even_blocks_see_their_view_and_odd_ones_all_views():
    backbone, images = tiny().eval(), some_images()
    changed = images.clone()
    changed[:, 2] = 1 - changed[:, 2]
    before, after = (run(backbone, given)[1].taps[0] for given in (images, changed))
    frame, over_all = slice(0, 16), slice(16, 32)
    assert torch.equal(before[:, :2, :, frame], after[:, :2, :, frame])
    assert not torch.allclose(before[:, :2, :, over_all], after[:, :2, :, over_all], atol=1e-3)
    assert [block.norm1.eps for block in backbone.decoder] == 6 * [1e-6] and backbone.decoder[0].attn.q_norm.eps == 1e-5


def test_cameras_are_read_from_the_mean_of_the_patches():
    _, features = run(tiny(), some_images())
    torch.testing.assert_close(features.geometry_tokens, features.taps[-1][:, :, 5:].mean(dim=2))


@torch.no_grad()
def test_permuting_the_views_permutes_every_output():
    """The first view included: there is no reference view."""
    backbone, head, images, order = tiny().eval(), tiny_head(), some_images(views=4), [2, 3, 0, 1]
    _, features = run(backbone, images)
    _, permuted = run(backbone, images[:, order])
    for before, after in zip(features.taps, permuted.taps, strict=True):
        assert not torch.allclose(before, before[:, order], atol=1e-2)
        torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=1e-5)
    (encodings, *maps), (moved, *moved_maps) = given(head(features)), given(head(permuted))
    for before, after in zip([*encodings, *maps], [*moved, *moved_maps], strict=True):
        torch.testing.assert_close(after, before[:, order], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_whole_model_is_equivariant_and_moves_the_world_to_the_first_camera():
    model, batch, order = small_model().eval(), random_batch(3), [2, 0, 1]
    fill_module_(model.backbone)
    found = model.predict_all(batch, track_views=True)
    batch.images = batch.images[:, order]
    again = model.predict_all(batch, track_views=True)
    torch.testing.assert_close(again.depth, found.depth[:, order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.queries.embedding, found.queries.embedding, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.queries.view_attention, found.queries.view_attention[..., order], rtol=1e-3, atol=1e-4)
    before, after = (decode_cameras(each.pose_encodings[-1], (56, 56))[0] for each in (found, again))
    assert (before[:, 1] - torch.eye(4)).abs().max() > 1e-3
    torch.testing.assert_close(before[:, 0], torch.eye(4)[None], rtol=0, atol=1e-5)
    expected = before[:, order] @ invert_rigid(before[:, order[:1]])
    torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4)


def test_queries_read_at_all_18_layers():
    assert load_config(FULL).model.backbone.depth == 18
    model = small_model(**{'model.backbone.depth': 18})
    assert model.queries.cross_layers == tuple(range(18))
    assert model.predict_all(random_batch(2), track_views=True).queries.view_attention.shape == (18, 1, 12, 2)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_gradients_reach_every_parameter(checkpointing):
    backbone = tiny(activation_checkpointing=checkpointing).train()
    head = tiny_head(activation_checkpointing=checkpointing, views_per_chunk=4).train()
    _, features = run(backbone, some_images())
    (encoding,), depth, confidence = given(head(features))
    weights = torch.linspace(0.5, 2, encoding.numel()).view_as(encoding)
    ((encoding * weights).sum() + depth.log().square().mean() + confidence.log().mean()).backward()
    for part in (backbone, head):
        lacking = [name for name, value in part.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
        assert not lacking, lacking


def test_chunks_and_recomputing_change_no_number():
    _, features = run(tiny().eval(), some_images())
    (expected,), depth, confidence = given(tiny_head()(features))
    (found,), *maps = given(tiny_head(views_per_chunk=1, activation_checkpointing=True).train()(features))
    for before, after in zip((expected, depth, confidence), (found, *maps), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_depth_and_confidence_are_those_of_the_point_and_the_logit():
    head, (_, features) = tiny_head(), run(tiny().eval(), some_images())
    with torch.no_grad():
        for part in (head.point_head, head.conf_head):
            part.proj.weight.zero_()
        head.point_head.proj.bias.copy_(torch.tensor([0.1, 0.2, math.log(3.0)]).repeat_interleave(14 ** 2))
        head.conf_head.proj.bias.fill_(0.7)
    _, depth, confidence = given(head(features))
    assert depth.shape == confidence.shape == (2, 3, 28, 42)
    torch.testing.assert_close(depth, torch.full_like(depth, 3.0))
    torch.testing.assert_close(1 - 1 / confidence, torch.sigmoid(torch.full_like(depth, 0.7)))


def test_a_patch_token_becomes_the_pixels_of_its_patch():
    head = PixelHead(6, 1, 2)
    with torch.no_grad():
        head.proj.weight.copy_(torch.eye(4, 6))
        head.proj.bias.zero_()
    patches = torch.arange(36.0).view(1, 6, 6)                                  # 2 x 3 patches of 2 x 2 pixels
    maps = head(patches, (2, 3))[0, 0]
    assert maps.shape == (4, 6)
    assert maps[:2, :2].flatten().tolist() == [0, 1, 2, 3] and maps[2:, 4:].flatten().tolist() == [30, 31, 32, 33]


def test_cameras_come_out_as_cam_from_world_with_the_field_of_view_of_the_rays():
    torch.manual_seed(0)
    size, focal = (28, 42), torch.tensor([[30.0, 40.0], [25.0, 60.0]])          # (n, 2): across, down
    v, u = torch.meshgrid(*(torch.arange(side) for side in size), indexing='ij')
    rays = torch.stack([(u - 21) / focal[:, 0, None, None], (v - 14) / focal[:, 1, None, None]], dim=1)
    world_from_cam = torch.eye(4).repeat(2, 1, 1)
    world_from_cam[:, :3, :3] = rotation_from_quaternion(torch.randn(2, 4))
    world_from_cam[:, :3, 3] = torch.randn(2, 3)
    cam_from_world, intrinsics = decode_cameras(encode(world_from_cam, rays), size)
    torch.testing.assert_close(cam_from_world @ world_from_cam, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(intrinsics[:, [0, 1], [0, 1]], focal, rtol=1e-4, atol=1e-3)


def test_rotations_are_read_row_by_row_and_normalised():
    head = PoseHead(8)
    rotation = rotation_from_quaternion(torch.tensor([0.1, -0.4, 0.2, 0.8]))
    with torch.no_grad():
        head.fc_rot.weight.zero_()
        head.fc_rot.bias.copy_((rotation * torch.tensor([[2.0], [0.3], [5.0]])).flatten())
    found = head(torch.randn(2, 4, 8))[:, :3, :3]
    torch.testing.assert_close(found, rotation.expand(2, 3, 3), rtol=1e-5, atol=1e-5)


def test_a_pose_head_may_read_wider_tokens_by_convolutions_and_give_a_quaternion():
    head = PoseHead(8, dim_in=12, rotation='quaternion', linear=TokenConv)
    assert head.proj.weight.shape == (8, 12, 1, 1) and head.res_conv[1].res_conv3.weight.shape == (8, 8, 1, 1)
    with torch.no_grad():
        head.fc_rot.weight.zero_()
        head.fc_rot.bias.copy_(torch.tensor([0.1, -0.4, 0.2, 0.8]) * 3)
    patches = torch.randn(2, 4, 12)
    found = head(patches)
    expected = rotation_from_quaternion(torch.tensor([0.1, -0.4, 0.2, 0.8])).expand(2, 3, 3)
    torch.testing.assert_close(found[:, :3, :3], expected)
    as_picture = nn.functional.conv2d(patches.mT.unsqueeze(-1), head.proj.weight, head.proj.bias)[..., 0].mT
    torch.testing.assert_close(head.proj(patches), as_picture)


def test_the_nearest_rotation_is_nearest_and_no_reflection():
    torch.manual_seed(0)
    matrix = torch.randn(50, 3, 3, dtype=torch.float64)
    found = nearest_rotation(matrix)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).double().expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(50).double())
    others = rotation_from_quaternion(torch.randn(2000, 1, 4, dtype=torch.float64))
    assert ((found - matrix).square().sum((-1, -2)) <= (others - matrix).square().sum((-1, -2)) + 1e-9).all()


def test_the_gradient_of_the_nearest_rotation_is_the_numeric_one_and_finite_at_a_rotation():
    torch.manual_seed(0)
    matrix = torch.randn(2, 3, 3, dtype=torch.float64)
    matrix = torch.cat([matrix, -matrix]).requires_grad_()                      # determinants of both signs
    assert torch.autograd.gradcheck(nearest_rotation, matrix)
    still = torch.eye(3).expand(2, 3, 3).clone().requires_grad_()
    (nearest_rotation(still) * torch.randn(2, 3, 3)).sum().backward()
    assert still.grad.isfinite().all() and still.grad.abs().sum() > 0
    torch.testing.assert_close(still.grad, -still.grad.mT)                      # at a rotation only turning changes it


def test_freezing_and_adapting():
    backbone = tiny(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2, dropout=0.0)).train()
    learning = [name for name, value in backbone.named_parameters() if value.requires_grad]
    assert len(learning) == 2 * 3 * 2 * 2 and not backbone.encoder.training     # two blocks, pairs, qkv and proj, A and B
    assert all(re.fullmatch(r'decoder\.\d\.attn\.(qkv|proj)\.lora_[ab]', name) for name in learning)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_resolve_under_every_profile_and_are_short(path):
    for profile in ('paper', 'rooms', 'debug'):
        cfg = load_config(path, profile)
        assert cfg.model.backbone.type == 'Pi3' and 'CC BY-NC' in read_config(path).experiment.weights_licence
    assert len(path.read_text().splitlines()) <= 18 and 'Table' in path.read_text().splitlines()[0]


@pytest.mark.parametrize('profile', ['debug', 'rooms'])
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_learn_two_steps_under_every_profile(path, profile):
    torch.manual_seed(0)
    cfg = load_config(path, profile, {'seed': 1})
    few = dict(cfg.model.backbone, depth=4, feature_layers=(0, 1, 2, 3))
    model = build(MODELS, dict(cfg.model, num_classes=5, backbone=few, teacher=dict(type='GroundTruthTeacher')), 'model')
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        terms = model(random_batch(2, num_scenes=2), mode='loss')
        sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
        lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking and all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()


def released(model: nn.Module) -> dict[str, Tensor]:
    """Return the geometry weights of `model` under the released names, which have no prefix."""
    return {re.sub('^(backbone|geometry_head).', '', name): value.clone() for name, value in model.state_dict().items()
            if name.startswith(('backbone.', 'geometry_head.'))}


def test_a_released_file_loads_by_its_own_names(tmp_path):
    source = small_model(ALONE)
    fill_module_(source.backbone)
    save_file(released(source), str(tmp_path / 'model.safetensors'))
    for config in CONFIGS:
        cfg = load_config(config, 'debug', {'weights': str(tmp_path / 'model.safetensors')})
        state, expected = build_model(cfg).state_dict(), source.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_a_released_file_can_be_converted(tmp_path, capsys):
    save_file(released(small_model(ALONE)), str(tmp_path / 'in.safetensors'))
    assert command('convert', tmp_path / 'in.safetensors', '--out', tmp_path / 'out.safetensors', '--config', ALONE,
                   '--profile', 'debug', '--origin', 'yyfz233/Pi3', '--licence', 'CC BY-NC 4.0') == 0
    assert read_metadata(tmp_path / 'out.safetensors')['licence'] == 'CC BY-NC 4.0'
    build_model(load_config(ALONE, 'debug', {'weights': str(tmp_path / 'out.safetensors')}))


def test_a_missing_file_is_asked_for_where_it_comes_from(debug_data):
    cfg = load_config(FULL, 'debug', {'weights': 'gone.safetensors', 'data_root': str(debug_data)})
    with pytest.raises(DataError, match='gone.safetensors.*yyfz233/Pi3'):
        check_ready(cfg, 'train_dataset')


def test_names_of_other_files_are_left_alone():
    assert manager().hook.jrs_weight_names(keys=['aggregator.camera_token', 'register_token']) is None


def test_two_heads_for_one_thing_are_refused():
    with pytest.raises(ConfigError, match='set model.camera_head, model.depth_head .*to None'):
        small_model(**{'model.camera_head': dict(type='CameraHead', num_heads=2)})


def test_the_main_experiment_trains_with_it_by_one_override(debug_data, tmp_path):
    """The plugin is found by the name of its part; the run's own config lists it."""
    words = [MAIN, '--profile', 'debug', '--work-dir', tmp_path, '--cfg-options', 'model.backbone.type=Pi3']
    assert command('train', *words, f'data_root={debug_data}', 'train.iterations=2', 'hooks.pictures.interval=2') == 0
    rows = [json.loads(line) for line in (tmp_path / 'terms.jsonl').read_text().splitlines()]
    assert len(rows) == 2 and all(math.isfinite(value) for row in rows for value in row.values())
    resolved = load_config(tmp_path / 'config.py')
    assert resolved.plugins == ['pi3'] and resolved.model.backbone.type == 'Pi3'


@pytest.mark.parametrize(('dim', 'depth', 'size', 'views'), [
    (64, 2, (112, 168), 4), (512, 1, (112, 140), 4), (512, 2, (56, 84), 3), (64, 2, (56, 84), 12), (128, 1, (112, 84), 20)])
def test_the_head_takes_the_memory_that_it_says(dim, depth, size, views):
    """Few patches beside the special tokens; one chunk, and several."""
    check_memory(Pi3Geometry(2 * dim, dim, 14, depth=depth), views, size, 0.1)


def test_the_model_tells_the_head_how_many_special_tokens_there_are():
    assert small_model(ALONE, **{'model.backbone.num_register_tokens': 3}).geometry_head.num_special == 3


def test_the_estimate_of_a_training_step_is_what_it_takes():
    views, size = 6, (112, 112)
    batch = batch_of(views, size)
    model = build(MODELS, dict(load_config(FULL, 'rooms', {
        'model.teacher': dict(_delete_=True, type='GroundTruthTeacher')}).model, num_classes=5), 'model').train()
    for part in (model.backbone, model.geometry_head, model.queries, model.feature_head):
        part.activation_checkpointing = True

    def step():
        sum(value for name, value in model(batch, mode='loss').items() if name.startswith('loss_')).backward()
    trained = 4 * sum(value.numel() for value in model.parameters() if value.requires_grad)
    said = training_memory(model, views, size, torch.device('cpu')).total
    assert said - parameter_bytes(model) - 2 * trained - RUNTIME['cpu'] == pytest.approx(peak_bytes(step), rel=0.15)
