"""A backbone of another patch size and other special tokens meets every insertion, FADA and the mask decoder unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from jrs.config import backbone_patch_size, load_config
from jrs.engine.build import build_dataset, build_model, check_ready, patch_size_of
from jrs.engine.inference import Reconstructor
from jrs.engine.memory import inference_memory, training_memory
from jrs.errors import ConfigError, PluginError
from jrs.io.weights import save_weights
from jrs.registry import BACKBONES, MODELS, build
from tests._data import MAIN, ROOT, command, random_batch

FOREIGN = Path(__file__).with_name('foreign.py')
DECODER = ROOT / 'configs' / 'baselines' / 'vggt_mask2former_6l.py'
INSERTIONS = {                                                                  # -> layers of the six that read
    'AllLayers': (0, 1, 2, 3, 4, 5), 'EarlyLayers': (0, 1, 2), 'LateLayers': (3, 4, 5), 'InterleavedLayers': (1, 3, 5),
    'ListedLayers': (0, 4)}
QUERIES = [dict(type=name, **(dict(layers=[4, 0]) if name == 'ListedLayers' else {})) for name in INSERTIONS]
WIDTHS = {f'{name}.width': 64 for name in ('train_dataset', 'val_dataset', 'test_dataset')}


def leaf(folder: Path, base: Path = MAIN, plugins: tuple[str, ...] = ()) -> Path:
    """Return a config that puts the foreign backbone in the place of VGGT."""
    path = folder / 'foreign_row.py'
    path.write_text(f'_base_ = {str(base)!r}\nplugins = {[*plugins, str(FOREIGN)]}\n'
                    "model = dict(backbone=dict(_delete_=True, type='Foreign'))\n")
    return path


def made(cfg, **backbone) -> nn.Module:
    torch.manual_seed(0)
    return build(MODELS, dict(cfg.model, backbone=dict(cfg.model.backbone, **backbone), num_classes=5), 'model')


def batch(num_scenes: int = 1, views: int = 3):
    return random_batch(views, size=64, num_scenes=num_scenes)


def assert_learns(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every term is finite and reaches every parameter that learns; returns the terms."""
    terms = model(batch(2), mode='loss')
    assert all(value.isfinite() for value in terms.values())
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not lacking, lacking
    return terms


@pytest.mark.parametrize('insertion', QUERIES, ids=lambda insertion: insertion['type'])
def test_every_insertion_reads_its_layers_and_learns_with_fada(tmp_path, insertion):
    cfg = load_config(leaf(tmp_path), 'debug', {'model.queries.insertion': dict(insertion, _delete_=True)})
    model = made(cfg)
    assert model.queries.cross_layers == INSERTIONS[insertion['type']]
    attention = model.predict_all(batch(2), track_views=True).queries.view_attention
    assert attention.shape == (len(model.queries.cross_layers), 2, 12, 3)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:3]))
    assert assert_learns(model)['loss_fada'] > 0


