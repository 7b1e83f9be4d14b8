"""Every registered part builds from a tiny config, runs, backpropagates, and survives one view and zero instances.

A part without an entry in `TINY` is a failure: whoever registers one adds a line here. None = it runs elsewhere; those that
see points in tests/plugins/test_point_*.py and tests/golden/.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jrs import registry as slots
from jrs.plugins import load_plugins
from jrs.registry import build, owner_of
from jrs.structures import (
    FeatureTaps,
    GeometryTargets,
    InstanceTargets,
    LayerState,
    MatchedAttention,
    Predictions,
    QueryPredictions,
    Reconstruction,
    SceneBatch,
    SceneContext,
)
from tests._data import ROOT, random_batch

PLUGINS = sorted(path.parent.name for path in (ROOT / 'plugins').glob('*/__init__.py'))
load_plugins(PLUGINS)

K, Q, D, C, SIZE, LAYERS = 5, 6, 8, 16, 56, 2
GRID = SIZE // 14
DENSE = dict(features=8, out_channels=(8, 8, 8, 8))
BACKBONE = dict(type='VGGT', img_size=SIZE, embed_dim=C, depth=LAYERS, num_heads=2, patch_embed='conv',
                feature_layers=(0, 0, 1, 1))
MODEL = dict(
    type='SegVGGT', num_classes=K, backbone=BACKBONE,
    camera_head=dict(type='CameraHead', num_heads=2, trunk_depth=1, iterations=2),
    depth_head=dict(type='DepthHead', **DENSE),
    queries=dict(type='InsertedQueries', num_queries=Q, num_heads=2, embedding_dim=D),
    feature_head=dict(type='InstanceFeatureHead', embedding_dim=D, **DENSE),
    class_head=dict(type='QueryClassHead', embedding_dim=D, hidden=4), alignment=dict(type='JensenShannon'),
    weights=dict(classification=1.0, mask=1.0, fada=1.0, camera=1.0, depth=1.0),
    matcher=dict(type='HungarianMatcher',
                 costs=dict(classification=dict(type='ClassCost'), fada=dict(type='ViewAttentionCost'))),
    losses=dict(classification=dict(type='ClassLoss'), mask=dict(type='MaskDiceLoss'), fada=dict(type='ViewAttentionLoss'),
                camera=dict(type='CameraLoss'), depth=dict(type='DepthLoss')),
    teacher=dict(type='GroundTruthTeacher'), postprocessor=dict(type='QueryMasks', min_pixels=0))
GEOMETRY = dict(type='SegVGGT', backbone=BACKBONE, camera_head=MODEL['camera_head'], depth_head=MODEL['depth_head'])
TINY = {
    'backbones': dict(VGGT=BACKBONE, Pi3=BACKBONE, Pi3X=BACKBONE, StreamVGGT=BACKBONE, MapAnything=BACKBONE,
                      DepthAnything3=dict(img_size=SIZE, embed_dim=C, depth=6, num_heads=2, feature_layers=(2, 3, 4, 5)),
                      VGGTOmega=dict(BACKBONE, patch_size=14),
                      MapAnythingV1=dict(BACKBONE, encoder_dim=24, encoder_heads=2),
                      MUSt3R=dict(patch_size=14, embed_dim=C, depth=LAYERS, num_heads=2, encoder_dim=24, encoder_depth=1,
                                  encoder_heads=2, feature_layers=(0, 1))),
    'attentions': dict(FusedAttention={}, TokenMerging={}, CausalViews={}, KeyValueCache={}, ReleasedTrunk={}),
    'insertions': dict(AllLayers={}, EarlyLayers={}, LateLayers={}, InterleavedLayers={}, ListedLayers=dict(layers=[1])),
    'queries': dict(InsertedQueries=dict(num_queries=Q, num_heads=2, embedding_dim=D),
                    MaskDecoder=dict(num_queries=Q, num_heads=2, embedding_dim=D, layers=3, width=8, hidden=16)),
    'heads': dict(CameraHead=dict(num_heads=2, trunk_depth=1, iterations=2), DepthHead=DENSE, PointHead=DENSE,
                  InstanceFeatureHead=dict(embedding_dim=D, **DENSE), ViewTermFeatureHead=dict(embedding_dim=D, **DENSE),
                  QueryClassHead=dict(embedding_dim=D, hidden=4),
                  Pi3Geometry=dict(dim=C, patch_size=14, depth=1),
                  Pi3XGeometry=dict(dim=C, patch_size=14, depth=1, widths=(8, 8, 8), last_width=8),
                  DepthAnything3Geometry=DENSE, DepthAnything3Rays=DENSE,
                  MUSt3RGeometry=dict(patch_size=14), PanSt3RFeatures=dict(memory_dim=8, widths=(8, 8, D)),
                  PanSt3RGuidedFeatures=dict(width=8, num_heads=2, layers=1, upsampler=dict(
                      dim=D, num_heads=2, layers=1, frequencies=3, patch_frequencies=2)),
                  LearnedClassHead=dict(embedding_dim=D, dim=4),
                  ScaleHead=dict(dim=8), TextClassHead=dict(text_dim=4, embedding_dim=D, vocabulary=[[1.0, 0, 0, 0]] * K),
                  IGGTPointHead=DENSE, IGGTFeatures=dict(features=8, cross_heads=2, window_heads=2),
                  MapAnythingGeometry=dict(pose_dim=4, scale_dim=4, **DENSE),
                  MapAnythingV1Geometry=dict(encoder_dim=24, pose_dim=4, scale_dim=4, **DENSE),
                  VGGTOmegaGeometry=dict(DENSE, patch_size=8, num_heads=2, trunk_depth=1, text=dict(depth=1, num_heads=2))),
    'alignments': dict(JensenShannon={}, KullbackLeibler={}),
    'costs': dict(ClassCost={}, FocalCost={}, MaskBCECost={}, MaskDiceCost={}, ViewAttentionCost={}),
    'matchers': dict.fromkeys(('HungarianMatcher', 'SparseMatcher'), dict(costs=dict(
        class_=dict(type='ClassCost', weight=1.0), dice=dict(type='MaskDiceCost', weight=1.0)))),
    'losses': dict(ClassLoss={}, MaskBCELoss={}, MaskDiceLoss={}, ViewAttentionLoss={}, CameraLoss={}, DepthLoss={},
                   PointLoss={}, LocalPointLoss={}, MetricScaleLoss={}, PullPushLoss={}, FocalLoss={},
                   Criterion=dict(losses=dict(a=dict(type='ClassLoss')), weights=dict(a=2.0))),
    'pretexts': dict(Correspondence=dict(matching_layers=[0], displacement_layers=[1])),
    'teachers': dict(GroundTruthTeacher={}, PretrainedTeacher=dict(model=GEOMETRY, autocast=None)),
    'postprocessors': dict(QueryMasks=dict(min_pixels=0), PosedTransfer={}, UnposedTransfer={},
                           ClusteredPixels=dict(min_samples=3, min_cluster_size=20),
                           QuboMasks=dict(steps=20, restarts=2, exhaustive=2), MergedMasks={}),
    'models': dict(SegVGGT=MODEL, ScenePreprocessor={}),
    'datasets': dict(SceneDataset=dict(folder='rooms/debug', benchmark='scannet200', width=SIZE),
                     MixedDataset=None),                                # in tests/datasets/test_mixture.py
    'samplers': dict(ViewBatchSampler=dict(num_scenes=3, seed=1, max_images=4, aspect_ratio=(0.5, 1.0)),
                     SpacedViews=dict(spacing=(1, 3)), CovisibleViews={}),
    'transforms': dict(TrainViews={}),
    'metrics': dict(InstanceAPMetric=dict(benchmark='scannet200'), DepthMetric={}, CameraMetric={}, AttentionMetric={},
                    PanopticMetric=dict(benchmark='scannet200')),
    'hooks': dict.fromkeys(('AveragedWeights', 'ClassWords', 'EvaluationHook', 'Heartbeat', 'MetricNeeds', 'PlainCheckpoint',
                            'ProgressLog', 'ResourceLog', 'SafeCheckpoint', 'SceneImages',
                            'TermLog')),                                # all in the run of test_a_run_has_every_hook
    'loops': dict(ResumableIterLoop=None),
    'functions': dict(collate_scenes=None),                             # in test_datasets_samplers_and_transforms
}
OF_POINTS = {                                                           # they see no images
    'costs': ('CentreCost',),
    'losses': ('CentreLoss', 'ScoreLoss', 'SuperpointContrastLoss', 'SuperpointSemanticLoss', 'VoxelClassLoss',
               'VoxelOffsetLoss'),
    'postprocessors': ('MatrixNMS', 'SplitMasks', 'SuperpointTransfer'),
    'models': ('PointSegmenter', 'SparseUNet', 'Res16UNet34C', 'MeanPooling', 'AdaptivePooling', 'LearnedQueries',
               'SuperpointQueries', 'FarthestPointQueries', 'SuperpointDecoder', 'PlacedDecoder', 'LevelDecoder',
               'GuidedDecoder', 'ReconstructedPoints'),                 # the last is in tests/plugins/test_two_stage.py
    'metrics': ('PointQuality',), 'datasets': ('PointSceneDataset',), 'samplers': ('PointBatchSampler',)}
for _slot, _names in OF_POINTS.items():
    TINY[_slot] |= dict.fromkeys(_names)
VIEWS_AND_INSTANCES = [(3, 2), (1, 2), (3, 0), (1, 0)]
sizes = pytest.mark.parametrize(('views', 'instances'), VIEWS_AND_INSTANCES)


def registered(slot: slots.Slot) -> list[str]:
    """Return the names that jrs itself and the repository's plugins registered."""
    slot.names()
    return sorted(name for name, part in slot.module_dict.items() if owner_of(part) in ('jrs', *PLUGINS))


