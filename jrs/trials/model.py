"""Trials of backbones, queries, heads, pretexts and teachers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from jrs.layers.layout import Layout
from jrs.registry import BACKBONES, build
from jrs.signatures import accepted_keys
from jrs.structures import FeatureTaps, GeometryTargets, LayerState, Predictions, QueryPredictions
from jrs.trials import inputs
from jrs.trials.claims import tensors, wrong_gradients, wrong_leaf_gradients, wrong_tensor

CLOSE = dict(rtol=1e-3, atol=1e-4)


def try_backbone(part: nn.Module) -> Iterator[str]:
    """Two scenes of two views, gradients; then three views in evaluation, in another order, and one scene by itself."""
    images = _legal_images(part)
    states, features = _run(part.train(), images)
    lacking = [*_wrong_states(part, states, images), *_wrong_features(part, features, images)]
    yield from lacking
    if lacking:
        return
    yield from wrong_gradients(part, [[state.tokens for state in states], features.taps, features.geometry_tokens])
    part.eval()
    with torch.no_grad():
        images = torch.cat([images, images[:, :1].flip(-1)], dim=1)                         # (2, 3, 3, H, W)
        whole = _by_view(*_run(part, images))
        if not whole.close(_by_view(*_run(part, images))):
            yield 'two passes over the same images differ in evaluation: something is random, or kept from pass to pass'
            return
        if not whole.at(lambda value: value[:1]).close(_by_view(*_run(part, images[:1]))):
            yield 'a scene comes out otherwise beside another scene than by itself: scenes are mixed (axis B)'
        if _keeps_taps(part, images[:1]):
            yield ('features() hands over taps that the backbone still holds: their memory stays until the next pass. Drop '
                   'them as they are handed over')
        order = [0, 2, 1] if part.has_reference_view else [2, 0, 1]
        if getattr(part, 'causal', False):
            if not whole.at(lambda value: value[:, :2]).close(_by_view(*_run(part, images[:, :2]))):
                yield 'causal is True, and a third view changes what comes out of the first two'
        elif not getattr(part, 'order_matters', False) and \
                not whole.at(lambda value: value[:, order]).close(_by_view(*_run(part, images[:, order]))):
            others = ' behind the first' if part.has_reference_view else ' (has_reference_view is False)'
            yield (f'permuting the views{others} does not permute tokens and taps: they leave in another order than the '
                   'images, or the order has an influence')
    if 'patch_size' not in (accepted_keys(type(part)) or ()) and getattr(type(part), 'patch_size', None) != part.patch_size:
        yield (f'patch_size is {part.patch_size} once it is built, and data sets ask for it before: make it a class '
               'attribute, or an argument of the constructor with a default')


def _legal_images(part: nn.Module) -> Tensor:
    """Return two scenes of two views whose sides are the smallest that the part takes, the height not the width."""
    for factor in (1, 2, 4, 8):
        height, width = 2 * factor * part.patch_size, 3 * factor * part.patch_size
        images = inputs.seeded(2, inputs.VIEWS, 3, height, width)
        try:
            next(iter(part.layers(images)))
        except ValueError as error:
            refused = error
            continue
        return images
    raise ValueError(f'no images of 2 x 3 to 16 x 24 patches are allowed: {refused}')


def _run(part: nn.Module, images: Tensor) -> tuple[list[LayerState], FeatureTaps]:
    states = list(part.layers(images))
    return states, part.features()


def _keeps_taps(part: nn.Module, images: Tensor) -> bool:
    """True where a tap of `images` (B, V, 3, H, W) lives on when those who asked for it have dropped it."""
    _, features = _run(part, images)
    taps = [weakref.ref(tap) for tap in features.taps]
    del _, features
    if any(tap() is not None for tap in taps):
        gc.collect()                                                   # in a circle of references: nobody keeps it either
    return any(tap() is not None for tap in taps)


def _wrong_states(part: nn.Module, states: list[LayerState], images: Tensor) -> Iterator[str]:
    views = images.shape[1]
    if [getattr(state, 'index', None) for state in states] != list(range(part.num_query_layers)):
        yield (f'layers() yields states with the indices {[getattr(state, "index", state) for state in states]}, and '
               f'num_query_layers is {part.num_query_layers}: they must be 0 .. {part.num_query_layers - 1}')
    for state in states:
        what = f'of layer {state.index}'
        tokens = len(state.view_index)
        yield from wrong_tensor(state.tokens, f'tokens {what}', (len(images), tokens, part.embed_dim), '(B, T, embed_dim)')
        yield from wrong_tensor(state.is_patch, f'is_patch {what}', (tokens,), '(T,)')
        if state.num_views != views or not set(range(views)) <= set(state.view_index.tolist()) <= {-1, *range(views)}:
            yield (f'view_index {what} names the views {sorted(set(state.view_index.tolist()))} and num_views is '
                   f'{state.num_views}, for {views} views')
        if state.view_index.dtype != torch.int64 or state.is_patch.dtype != torch.bool or not state.is_patch.any():
            yield f'view_index {what} must be int64, is_patch bool and somewhere True'


def _wrong_features(part: nn.Module, features: FeatureTaps, images: Tensor) -> Iterator[str]:
    if not isinstance(features, FeatureTaps):
        yield f'features() returns a {type(features).__name__}, not FeatureTaps'
        return
    size, shape = tuple(images.shape[-2:]), tuple(images.shape[:2])
    grid = tuple(side // part.patch_size for side in size)
    if len(features.taps) != len(part.feature_layers):
        yield f'features() has {len(features.taps)} taps, and feature_layers names {len(part.feature_layers)}'
    for number, tap in enumerate(features.taps):
        yield from wrong_tensor(tap, f'tap {number}', (*shape, None, part.feature_dim), '(B, V, P, feature_dim)')
    if tuple(features.patch_grid) != grid or tuple(features.image_size) != size:
        yield (f'patch_grid {tuple(features.patch_grid)} and image_size {tuple(features.image_size)} must be {grid} and '
               f'{size}')
    places = features.patch_index.tolist()
    if len(set(places)) != grid[0] * grid[1] or not set(places) <= set(range(features.taps[0].shape[2])):
        yield f'patch_index must hold the {grid[0] * grid[1]} places of the patches in 0 .. P - 1, got {places[:8]}'
    if features.geometry_tokens is not None:
        yield from wrong_tensor(features.geometry_tokens, 'geometry_tokens', (*shape, part.feature_dim),
                                '(B, V, feature_dim)')


@dataclass
class _ByView:
    """What has an axis of views, (B, V, ...) each: patch tokens in any order, and what stands in one order."""

    tokens: list[Tensor]
    ordered: list[Tensor]

    def at(self, pick: Callable[[Tensor], Tensor]) -> _ByView:
        return _ByView([pick(value) for value in self.tokens], [pick(value) for value in self.ordered])

    def close(self, other: _ByView) -> bool:
        return (all(_close(a, b) or _close_as_sets(a, b) for a, b in zip(self.tokens, other.tokens, strict=True))
                and all(_close(a, b) for a, b in zip(self.ordered, other.ordered, strict=True)))


def _by_view(states: list[LayerState], features: FeatureTaps) -> _ByView:
    """Return the patch tokens of each layer, taps and tokens for cameras."""
    tokens = []
    for state in states:
        of_view = [state.tokens[:, state.is_patch & (state.view_index == view)] for view in range(state.num_views)]
        if len({one.shape for one in of_view}) == 1:                # merged tokens may be more in one view
            tokens.append(torch.stack(of_view, dim=1))
    return _ByView(tokens, [*features.taps, *tensors([features.geometry_tokens])])


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), **CLOSE)


def _close_as_sets(first: Tensor, second: Tensor) -> bool:
    """True where each token (B, V, n, C) of either is close to one of the same view of the other."""
    if first.shape != second.shape:
        return False
    apart = torch.cdist(first.float(), second.float(), p=float('inf'))                      # (B, V, n, n)
    allowed = CLOSE['atol'] + CLOSE['rtol'] * float(first.abs().max())
    return max(float(apart.amin(dim=axis).max()) for axis in (-1, -2)) <= allowed


def try_attention(part: nn.Module) -> Iterator[str]:
    """Two blocks with two views of one special token and six patches each, and one token of no view."""
    layout = Layout.of(inputs.seeded(2, inputs.VIEWS, 3, *inputs.SIZE), inputs.PATCH, front=1, num_extra=1)
    count = inputs.VIEWS * layout.num_tokens + 1
    for block in (0, 1):
        heads = [(inputs.seeded(2, 2, count, 8) - shift).requires_grad_(part.recomputable) for shift in (0.5, 0.4, 0.3)]
        mix = part.at(block, layout)
        if mix is None:
            continue
        found = mix(*heads, inputs.seeded(2, count, inputs.DIM))
        shape = tuple(heads[0].shape)
        lacking = list(wrong_tensor(found, f'what block {block} attends', shape, '(B, heads, N, head width)'))
        yield from lacking
        if not lacking and part.recomputable:                                   # others are for inference
            yield from wrong_gradients(part, found)
            yield from wrong_leaf_gradients(found.sum(), dict(zip(('q', 'k', 'v'), heads, strict=True)))


def try_queries(part: nn.Module) -> Iterator[str]:
    """Two layers of two scenes with a token of no view, gradients; then without tracking, and with one view."""
    part.train()
    features = inputs.seeded(2, inputs.VIEWS, inputs.EMBEDDING, *inputs.MASK_SIZE)
    states = inputs.layer_states()
    before = [state.tokens.clone() for state in states]
    found = _ask(part, states, inputs.taps(part=part), features, True)
    lacking = list(_wrong_answers(part, found, inputs.VIEWS))
    yield from lacking
    if any(not state.tokens.equal(tokens) for state, tokens in zip(states, before, strict=True)):
        yield 'read() writes into the tokens of the backbone'
    if lacking:
        return
    yield from wrong_gradients(part, [[level.embedding, level.view_attention] for level in found.levels])
    with torch.no_grad():
        part.eval()
        one = _ask(part, inputs.layer_states(2, 1), inputs.taps(2, 1, part), features[:, :1], False)
        yield from (f'with one view and nothing tracked: {fault}' for fault in _wrong_answers(part, one, 1))


def _ask(part: nn.Module, states: list[LayerState], taps: FeatureTaps, features: Tensor, track: bool) -> QueryPredictions:
    state = part.start(len(features), track)
    for layer in states:
        state = part.read(state, layer)
    return part.finish(state, taps, features)


def _wrong_answers(part: nn.Module, found: QueryPredictions, views: int) -> Iterator[str]:
    if not isinstance(found, QueryPredictions):
        yield f'finish() returns a {type(found).__name__}, not QueryPredictions'
        return
    for level in found.levels:
        yield from wrong_tensor(level.embedding, 'embedding', (2, part.num_queries, inputs.EMBEDDING), '(B, Q, D)')
    if found.view_attention is not None:
        attention = found.view_attention
        yield from wrong_tensor(attention, 'view_attention', (None, 2, part.num_queries, views), '(L, B, Q, V)')
        if attention.ndim == 4 and not torch.allclose(attention.sum(dim=-1), torch.ones(attention.shape[:-1]), atol=1e-3):
            yield 'rows of view_attention over the views do not sum to 1'


def _of_taps(part: nn.Module) -> tuple[object, FeatureTaps]:
    """Return what a head says of two scenes and two views, and what it saw: a larger grid where it refuses the first."""
    taps = inputs.taps(part=part)
    try:
        return part(taps), taps
    except ValueError:
        taps = inputs.taps(part=part, factor=2)
        return part(taps), taps


def _wrong_maps(part: nn.Module, taps: FeatureTaps) -> Iterator[str]:
    """Yield that a head did not leave a map that it says it leaves."""
    for name in getattr(part, 'leaves', ()):
        found = taps.maps.get(name)
        if found is None or found.shape[:2] != taps.taps[0].shape[:2]:
            yield f'the map {name!r} that it leaves is {None if found is None else tuple(found.shape)}, not (B, V, ...)'


def try_camera_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, taps = _of_taps(part)
    yield from _wrong_cameras(found)
    yield from _wrong_maps(part, taps)
    yield from wrong_gradients(part, found)


def try_depth_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, taps = _of_taps(part)
    if not isinstance(found, tuple) or len(found) != 2:
        yield f'it returns a {type(found).__name__}, not depth and confidence'
        return
    yield from _wrong_depth(*found, taps)
    yield from _wrong_maps(part, taps)
    yield from wrong_gradients(part, found)


def try_point_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, taps = _of_taps(part)
    if not isinstance(found, tuple) or len(found) != 2:
        yield f'it returns a {type(found).__name__}, not points and confidence'
        return
    yield from wrong_tensor(found[0], 'points', (2, inputs.VIEWS, *taps.image_size, 3), '(B, V, H, W, 3)')
    yield from _wrong_dense('confidence', found[1], 1, taps)
    yield from _wrong_maps(part, taps)
    yield from wrong_gradients(part, found)


def try_geometry_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, taps = _of_taps(part)
    if not isinstance(found, Predictions):
        yield f'it returns a {type(found).__name__}, not Predictions'
        return
    yield from _wrong_cameras(found.pose_encodings)
    yield from _wrong_depth(found.depth, found.depth_conf, taps)
    for name, shape in (('points', (*taps.image_size, 3)), ('intrinsics', (3, 3))):
        if getattr(found, name) is not None:
            yield from wrong_tensor(getattr(found, name), name, (2, inputs.VIEWS, *shape), f'(B, V, {name})')
    yield from _wrong_maps(part, taps)
    outputs = [getattr(found, one.name) for one in fields(found)]
    yield from wrong_gradients(part, outputs)


def try_scale_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, _ = _of_taps(part)
    lacking = list(wrong_tensor(found, 'the scale', (2,), '(B,)'))
    yield from lacking
    if not lacking and (found <= 0).any():
        yield f'metres per unit must be above 0, got {found.min().item():.3g}'
    yield from wrong_gradients(part, found)


def _wrong_cameras(found: object) -> Iterator[str]:
    if not isinstance(found, list) or not found:
        yield f'cameras are a {type(found).__name__}, not a list of at least one (B, V, 9)'
        return
    for stage in found:
        yield from wrong_tensor(stage, 'an encoding', (2, inputs.VIEWS, 9), '(B, V, 9)')


def _wrong_depth(depth: object, confidence: object, taps: FeatureTaps) -> Iterator[str]:
    yield from _wrong_dense('depth', depth, 0, taps)
    yield from _wrong_dense('confidence', confidence, 1, taps)


def _wrong_dense(what: str, value: object, least: float, taps: FeatureTaps) -> Iterator[str]:
    lacking = list(wrong_tensor(value, what, (2, inputs.VIEWS, *taps.image_size), '(B, V, H, W)'))
    yield from lacking
    if not lacking and (value < least).any():
        yield f'{what} must be above {least}, got {value.min().item():.3g}'


def try_feature_head(part: nn.Module) -> Iterator[str]:
    """Taps of two scenes and two views."""
    found, taps = _of_taps(part)
    lacking = list(wrong_tensor(found, 'features', (2, inputs.VIEWS, None, None, None), '(B, V, D, h, w)'))
    yield from lacking
    if not lacking and any(side > whole for side, whole in zip(found.shape[-2:], taps.image_size, strict=True)):
        yield f'features {tuple(found.shape[-2:])} are larger than the images {taps.image_size}'
    yield from _wrong_maps(part, taps)
    left = [taps.maps[name] for name in getattr(part, 'leaves', ()) if name in taps.maps]
    yield from wrong_gradients(part, [found, *left])


def try_class_head(part: nn.Module) -> Iterator[str]:
    """Embeddings of two scenes."""
    found = part(inputs.seeded(2, inputs.QUERIES, inputs.EMBEDDING))
    more, words = (0, 'K') if getattr(part, 'classes', 'softmax') == 'sigmoid' else (1, 'K + 1')
    yield from wrong_tensor(found, 'logits', (2, inputs.QUERIES, inputs.CLASSES + more), f'(B, Q, {words})')
    yield from wrong_gradients(part, found)


def try_pretext(part: object) -> Iterator[str]:
    """One scene of two views through a VGGT of two layers."""
    backbone = build(BACKBONES, dict(type='VGGT', img_size=24, patch_size=inputs.PATCH, embed_dim=inputs.DIM,
                                     depth=inputs.LAYERS, num_heads=2, patch_embed='conv', feature_layers=(0, 0, 1, 1)),
                     'model.backbone')
    part.prepare(backbone)
    with part.watching(backbone) as notes:
        list(backbone.layers(inputs.seeded(1, inputs.VIEWS, 3, *inputs.SIZE)))
    target = inputs.geometry_pair()[1]
    terms = part(notes, GeometryTargets(target.pose_encoding[:1], target.depth[:1], target.valid[:1], target.points[:1]))
    if not terms or not all(name.startswith('loss_') for name in terms):
        yield f'its terms are named {list(terms)}; names begin with loss_'
    for name, value in terms.items():
        yield from wrong_tensor(value, name, (), 'a scalar')
    if isinstance(part, nn.Module):
        yield from wrong_gradients(part, terms)


def try_teacher(part: object) -> Iterator[str]:
    """Two scenes of two views, with depth, cameras and instances."""
    target = part(inputs.scene_batch(2))
    if not isinstance(target, GeometryTargets):
        yield f'it returns a {type(target).__name__}, not GeometryTargets'
        return
    shape = (2, inputs.VIEWS, *inputs.SIZE)
    yield from wrong_tensor(target.pose_encoding, 'pose_encoding', (2, inputs.VIEWS, 9), '(B, V, 9)')
    for name, value in (('depth', target.depth), ('valid', target.valid)):
        yield from wrong_tensor(value, name, shape, '(B, V, H, W)')
    if any(value.requires_grad for value in (target.pose_encoding, target.depth)):
        yield 'its targets carry a gradient'
    if target.valid.dtype != torch.bool or not target.valid.any():
        yield 'valid must be bool, and somewhere True for a scene with depth everywhere'


TRIALS = {
    'BACKBONES': try_backbone, 'ATTENTIONS': try_attention, 'QUERIES': try_queries, 'HEADS.camera_head': try_camera_head,
    'HEADS.depth_head': try_depth_head, 'HEADS.point_head': try_point_head, 'HEADS.geometry_head': try_geometry_head,
    'HEADS.feature_head': try_feature_head, 'HEADS.scale_head': try_scale_head, 'HEADS.class_head': try_class_head,
    'PRETEXTS': try_pretext, 'TEACHERS': try_teacher}
