"""VGGT-Omega: released names and shapes, register layers, masked key biases, its own heads, words, and sizes of photos."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.cli.convert import expand
from jrs.config import load_config
from jrs.engine.build import build_model, check_ready
from jrs.engine.inference import Reconstructor
from jrs.engine.memory import RUNTIME, inference_memory, parameter_bytes, training_memory
from jrs.errors import ConfigError, DataError
from jrs.io.weights import load_weights
from jrs.plugins import load_plugins, manager
from jrs.registry import BACKBONES, HEADS, MODELS, QUERIES, build, owner_of
from tests._data import ROOT, command, random_batch
from tests.engine.test_memory import peak_bytes
from tests.seeded_weights import seeded_array

load_plugins(['vggt_omega'])
VGGTOmega, VGGTOmegaGeometry = BACKBONES.get('VGGTOmega'), HEADS.get('VGGTOmegaGeometry')
sizes = sys.modules['jrs_plugins.vggt_omega.sizes']
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys'
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
LISTS = {'vggt_omega_512.txt': (None, 'vggt_omega_geometry'), 'vggt_omega_256_text.txt': (dict(), 'vggt_omega_text')}
CONFIGS = sorted((ROOT / 'plugins' / 'vggt_omega' / 'configs').glob('*.py'))
FULL, ALONE, TEXT = (ROOT / 'plugins' / 'vggt_omega' / 'configs' / f'vggt_omega_{name}.py'
                     for name in ('fada', 'geometry', 'text'))
TINY = dict(embed_dim=16, depth=4, num_heads=2, patch_embed='vit', encoder_depth=1, encoder_heads=2, num_register_tokens=3,
            patch_size=8, feature_layers=(0, 1, 2, 3), register_layers=(1,))
FOUR = {'model.backbone.depth': 4, 'model.backbone.feature_layers': (0, 1, 2, 3)}           # of rooms' eight layers


def filled(module: nn.Module) -> nn.Module:
    """Return `module` with weights that let every part matter; periods of rotations stay."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not name.endswith('periods'):
                value.copy_(torch.from_numpy(seeded_array(name, tuple(value.shape), 3)))
    return module


def tiny(**options) -> nn.Module:
    return filled(VGGTOmega(**{**TINY, **options}))


def tiny_head(**options) -> nn.Module:
    return filled(VGGTOmegaGeometry(**dict(dict(dim_in=32, patch_size=8, trunk_depth=1, num_heads=2, features=8,
                                                out_channels=(8, 8, 8, 8)), **options)))


