"""A backbone of another patch size and other special tokens meets every insertion, FADA and the mask decoder unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from jrs.config import load_config
from jrs.engine.memory import inference_memory, training_memory
from jrs.errors import ConfigError
from jrs.registry import MODELS, build
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


def test_training_takes_the_patch_size_of_the_backbone(tmp_path, debug_data):
    """Two steps of the command; heights of the training views are multiples of 16."""
    options = [f'{name}={value}' for name, value in WIDTHS.items()]
    words = [leaf(tmp_path), '--profile', 'debug', '--work-dir', tmp_path / 'run', '--cfg-options', *options,
             f'data_root={debug_data}', 'train.iterations=2', 'hooks.pictures.interval=2']
    assert command('train', *words) == 0
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'terms.jsonl').read_text().splitlines()]
    assert len(rows) == 2 and rows[0]['loss_fada'] > 0


def test_a_width_that_is_no_multiple_of_the_backbone_s_patch_is_refused_before_training(tmp_path, debug_data):
    from jrs.engine.build import build_dataset
    with pytest.raises(ConfigError, match='multiple of patch_size 16, got 56'):
        build_dataset(load_config(leaf(tmp_path), 'debug', {'data_root': str(debug_data)}), 'train_dataset')
