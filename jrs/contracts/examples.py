"""One small part of every kind that works as it stands: what `describe` prints and what `new` starts a plugin from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Example:
    """A part, and a test of what it claims.

    Attributes:
        part: its file, at most 15 lines beside imports and blank ones.
        claim: a test function that finds the class as `PART`.
        imports: of that test.
        config: lines that put `{part}`, its name, into an experiment.
        more: lines of the class that it works without: what a trial needs.
    """

    part: str
    claim: str
    imports: str = 'import torch\n'
    config: str = ''
    more: str = ''

    @property
    def class_name(self) -> str:
        """The name of the part."""
        return re.search(r'register_module\(\)\nclass (\w+)', self.part)[1]

    @property
    def whole(self) -> str:
        """The part with what a trial needs."""
        return self.part + ('\n' + self.more if self.more else '')


_EXAMPLES = {
    'BACKBONES': Example('''import torch
from torch import nn

from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps, LayerState


@BACKBONES.register_module()
class PatchTokens(nn.Conv2d):
    """Tokens that see one patch of 8 x 8 pixels each: one query layer, no special tokens, none for cameras."""

    embed_dim, feature_dim, patch_size, num_query_layers, feature_layers = 32, 32, 8, 1, (0, 0, 0, 0)
    size_rule, scale, has_reference_view, weights_licence = 'multiples of 8', 'arbitrary', False, 'none'
    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'

    def __init__(self):
        super().__init__(3, 32, 8, stride=8)

    def layers(self, images):
        tokens = self(images.flatten(0, 1)).flatten(2).mT.unflatten(0, images.shape[:2])    # (B, V, P, C)
        index, grid = torch.arange(tokens.shape[2], device=images.device), tuple(side // 8 for side in images.shape[-2:])
        self.taps = FeatureTaps([tokens] * 4, index, grid, tuple(images.shape[-2:]))
        yield LayerState.of_views(0, tokens)

    def features(self):
        return self.__dict__.pop('taps')
''', '''def test_a_token_sees_its_patch_only():
    part, images = PART(), torch.rand(1, 2, 3, 16, 24)
    before = next(part.layers(images)).tokens
    images[:, 1, :, :8, :8] = 0                                             # the first patch of the second view
    changed = (next(part.layers(images)).tokens != before).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [6]
'''),
    'ATTENTIONS': Example('''from torch.nn import functional as F

from jrs.layers.attention import SceneAttention
from jrs.registry import ATTENTIONS


@ATTENTIONS.register_module()
class EarlierViews(SceneAttention):
    """Tokens read those of their own view, of views before it, and of no view: a causal mask."""

    special_steps = True

    def at(self, block, layout):
        view_index, _ = layout.scene_index()                                # (N,), -1 = of no view
        allowed = view_index <= view_index[:, None]                         # (N, N)
        return lambda query, key, value, tokens: F.scaled_dot_product_attention(query, key, value, allowed)
''', '''def test_the_first_view_does_not_read_the_second():
    mix = PART().at(0, Layout.of(torch.zeros(1, 2, 3, 16, 24), patch_size=8))       # 2 views of 6 tokens
    query, key, value = torch.rand(3, 1, 1, 12, 4)
    before = mix(query, key, value, None)
    value[..., 6:, :] = 0
    changed = (mix(query, key, value, None) != before).any(dim=-1).flatten()
    assert changed.tolist() == [False] * 6 + [True] * 6
''', 'import torch\n\nfrom jrs.layers.layout import Layout\n'),
    'QUERIES': Example('''import torch
from torch import nn

from jrs.registry import QUERIES
from jrs.structures import QueryPredictions


@QUERIES.register_module()
class AttendingQueries(nn.Module):
    """Learned queries that attend to the tokens of every layer with one attention; they report no view attention."""

    def __init__(self, dim, num_queries=12, embedding_dim=16):
        super().__init__()
        self.num_queries, self.tokens = num_queries, nn.Parameter(torch.randn(1, num_queries, dim))
        self.attention, self.projection = nn.MultiheadAttention(dim, 1, batch_first=True), nn.Linear(dim, embedding_dim)

    def start(self, num_scenes, track_views):
        return self.tokens.expand(num_scenes, -1, -1)                       # (B, Q, C)

    def read(self, state, layer):
        return state + self.attention(state, layer.tokens, layer.tokens, need_weights=False)[0]

    def finish(self, state, taps, features):
        return QueryPredictions(self.projection(state.float()))             # (B, Q, D)
''', '''def test_the_order_of_tokens_does_not_matter():
    part, tokens = PART(dim=8).eval(), torch.rand(1, 10, 8)
    layer = LayerState(0, tokens, torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.bool), 1)
    turned = LayerState(0, tokens.flip(1), layer.view_index, layer.is_patch, 1)
    first, second = (part.read(part.start(1, False), one) for one in (layer, turned))
    torch.testing.assert_close(first, second)
''', 'import torch\n\nfrom jrs.structures import LayerState\n'),
    'HEADS.camera_head': Example('''import torch
from torch import nn

from jrs.registry import HEADS


@HEADS.register_module()
class MeanCamera(nn.Linear):
    """Cameras from the mean over the patches of each view: a backbone needs no token for cameras."""

    def __init__(self, dim_in):
        super().__init__(dim_in, 9)

    def forward(self, features):
        patches = features.taps[-1][:, :, features.patch_index].float()     # (B, V, h_p * w_p, dim_in)
        encoding = super().forward(patches.mean(dim=2))                     # (B, V, 9)
        return [torch.cat([encoding[..., :7], encoding[..., 7:].exp()], dim=-1)]
''', '''def test_equal_views_have_equal_cameras():
    tap = torch.rand(1, 1, 6, 8).expand(1, 2, 6, 8)
    encoding = PART(dim_in=8)(FeatureTaps([tap], torch.arange(6), (2, 3), (16, 24)))[-1]
    assert encoding.shape == (1, 2, 9) and encoding[:, 0].equal(encoding[:, 1])
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.depth_head': Example('''from torch import nn
from torch.nn import functional as F

from jrs.registry import HEADS


@HEADS.register_module()
class PatchDepth(nn.Linear):
    """One depth and one confidence per patch, smooth in between."""

    def __init__(self, dim_in):
        super().__init__(dim_in, 2)

    def forward(self, features):
        patches = features.taps[-1][:, :, features.patch_index].float()     # (B, V, h_p * w_p, dim_in)
        maps = super().forward(patches).mT.unflatten(-1, features.patch_grid)               # (B, V, 2, h_p, w_p)
        maps = F.interpolate(maps.flatten(0, 1), features.image_size, mode='bilinear').unflatten(0, maps.shape[:2])
        return maps[:, :, 0].exp(), 1 + maps[:, :, 1].exp()                 # (B, V, H, W) each
''', '''def test_equal_patches_have_one_depth():
    depth, _ = PART(dim_in=8)(FeatureTaps([torch.ones(1, 2, 6, 8)], torch.arange(6), (2, 3), (16, 24)))
    torch.testing.assert_close(depth, depth[:1, :1, :1, :1].expand(1, 2, 16, 24))
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.point_head': Example('''from torch import nn
from torch.nn import functional as F

from jrs.registry import HEADS


@HEADS.register_module()
class PatchPoints(nn.Linear):
    """One point and one confidence per patch, smooth in between."""

    def __init__(self, dim_in):
        super().__init__(dim_in, 4)

    def forward(self, features):
        patches = features.taps[-1][:, :, features.patch_index].float()     # (B, V, h_p * w_p, dim_in)
        maps = super().forward(patches).mT.unflatten(-1, features.patch_grid)               # (B, V, 4, h_p, w_p)
        maps = F.interpolate(maps.flatten(0, 1), features.image_size, mode='bilinear').unflatten(0, maps.shape[:2])
        return maps[:, :, :3].movedim(2, -1), 1 + maps[:, :, 3].exp()       # (B, V, H, W, 3), (B, V, H, W)
''', '''def test_equal_patches_have_one_point():
    points, _ = PART(dim_in=8)(FeatureTaps([torch.ones(1, 2, 6, 8)], torch.arange(6), (2, 3), (16, 24)))
    torch.testing.assert_close(points, points[:1, :1, :1, :1].expand(1, 2, 16, 24, 3))
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.geometry_head': Example('''import torch
from torch import nn
from torch.nn import functional as F

from jrs.registry import HEADS
from jrs.structures import Predictions


@HEADS.register_module()
class PatchGeometry(nn.Linear):
    """Eleven numbers per patch: nine whose mean is the camera, depth, and confidence."""

    def __init__(self, dim_in):
        super().__init__(dim_in, 11)

    def forward(self, features):
        patches = super().forward(features.taps[-1][:, :, features.patch_index].float())    # (B, V, h_p * w_p, 11)
        camera, maps = patches[..., :9].mean(dim=2), patches[..., 9:].mT.unflatten(-1, features.patch_grid)
        maps = F.interpolate(maps.flatten(0, 1), features.image_size, mode='bilinear').unflatten(0, maps.shape[:2])
        encoding = torch.cat([camera[..., :7], camera[..., 7:].exp()], dim=-1)              # (B, V, 9)
        return Predictions([encoding], maps[:, :, 0].exp(), 1 + maps[:, :, 1].exp())
''', '''def test_equal_patches_have_one_depth():
    depth = PART(dim_in=8)(FeatureTaps([torch.ones(1, 2, 6, 8)], torch.arange(6), (2, 3), (16, 24))).depth
    torch.testing.assert_close(depth, depth[:1, :1, :1, :1].expand(1, 2, 16, 24))
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.scale_head': Example('''from torch import nn

from jrs.registry import HEADS


@HEADS.register_module()
class MeanScale(nn.Linear):
    """Metres per unit from the mean over all patches of a scene."""

    def __init__(self, dim_in):
        super().__init__(dim_in, 1)

    def forward(self, features):
        patches = features.taps[-1][:, :, features.patch_index].float()     # (B, V, h_p * w_p, dim_in)
        return super().forward(patches.mean(dim=(1, 2)))[:, 0].exp()        # (B,)
''', '''def test_each_scene_has_a_scale_of_its_own_above_0():
    tap = torch.rand(2, 3, 6, 8)
    scale = PART(dim_in=8)(FeatureTaps([tap], torch.arange(6), (2, 3), (16, 24)))
    assert scale.shape == (2,) and scale.min() > 0 and scale[0] != scale[1]
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.feature_head': Example('''from torch import nn
from torch.nn import functional as F

from jrs.registry import HEADS


@HEADS.register_module()
class PatchFeatures(nn.Linear):
    """Instance features per patch, smooth in between, at half of the image size."""

    down_ratio = 2

    def __init__(self, dim_in, embedding_dim=16):
        super().__init__(dim_in, embedding_dim)

    def forward(self, features):
        patches = features.taps[-1][:, :, features.patch_index].float()     # (B, V, h_p * w_p, dim_in)
        maps = super().forward(patches).mT.unflatten(-1, features.patch_grid)               # (B, V, D, h_p, w_p)
        size = [side // self.down_ratio for side in features.image_size]
        return F.interpolate(maps.flatten(0, 1), size, mode='bilinear').unflatten(0, maps.shape[:2])
''', '''def test_masks_have_half_of_the_image_size():
    taps = FeatureTaps([torch.rand(1, 2, 6, 8)], torch.arange(6), (2, 3), (16, 24))
    assert PART(dim_in=8)(taps).shape == (1, 2, 16, 8, 12)
''', 'import torch\n\nfrom jrs.structures import FeatureTaps\n'),
    'HEADS.class_head': Example('''from torch import nn

from jrs.registry import HEADS


@HEADS.register_module()
class LinearClasses(nn.Linear):
    """Class logits as a linear function of the embedding."""

    def __init__(self, num_classes, embedding_dim=16):
        super().__init__(embedding_dim, num_classes + 1)                    # the last one is "no object"
''', '''def test_there_is_one_class_more_than_the_data_have():
    assert PART(num_classes=4)(torch.rand(1, 3, 16)).shape == (1, 3, 5)
'''),
    'PRETEXTS': Example('''from contextlib import contextmanager

import torch

from jrs.registry import PRETEXTS


@PRETEXTS.register_module()
class SmallOutputs:
    """Keeps what the first module inside the backbone puts out small: the mean of its squares, times 0.01."""

    def prepare(self, backbone):
        self.watched = next(iter(backbone.children()))

    @contextmanager
    def watching(self, backbone):
        notes = []
        handle = self.watched.register_forward_hook(lambda module, inputs, output: notes.append(output))
        yield notes
        handle.remove()

    def __call__(self, notes, geometry):
        return {'loss_small_outputs': 0.01 * torch.stack([output.square().mean() for output in notes]).mean()}
''', '''def test_the_term_is_of_what_was_watched():
    part, backbone = PART(), torch.nn.Sequential(torch.nn.Linear(2, 2))
    part.prepare(backbone)
    with part.watching(backbone) as notes:
        output = backbone(torch.ones(1, 2))
    backbone(torch.ones(1, 2))                                              # not watched
    torch.testing.assert_close(part(notes, None)['loss_small_outputs'], 0.01 * output.square().mean())
'''),
    'TEACHERS': Example('''import torch

from jrs.registry import TEACHERS
from jrs.structures import GeometryTargets


@TEACHERS.register_module()
class FlatWorld:
    """Tells that every camera stands in one place, one unit before a wall, and sees one radian of it."""

    def __call__(self, batch):
        num_scenes, num_views, _, height, width = batch.images.shape
        encoding = torch.zeros(num_scenes, num_views, 9, device=batch.images.device)
        encoding[..., 6:] = 1                                               # w of the quaternion, both fields of view
        depth = torch.ones(num_scenes, num_views, height, width, device=batch.images.device)
        return GeometryTargets(encoding, depth, depth > 0)
''', '''def test_the_wall_is_one_unit_away_everywhere():
    target = PART()(SceneBatch(torch.rand(1, 2, 3, 8, 8), ['scene'], [['a', 'b']]))
    assert target.depth.eq(1).all() and target.valid.all() and target.pose_encoding[..., :3].eq(0).all()
''', 'import torch\n\nfrom jrs.structures import SceneBatch\n'),
    'INSERTIONS': Example('''from jrs.registry import INSERTIONS


@INSERTIONS.register_module()
class LastLayer:
    """The last layer only."""

    def __call__(self, num_layers):
        return (num_layers - 1,)
''', '''def test_queries_read_the_last_layer():
    assert PART()(24) == (23,)
''', ''),
    'ALIGNMENTS': Example('''from jrs.registry import ALIGNMENTS


@ALIGNMENTS.register_module()
class TotalVariation:
    """Half of the absolute difference of two distributions, times `scale`."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, attention, target):                                  # (..., V) each, rows sum to 1
        return self.scale * 0.5 * (attention - target).abs().sum(dim=-1)
