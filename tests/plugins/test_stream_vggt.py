"""Causal views: who sees whom, streams equal one pass on any backbone, bounded caches, its two experiments."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jrs.backbones.vggt import VGGT
from jrs.cli.convert import expand
from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError
from jrs.heads.camera import CameraHead
from jrs.io.released_keys import released_key
from jrs.layers.attention import SceneAttention, fused_attention
from jrs.layers.layout import Layout
from jrs.plugins import load_plugins
from jrs.registry import ATTENTIONS, BACKBONES, MODELS, build, owner_of
from jrs.trials.model import try_backbone
from tests._data import ROOT, random_batch
from tests.seeded_weights import fill_module_

SCENE_FIRST = str(ROOT / 'tests' / 'backbones' / 'scene_first.py')
load_plugins(['stream_vggt', 'pi3', SCENE_FIRST])
CausalViews, KeyValueCache = ATTENTIONS.get('CausalViews'), ATTENTIONS.get('KeyValueCache')
ReleasedTrunk, Pi3 = ATTENTIONS.get('ReleasedTrunk'), BACKBONES.get('Pi3')
FADA, ALONE = (ROOT / 'plugins' / 'stream_vggt' / 'configs' / f'stream_vggt_{name}.py' for name in ('fada', 'geometry'))
KEYS = Path(os.environ.get('JRS_SPEC', ROOT.parent / 'shared' / 'spec')) / 'backbones_keys' / 'streamvggt.txt'
needs_keys = pytest.mark.skipif(not KEYS.is_file(), reason=f'{KEYS} is not there; set JRS_SPEC to the folder that has it')
TINY = dict(embed_dim=16, depth=2, num_heads=2, patch_embed='conv', feature_layers=(0, 1))
each_backbone = pytest.mark.parametrize('kind', [VGGT, Pi3])
each_bound = pytest.mark.parametrize('bound', [{}, dict(window=2), dict(window=1, first=2), dict(window=3, first=0)],
                                     ids=str)


def filled(part: nn.Module) -> nn.Module:
    fill_module_(part)
    return part.eval()


def some_images(scenes=2, views=6, height=28, width=42) -> Tensor:
    return torch.rand(scenes, views, 3, height, width, generator=torch.Generator().manual_seed(1))


@contextmanager
def streaming(*parts):
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.streaming())
        yield


def run(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return the tokens of all layers (B, V, P, C) and the geometry tokens."""
    states = [state.tokens.unflatten(1, (images.shape[1], -1)) for state in backbone.layers(images)]
    return *states, backbone.features().geometry_tokens


@torch.no_grad()
@each_bound
@pytest.mark.parametrize('part', [CausalViews, KeyValueCache])
@pytest.mark.parametrize('extra', [0, 2])
def test_a_view_sees_what_it_should_and_nothing_else(bound, part, extra):
    layout = Layout.of(torch.zeros(1, 6, 3, 28, 28), 14, front=1, num_extra=extra)
    query, key, value = torch.randn(3, 1, 2, 30 + extra, 4)
    found = part(**bound).at(0, layout)(query, key, value, None)
    view, _ = layout.scene_index()
    window, first = bound.get('window') or 6, bound.get('first', 1)
    sees = (view[None] <= view[:, None]) & ((view[None] > view[:, None] - window) | (view[None] < first))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@each_backbone
@each_bound
@pytest.mark.parametrize('sizes', [(1,) * 6, (2, 1, 3)], ids=str)
def test_a_stream_equals_one_pass_on_any_backbone_whatever_comes_at_a_time(kind, bound, sizes):
    backbone, images = filled(kind(**TINY, global_attention=dict(type='CausalViews', **bound))), some_images()
    once = run(backbone, images)
    with streaming(backbone.global_attention):
        parts = zip(*(run(backbone, part) for part in images.split(sizes, dim=1)), strict=True)
        for expected, found in zip(once, parts, strict=True):
            torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-5)
        assert backbone.global_attention.seen == 6
    assert all(torch.equal(*pair) for pair in zip(once, run(backbone, images), strict=True))