def run_here(slot: slots.Slot) -> list[str]:
    """Return the registered parts that have a tiny config."""
    return [name for name in registered(slot) if TINY[slot.name].get(name, {}) is not None]


def each(slot: slots.Slot):
    return pytest.mark.parametrize('name', run_here(slot))


def tiny(slot: slots.Slot, name: str, **offers):
    torch.manual_seed(0)
    return build(slot, dict(TINY[slot.name][name], type=name), name, **offers)


@pytest.mark.parametrize(('slot', 'name'), [(slot, name) for slot in slots.SLOTS for name in registered(slots.SLOTS[slot])])
def test_a_registered_part_has_a_tiny_config(slot, name):
    assert name in TINY.get(slot, {}), f'{slot} has {name}: give it a tiny config in tests/test_registered.py'


def test_a_tiny_config_is_of_a_registered_part():
    assert {slot: sorted(parts) for slot, parts in TINY.items()} == {
        slot: registered(slots.SLOTS[slot]) for slot in slots.SLOTS if registered(slots.SLOTS[slot])}


def tensors(value: object) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Predictions):
        yield from tensors(vars(value))
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def assert_backpropagates(part: nn.Module, outputs: object) -> None:
    """Every output is finite and every parameter that learns gets a finite gradient."""
    found = list(tensors(outputs))
    assert found and all(value.isfinite().all() for value in found)
    sum((value * torch.linspace(0.5, 1, value.numel()).view(value.shape)).sum() for value in found).backward()
    lacking = [name for name, value in part.named_parameters() if value.requires_grad
               and (value.grad is None or not value.grad.isfinite().all())]
    assert not lacking, f'no finite gradient: {lacking}'


