"""What the base class of backbones does once for all: order of views, places of tokens, recomputation, door, checks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jrs.backbones.steps import State, Step, StepBackbone
from jrs.backbones.vggt import VGGT
from jrs.config import load_config
from jrs.engine.memory import (
    OutOfMemory,
    announce,
    inference_memory,
    naming_views_that_fit,
    parameter_bytes,
    training_memory,
    without_estimate,
)
from jrs.errors import ConfigError, DataError, PluginError
from jrs.layers.attention import SceneAttention, fused_attention
from jrs.layers.block import Block
from jrs.layers.layout import Layout
from jrs.plugins import load_plugins
from jrs.registry import ATTENTIONS, BACKBONES, MODELS, PRETEXTS, QUERIES, build
from jrs.structures import Priors
from tests._data import MAIN, ROOT, random_batch
from tests.seeded_weights import fill_module_

SCENE_FIRST = str(ROOT / 'tests' / 'backbones' / 'scene_first.py')
PRETEXTS.names()
load_plugins([SCENE_FIRST])
SceneFirst = BACKBONES.get('SceneFirst')
TINY = dict(embed_dim=16, depth=3, num_heads=2, patch_embed='conv', feature_layers=(0, 2))


def some_images(scenes=2, views=3, height=32, width=48):
    return torch.rand(scenes, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(backbone, images):
    states = list(backbone.layers(images))
    return states, backbone.features()


def filled(part):
    fill_module_(part)
    return part


class Small(StepBackbone):
    """One special token, then patches of 16 pixels; the blocks are those of `scopes`, each with its own query."""

    scopes = ('view', 'scene', 'view', 'scene')
    queries = (1, 3)
    num_special = 1

    def __init__(self, feature_layers=(0, 1), **options) -> None:
        super().__init__(16, 16, feature_layers, **options)
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 16, 16)
        self.special = nn.Parameter(torch.randn(1, 16))
        self.blocks = nn.ModuleList(Block(16, 2, init_values=0.5) for _ in self.scopes)
        self.complete()

    def start(self, images):
        patches = self.patches(images.flatten(0, 1)).flatten(2).mT.unflatten(0, images.shape[:2])
        tokens = torch.cat([self.special.expand(*images.shape[:2], -1, -1), patches], dim=2)
        return State(tokens), Layout.of(images, 16, front=1)

    def steps(self):
        return [Step(block, scope, query=index in self.queries)
                for index, (block, scope) in enumerate(zip(self.blocks, self.scopes, strict=True))]


class Reordering(Small):
    """Puts the views of each scene in an order of its own before the second step, and treats the first of it apart."""

    def before(self, index, state):
        if index != 1:
            return state
        order = state.views.mean(dim=(2, 3)).argsort(dim=1)                     # (B, V)
        views = state.views.take_along_dim(order[..., None, None], dim=1)
        views = torch.cat([views[:, :1] * 2, views[:, 1:]], dim=1)
        return replace(state, views=views, order=order)


class SpecialOnly(Small):
    """Lets only special tokens see other views in the second pair."""

    scopes = ('view', 'scene', 'view', 'special')


def test_a_pass_of_vggt_is_its_blocks_in_turn_and_no_further_operation():
    """Written out by hand, with the same tensors at the end and the same list of operations inside the pairs."""
    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.found = []

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            self.found.append(str(operation))
            return operation(*args, **(kwargs or {}))
    torch.manual_seed(0)
    backbone, images = filled(VGGT(**TINY)), some_images(height=28, width=42)
    with torch.no_grad(), Count() as count:
        states, features = run(backbone, images)
    with torch.no_grad(), Count() as by_hand:
        state, layout = backbone.start(images)
        layout.scene_index()
        tokens, taps = state.views, []
        for index, (frame, over_all) in enumerate(zip(backbone.frame_blocks, backbone.global_blocks, strict=True)):
            before = frame(tokens.flatten(0, 1), layout.rotations['view']).view(tokens.shape)
            tokens = over_all(before.flatten(1, 2), layout.rotations['scene']).view(tokens.shape)
            taps += [torch.cat([before, tokens], dim=-1)] if index in (0, 2) else []
            given = tokens.flatten(1, 2)
        camera = taps[-1][:, :, 0]
    assert torch.equal(states[-1].tokens, given) and torch.equal(features.geometry_tokens, camera)
    assert all(torch.equal(*pair) for pair in zip(features.taps, taps, strict=True))
    assert sorted(name for name in count.found if 'view' not in name) == sorted(
        name for name in by_hand.found if 'view' not in name)


def test_tokens_may_stand_behind_the_patches_and_belong_to_no_view():
    backbone = filled(SceneFirst(depth=2, feature_layers=(0, 1)))
    states, features = run(backbone, some_images())
    assert backbone.num_query_layers == 2 and backbone.layer_kinds == ('scene', 'scene')
    per_view = 2 * 3 + 2
    assert states[0].tokens.shape == (2, 3 * per_view + 1, 24)
    assert states[0].view_index.tolist() == [view for view in range(3) for _ in range(per_view)] + [-1]
    assert states[0].is_patch.tolist() == 3 * ([True] * 6 + [False] * 2) + [False]
    assert features.patch_index.tolist() == [0, 1, 2, 3, 4, 5] and features.scene_tokens.shape == (2, 1, 24)
    assert [tap.shape for tap in features.taps] == 2 * [(2, 3, per_view, 48)]
    torch.testing.assert_close(features.taps[1][..., 24:].flatten(1, 2), states[1].tokens[:, :-1])
    torch.testing.assert_close(features.special, features.taps[1][:, :, 6:])
    torch.testing.assert_close(features.scene_tokens, states[1].tokens[:, -1:])


def test_views_leave_in_the_order_of_the_images_whatever_the_model_did():
    """What a view gets follows its image when the images come in another order."""
    backbone, images = filled(Reordering()), some_images(views=4)
    states, features = run(backbone, images)
    order = [2, 0, 3, 1]
    moved_states, moved = run(backbone, images[:, order])
    orders = backbone.before(1, backbone.start(images)[0]).order
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], torch.arange(4))
    for tap, again in zip(features.taps, moved.taps, strict=True):
        assert not torch.allclose(tap, tap[:, order], atol=1e-2)
        torch.testing.assert_close(again, tap[:, order], rtol=1e-4, atol=1e-5)
    for state, again in zip(states, moved_states, strict=True):
        tokens = state.tokens.unflatten(1, (4, -1))
        torch.testing.assert_close(again.tokens, tokens[:, order].flatten(1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[1].tokens, features.taps[1][..., 16:].flatten(1, 2))


def test_what_a_watched_step_saw_is_in_the_order_of_the_images():
    backbone, images = filled(Reordering()), some_images(views=4)
    with backbone.watching([backbone.query_step(1)]) as watched:
        states, features = run(backbone, images)
    step = watched[3]
    torch.testing.assert_close(step.by_view(step.given), states[1].tokens.unflatten(1, (4, -1)))
    torch.testing.assert_close(step.by_view(step.seen), features.taps[1][..., :16])


def test_a_special_step_changes_special_tokens_only():
    backbone = filled(SpecialOnly())
    assert backbone.layer_kinds == ('scene', 'special')
    states, features = run(backbone, some_images())
    before, after = features.taps[1].split(16, dim=-1)
    assert torch.equal(before[:, :, 1:], after[:, :, 1:]) and not torch.allclose(before[:, :, 0], after[:, :, 0], atol=1e-3)
    changed = some_images()
    changed[:, 2] = 1 - changed[:, 2]
    assert not torch.allclose(run(backbone, changed)[1].taps[1][:, 0, 0, 16:], after[:, 0, 0], atol=1e-4)


@pytest.mark.parametrize('make', [lambda level: VGGT(**TINY, activation_checkpointing=level),
                                  lambda level: SceneFirst(activation_checkpointing=level),
                                  lambda level: Reordering(activation_checkpointing=level)],
                         ids=['VGGT', 'SceneFirst', 'Reordering'])
def test_every_level_of_recomputation_gives_the_same_gradients(make):
    gradients, kept = [], []
    for level in (False, 'attention', True):
        torch.manual_seed(0)
        backbone, total = filled(make(level)).train(), [0]

        def pack(tensor, total=total):
            total[0] += tensor.numel()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states, features = run(backbone, some_images(height=112, width=112))
            loss = sum(tap.square().mean() for tap in features.taps) + states[0].tokens.mean()
        loss.backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters() if value.grad is not None})
        kept.append(total[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])
    assert kept[2] < kept[0] / 2


def test_attention_is_not_computed_again_where_its_outputs_are_kept():
    runs = []
    for level in (False, 'attention', True):
        torch.manual_seed(0)
        backbone, calls = SceneFirst(depth=2, feature_layers=(0, 1), activation_checkpointing=level).train(), []

        class Count(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, args=(), kwargs=None, calls=calls):
                name = str(operation)
                if 'scaled_dot_product' in name and 'backward' not in name:
                    calls.append(name)
                return operation(*args, **(kwargs or {}))
        with Count():
            run(backbone, some_images())[1].taps[-1].square().sum().backward()
        runs.append(len(calls))
    assert runs == [4, 4, 8]


class Halved(SceneAttention):
    """Attention whose result is halved in blocks from `first` on; notes what it is told."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.first, self.told = first, []

    def at(self, block, layout):
        self.told.append((block, layout.num_views, layout.grid, layout.num_tokens, layout.num_extra))
        if block < self.first:
            return None
        return lambda q, k, v, x: fused_attention(q, k, v, x) / 2