def test_permuting_the_views_permutes_view_attention_and_leaves_the_queries(tmp_path):
    model, scene, order = made(load_config(leaf(tmp_path), 'debug')).eval(), batch(), [2, 0, 1]
    before = model.predict_all(scene, track_views=True).queries
    scene.images = scene.images[:, order]
    after = model.predict_all(scene, track_views=True).queries
    assert (before.view_attention - before.view_attention[..., order]).abs().max() > 1e-3
    torch.testing.assert_close(after.view_attention, before.view_attention[..., order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.embedding, before.embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('base', [MAIN, DECODER], ids=['InsertedQueries', 'MaskDecoder'])
def test_only_the_index_vectors_say_which_token_is_what(tmp_path, base):
    """Shuffled over all views, with their index vectors, the same tokens give the same predictions."""
    plugins = ('mask_decoder',) if base == DECODER else ()
    cfg = load_config(leaf(tmp_path, base, plugins), 'debug')
    plain, shuffled = made(cfg).eval(), made(cfg, shuffle=True).eval()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), shuffled.parameters(), strict=True))
    found, again = (model.predict_all(batch(), track_views=True) for model in (plain, shuffled))
    torch.testing.assert_close(again.depth, found.depth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.queries.mask_logits, found.queries.mask_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.pose_encodings[-1], found.pose_encodings[-1], rtol=1e-4, atol=1e-5)
    if base == MAIN:
        torch.testing.assert_close(again.queries.view_attention, found.queries.view_attention, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('promised', [5, 8])
def test_a_backbone_that_hands_over_other_layers_than_it_promises_is_named(tmp_path, monkeypatch, promised):
    model = made(load_config(leaf(tmp_path), 'debug'))
    monkeypatch.setattr(type(model.backbone), 'num_query_layers', promised)
    with pytest.raises(PluginError, match=rf'Foreign has num_query_layers {promised} .* \[0, 1, 2, 3, 4, 5\]'):
        model(batch(), mode='predict')


def test_masked_attention_hides_only_patches(tmp_path):
    cfg = load_config(leaf(tmp_path), 'debug', {'model.queries.mask_attention': dict(threshold=0.5)})
    model = made(cfg)
    state = model.queries.start(1)
    for layer in model.backbone.layers(batch().images):
        state = model.queries.read(state, layer)
        if state.allowed is not None:
            assert state.allowed[:, :, ~layer.is_patch].all() and not state.allowed.all()
    assert layer.is_patch.sum() == 3 * 16 and len(layer.is_patch) == 1 + 3 * (17 + 16)


def test_the_mask_decoder_learns_from_its_taps(tmp_path):
    assert_learns(made(load_config(leaf(tmp_path, DECODER, ('mask_decoder',)), 'debug')))


def test_without_a_reference_view_the_first_camera_is_the_world(tmp_path):
    model = made(load_config(leaf(tmp_path), 'debug')).eval()
    scene = model(batch(), mode='predict')[0]
    torch.testing.assert_close(scene.cam_from_world[0], torch.eye(4), atol=1e-6, rtol=0)
    assert (scene.cam_from_world[1] - torch.eye(4)).abs().max() > 1e-4
    assert scene.depth.shape == (3, 64, 64) and scene.instances.masks.shape[1:] == (3, 32, 32)


def test_what_memory_a_run_needs_is_known_without_the_optional_attributes(tmp_path):
    model, cpu = made(load_config(leaf(tmp_path), 'debug')), torch.device('cpu')
    assert 0 < inference_memory(model, 2, (64, 64), cpu).total and 0 < training_memory(model, 2, (64, 64), cpu).total


def test_training_and_scoring_take_the_patch_size_of_the_backbone_and_say_the_width(tmp_path, debug_data, capsys):
    """Two steps of the command; heights and widths of all views are multiples of 16, the profile's 56 becomes 64."""
    words = ['--cfg-options', f'data_root={debug_data}', 'train.iterations=2', 'hooks.pictures.interval=2',
             'test_dataset.max_views=2']
    assert command('train', leaf(tmp_path), '--profile', 'debug', '--work-dir', tmp_path / 'run', *words) == 0
    assert 'train_dataset.width is 64, not 56: the nearest multiple of the patch size 16' in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'terms.jsonl').read_text().splitlines()]
    assert len(rows) == 2 and rows[0]['loss_fada'] > 0
    saved = load_config(tmp_path / 'run' / 'config.py')
    assert [saved[name].width for name in ('train_dataset', 'val_dataset', 'test_dataset')] == [64, 64, 64]
    assert command('test', tmp_path / 'run' / 'config.py', tmp_path / 'run' / 'weights.safetensors') == 0
    found = Reconstructor(checkpoint=tmp_path / 'run' / 'weights.safetensors', device='cpu')
    assert found.width == 64 and found.load(sorted(debug_data.rglob('color/0.*'))[:1]).images.shape[-1] == 64