def taps(views: int, scenes: int = 1) -> FeatureTaps:
    torch.manual_seed(views)
    patch_index = torch.arange(5, 5 + GRID * GRID)
    maps = [torch.randn(scenes, views, 5 + GRID * GRID, 2 * C) for _ in range(4)]
    return FeatureTaps(maps, patch_index, (GRID, GRID), (SIZE, SIZE), geometry_tokens=maps[-1][:, :, 0])


def predictions(views: int, learn: bool = True, classes: str = 'softmax') -> QueryPredictions:
    """One scene without its axis; the leaves that losses differentiate."""
    torch.manual_seed(views)
    attention = torch.rand(LAYERS, Q, views) + 0.05
    return QueryPredictions(
        embedding=torch.randn(Q, D), class_logits=torch.randn(Q, K + (classes == 'softmax')).requires_grad_(learn),
        classes=classes,
        mask_logits=torch.randn(Q, views, 8, 8).requires_grad_(learn),
        view_attention=(attention / attention.sum(dim=-1, keepdim=True)).requires_grad_(learn),
        elements=torch.tensor([0, 64 * min(1, views - 1) + 3 * 8, *[63] * (Q - 2)]))        # queries 0 and 1: instances 0, 1


def targets(views: int, instances: int) -> InstanceTargets:
    masks = torch.zeros(instances, views, 8, 8, dtype=torch.bool)
    for number in range(instances):
        masks[number, number % views, 2 * number:2 * number + 3] = True         # each is seen in one view only
    pixels = masks.flatten(2).sum(dim=2).float()                                # (G, V)
    return InstanceTargets(torch.arange(instances), masks, pixels / pixels.sum(dim=1, keepdim=True))