@torch.no_grad()
def test_later_views_change_nothing_of_earlier_ones_and_earlier_ones_do():
    backbone, images = filled(VGGT(**TINY, global_attention=dict(type='CausalViews'))), some_images()
    changed = images.clone()
    changed[:, 3] = 1 - changed[:, 3]
    for before, after in zip(run(backbone, images), run(backbone, changed), strict=True):
        assert torch.equal(before[:, :3], after[:, :3])
        assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-4)


@torch.no_grad()
def test_a_cache_goes_on_until_it_is_reset_and_a_bounded_one_does_not_grow():
    bounded = filled(VGGT(**TINY, global_attention=dict(type='KeyValueCache', window=2, first=1)))
    whole = filled(VGGT(**TINY, global_attention=dict(type='KeyValueCache')))
    images, sizes = some_images(scenes=1, views=8), {}
    for name, backbone in (('bounded', bounded), ('whole', whole)):
        for view in images.split(1, dim=1):
            run(backbone, view)
            sizes.setdefault(name, []).append(backbone.global_attention.held_bytes())
    one = 2 * 2 * (5 + 6) * 16 * 4                                              # keys, values; blocks; tokens; width
    assert sizes['bounded'] == [one, 2 * one, *[3 * one] * 6]
    assert sizes['whole'] == [one * count for count in range(1, 9)]
    first = run(whole, images[:, :1])[0]
    whole.global_attention.reset()
    assert whole.global_attention.seen == whole.global_attention.held_bytes() == 0
    assert not torch.allclose(first, run(whole, images[:, :1])[0], atol=1e-3)


def test_a_cache_refuses_gradients_recomputation_and_an_interrupted_stream():
    backbone, images = filled(VGGT(**TINY, global_attention=dict(type='KeyValueCache'))), some_images()
    with pytest.raises(ConfigError, match=r'torch.no_grad\(\); CausalViews is for training'):
        run(backbone, images)
    with pytest.raises(ConfigError, match='KeyValueCache is for inference'):
        VGGT(**TINY, global_attention=dict(type='KeyValueCache'), activation_checkpointing=True)
    backbone.global_attention.reset()
    with torch.no_grad():
        next(backbone.layers(images))
        with pytest.raises(RuntimeError, match='block 1 has seen 0: an earlier pass was not run to its end'):
            run(backbone, images)
        backbone.global_attention.reset()
        run(backbone, images)
        with pytest.raises(RuntimeError, match='2 scenes and then 1'):
            run(backbone, images[:1])


def test_what_cannot_stream_says_so():
    with pytest.raises(ConfigError, match='FusedAttention sees all views'):
        ATTENTIONS.get('FusedAttention')().streaming()
    with pytest.raises(ConfigError, match='window >= 1'):
        CausalViews(window=0)
    with pytest.raises(ConfigError, match='one view at a time'), torch.no_grad():
        part = ReleasedTrunk(1)
        with part.streaming():
            part.at(0, Layout.of_tokens(2, torch.device('cpu')))


@torch.no_grad()
def test_a_camera_trunk_is_counted_on_over_its_steps_and_streams_with_a_cache_each():
    class Noting(SceneAttention):
        def __init__(self):
            super().__init__()
            self.told = []

        def at(self, block, layout):
            self.told.append((block, layout.num_views, layout.num_tokens))
            return fused_attention
    plain = filled(CameraHead(16, trunk_depth=2, num_heads=2, iterations=3))
    head = filled(CameraHead(16, trunk_depth=2, num_heads=2, iterations=3, trunk_attention=dict(type='CausalViews')))
    assert head.streams and not plain.streams and list(plain.state_dict()) == list(head.state_dict())
    tokens = torch.randn(2, 5, 16)
    noting, whole = Noting(), plain._refine(tokens)
    plain.trunk_attention = noting
    assert all(torch.equal(*pair) for pair in zip(whole, plain._refine(tokens), strict=True))
    assert noting.told == [(block, 5, 1) for block in range(6)]
    causal = head._refine(tokens)
    assert not torch.allclose(causal[-1][:, 0], whole[-1][:, 0], atol=1e-3)
    torch.testing.assert_close(causal[-1][:, -1:], head._refine(tokens)[-1][:, -1:])
    with streaming(head.trunk_attention):
        views = [head._refine(view) for view in tokens.split(1, dim=1)]
    for step, expected in enumerate(causal):
        torch.testing.assert_close(torch.cat([view[step] for view in views], dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_causal_as_its_attention_is_and_who_only_says_so_is_found():
    streaming_one = filled(BACKBONES.get('StreamVGGT')(**TINY))
    claims = filled(type('Claims', (VGGT,), dict(causal=True))(**TINY))
    assert streaming_one.causal and not VGGT(**TINY).causal and not list(try_backbone(streaming_one))
    assert list(try_backbone(claims)) == ['causal is True, and a third view changes what comes out of the first two']


@pytest.mark.parametrize('level', ['attention', True])
def test_causal_views_can_be_trained_with_any_recomputation(level):
    gradients = []
    for checkpointing in (False, level):
        backbone = filled(VGGT(**TINY, global_attention=dict(type='CausalViews', window=2),
                               activation_checkpointing=checkpointing)).train()
        sum(value.square().mean() for value in run(backbone, some_images())).backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters() if value.grad is not None})
    torch.testing.assert_close(*gradients)