@pytest.mark.parametrize('make', [lambda **options: VGGT(**{**TINY, 'patch_size': 16}, **options), SceneFirst, Small],
                         ids=['VGGT', 'SceneFirst', 'Small'])
def test_the_door_stands_in_every_block_across_views_of_any_backbone(make, monkeypatch):
    monkeypatch.setitem(ATTENTIONS._module_dict, 'Halved', Halved)
    torch.manual_seed(0)
    plain, changed = filled(make()), filled(make(global_attention=dict(type='Halved', first=1)))
    assert list(plain.state_dict()) == list(changed.state_dict())
    before, after = (run(backbone, some_images())[0] for backbone in (plain, changed))
    assert torch.equal(before[0].tokens, after[0].tokens)
    assert not torch.allclose(before[1].tokens, after[1].tokens, atol=1e-3)
    across = sum(step.scope != 'view' for step in changed.steps())
    extra = 1 if make is SceneFirst else 0
    per_view = 6 + changed.num_special
    assert changed.global_attention.told == [(block, 3, (2, 3), per_view, extra) for block in range(across)]
    named = filled(make(global_attention=dict(type='FusedAttention')))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(before, run(named, some_images())[0], strict=True))


def test_what_must_not_run_twice_refuses_recomputation_and_what_a_stream_needs_is_asked_for(monkeypatch):
    class Cache(Halved):
        recomputable, seen = False, 2
    monkeypatch.setitem(ATTENTIONS._module_dict, 'Cache', Cache)
    with pytest.raises(ConfigError, match='Cache is for inference'):
        Small(global_attention=dict(type='Cache'), activation_checkpointing=True)
    with pytest.raises(ConfigError, match='Small cannot go on with a stream'):
        next(Small(global_attention=dict(type='Cache')).layers(some_images()))
    streamed = filled(VGGT(**TINY, global_attention=dict(type='Cache')))
    first = streamed.start(some_images(height=28, width=28), seen=2)[0].views[:, 0]
    assert torch.equal(first[0, 0], streamed.camera_token[0, 1, 0])                         # not the first view's