def offers() -> dict:
    return dict(weight=1.0, alignment=tiny(slots.ALIGNMENTS, 'JensenShannon'))


@each(slots.BACKBONES)
@pytest.mark.parametrize('views', [1, 3])
def test_backbones(name, views):
    backbone = tiny(slots.BACKBONES, name)
    states = list(backbone.layers(torch.rand(2, views, 3, SIZE, SIZE // 2 - SIZE // 2 % 14)))
    assert [state.index for state in states] == list(range(backbone.num_query_layers))
    for state in states:
        assert state.tokens.shape == (2, len(state.view_index), backbone.embed_dim) and state.num_views == views
        assert set(state.view_index.tolist()) <= {-1, *range(views)} and state.is_patch.dtype == torch.bool
    features = backbone.features()
    assert all(tap.shape[:2] == (2, views) and tap.shape[3] == backbone.feature_dim for tap in features.taps)
    assert len(features.taps) == len(backbone.feature_layers)
    for fact in ('patch_size', 'size_rule', 'pose_convention', 'scale', 'has_reference_view', 'weights_licence'):
        assert hasattr(backbone, fact)
    assert_backpropagates(backbone, features.taps)


@each(slots.INSERTIONS)
def test_insertions(name):
    layers = tiny(slots.INSERTIONS, name)(4)
    assert layers and tuple(sorted(set(layers))) == layers and set(layers) <= set(range(4))


@each(slots.QUERIES)
@pytest.mark.parametrize('views', [1, 3])
def test_queries(name, views):
    queries = tiny(slots.QUERIES, name, dim=C, num_layers=LAYERS, dim_in=2 * C)
    assert queries.num_queries == Q
    of_no_view, per_view = 1, 6
    view_index = torch.cat([torch.full((of_no_view,), -1), torch.arange(views).repeat_interleave(per_view)])
    state = queries.start(2, track_views=True)
    for index in range(LAYERS):
        tokens = torch.randn(2, len(view_index), C)
        state = queries.read(state, LayerState(index, tokens, view_index, view_index >= 0, views))
    found = queries.finish(state, taps(views, scenes=2), torch.randn(2, views, D, SIZE // 2, SIZE // 2))
    assert all(level.embedding.shape == (2, Q, D) for level in found.levels)
    if found.view_attention is None:                                            # a part may not report its attention
        found.view_attention = torch.ones(LAYERS, 2, Q, views) / views
    assert found.view_attention.shape == (LAYERS, 2, Q, views)
    torch.testing.assert_close(found.view_attention.sum(dim=-1), torch.ones(LAYERS, 2, Q))
    assert_backpropagates(queries, [*(level.embedding for level in found.levels), found.view_attention])


@each(slots.HEADS)
@pytest.mark.parametrize('views', [1, 3])
def test_heads(name, views):
    head = tiny(slots.HEADS, name, dim_in=2 * C, num_classes=K)
    given = torch.randn(2, Q, D) if name.endswith('ClassHead') else taps(views)
    shapes = head.map_shapes((GRID, GRID)) if hasattr(head, 'map_shapes') else {}
    for read, shape in shapes.items():
        given.maps[read] = torch.randn(1, views, *shape)
    leaves = getattr(head, 'leaves', ())
    if not isinstance(given, Tensor):
        given.wanted, given.maps['images'] = frozenset(leaves), torch.rand(1, views, 3, SIZE, SIZE)
    found = head(given)
    assert_backpropagates(head, [found, *(given.maps[name] for name in leaves)])


@each(slots.PRETEXTS)
@pytest.mark.parametrize('views', [1, 3])
def test_pretexts(name, views):
    backbone = tiny(slots.BACKBONES, 'VGGT')
    pretext = tiny(slots.PRETEXTS, name, dim=C, dim_in=2 * C, num_layers=LAYERS, patch_size=14)
    pretext.prepare(backbone)
    with pretext.watching(backbone) as notes:
        list(backbone.layers(torch.rand(1, views, 3, SIZE, SIZE)))
    terms = pretext(notes, tiny(slots.TEACHERS, 'GroundTruthTeacher')(random_batch(views, size=SIZE)))
    assert all(name.startswith('loss_') and value.shape == () for name, value in terms.items())
    assert_backpropagates(pretext, terms)


@each(slots.ALIGNMENTS)
@pytest.mark.parametrize('views', [1, 3])
def test_alignments(name, views):
    """Zero for equal distributions, positive for others; gradients stay finite where a view has no probability."""
    alignment = tiny(slots.ALIGNMENTS, name)
    seen_once = torch.eye(views)[:1].requires_grad_()
    even = torch.full((1, views), 1 / views, requires_grad=True)
    assert alignment(even, even.detach()).abs().item() < 1e-6
    for attention, target in ((seen_once, even.detach()), (even, seen_once.detach())):
        divergence = alignment(attention, target)
        assert divergence.shape == (1,) and divergence.isfinite().all() and (views == 1 or divergence.item() > 0.01)
        divergence.sum().backward()
        assert attention.grad.isfinite().all()


@each(slots.COSTS)
@sizes
def test_costs(name, views, instances):
    cost = tiny(slots.COSTS, name, **offers())
    found = cost(predictions(views, False, getattr(cost, 'classes', 'softmax')), targets(views, instances))
    assert found.shape == (Q, instances) and found.isfinite().all()


@each(slots.MATCHERS)
@sizes
def test_matchers(name, views, instances):
    match = tiny(slots.MATCHERS, name, **offers())(predictions(views, learn=False), targets(views, instances))
    assert len(match.queries) == len(match.instances) == min(Q, instances)
    assert sorted(match.instances.tolist()) == list(range(instances)) and len(set(match.queries.tolist())) == instances


@each(slots.LOSSES)
@sizes
def test_losses(name, views, instances):
    loss = tiny(slots.LOSSES, name, **offers())
    matcher = tiny(slots.MATCHERS, 'HungarianMatcher')
    pred, target = predictions(views, classes=getattr(loss, 'classes', 'softmax')), targets(views, instances)
    match = matcher(pred, target)
    scene, geometry = geometry_pair(views)
    if name == 'Criterion':
        pred.embedding.requires_grad_()
        batch = QueryPredictions(pred.embedding[None], pred.class_logits[None], pred.mask_logits[None],
                                 pred.view_attention[:, None])
        values = loss(Predictions([], queries=batch), [target], None, [match])
    elif loss.reads == 'geometry':
        values = loss(scene, geometry)
    elif loss.reads == 'features':
        features = torch.randn(views, D, *target.masks.shape[2:], requires_grad=True)
        values = loss(features, target)
    else:
        values = loss(pred, target, match)
    if values is None:
        assert instances == 0
        return
    found = list(tensors(values))
    assert all(value.ndim == 0 and value.isfinite() for value in found)
    sum(found).backward()
    leaves = [pred.class_logits, pred.mask_logits, pred.view_attention, *scene.pose_encodings, scene.depth, scene.points,
              *scene.extras.values(), *([features] if loss.reads == 'features' else [])]
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def geometry_pair(views: int) -> tuple[Predictions, GeometryTargets]:
    torch.manual_seed(views)
    shape = (1, views, 14, 14)
    scene = Predictions(
        pose_encodings=[torch.randn(1, views, 9, requires_grad=True) for _ in range(2)],
        depth=torch.rand(shape).add(0.5).requires_grad_(), depth_conf=torch.rand(shape).add(1.1).requires_grad_(),
        points=torch.randn(*shape, 3, requires_grad=True), points_conf=torch.rand(shape).add(1.1).requires_grad_(),
        extras={'metric_scale': torch.tensor([2.0], requires_grad=True),
                'points_local': torch.randn(*shape, 3, requires_grad=True)})
    valid = torch.ones(shape, dtype=torch.bool)
    valid[..., :2] = False
    return scene, GeometryTargets(torch.randn(1, views, 9), torch.rand(shape) + 0.5, valid, torch.randn(*shape, 3),
                                  torch.tensor([3.0]))


@each(slots.TEACHERS)
@pytest.mark.parametrize('views', [1, 3])
def test_teachers(name, views, tmp_path):
    extra = {}
    if name == 'PretrainedTeacher':
        torch.manual_seed(0)
        torch.save(build(slots.MODELS, GEOMETRY, 'model').state_dict(), tmp_path / 'teacher.pth')
        extra = dict(checkpoint=str(tmp_path / 'teacher.pth'))
    target = tiny(slots.TEACHERS, name, **extra)(random_batch(views))
    assert target.pose_encoding.shape == (1, views, 9) and target.depth.shape == target.valid.shape == (1, views, SIZE, SIZE)
    assert all(value.isfinite().all() and not value.requires_grad for value in (target.pose_encoding, target.depth))
    assert target.valid.any()


@each(slots.MODELS)
@sizes
def test_models(name, views, instances):
    model, batch = tiny(slots.MODELS, name), random_batch(views, instances, num_scenes=2)
    if name == 'ScenePreprocessor':
        assert isinstance(model(batch)['batch'], SceneBatch)
        return
    terms = model(batch, mode='loss')
    assert_backpropagates(model, [value for term, value in terms.items() if term.startswith('loss_')])
    for scene in model.eval()(batch, mode='predict'):
        assert scene.instances.masks.shape[1:] == (views, SIZE // 2, SIZE // 2) and scene.depth.shape == (views, SIZE, SIZE)


@pytest.fixture(scope='module')
def scored(debug_data):
    """The one validation scene, with what it is scored against."""
    return tiny(slots.DATASETS, 'SceneDataset', data_root=str(debug_data), split='val', mode='test')


def one_scene(dataset, views: int) -> SceneBatch:
    dataset.max_views = views
    return dataset[0]


def reconstruction(batch: SceneBatch, instances: int) -> Reconstruction:
    torch.manual_seed(0)
    views, (height, width) = batch.images.shape[1], batch.images.shape[-2:]
    queries = predictions(views, learn=False)
    queries.class_logits = torch.randn(instances, 198 + 1)
    queries.mask_logits = torch.randn(instances, views, height // 2, width // 2)
    found = tiny(slots.POSTPROCESSORS, 'QueryMasks')(SceneContext(queries))
    return Reconstruction(batch.images[0], 0.1 + torch.rand(views, height, width), torch.ones(views, height, width),
                          batch.intrinsics[0], batch.cam_from_world[0], None, found, batch.view_names[0],
                          matched=matched(views, instances))


def matched(views: int, instances: int) -> MatchedAttention:
    attention = torch.rand(LAYERS, instances, views) + 0.1
    return MatchedAttention(tuple(range(LAYERS)), torch.arange(instances), targets(views, instances),
                            attention / attention.sum(dim=-1, keepdim=True))


@each(slots.POSTPROCESSORS)
@sizes
def test_postprocessors(name, views, instances, scored):
    part, batch = tiny(slots.POSTPROCESSORS, name), one_scene(scored, views)
    scene = reconstruction(batch, instances)
    instances = scene.instances
    assert instances.masks.dtype == torch.bool and instances.masks.shape[1] == views
    if hasattr(part, 'lift'):
        truth = batch.ground_truth[0]
        visible = part.visible_pixels(truth, batch.images.shape[-2:], instances.masks.shape[-2:], scene)
        packed = part.lift(instances, truth, visible)
        assert packed.shape == (len(instances.scores), -(-len(truth.vertices) // 8))
    else:
        assert len(instances.masks) == len(instances.scores) == len(instances.labels) == len(instances.queries)


@each(slots.METRICS)
@sizes
def test_metrics(name, views, instances, scored):
    metric, batch = tiny(slots.METRICS, name), one_scene(scored, views)
    metric.process(batch, [reconstruction(batch, instances)])
    numbers = metric.evaluate(1)
    assert numbers and all(isinstance(value, float) for value in numbers.values())
    assert metric.describe() and all(isinstance(words, str) for words in metric.describe().values())
    metric.process(batch, [reconstruction(batch, instances)])
    assert metric.evaluate(1).keys() == numbers.keys()                          # a second validation starts afresh


@each(slots.DATASETS)
@pytest.mark.parametrize('views', [1, 3])
def test_datasets_samplers_and_transforms(name, views, debug_data):
    """Together they make batches: every scene of one batch has the same shape, the same draw gives the same views."""
    choosers = [one for one in run_here(slots.SAMPLERS) if hasattr(slots.SAMPLERS.get(one), 'choose')]
    samplers = sorted({*run_here(slots.SAMPLERS)} - {*choosers})
    for sampler_name, chooser in product(samplers, choosers):
        dataset = tiny(slots.DATASETS, name, data_root=str(debug_data), split='train', mode='train',
                       transform=dict(type='TrainViews'),
                       view_choice=dict(TINY['samplers'][chooser], type=chooser))
        sampler = tiny(slots.SAMPLERS, sampler_name, views=(views, views), rank=0, world_size=1)
        requests = next(iter(sampler))
        requests = [type(request)(request.index % len(dataset), request.draw, request.num_views, request.aspect_ratio)
                    for request in requests]
        batch = slots.FUNCTIONS.get('collate_scenes')([dataset[request] for request in requests])
        again = dataset[requests[0]]
        assert batch.images.shape[:2] == (len(requests), views) and batch.images.dtype == torch.uint8
        assert batch.images[0].equal(again.images[0]) and batch.view_names[0] == again.view_names[0]
        assert batch.depth_m.shape == batch.instance_ids.shape == (*batch.images.shape[:2], *batch.images.shape[-2:])


@each(slots.TRANSFORMS)
def test_transforms_repeat_themselves_from_one_generator(name):
    transform = tiny(slots.TRANSFORMS, name)
    image, intrinsics = np.full((48, 64, 3), 90, np.uint8), np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    first, second = ([transform.crop((48, 64), intrinsics, (28, 42), rng), transform.colors([image, image], rng)]
                     for rng in (np.random.default_rng(4), np.random.default_rng(4)))
    assert first[0] == second[0] and all((a == b).all() for a, b in zip(first[1], second[1], strict=True))
    assert first[0].image(image).shape == (28, 42, 3)


def test_a_run_has_every_hook_and_the_loop(debug_data, tmp_path):
    from jrs.config import load_config
    from jrs.engine.build import build_runner
    from tests._data import MAIN, forget_runs
    forget_runs()
    cfg = load_config(MAIN, 'debug', {'data_root': str(debug_data), 'train.iterations': 2, 'hooks.pictures.interval': 1,
                                      'train.validate_every': 2, 'hooks.averaged': dict(type='AveragedWeights')})
    runner = build_runner(cfg, tmp_path)
    runner.train()
    assert {type(hook).__name__ for hook in runner.hooks} >= set(registered(slots.HOOKS))
    assert type(runner.train_loop).__name__ in registered(slots.LOOPS)
    assert (tmp_path / 'terms.jsonl').is_file() and list(tmp_path.glob('*/vis_data/events*'))
