"""Trials of insertions, alignments, costs, matchers, losses and postprocessors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from jrs.structures import Instances, Match, QueryPredictions
from jrs.trials import inputs
from jrs.trials.claims import wrong_leaf_gradients, wrong_tensor

SIZES = ((2, 2), (1, 2), (2, 0))               # views and instances that a scene may have


def try_insertion(part: object) -> Iterator[str]:
    """Backbones of 2, 4 and 24 layers."""
    for layers in (2, 4, 24):
        found = part(layers)
        right = isinstance(found, tuple) and set(found) <= set(range(layers)) and list(found) == sorted(set(found))
        if not right or not found:
            yield f'of {layers} layers it gives {found!r}, not a tuple of numbers in 0 .. {layers - 1} that rise'


def try_alignment(part: object) -> Iterator[str]:
    """All pairs, as the cost asks, and matched pairs, as the loss does; some views have a probability of exactly 0."""
    visibility = inputs.instance_targets().view_visibility                                  # (G, V), with zeros
    attention = inputs.query_predictions().view_attention                                   # (L, Q, V)
    attention = torch.cat([attention, torch.eye(inputs.VIEWS)[:1].expand(len(attention), 1, -1)], dim=1).requires_grad_()
    pairs = (len(attention), inputs.QUERIES + 1, len(visibility))
    found = part(attention[:, :, None], visibility)
    lacking = list(wrong_tensor(found, 'the divergence of all pairs', pairs, '(L, Q, G)'))
    matched = part(attention[:, -2:], visibility)
    lacking += wrong_tensor(matched, 'the divergence of matched pairs', (pairs[0], 2), '(L, n)')
    yield from lacking
    if lacking:
        return
    if (found < -1e-4).any():
        yield f'a divergence is negative: {found.min().item():.3g}'
    yield from wrong_leaf_gradients(matched.sum(), {'attention, where a view has probability 0,': attention})


def try_cost(part: object) -> Iterator[str]:
    """One scene of two views and two instances, one view, and no instance, as in training."""
    for views, count in SIZES:
        with torch.no_grad():
            found = part(_predictions_for(part, views), inputs.instance_targets(views, count))
        what = f'the cost with {views} views and {count} instances'
        yield from wrong_tensor(found, what, (inputs.QUERIES, count), '(Q, G)')


def _predictions_for(part: object, views: int = inputs.VIEWS, learn: bool = False) -> QueryPredictions:
    """Return predictions with class logits of the kind that a cost or a loss reads."""
    return inputs.query_predictions(views, learn, classes=getattr(part, 'classes', 'softmax'))


def try_weight(part: type, arguments: Mapping) -> Iterator[str]:
    """A cost of weight 2 is twice the cost of weight 1."""
    if 'weight' not in arguments:
        yield 'its constructor takes no `weight`: what model.weights says of it would change nothing'
        return
    with torch.no_grad():
        once, twice = (part(**{**arguments, 'weight': weight})(_predictions_for(part), inputs.instance_targets())
                       for weight in (1.0, 2.0))
    if once.shape == twice.shape and not torch.allclose(twice, 2 * once, rtol=1e-3, atol=1e-6):
        yield 'with twice the weight the cost is not twice as high: multiply it by `weight`'


def try_matcher(part: object) -> Iterator[str]:
    """One scene with an auxiliary level: two instances, one view, none, and more instances than queries."""
    for views, count in (*SIZES, (2, inputs.QUERIES + 2)):
        where = f'with {views} views and {count} instances'
        pred = inputs.query_predictions(views)
        match = part(pred, inputs.instance_targets(views, count))
        if not isinstance(match, Match):
            yield f'it returns a {type(match).__name__}, not a Match'
            return
        if len(match.auxiliary) != len(pred.auxiliary):
            yield f'{where}: Match.auxiliary has {len(match.auxiliary)} assignments for {len(pred.auxiliary)} levels'
        yield from (f'{where}: {fault}' for level in [match, *match.auxiliary] for fault in _wrong_pairs(level, count))


def _wrong_pairs(match: Match, count: int) -> Iterator[str]:
    queries, instances = match.queries.tolist(), match.instances.tolist()
    if match.queries.dtype != torch.int64 or match.instances.dtype != torch.int64 or len(queries) != len(instances):
        yield 'queries and instances must be as many, and int64'
    if len(set(queries)) < len(queries):
        yield f'a query has two instances: {queries}'
    if not set(queries) <= set(range(inputs.QUERIES)) or not set(instances) <= set(range(count)):
        yield f'pairs {queries} with {instances} are out of 0 .. {inputs.QUERIES - 1} and 0 .. {count - 1}'


def try_instance_loss(part: object) -> Iterator[str]:
    """One scene of two views and two instances, one view, and no instance."""
    for views, count in SIZES:
        pred = _predictions_for(part, views, learn=True)
        pairs = torch.arange(count)
        value = part(pred, inputs.instance_targets(views, count), Match(pairs + 1, pairs))
        leaves = dict(embedding=pred.embedding, class_logits=pred.class_logits, view_attention=pred.view_attention,
                      features=pred.features)
        yield from _wrong_term(value, f'with {views} views and {count} pairs', leaves)
    yield from _wrong_pair_weights(part)


@torch.no_grad()
def _wrong_pair_weights(part: Callable) -> Iterator[str]:
    """Yield that a loss says the same whatever a pair weighs, where it is another without that pair."""
    pred, target, pairs = _predictions_for(part), inputs.instance_targets(), torch.arange(2)
    both, heavier, one = (part(pred, target, match) for match in (
        Match(pairs + 1, pairs), Match(pairs + 1, pairs, weights=torch.tensor([9.0, 1.0])), Match(pairs[:1] + 1, pairs[:1])))
    if all(isinstance(value, Tensor) for value in (both, heavier, one)) and both.equal(heavier) and not both.equal(one):
        yield 'it does not change with Match.weights: average over pairs with `match.mean(values)`'


def try_feature_loss(part: object) -> Iterator[str]:
    """One scene of two views and two instances, one view, and no instance."""
    for views, count in SIZES:
        features = inputs.query_predictions(views, learn=True).features
        value = part(features, inputs.instance_targets(views, count))
        yield from _wrong_term(value, f'with {views} views and {count} instances', dict(features=features))


def try_geometry_loss(part: object) -> Iterator[str]:
    """Two scenes of two views, every pixel valid, then none."""
    for valid in (True, False):
        where = f'with {"every pixel" if valid else "no pixel"} valid'
        predictions, target = inputs.geometry_pair(valid)
        value = part(predictions, target)
        if isinstance(value, Mapping) and 'total' not in value:
            yield f'{where}: it returns {sorted(value)} without `total`'
            return
        value = value['total'] if isinstance(value, Mapping) else value
        if value is None:
            yield f'{where}: it returns None; 0 that depends on the predictions is asked for'
            return
        leaves = dict(depth=predictions.depth, depth_conf=predictions.depth_conf, points=predictions.points,
                      points_conf=predictions.points_conf, pose_encodings=predictions.pose_encodings[-1],
                      **predictions.extras)
        yield from _wrong_term(value, where, leaves)


def _wrong_term(value: Tensor | None, where: str, leaves: dict[str, Tensor]) -> Iterator[str]:
    if value is None:
        return
    lacking = list(wrong_tensor(value, 'the term', (), 'a scalar'))
    yield from (f'{where}: {fault}' for fault in lacking or wrong_leaf_gradients(value, leaves))


@torch.no_grad()
def try_postprocessor(part: object) -> Iterator[str]:
    """One scene of two views, and of one, with what the part says that it reads and the features."""
    for views in (2, 1):
        found = part(inputs.scene_context(views, getattr(part, 'reads', ('queries',))))
        if not isinstance(found, Instances):
            yield f'it returns a {type(found).__name__}, not Instances'
            return
        count = len(found.scores)
        if found.packed.shape not in [(count, views, *size) for size in (inputs.MASK_SIZE, inputs.SIZE)]:
            yield (f'masks are {found.packed.shape}, not (M, V, h, w) = {(count, views, *inputs.MASK_SIZE)}, nor of the '
                   f'size {inputs.SIZE} of the images')
        if not len(found.labels) == len(found.queries) == count:
            yield f'{len(found.labels)} labels, {len(found.queries)} queries and {count} scores: one of each is asked for'
        if found.scores.diff().gt(0).any() or found.scores.lt(0).any() or found.scores.gt(1).any():
            yield 'scores must be in [0, 1], best first'
        if not set(found.labels.tolist()) <= set(range(inputs.CLASSES)):
            yield f'labels must be class indices 0 .. K - 1, got {sorted(set(found.labels.tolist()))}'


@torch.no_grad()
def try_suppression(part: object) -> Iterator[str]:
    """Three masks of two classes, two of them the same; and none."""
    for count in (3, 0):
        probabilities = torch.tensor([[0.9] * 8 + [0.1] * 8, [0.1] * 8 + [0.9] * 8])
        rows, labels = torch.tensor([0, 1, 0])[:count], torch.tensor([1, 0, 1])[:count]
        kept, scores = part(probabilities, rows, labels, torch.tensor([0.9, 0.5, 0.4])[:count])
        if len(kept) != len(scores) or not set(kept.tolist()) <= set(range(count)):
            yield f'of {count} pairs it keeps {kept.tolist()}, with {len(scores)} scores: places, and a score for each'


def try_transfer(part: object) -> Iterator[str]:
    """A wall of 300 vertices that two views see, two predicted and two true masks."""
    scene, found, batch = inputs.ground_truth(), inputs.instances(), inputs.scene_batch()
    visible = part.visible_pixels(scene, inputs.SIZE, inputs.MASK_SIZE, inputs.reconstruction())
    lifted = part.lift(found, scene, visible, inputs.reconstruction().features)
    ids = batch.instance_ids[0][:, ::2, ::2]                                                # (V, h, w)
    oracle = part.lift_ids(ids, batch.instances[0].ids, scene, visible)
    shape = (2, -(-len(scene.vertices) // 8))
    for name, masks in (('lift', lifted), ('lift_ids', oracle)):
        if not isinstance(masks, np.ndarray) or masks.shape != shape or masks.dtype != np.uint8:
            yield f'{name}() returns {getattr(masks, "shape", type(masks).__name__)}, not {shape} uint8: (M, ceil(N / 8))'
    words = part.describe()
    if not words or not all(isinstance(word, str) for pair in words.items() for word in pair):
        yield f'describe() must return words by name, got {words!r}'


TRIALS = {
    'INSERTIONS': try_insertion, 'ALIGNMENTS': try_alignment, 'COSTS': try_cost, 'MATCHERS': try_matcher,
    'LOSSES.instances': try_instance_loss, 'LOSSES.features': try_feature_loss, 'LOSSES.geometry': try_geometry_loss,
    'POSTPROCESSORS.postprocessor': try_postprocessor, 'POSTPROCESSORS.suppression': try_suppression,
    'POSTPROCESSORS.transfer': try_transfer}