@pytest.mark.parametrize(('patch_size', 'widths'), [(8, (56, 112, 520)), (14, (56, 112, 518)), (16, (64, 112, 512)),
                                                    (20, (60, 120, 520)), (600, (600, 600, 600))])
def test_a_profile_s_width_becomes_the_nearest_that_the_patches_divide(tmp_path, monkeypatch, patch_size, widths):
    config = leaf(tmp_path)
    monkeypatch.setattr(BACKBONES.lookup(load_config(config).model.backbone.type, ''), 'patch_size', patch_size)
    for profile, width in zip(('debug', 'rooms', 'paper'), widths, strict=True):
        cfg = load_config(config, profile)
        assert {cfg[name].width for name in ('train_dataset', 'val_dataset', 'test_dataset')} == {width}, profile


def test_a_width_that_somebody_asks_for_stays_and_is_refused_before_training(tmp_path, debug_data):
    options = {'data_root': str(debug_data), 'train_dataset.width': 56}
    config = leaf(tmp_path)
    own = tmp_path / 'own.py'
    own.write_text(f'_base_ = {str(config)!r}\nprofiles = dict(debug=dict(train_dataset=dict(width=56)))\n')
    for file, changes in ((config, options), (own, dict(data_root=str(debug_data)))):
        cfg = load_config(file, 'debug', changes)
        assert cfg.train_dataset.width == 56 and cfg.test_dataset.width == 64
        with pytest.raises(ConfigError, match='multiple of patch_size 16, got 56'):
            build_dataset(cfg, 'train_dataset')


def test_a_patch_size_that_only_the_built_backbone_knows_reaches_the_data(tmp_path, debug_data):
    folder = tmp_path / 'late'
    folder.mkdir()
    (folder / '__init__.py').write_text(
        f"from jrs.plugins import load_plugins\nload_plugins([{str(FOREIGN)!r}])\nfrom jrs.registry import BACKBONES\n"
        "Foreign = BACKBONES.get('Foreign')\n\n\n@BACKBONES.register_module()\nclass Late(Foreign):\n"
        "    patch_size = property(lambda self: 32)\n")
    path = tmp_path / 'late.py'
    path.write_text(f"_base_ = {str(MAIN)!r}\nplugins = [{str(folder)!r}]\n"
                    "model = dict(backbone=dict(_delete_=True, type='Late'))\n")
    options = {'data_root': str(debug_data), **WIDTHS, 'train.validate_every': 0}
    try:
        cfg = load_config(path, 'debug', options)
        assert backbone_patch_size(cfg) is None and cfg.test_dataset.width == 64
        check_ready(cfg, 'train_dataset', 'test_dataset')
        model = build_model(cfg)
        data = build_dataset(cfg, 'test_dataset', patch_size=patch_size_of(model))
        assert data.patch_size == 32 and data[0].images.shape[-2] % 32 == 0
    finally:
        BACKBONES._module_dict.pop('Late', None)


def test_a_teacher_of_other_patches_teaches_a_student(tmp_path):
    """The student has patches of 16, the teacher of 14; images of 64 pixels."""
    torch.manual_seed(0)
    teacher = load_config(ROOT / 'configs' / 'geometry' / 'segvggt_geometry_only.py', 'debug').model
    teacher = dict(teacher, losses=None, weights=None, teacher=None)
    save_weights(build(MODELS, teacher, 'model'), tmp_path / 'teacher.safetensors', {})
    cfg = load_config(leaf(tmp_path), 'debug')
    model = build(MODELS, dict(cfg.model, num_classes=5, teacher=dict(
        type='PretrainedTeacher', model=teacher, checkpoint=str(tmp_path / 'teacher.safetensors'))), 'model')
    assert model.backbone.patch_size == 16
    assert {'loss_camera', 'loss_depth'} <= set(assert_learns(model))
    assert model.teacher.model.backbone.patch_size == 14