@pytest.mark.parametrize(('scopes', 'queries', 'words'), [
    (('view', 'view'), (1,), 'no step has let views see each other'), (('view', 'all'), (1,), "got 'all'"),
    (('view', 'scene'), (), 'needs a step with query=True'), (('scene', 'view', 'view'), (0, 2), 'queries read layer 1')])
def test_steps_that_queries_could_not_read_are_refused(scopes, queries, words):
    with pytest.raises(PluginError, match=words):
        type('Odd', (Small,), dict(scopes=scopes, queries=queries))(feature_layers=(0,))


@pytest.mark.parametrize(('options', 'words'), [
    (dict(feature_layers=(0, 5)), '0 .. 1 with these options'), (dict(feature_layers=()), 'at least one'),
    (dict(activation_checkpointing='some'), "False, 'attention' or True, got 'some'"),
    (dict(global_attention=dict(type='FusedAtention')), "Did you mean 'FusedAttention'")])
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Small(**options)


def test_a_layout_that_does_not_fit_the_tokens_is_refused():
    class Wrong(Small):
        def start(self, images):
            state, layout = super().start(images)
            return replace(state, views=state.views[:, :, 1:]), layout
    with pytest.raises(PluginError, match=r'Wrong.start must return views .* \(2, 3, 7, 16\)'):
        next(Wrong().layers(some_images()))


