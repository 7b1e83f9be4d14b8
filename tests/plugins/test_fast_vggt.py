"""Token merging: what merges by a slow loop, behind the door of any backbone, who is left alone, its two experiments."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jrs.backbones.vggt import VGGT
from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.errors import ConfigError
from jrs.io.released_keys import released_key
from jrs.layers.attention import fused_attention
from jrs.layers.layout import Layout
from jrs.plugins import load_plugins
from jrs.registry import ATTENTIONS, BACKBONES, MODELS, build, owner_of
from tests._data import ROOT, random_batch
from tests.seeded_weights import fill_module_

SCENE_FIRST = str(ROOT / 'tests' / 'backbones' / 'scene_first.py')
load_plugins(['fast_vggt', 'pi3', SCENE_FIRST])
TokenMerging, Pi3, SceneFirst = ATTENTIONS.get('TokenMerging'), BACKBONES.get('Pi3'), BACKBONES.get('SceneFirst')
merging = sys.modules[TokenMerging.__module__]
FADA, ALONE = (ROOT / 'plugins' / 'fast_vggt' / 'configs' / f'fast_vggt_{name}.py' for name in ('fada', 'geometry'))
PART = dict(type='TokenMerging')
TINY = dict(embed_dim=16, depth=2, num_heads=2, patch_embed='conv', patch_size=16, feature_layers=(0, 1))
MAKERS = dict(VGGT=lambda **options: VGGT(**TINY, **options), Pi3=lambda **options: Pi3(**TINY, **options),
              SceneFirst=lambda **options: SceneFirst(depth=2, feature_layers=(0, 1), **options))
each_backbone = pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)


def filled(part: nn.Module) -> nn.Module:
    fill_module_(part)
    return part


def some_images(scenes=2, views=3, height=80, width=64) -> Tensor:
    return torch.rand(scenes, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def outputs(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    return [state.tokens for state in backbone.layers(images)]


def test_it_belongs_to_the_plugin_and_has_no_weights():
    assert owner_of(TokenMerging) == 'fast_vggt' and not TokenMerging().state_dict()


def by_hand(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, layout: Layout, draws: Tensor,
            ratio: float) -> Tensor:
    """backbones.md section 4 for one scene, token by token; heads (heads, N, width), tokens (N, C)."""
    rows, columns = layout.grid
    where = {place: index for index, place in enumerate(layout.patch_index.tolist())}
    total, destinations = len(tokens), []
    for position in range(total):
        view, place = divmod(position, layout.num_tokens)
        taken = position >= layout.num_views * layout.num_tokens or view == 0 or place not in where
        if not taken:
            row, column = divmod(where[place], columns)
            inside = row // 2 < rows // 2 and column // 2 < columns // 2
            taken = inside and 2 * (row % 2) + column % 2 == draws[view - 1, row // 2, column // 2]
        destinations += [position] if taken else []
    sources = [position for position in range(total) if position not in destinations]
    count = int(0.1 * total)
    protected = [max(1, total // count) * index for index in range(count)]
    like = torch.nn.functional.cosine_similarity(tokens[:, None], tokens[None], dim=-1)
    into = {source: max(destinations, key=lambda other, source=source: like[source, other].item()) for source in sources}
    free = sorted((source for source in sources if source not in protected), key=lambda one: -like[one, into[one]].item())
    merged = free[:min(int(ratio * total), len(free))]
    kept = [source for source in free if source not in merged]

    def reduced(heads):
        means = [heads[:, [one, *(source for source in merged if into[source] == one)]].mean(dim=1) for one in destinations]
        return torch.stack([*(heads[:, one] for one in kept), *means, *(heads[:, one] for one in protected)], dim=1)
    attended = fused_attention(*(reduced(heads)[None] for heads in (query, key, value)), None)[0]
    row = {one: index for index, one in enumerate(kept)} | {one: len(kept) + index for index, one in enumerate(destinations)}
    row |= {source: row[into[source]] for source in merged}
    row |= {one: len(kept) + len(destinations) + index for index, one in enumerate(protected)}
    return torch.stack([attended[:, row[position]] for position in range(total)], dim=1)


@pytest.mark.parametrize('ratio', [0.9, 0.2])
@pytest.mark.parametrize(('size', 'front', 'behind', 'extra'), [((64, 96), 2, 0, 0), ((80, 48), 0, 1, 2),
                                                                ((16, 80), 1, 0, 0)])
def test_attention_is_that_of_a_loop_over_tokens(ratio, size, front, behind, extra):
    """Odd grids, a grid of one row, special tokens before or behind patches, tokens of no view, two scenes."""
    torch.manual_seed(0)
    layout = Layout.of(torch.zeros(2, 3, 3, *size), 16, front, behind, extra)
    total = 3 * layout.num_tokens + extra
    query, key, value = torch.randn(3, 2, 2, total, 4)
    tokens, part = torch.randn(2, total, 8), TokenMerging(ratio=ratio)
    found = part.at(0, layout)(query, key, value, tokens)
    for scene in range(2):
        expected = by_hand(query[scene], key[scene], value[scene], tokens[scene], layout, part._draw(layout), ratio)
        torch.testing.assert_close(found[scene], expected)


@each_backbone
def test_it_changes_the_blocks_across_views_of_any_backbone_from_start_on(make):
    plain, merged = filled(make()), filled(make(global_attention=dict(PART, start=1)))
    assert list(plain.state_dict()) == list(merged.state_dict())
    before, after = outputs(plain, some_images()), outputs(merged, some_images())
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1], atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(before, outputs(filled(make(global_attention=dict(PART, start=9))),
                                                                  some_images()), strict=True))


@each_backbone
@pytest.mark.parametrize('shape', [(1, 80, 64), (2, 16, 16)], ids=['one view', 'few tokens'])
def test_where_there_is_nothing_to_merge_blocks_are_as_they_were_to_the_bit(make, shape, monkeypatch):
    monkeypatch.setattr(merging, 'FEWEST_TOKENS', 14)                           # two views of one patch of VGGT are 12
    images = some_images(2, *shape)
    pairs = zip(outputs(filled(make()), images), outputs(filled(make(global_attention=PART)), images), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@each_backbone
def test_each_scene_has_an_assignment_of_its_own_and_no_global_random_number_is_drawn(make):
    backbone, images, state = filled(make(global_attention=PART)), some_images(), torch.get_rng_state()
    together = outputs(backbone, images)
    assert torch.equal(state, torch.get_rng_state())
    for scene in range(2):
        for both, alone in zip(together, outputs(backbone, images[scene:scene + 1]), strict=True):
            torch.testing.assert_close(both[scene:scene + 1], alone, rtol=1e-4, atol=1e-5)


@each_backbone
@pytest.mark.parametrize('level', ['attention', True])
def test_it_can_be_trained_through_with_any_recomputation(make, level):
    gradients = []
    for checkpointing in (False, level):
        backbone = filled(make(global_attention=dict(PART, ratio=0.3), activation_checkpointing=checkpointing)).train()
        sum(tokens.square().mean() for tokens in outputs(backbone, some_images())).backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters() if value.grad is not None})
        assert all(value.abs().sum() > 0 for name, value in gradients[-1].items() if 'qkv' in name)
    torch.testing.assert_close(*gradients)


def test_similarities_are_made_a_few_rows_at_a_time_and_in_float32(monkeypatch):
    torch.manual_seed(0)
    layout = Layout.of(torch.zeros(1, 4, 3, 128, 128), 16, front=1)
    tokens, found, sizes = torch.randn(1, 4 * 65, 8), [], []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            sizes.extend(value.numel() for value in (result if isinstance(result, tuple) else [result])
                         if isinstance(value, Tensor))
            return result
    split = merging.Split.of(layout, TokenMerging()._draw(layout))
    for values in (2 ** 22, 1500):
        monkeypatch.setattr(merging, 'SIMILARITIES', values)
        with torch.autocast('cpu', dtype=torch.bfloat16), Largest():
            found.append(merging.Merge.of(tokens, split, 0.9))
        largest, sizes[:] = max(sizes), []
    assert found[0].similarity.dtype == torch.float32 and largest <= max(4 * 65 * 8, 1500)
    torch.testing.assert_close(found[0].similarity, found[1].similarity)
    assert torch.equal(found[0].best, found[1].best) and torch.equal(found[0].merged, found[1].merged)


@pytest.mark.parametrize(('options', 'words'), [
    (dict(ratio=0), 'leave global_attention out'), (dict(ratio=1.5), r'\(0, 1\]'), (dict(start=-1), 'counts blocks from 0')])
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        TokenMerging(**options)


def test_draws_of_another_shape_are_refused():
    backbone = filled(MAKERS['VGGT'](global_attention=PART))
    backbone.global_attention.draws = torch.zeros(2, 2, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match=r'= \(2, 2, 2\), got \(2, 2, 3\)'):
        outputs(backbone, some_images())


def small_model(config, profile='debug', **overrides) -> nn.Module:
    torch.manual_seed(0)
    overrides = {'model.teacher': dict(_delete_=True, type='GroundTruthTeacher'), **overrides}
    return build(MODELS, dict(load_config(config, profile, overrides).model, num_classes=5), 'model')


@pytest.mark.parametrize('profile', ['debug', 'rooms'])
@pytest.mark.parametrize('config', [FADA, ALONE], ids=lambda path: path.stem)
def test_its_configs_learn_two_steps_under_every_profile(config, profile):
    model = small_model(config, profile).train()
    assert isinstance(model.backbone.global_attention, TokenMerging)
    learning = [value for value in model.parameters() if value.requires_grad]
    optimizer, totals = torch.optim.SGD(learning, lr=1e-3), []
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
def test_vggts_released_file_loads_by_its_own_names(config, tmp_path):
    source = small_model(ALONE)
    fill_module_(source)
    file = tmp_path / 'model.safetensors'
    save_file({released_key(name, lora=False): value.clone() for name, value in source.state_dict().items()}, str(file))
    state = build_model(load_config(config, 'debug', {'weights': str(file)})).state_dict()
    assert all(torch.equal(state[name], value) for name, value in source.state_dict().items())