''', '''def test_distributions_without_a_common_view_differ_by_scale():
    apart = PART(scale=2.0)(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert apart.tolist() == [2.0, 0.0]
'''),
    'COSTS': Example('''from jrs.registry import COSTS


@COSTS.register_module()
class SpillCost:
    """How much of a query's mask lies outside of an instance, as a share of the valid pixels of all views."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, pred, target):
        masks = pred.masks()                                                # (Q, V*h*w), read in pieces
        pieces = masks.pieces(target.flat_masks, target.flat_valid)
        spill = sum(logits.sigmoid() @ (1 - wanted).T for logits, wanted in pieces)         # (Q, G)
        return self.weight * spill / max(1, masks.count(target.flat_valid))
''', '''def test_a_mask_spills_where_the_instance_is_not():
    pred = QueryPredictions(torch.zeros(1, 4), mask_logits=torch.tensor([9.0, 9.0, -9.0, -9.0]).view(1, 1, 2, 2))
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool().view(2, 1, 2, 2)
    cost = PART(weight=2.0)(pred, InstanceTargets(torch.tensor([0, 1]), masks, torch.ones(2, 1)))
    torch.testing.assert_close(cost, torch.tensor([[0.0, 0.5]]), atol=1e-3, rtol=0)
''', 'import torch\n\nfrom jrs.structures import InstanceTargets, QueryPredictions\n'),
    'MATCHERS': Example('''import torch

from jrs.matching.hungarian import CostMatcher
from jrs.registry import MATCHERS


@MATCHERS.register_module()
class GreedyMatcher(CostMatcher):
    """Gives each instance, one after the other, the cheapest query that is left."""

    def assign(self, cost, pred, target):                                   # (Q, G) on the CPU, G > 0
        cost, pairs = cost.clone(), []
        for instance in range(min(cost.shape)):
            pairs.append((int(cost[:, instance].argmin()), instance))
            cost[pairs[-1][0]] = float('inf')
        return torch.tensor(sorted(pairs)).unbind(dim=1)                    # queries (n,), instances (n,)
''', '''def test_the_first_instance_chooses_first():
    part = PART(costs=dict(classification=dict(type='ClassCost', weight=1.0)))
    queries, instances = part.assign(torch.tensor([[0.1, 0.2], [0.5, 0.9]]), None, None)
    assert (queries.tolist(), instances.tolist()) == ([0, 1], [0, 1])
'''),
    'LOSSES.instances': Example('''from jrs.registry import LOSSES


@LOSSES.register_module()
class SpillLoss:
    """How much of a matched mask lies outside of its instance, as a share of the valid pixels of all views."""

    reads = 'instances'

    def __call__(self, pred, target, match):
        masks, wanted = pred.masks(match.queries), target.flat_masks[match.instances]       # (n, V*h*w) each
        spill = masks.total(lambda logits, wanted: (logits.sigmoid() * (1 - wanted)).sum(dim=1), wanted, target.flat_valid)
        return match.mean(spill / max(1, masks.count(target.flat_valid)))                   # None without pairs
''', '''def test_a_mask_spills_where_the_instance_is_not():
    pred = QueryPredictions(torch.zeros(1, 4), mask_logits=torch.tensor([9.0, 9.0, -9.0, -9.0]).view(1, 1, 2, 2))
    target = InstanceTargets(torch.tensor([0]), torch.tensor([1, 0, 0, 0]).bool().view(1, 1, 2, 2), torch.ones(1, 1))
    loss = PART()(pred, target, Match(torch.tensor([0]), torch.tensor([0])))
    torch.testing.assert_close(loss, torch.tensor(0.25), atol=1e-3, rtol=0)
''', 'import torch\n\nfrom jrs.structures import InstanceTargets, Match, QueryPredictions\n'),
    'LOSSES.features': Example('''import torch

from jrs.registry import LOSSES


@LOSSES.register_module()
class FeatureSpread:
    """Variance of the instance features inside each instance, mean over instances."""

    reads = 'features'

    def __call__(self, features, target):                                   # (V, D, h, w); masks are (G, V, h, w)
        pixels = features.movedim(1, -1)                                    # (V, h, w, D)
        spread = [pixels[mask].var(dim=0, correction=0).sum() for mask in target.masks]
        return torch.stack(spread).mean() if spread else None
''', '''def test_equal_features_do_not_spread():
    target = InstanceTargets(torch.tensor([0]), torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.full((1, 2), 0.5))
    assert PART()(torch.ones(2, 8, 4, 4), target) == 0 < PART()(torch.rand(2, 8, 4, 4), target)
''', 'import torch\n\nfrom jrs.structures import InstanceTargets\n'),
    'LOSSES.geometry': Example('''from jrs.errors import ConfigError
from jrs.registry import LOSSES


@LOSSES.register_module()
class LogDepthLoss:
    """Mean absolute difference of the logarithms of predicted and true depth."""

    reads = 'geometry'

    def __call__(self, predictions, target):
        if predictions.depth is None:
            raise ConfigError('LogDepthLoss needs depth: set model.depth_head, or set this loss to None.')
        error = (predictions.depth.clamp_min(1e-6).log() - target.depth.clamp_min(1e-6).log()).abs()    # (B, V, H, W)
        return (error * target.valid).sum() / target.valid.sum().clamp_min(1)
''', '''def test_pixels_that_are_not_valid_do_not_count():
    depth, valid = torch.ones(1, 1, 2, 2), torch.tensor([[True, False], [False, False]]).view(1, 1, 2, 2)
    true = torch.tensor([[2.0, 9.0], [9.0, 9.0]]).view(1, 1, 2, 2)
    loss = PART()(Predictions([], depth), GeometryTargets(torch.zeros(1, 1, 9), true, valid))
    torch.testing.assert_close(loss, torch.tensor(2.0).log())
''', 'import torch\n\nfrom jrs.structures import GeometryTargets, Predictions\n'),
    'POSTPROCESSORS.postprocessor': Example('''from jrs.masks import mask_logits
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances


@POSTPROCESSORS.register_module()
class SureQueries:
    """One instance per query whose best class is likely enough; a pixel is in its mask where the logit is positive."""

    def __init__(self, min_score=0.1, most=100):
        self.min_score, self.most = min_score, most

    def __call__(self, scene):
        score, label = scene.queries.class_probabilities()[0].max(dim=-1)   # (Q,) each
        best = score.argsort(descending=True)[:self.most]
        best = best[score[best] > self.min_score]                           # (M,)
        masks = mask_logits(scene.queries.embedding[best], scene.features) > 0              # (M, V, h, w)
        return Instances(masks, label[best], score[best], best)
''', '''def test_unlikely_queries_are_left_out_and_the_surest_comes_first():
    queries = QueryPredictions(torch.ones(3, 4), torch.tensor([[1.0, 0, 0], [0, 9, 0], [0, 0, 9]]))
    found = PART()(SceneContext(queries, torch.ones(2, 4, 5, 6)))
    assert found.queries.tolist() == [1, 0] and found.labels.tolist() == [1, 0] and found.masks.shape == (2, 2, 5, 6)
''', 'import torch\n\nfrom jrs.structures import QueryPredictions, SceneContext\n'),
    'POSTPROCESSORS.suppression': Example('''from jrs.registry import POSTPROCESSORS


@POSTPROCESSORS.register_module()
class OneClassEach:
    """A query keeps its best class only, with its score."""

    def __call__(self, probabilities, rows, labels, scores):
        best = scores.new_full((len(probabilities),), -1.0).scatter_reduce(0, rows, scores, 'amax')         # (n,)
        kept = (scores == best[rows]).nonzero()[:, 0]                       # (m,)
        return kept, scores[kept]
''', '''def test_the_best_class_of_a_query_stays():
    rows, labels, scores = torch.tensor([0, 1, 0]), torch.tensor([2, 0, 1]), torch.tensor([0.3, 0.4, 0.5])
    kept, left = PART()(torch.rand(2, 9), rows, labels, scores)
    assert kept.tolist() == [1, 2] and left.equal(scores[kept])
''', 'import torch\n'),
    'POSTPROCESSORS.transfer': Example('''import numpy as np

from jrs.postprocess.lift import PosedTransfer, VisiblePixels
from jrs.registry import POSTPROCESSORS


@POSTPROCESSORS.register_module()
class FirstViews(PosedTransfer):
    """True poses and sensor depth like `PosedTransfer`, but only the first views of a scene vote."""

    views = 4

    def describe(self):
        return {**super().describe(), 'views': f'the first {self.views}'}

    def visible_pixels(self, scene, input_size, mask_size, reconstruction=None):
        seen = super().visible_pixels(scene, input_size, mask_size)
        vertex = seen.vertex[kept := seen.pixel < self.views * mask_size[0] * mask_size[1]]
        return VisiblePixels(vertex, seen.pixel[kept], np.bincount(vertex, minlength=seen.num_points), seen.mask_shape)
''', '''def test_what_only_a_later_view_sees_is_not_seen():
    one = dict(depth_intrinsics=np.array([[4.0, 0, 1.5], [0, 4, 1.5], [0, 0, 1]]), cam_from_world=np.eye(4),
               input_from_depth=np.eye(3))
    depth_m = np.zeros((5, 4, 4), np.float32)
    depth_m[4] = 2                                                          # only the fifth view has readings
    scene = SceneGroundTruth('s', np.array([[0.0, 0, 2]]), np.array([1001]), None, depth_m,
                             **{name: np.stack([value] * 5) for name, value in one.items()})
    assert len(PosedTransfer().visible_pixels(scene, (4, 4), (4, 4)).vertex) == 1
    assert len(PART().visible_pixels(scene, (4, 4), (4, 4)).vertex) == 0
''', 'import numpy as np\n\nfrom jrs.postprocess.lift import PosedTransfer\nfrom jrs.structures import SceneGroundTruth\n'),
    'DATASETS': Example('''import numpy as np

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.scene import Camera, Frame, Scene
from jrs.registry import DATASETS


class ArrayScene(Scene):
    @property
    def frames(self):
        return [Frame(str(number), number, 0, pose) for number, pose in enumerate(np.load(self.path)['cam_from_world'])]

    def camera(self, frame):                                                # size and intrinsics of colour, then of depth
        return Camera(*2 * (self.color(frame).shape[:2], np.load(self.path)['intrinsics']))

    def color(self, frame):
        return np.load(self.path)['images'][frame.index]                    # (H, W, 3) uint8

    def depth_m(self, frame):
        return np.load(self.path)['depth_m'][frame.index]                   # (H, W) float32


@DATASETS.register_module()
class ArrayScenes(SceneDataset):
    """Recordings of one .npz each: images (F, H, W, 3), depth_m (F, H, W), cam_from_world (F, 4, 4), intrinsics (3, 3)."""

    def open_scenes(self):
        return [ArrayScene(path) for path in sorted(self.root.glob('*.npz'))]
''', '''def test_the_frames_of_a_recording_are_its_views(tmp_path):
    batch = PART(**PART.example(tmp_path))[0]
    assert batch.view_names == [['0', '1', '2']] and batch.ground_truth[0].depth_m.shape == (3, 16, 24)
''', '', more='''    @staticmethod
    def example(folder):                                                    # what `tools/plugins.py check` tries it with
        cameras = dict(cam_from_world=np.stack([np.eye(4)] * 3), intrinsics=np.array([[24.0, 0, 12], [0, 24, 8], [0, 0, 1]]))
        np.savez(folder / 'one.npz', images=np.zeros((3, 16, 24, 3), np.uint8), depth_m=np.ones((3, 16, 24), np.float32),
                 **cameras)
        return dict(data_root=folder, folder='.', split='all', benchmark='scannet20', width=24, patch_size=8, mode='test')
'''),
    'TRANSFORMS.views': Example('''import numpy as np

from jrs.datasets.transforms import crop_around_principal_point
from jrs.registry import TRANSFORMS


@TRANSFORMS.register_module()
class NoisyViews:
    """The plain crop, and noise of at most `amount` grey values."""

    def __init__(self, amount=8):
        self.amount = amount

    def crop(self, source, intrinsics, size, rng):
        return crop_around_principal_point(source, intrinsics, size)

    def colors(self, images, rng):
        return [np.clip(image + rng.integers(-self.amount, self.amount + 1, image.shape), 0, 255).astype(np.uint8)
                for image in images]
''', '''def test_noise_stays_within_its_bounds():
    image = np.full((8, 8, 3), 254, np.uint8)
    noisy = PART(amount=3).colors([image], np.random.default_rng(0))[0]
    assert noisy.min() >= 251 and noisy.dtype == np.uint8 and (noisy != image).any()
''', 'import numpy as np\n'),
    'TRANSFORMS.image': Example('''import numpy as np
from mmcv.transforms import BaseTransform

from jrs.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DarkerViews(BaseTransform):
    """Makes a view darker, down to `least` of its brightness."""

    def __init__(self, least=0.5):
        self.least = least

    def transform(self, results):                                           # `img` is (H, W, 3) uint8 BGR
        results['img'] = (results['img'] * np.random.uniform(self.least, 1)).astype(np.uint8)
        return results
''', '''def test_a_view_is_not_darker_than_least():
    image = PART(least=0.9)(dict(img=np.full((8, 8, 3), 200, np.uint8)))['img']
    assert 179 <= image.min() == image.max() <= 200
''', 'import numpy as np\n'),
    'SAMPLERS.batches': Example('''from itertools import count

from jrs.datasets.sampling import SampleRequest, own_slots
from jrs.registry import SAMPLERS


@SAMPLERS.register_module()
class InOrder:
    """One scene per slot, in the order of the data set, always as many views."""

    def __init__(self, num_scenes, num_views=2, aspect_ratio=0.75, slots=1, rank=0, world_size=1):
        self.num_scenes, self.shape, self.position = num_scenes, (num_views, aspect_ratio), 0
        self.slots, self.own = slots, own_slots(rank, world_size, slots)    # of one update; of them, those of this process

    def set_position(self, iteration):
        self.position = iteration

    def __iter__(self):
        for first in count(self.position * self.slots, self.slots):
            for draw in (first + slot for slot in self.own):
                yield [SampleRequest(draw % self.num_scenes, draw, *self.shape)]
''', '''def test_processes_share_the_scenes():
    batches = [iter(PART(num_scenes=9, slots=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[next(own)[0].index for _ in range(3)] for own in batches] == [[0, 1, 4], [2, 3, 6]]
''', ''),
    'SAMPLERS.view_choice': Example('''from jrs.registry import SAMPLERS


@SAMPLERS.register_module()
class AnyViews:
    """Any frames of the recording; a frame repeats only when there are too few."""

    def choose(self, scene, frames, num_views, rng):
        return rng.choice(len(frames), num_views, replace=len(frames) < num_views)          # (V,) int64
''', '''def test_frames_do_not_repeat():
    assert sorted(PART().choose(None, list('abcde'), 5, np.random.default_rng(0))) == [0, 1, 2, 3, 4]
''', 'import numpy as np\n'),
    'METRICS': Example('''from mmengine.evaluator import BaseMetric

from jrs.registry import METRICS


@METRICS.register_module()
class Sureness(BaseMetric):
    """How many instances a scene has, and the score of the best: means over scenes."""

    default_prefix = 'sureness'

    def process(self, data_batch, data_samples):                            # a SceneBatch, and its Reconstructions
        for scene in data_samples:
            scores = [] if scene.instances is None else scene.instances.scores.tolist()
            self.results.append((len(scores), max(scores, default=0.0)))

    def compute_metrics(self, results):
        found, best = (sum(values) / len(results) for values in zip(*results, strict=True))
        return dict(instances=found, best=best)                             # logged as sureness/instances, …
''', '''def test_the_numbers_are_means_over_scenes():
    assert PART().compute_metrics([(1, 0.5), (3, 1.0)]) == dict(instances=2.0, best=0.75)
''', ''),
    'HOOKS': Example('''from mmengine.hooks import Hook

from jrs.registry import HOOKS


@HOOKS.register_module()
class LargestLoss(Hook):
    """Remembers the step with the largest loss, and says it at the end."""

    priority = 'LOW'

    def before_train(self, runner):
        self.worst = (float('-inf'), None)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if outputs:                                                         # empty where a step was left out
            self.worst = max(self.worst, (float(outputs['loss']), runner.iter))

    def after_train(self, runner):
        runner.logger.info(f'largest loss {self.worst[0]:.3f} in iteration {self.worst[1]}')
''', '''def test_the_worst_step_is_remembered():
    part = PART()
    part.before_train(None)
    for iteration, loss in enumerate((1.0, 3.0, 2.0)):
        part.after_train_iter(SimpleNamespace(iter=iteration), iteration, outputs=dict(loss=loss))
    assert part.worst == (3.0, 1)
''', 'from types import SimpleNamespace\n'),
}

_CONFIGS = {
    'BACKBONES': """model = dict(backbone=dict(_delete_=True, type='{part}'), camera_head=None, losses=dict(camera=None))""",
    'ATTENTIONS': "model = dict(backbone=dict(global_attention=dict(type='{part}')))",
    'QUERIES': """model = dict(queries=dict(_delete_=True, type='{part}', embedding_dim=128), alignment=None,
             matcher=dict(costs=dict(fada=None)), losses=dict(fada=None))""",
    'HEADS.camera_head': "model = dict(camera_head=dict(_delete_=True, type='{part}'))",
    'HEADS.depth_head': "model = dict(depth_head=dict(_delete_=True, type='{part}'))",
    'HEADS.point_head': "model = dict(point_head=dict(type='{part}'))",
    'HEADS.geometry_head': "model = dict(geometry_head=dict(type='{part}'), camera_head=None, depth_head=None)",
    'HEADS.scale_head': "model = dict(scale_head=dict(type='{part}'))",
    'HEADS.feature_head': "model = dict(feature_head=dict(_delete_=True, type='{part}', embedding_dim=128))",
    'HEADS.class_head': "model = dict(class_head=dict(_delete_=True, type='{part}', embedding_dim=128))",
    'PRETEXTS': "model = dict(pretext=dict(type='{part}'))",
    'TEACHERS': """model = dict(teacher=dict(_delete_=True, type='{part}'))
profiles = dict(debug=dict(model=dict(teacher=dict(_delete_=True, type='{part}'))))     # which has a teacher of its own""",
    'INSERTIONS': "model = dict(queries=dict(insertion=dict(type='{part}')))",
    'ALIGNMENTS': "model = dict(alignment=dict(type='{part}'))",
    'COSTS': "model = dict(weights=dict(spill=1.0), matcher=dict(costs=dict(spill=dict(type='{part}'))))",
    'MATCHERS': "model = dict(matcher=dict(type='{part}'))",
    'LOSSES.instances': "model = dict(weights=dict(spill=1.0), losses=dict(spill=dict(type='{part}')))",
    'LOSSES.features': "model = dict(weights=dict(spread=0.1), losses=dict(spread=dict(type='{part}')))",
    'LOSSES.geometry': "model = dict(weights=dict(log_depth=1.0), losses=dict(log_depth=dict(type='{part}')))",
    'POSTPROCESSORS.postprocessor': "model = dict(postprocessor=dict(_delete_=True, type='{part}'))",
    'POSTPROCESSORS.suppression': "model = dict(postprocessor=dict(suppression=dict(type='{part}')))",
    'POSTPROCESSORS.transfer': "metrics = dict(instances=dict(transfer=dict(_delete_=True, type='{part}')))",
    'DATASETS': """_data = dict(_delete_=True, type='{part}', folder='recordings', split='all', benchmark='scannet200')
test_dataset = dict(mode='test', width=518, **_data)""",
    'TRANSFORMS.views': "train_dataset = dict(transform=dict(type='{part}'))",
    'TRANSFORMS.image': "train_dataset = dict(transform=[dict(type='TrainViews'), dict(type='{part}')])",
    'SAMPLERS.batches': "batches = dict(_delete_=True, type='{part}', num_views=2)",
    'SAMPLERS.view_choice': "train_dataset = dict(view_choice=dict(type='{part}'))",
    'METRICS': "metrics = dict(sureness=dict(type='{part}'))",
    'HOOKS': "hooks = dict(largest=dict(type='{part}'))",
}
EXAMPLES = {kind: replace(example, config=_CONFIGS[kind]) for kind, example in _EXAMPLES.items()}