def some_images(views=3, height=16, width=24) -> Tensor:
    return torch.rand(2, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(backbone, images):
    states = list(backbone.layers(images))
    return states, backbone.features()


def small_model(config: Path = FULL, profile: str = 'debug', **overrides) -> nn.Module:
    torch.manual_seed(0)
    cfg = load_config(config, profile, {**overrides, 'model.teacher': None})
    return build(MODELS, dict(cfg.model, num_classes=5, teacher=dict(type='GroundTruthTeacher')), 'model')


def listed(name: str) -> dict[str, tuple[int, ...]]:
    lines = [line.split('  ') for line in (KEYS / name).read_text().splitlines() if not line.startswith('#')]
    return {key: tuple(json.loads(shape)) for pattern, shape in lines for key in expand(pattern)}


def released(model: nn.Module) -> dict[str, Tensor]:
    """Return the geometry of `model` as a released file has it: biases of keys, their masks and a mask token included."""
    state = {re.sub('^geometry_head.', '', re.sub('^backbone.', 'aggregator.', name)): value.clone()
             for name, value in model.state_dict().items() if name.startswith(('backbone.', 'geometry_head.'))}
    for name in [name for name in state if name.endswith('.attn.qkv.bias')]:
        third = len(state[name]) // 3
        state[name][third:2 * third] = 5.0
        state[f'{name}_mask'] = torch.ones(3).scatter(0, torch.tensor([1]), 0).repeat_interleave(third)
    return state | {'aggregator.patch_embed.mask_token': torch.ones(1, model.backbone.embed_dim)}


@needs_keys
@pytest.mark.parametrize('name', LISTS)
def test_full_size_names_and_shapes_are_those_of_the_released_file(name):
    expected = listed(name)
    ours = manager().hook.jrs_weight_names(keys=list(expected))
    assert {key for key, own in ours.items() if own is None} == {
        key for key in expected if key.endswith('qkv.bias_mask') or key == 'aggregator.patch_embed.mask_token'}
    with torch.device('meta'):
        parts = dict(backbone=VGGTOmega(), geometry_head=VGGTOmegaGeometry(dim_in=2048, patch_size=16, text=LISTS[name][0]))
    found = {f'{part}.{key}': tuple(value.shape)
             for part, module in parts.items() for key, value in module.state_dict().items()}
    assert found == {own: expected[key] for key, own in ours.items() if own is not None}
    assert owner_of(VGGTOmega) == owner_of(VGGTOmegaGeometry) == 'vggt_omega'


@needs_keys
@pytest.mark.parametrize('name', LISTS)
def test_the_command_compares_a_config_with_the_list(name, capsys):
    assert command('convert', '--keys', KEYS / name, ALONE.with_name(f'{LISTS[name][1]}.py')) == 0
    printed, built = capsys.readouterr().out, [key for key in listed(name) if not key.endswith(('bias_mask', 'mask_token'))]
    assert f'{len(built)} agree in name and shape' in printed and '0 missing in the list' in printed
    assert '0 unknown to the model' in printed


def test_only_special_tokens_see_other_views_in_a_register_layer():
    backbone, images = tiny().eval(), some_images()
    changed = images.clone()
    changed[:, 2] = 1 - changed[:, 2]
    assert backbone.layer_kinds == ('scene', 'special', 'scene', 'scene') and backbone.num_query_layers == 4
    states, features = run(backbone, images)
    special, frame, across = slice(0, 4), slice(0, 16), slice(16, 32)
    tap = features.taps[1]                                                      # of the register layer
    assert torch.equal(tap[:, :, 4:, frame], tap[:, :, 4:, across])
    assert not torch.allclose(tap[:, :, special, frame], tap[:, :, special, across], atol=1e-2)
    torch.testing.assert_close(tap[..., across].flatten(1, 2), states[1].tokens)
    assert states[0].is_patch.tolist() == 3 * ([False] * 4 + [True] * 6)
    alone = tiny(register_layers=(0,)).eval()
    before, after = (run(alone, given)[1].taps[0] for given in (images, changed))
    assert torch.equal(before[:, :2, 4:], after[:, :2, 4:])
    assert not torch.allclose(before[:, :2, special, across], after[:, :2, special, across], atol=1e-3)


def test_register_layers_are_those_of_the_release_as_far_as_there_are_layers_and_others_are_checked():
    assert [tiny(register_layers=None, depth=depth).register_layers for depth in (4, 8)] == [(2,), (2, 6)]
    with pytest.raises(ConfigError, match=r'register_layers \(4,\) must be pairs of the backbone, 0 .. 3'):
        tiny(register_layers=(4,))
    with pytest.raises(ConfigError, match="no patch embedding 'vti'.*'vit'"):
        tiny(patch_embed='vti')
    with pytest.raises(ConfigError, match='tokens of width 1024; embed_dim=16'):
        tiny(patch_embed='dinov3_vitl16')
    with pytest.raises(ConfigError, match="'balanced'"):
        tiny(photo_sizes='balance')
    with pytest.raises(ConfigError, match='multiple of 4; patch_size is 14'):
        tiny_head(patch_size=14)


def test_queries_read_at_all_24_layers_or_pass_over_the_register_layers():
    backbone, part = VGGTOmega(**{**TINY, 'depth': 24, 'register_layers': None}), dict(load_config(FULL).model.queries)
    part |= dict(num_queries=2, num_heads=2)
    for special_layers, layers in ((True, range(24)), (False, set(range(24)) - {2, 6, 9, 14, 20})):
        queries = build(QUERIES, dict(part, special_layers=special_layers), 'model.queries', dim=16, num_layers=24,
                        layer_kinds=backbone.layer_kinds)
        assert queries.cross_layers == tuple(sorted(layers))
    assert part['special_layers'] is True


def test_the_first_view_is_special_and_the_others_may_stand_in_any_order():
    backbone, head, images = tiny().eval(), tiny_head(), some_images(views=4)
    order, swapped = [0, 3, 1, 2], [1, 0, 2, 3]
    with torch.no_grad():
        before, moved, other = (head(run(backbone, images[:, which])[1]) for which in ([0, 1, 2, 3], order, swapped))
    torch.testing.assert_close(moved.depth, before.depth[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.pose_encodings[0], before.pose_encodings[0][:, order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other.depth, before.depth[:, swapped], rtol=1e-2)
    first, later = (backbone.start(images, seen=seen)[0].views[:, :, :4] for seen in (0, 2))
    assert torch.equal(first[:, 1:], later[:, 1:]) and torch.equal(later[:, 0], later[:, 1])
    assert not torch.equal(first[:, 0], first[:, 1])


@pytest.mark.parametrize('lora', [None, dict(rank=2, alpha=2, dropout=0.0)])
def test_biases_of_keys_have_no_effect_and_do_not_learn(lora):
    backbone, images = tiny(lora=lora).train(), some_images()
    biases = [module.bias for name, module in backbone.named_modules() if name.endswith('attn.qkv')]
    assert len(biases) == 1 + 2 * 4
    outputs = []
    for value in (0.0, 3.0):
        with torch.no_grad():
            for bias in biases:
                bias.unflatten(0, (3, -1))[1].fill_(value)
        outputs.append(torch.cat(run(backbone, images)[1].taps))
    assert torch.equal(*outputs)
    outputs[1].square().sum().backward()
    assert not any(bias.unflatten(0, (3, -1))[1].any() for bias in biases)
    for bias in biases if lora is None else biases[:1]:                         # those under adapters do not learn
        query, key, value = bias.grad.unflatten(0, (3, -1))
        assert not key.any() and query.any() and value.any()


def test_freezing_and_adapting():
    backbone = tiny(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2, dropout=0.0)).train()
    learning = [name for name, value in backbone.named_parameters() if value.requires_grad]
    assert len(learning) == 2 * 4 * 2 * 2                                       # two blocks, pairs, qkv and proj, A and B
    assert not backbone.patch_embed.training
    assert all(re.fullmatch(r'(inter_)?frame_blocks\.\d\.attn\.(qkv|proj)\.lora_[ab]', name) for name in learning)
    frozen = tiny(freeze=dict(patch_embed=True))
    assert {name.split('.')[0] for name, value in frozen.named_parameters() if not value.requires_grad} == {'patch_embed'}


@pytest.mark.parametrize('checkpointing', [False, True])
def test_gradients_reach_every_parameter(checkpointing):
    backbone = tiny(activation_checkpointing=checkpointing).train()
    head = tiny_head(activation_checkpointing=checkpointing, views_per_chunk=4,
                     text=dict(depth=1, num_heads=2, frozen=False)).train()
    found = head(run(backbone, some_images())[1])
    values = [found.pose_encodings[0] + 1, found.depth.log(), found.depth_conf.log(), *found.extras.values()]
    sum((value * torch.linspace(0.5, 2, value.numel()).view_as(value)).square().mean() for value in values).backward()
    for part in (backbone, head):
        lacking = [name for name, value in part.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
        assert not lacking, lacking


def test_cameras_read_all_special_tokens_and_no_field_of_view_is_zero():
    head, (_, features) = tiny_head(), run(tiny().eval(), some_images())
    changed = features.special.clone()
    changed[:, 2, 3] = 1 - changed[:, 2, 3]                                     # the last register of the last view
    with torch.no_grad():
        before, after = (head.camera_head(special) for special in (features.special, changed))
        head.camera_head.camera_branch[2].bias[7:] = -100
        narrow = head.camera_head(changed)
    assert not torch.allclose(before[:, 0], after[:, 0], rtol=1e-3)
    assert (narrow[..., 7:] == 0.01).all()


def test_depth_and_confidence_are_those_of_the_logits_at_each_pixel():
    head, (_, features) = tiny_head(), run(tiny().eval(), some_images())
    with torch.no_grad():
        for layer in (head.dense_head.proj, head.dense_head.proj_conf):
            layer.weight.zero_()
        head.dense_head.proj.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())       # 2 x 2 pixels, row-major
        head.dense_head.proj_conf.bias.fill_(0.7)
    found = head(features)
    assert found.depth.shape == found.depth_conf.shape == (2, 3, 16, 24)
    torch.testing.assert_close(found.depth, torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(8, 12).expand(2, 3, 16, 24))
    torch.testing.assert_close(1 - 1 / found.depth_conf, torch.sigmoid(torch.full_like(found.depth, 0.7)))


def test_chunks_and_recomputing_change_no_number():
    features = run(tiny().eval(), some_images())[1]
    whole, parts = tiny_head()(features), tiny_head(views_per_chunk=1, activation_checkpointing=True).train()(features)
    for name in ('depth', 'depth_conf'):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('recompute', [False, True])
def test_the_estimate_of_memory_is_what_a_step_takes(recompute):
    """Within 35 %, as of other models (tests/engine/test_memory.py); inference takes less than is said, by up to a third."""
    views, size = 6, (96, 112)
    model, batch, device = small_model(ALONE, 'rooms', **FOUR), random_batch(views, size=112), torch.device('cpu')
    batch = replace(batch, **{name: getattr(batch, name)[..., :96, :] for name in ('images', 'depth_m', 'instance_ids')})
    for part in (model.backbone, model.geometry_head.dense_head):
        part.activation_checkpointing = recompute

    def step():
        sum(value for name, value in model(batch, mode='loss').items() if name.startswith('loss_')).backward()
    weights = parameter_bytes(model)
    said = training_memory(model, views, size, device).total - 3 * weights - RUNTIME['cpu']     # no optimizer here
    assert said == pytest.approx(peak_bytes(step), rel=0.35)
    if not recompute:
        said = inference_memory(model.eval(), views, size, device).total - weights - RUNTIME['cpu']
        assert 0.6 * said < peak_bytes(lambda: model.reconstruct(batch)) < 1.1 * said


def test_words_are_an_extra_of_length_one_that_reaches_users_and_stays_as_it_is():
    overrides = {'model.geometry_head.text': dict(depth=1, num_heads=2)}
    model = small_model(TEXT, **overrides)
    batch = random_batch(2, size=64)
    scene, = model.eval()(batch, mode='predict')
    assert scene.extras['text_alignment_embedding'].shape == scene.extras['text_alignment_token'].shape == (64,)
    torch.testing.assert_close(scene.extras['text_alignment_embedding'].norm(), torch.tensor(1.0))
    assert not any(value.requires_grad for value in model.geometry_head.text_alignment_head.parameters())
    assert not small_model(ALONE).eval()(batch, mode='predict')[0].extras
    with pytest.raises(ConfigError, match="model.geometry_head.text.*'dept'.*'depth'"):
        tiny_head(text=dict(dept=1))


@pytest.mark.parametrize('profile', ['debug', 'rooms'])
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_learn_two_steps_under_every_profile(path, profile):
    model = small_model(path, profile, **FOUR)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        terms = model(random_batch(2, num_scenes=2, size=64), mode='loss')
        sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
        lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking and all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_its_configs_are_short_and_say_whose_the_weights_are(path):
    cfg = load_config(path)
    assert cfg.model.backbone.type == 'VGGTOmega' and 'FAIR Noncommercial' in cfg.experiment.weights_licence
    assert cfg.model.backbone.patch_size == 16 and cfg.test_dataset.width == cfg.model.backbone.img_size
    assert len(path.read_text().splitlines()) <= 18 and 'Table' in path.read_text().splitlines()[0]


def test_a_released_file_loads_by_its_own_names_and_says_what_it_drops(tmp_path, monkeypatch):
    source, said = filled(small_model(TEXT)).eval(), []
    save_file(released(source), tmp_path / 'text.safetensors')
    monkeypatch.setattr('jrs.io.weights.print_log', lambda words, *rest: said.append(words))
    batch = random_batch(2, size=64)
    for config in (FULL, TEXT):
        model = build_model(load_config(config, 'debug', {'weights': str(tmp_path / 'text.safetensors')})).eval()
        with torch.no_grad():
            found, expected = (one.predict_all(batch) for one in (model, source))
        assert torch.equal(found.depth, expected.depth) and torch.equal(found.pose_encodings[0], expected.pose_encodings[0])
        assert any('are known and no part of this model: dropped' in words for words in said)
        said.clear()


def test_periods_come_from_the_file(tmp_path):
    source = small_model(ALONE)
    source.backbone.rope_embed.periods.mul_(1.01)                               # say, rounded to half precision there
    save_file(released(source), tmp_path / 'geometry.safetensors')
    model = small_model(ALONE)
    load_weights(model, tmp_path / 'geometry.safetensors')
    assert torch.equal(model.backbone.rope_embed.periods, source.backbone.rope_embed.periods)


def test_a_missing_file_is_asked_for_where_it_comes_from(debug_data):
    cfg = load_config(FULL, 'debug', {'weights': 'gone.safetensors', 'data_root': str(debug_data)})
    with pytest.raises(DataError, match='gone.safetensors.*gated.*facebook/VGGT-Omega'):
        check_ready(cfg, 'train_dataset')


def test_names_of_other_files_are_left_alone():
    assert manager().hook.jrs_weight_names(keys=['aggregator.camera_token', 'aggregator.global_blocks.0.norm1.bias']) is None


@pytest.mark.parametrize(('rule', 'size', 'expected'), [
    ('balanced', (400, 600), (416, 624)), ('balanced', (300, 300), (512, 512)), ('balanced', (600, 400), (624, 416)),
    ('balanced', (100, 900), (368, 720)), ('max_size', (400, 600), (336, 512)), ('max_size', (600, 400), (512, 336)),
    ('max_size', (100, 900), (256, 512)), ('max_size', (1000, 100), (512, 256))])
def test_photos_get_the_size_of_the_rule_and_the_map_says_where_pixels_went(rule, size, expected):
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = np.linspace(20, 230, size[1])[None]
    picture[..., 1] = np.linspace(20, 230, size[0])[:, None]
    resized, to_input = sizes.RULES[rule](picture)
    assert resized.shape[:2] == expected
    for v, u in ((size[0] // 2, size[1] // 2), (int(size[0] * 0.55), int(size[1] * 0.46))):
        x, y, _ = to_input @ [u, v, 1]
        assert np.abs(resized[round(y), round(x), :2] - picture[v, u, :2].astype(int)).max() < 6


def test_a_picture_of_one_row_is_a_patch_high():
    assert sizes.max_size(np.zeros((1, 2, 3), np.uint8), 16)[0].shape == (16, 16, 3)
    assert sizes.balanced(np.zeros((2, 1, 3), np.uint8), 16)[0].shape == (16, 16, 3)


@pytest.mark.parametrize(('photo_sizes', 'size'), [('balanced', (48, 80)), ('max_size', (32, 64))])
def test_infer_asks_the_backbone_for_the_size_of_photos(photo_sizes, size, tmp_path):
    Image.fromarray(np.full((50, 90, 3), 90, np.uint8)).save(tmp_path / 'a.png')
    backbone = VGGTOmega(**{**TINY, 'patch_size': 16}, photo_sizes=photo_sizes)
    reconstruct = Reconstructor.__new__(Reconstructor)                          # neither config nor weights matter here
    reconstruct.width, reconstruct.size_unit, reconstruct.model = 64, 16, SimpleNamespace(backbone=backbone)
    photos = reconstruct.load(tmp_path)
    assert photos.images.shape == (1, 3, *size) and photo_sizes in backbone.size_rule


def test_a_token_turns_by_its_place_and_special_ones_do_not():
    """Against a loop: backbones.md section 2."""
    turn = VGGTOmega(**TINY).rope_embed((2, 3), 4)
    heads = torch.randn(1, 2, 10, 8, generator=torch.Generator().manual_seed(0))
    expected = heads.clone()
    for patch in range(6):
        row, column = (2 * (index + 0.5) / 3 - 1 for index in divmod(patch, 3))
        for c in range(4):
            angle = 2 * math.pi * (row if c < 2 else column) / 100 ** (4 * (c % 2) / 8)
            u, v = heads[:, :, 4 + patch, c], heads[:, :, 4 + patch, c + 4]
            expected[:, :, 4 + patch, c] = u * math.cos(angle) - v * math.sin(angle)
            expected[:, :, 4 + patch, c + 4] = v * math.cos(angle) + u * math.sin(angle)
    torch.testing.assert_close(turn(heads), expected)
    assert torch.equal(turn(heads)[:, :, :4], heads[:, :, :4])