@needs_keys
def test_full_size_keys_and_shapes_are_those_of_the_released_file():
    """All but the tracking head and the point head, which are skipped by name when a file is loaded."""
    expected = {}
    for line in KEYS.read_text().splitlines():
        if not line.startswith('#'):
            pattern, shape = line.split('  ')
            expected |= dict.fromkeys(expand(pattern), tuple(json.loads(shape)))
    model = dict(load_config(ALONE).model, teacher=None)
    with torch.device('meta'):
        state = build(MODELS, model, 'model').state_dict()
    built = {released_key(name, lora=False): tuple(value.shape) for name, value in state.items()}
    assert len(expected) == 1797 and set(built.items()) <= set(expected.items())
    assert {name.partition('.')[0] for name in set(expected) - set(built)} == {'track_head', 'point_head'}


def small_model(config, profile='debug', **overrides) -> nn.Module:
    torch.manual_seed(0)
    overrides = {'model.teacher': dict(_delete_=True, type='GroundTruthTeacher'), **overrides}
    return build(MODELS, dict(load_config(config, profile, overrides).model, num_classes=5), 'model')


@pytest.mark.parametrize('profile', ['debug', 'rooms'])
@pytest.mark.parametrize('config', [FADA, ALONE], ids=lambda path: path.stem)
def test_its_configs_learn_two_steps_under_every_profile(config, profile):
    model = small_model(config, profile).train()
    assert isinstance(model.backbone.global_attention, CausalViews) and model.camera_head.streams
    assert owner_of(type(model.backbone)) == 'stream_vggt' and 'CC BY-NC-SA' in model.backbone.weights_licence
    optimizer, totals = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-3), []
    for _ in range(2):
        terms = model(random_batch(3), mode='loss')
        totals.append(sum(value for name, value in terms.items() if name.startswith('loss_')))
        optimizer.zero_grad()
        totals[-1].backward()
        assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        optimizer.step()
    assert totals[1].isfinite() and totals[1] != totals[0]


def test_its_experiment_freezes_and_adapts_as_its_parent():
    options = {'model.backbone.freeze': dict(patch_embed=True, blocks=True), 'model.backbone.lora': dict(rank=2, alpha=2)}
    learning = [name for name, value in small_model(FADA, **options).backbone.named_parameters() if value.requires_grad]
    assert learning and all('.attn.' in name and 'lora_' in name for name in learning)


@pytest.mark.parametrize('config', [FADA, ALONE], ids=lambda path: path.stem)
def test_its_released_file_loads_by_its_own_names(config, tmp_path):
    source = small_model(ALONE)
    fill_module_(source)
    state = {released_key(name, lora=False): value.clone() for name, value in source.state_dict().items()}
    save_file(state | {'track_head.tracker.virual_tracks': torch.zeros(1, 2)}, str(tmp_path / 'model.safetensors'))
    loaded = build_model(load_config(config, 'debug', {'weights': str(tmp_path / 'model.safetensors')})).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())