def test_priors_are_refused_with_a_word_or_handed_to_start():
    priors = Priors(depth=torch.ones(2, 3, 32, 48))
    for backbone in (Small(), VGGT(**{**TINY, 'patch_size': 16}), SceneFirst()):
        with pytest.raises(DataError, match='reconstructs from images alone and takes no known cameras or depth'):
            next(backbone.layers(some_images(), priors))

    class Told(Small):
        takes_priors = True

        def start(self, images, priors=None):
            state, layout = super().start(images)
            return (state if priors is None else replace(state, views=state.views + priors.depth.mean())), layout
    given, alone = next(Told().layers(some_images(), priors)), next(Told().layers(some_images()))
    assert not torch.allclose(given.tokens, alone.tokens, atol=1e-2)


def test_freezing_and_adapting_need_no_names():
    learning = [name for name, value in SceneFirst(freeze=dict(blocks=True)).named_parameters() if value.requires_grad]
    assert learning == ['patches.weight', 'patches.bias']
    backbone = SceneFirst(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2)).train()
    learning = [name for name, value in backbone.named_parameters() if value.requires_grad]
    assert len(learning) == 8 * 2 * 2 and all('.attn.' in name and 'lora_' in name for name in learning)
    assert not backbone.patches.training and backbone.blocks.training


def segmenting(folder, **overrides) -> nn.Module:
    """Return the main experiment on `SceneFirst`, in its smallest size."""
    path = folder / 'row.py'
    path.write_text(f'_base_ = {str(MAIN)!r}\nplugins = [{SCENE_FIRST!r}]\n'
                    "model = dict(backbone=dict(_delete_=True, type='SceneFirst'))\n")
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(path, 'debug', overrides).model, num_classes=5), 'model')


def test_it_learns_with_queries_and_fada_without_an_edit_elsewhere(tmp_path):
    model = segmenting(tmp_path).train()
    terms = model.loss(random_batch(3, size=64, num_scenes=2))
    assert terms['loss_fada'] > 0 and all(value.isfinite() for value in terms.values())
    sum(value for name, value in terms.items() if name.startswith('loss_')).backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not lacking


def test_permuting_views_permutes_what_comes_out_and_leaves_the_queries(tmp_path):
    model, scene, order = segmenting(tmp_path).eval(), random_batch(3, size=64), [2, 0, 1]
    before = model.predict_all(scene, track_views=True)
    scene.images = scene.images[:, order]
    after = model.predict_all(scene, track_views=True)
    torch.testing.assert_close(after.depth, before.depth[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.queries.embedding, before.queries.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.queries.view_attention, before.queries.view_attention[..., order], rtol=1e-4, atol=1e-5)


def test_correspondences_are_taught_to_any_backbone_of_steps(tmp_path):
    overrides = {'model.pretext': dict(type='Correspondence', matching_layers=[1], displacement_layers=[2, 3]),
                 'model.teacher': dict(_delete_=True, type='GroundTruthTeacher')}
    model = segmenting(tmp_path, **overrides).train()
    plain = segmenting(tmp_path)
    wider = model.backbone.blocks[0].attn.qkv.weight / plain.backbone.blocks[0].attn.qkv.weight
    torch.testing.assert_close(wider[:24], torch.full((24, 24), 2.0))                       # no norm: the queries themselves
    torch.testing.assert_close(wider[24:], torch.ones(48, 24))
    terms = model.loss(random_batch(3, size=64))
    assert {'loss_matching', 'loss_displacement', 'loss_patch_points'} <= set(terms)
    terms['loss_matching'].backward()
    gradients = [block.attn.qkv.weight.grad for block in model.backbone.blocks]
    assert gradients[2].abs().sum() > 0 and gradients[4] is None


def test_a_backbone_that_is_not_made_of_steps_is_refused_by_the_pretext():
    options = dict(matching_layers=[1], displacement_layers=[1])
    pretext = PRETEXTS.get('Correspondence')(dim=8, num_layers=2, patch_size=14, **options)
    with pytest.raises(ConfigError, match='Linear is not made of steps'):
        pretext.prepare(nn.Linear(1, 1))


def test_queries_pass_over_special_layers_and_say_so_unless_they_are_included(capsys):
    options = dict(dim=16, num_layers=2, num_queries=3, num_heads=2, embedding_dim=8)
    kinds = SpecialOnly().layer_kinds
    InsertedQueries = QUERIES.get('InsertedQueries')
    passing = InsertedQueries(layer_kinds=kinds, **options)
    assert passing.cross_layers == passing.self_layers == (0,) and list(passing.cross_blocks) == ['0']
    assert InsertedQueries(layer_kinds=kinds, special_layers=True, **options).cross_layers == (0, 1)
    assert InsertedQueries(layer_kinds=None, **options).cross_layers == (0, 1)
    apart = InsertedQueries(layer_kinds=kinds, self_insertion=dict(type='AllLayers'), **options)
    assert apart.cross_layers == (0,) and apart.self_layers == (0, 1)
    with pytest.raises(ConfigError, match='only special tokens see other views.*special_layers=True'):
        InsertedQueries(layer_kinds=kinds, insertion=dict(type='ListedLayers', layers=[1]), **options)
    state = passing.start(2, track_views=True)
    for layer in filled(SpecialOnly()).layers(some_images()):
        state = passing.read(state, layer)
    assert passing.finish(state).view_attention.shape == (1, 2, 3, 3)


def test_what_memory_a_run_needs_follows_the_steps_and_unknown_heads_mean_no_estimate(tmp_path):
    model, size, cpu = segmenting(tmp_path), (64, 64), torch.device('cpu')

    def training(level, backbone=None):
        model.backbone = model.backbone if backbone is None else backbone
        model.backbone.activation_checkpointing = level
        estimate = training_memory(model, 40, size, cpu)                    # so many that gradients are not what counts
        return estimate.total - 8 * sum(value.numel() for value in model.parameters()) - parameter_bytes(model)
    plain, attention, whole = (training(level) for level in (False, 'attention', True))
    assert whole < attention < plain
    view_tokens = 4.0 * (16 + 2) * 24
    assert training(False, SceneFirst(depth=8)) - plain == pytest.approx(40 * 8 * 21 * view_tokens)     # 8 more blocks
    model.depth_head = nn.Identity()
    assert inference_memory(model, 4, size, cpu) is training_memory(model, 4, size, cpu) is None
    assert without_estimate(model) == ['model.depth_head=Identity']
    assert announce(None, 1.0, 1.0) is None
    with pytest.raises(OutOfMemory, match='with 4 views .there is no estimate.: about 2 views would fit'):
        with naming_views_that_fit(None, 1e9, views=4):
            raise torch.OutOfMemoryError('CUDA out of memory')
