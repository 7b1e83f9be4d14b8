"""Class and mask logits -> scored instances (segvggt_release.md section 9)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from jrs.errors import ConfigError, NonFiniteError
from jrs.finite import all_finite, nonfinite, refuse_nonfinite
from jrs.functional import places_of
from jrs.masks import mask_logits
from jrs.postprocess.distinct import unlike_masks
from jrs.registry import POSTPROCESSORS, build
from jrs.structures import Instances, PackedMasks, QueryPredictions, SceneContext, count_bits, pack_above

CACHED_LOGITS = 2 ** 19                        # a CPU works on so many at a time: they stay in its cache
BROKEN = 'What is not finite ranks nowhere, so that nothing would be found: the weights are broken or of another model.'


@POSTPROCESSORS.register_module()
class QueryMasks:
    """Ranks queries by class probability times mask quality, and thresholds their masks.

    Where a head says the overlap of each mask (`QueryPredictions.scores`), the class probability is multiplied by it first,
    unless `score_head` is False.

    Mask logits are read once, or made for a few views at a time and never kept: memory beside the masks, at one bit per
    pixel of each query, is bounded by `max_logits`. All thresholds are strict.

    Args:
        mode: 'pairs' ranks (query, class) pairs as the paper does; 'best_class' each query once with its best class;
            'objectness' each query once by the probability of any object, label 0 (class-agnostic).
        top_pairs: candidates that are kept by probability alone, before mask quality.
        mask_threshold: probability above which a pixel is in the mask. Quality always looks where logit > 0.
        min_score: instances must score more.
        min_pixels: masks must have more pixels at mask resolution, all views together; of elements that stand for points
            (`QueryPredictions.element_points`) more points.
        max_logits: mask logits that may exist at a time; one view of all queries is the least.
        mask_quality: whether scores are multiplied by the mean probability of the mask's pixels.
        score_head: whether what that head says counts, where there is one.
        query_overlap: queries whose mask has a larger IoU, over mask elements where logit > 0, with that of a query that is
            surer of its class are left out before the ranking; None = none are. All masks of the scene are in memory for it.
        score_decimals: scores of the result are rounded to so many; None = they are not.
        suppression: what becomes of masks that lie on each other (`POSTPROCESSORS`), such as `MatrixNMS`; None = nothing
            does. All masks of the scene are in memory for it.
    """

    reads = ('queries',)
    scores_are_finite = True                       # it has refused others itself: nobody has to wait for them again

    def __init__(self, mode: str = 'pairs', top_pairs: int = 600, mask_threshold: float = 0.4, min_score: float = 0.0,
                 min_pixels: int = 200, max_logits: int = 2 ** 24, mask_quality: bool = True,
                 score_head: bool = True, query_overlap: float | None = None, score_decimals: int | None = None,
                 suppression: dict | None = None, path: str = 'model.postprocessor') -> None:
        if mode not in RANKINGS:
            raise ConfigError(f'QueryMasks.mode must be one of {", ".join(map(repr, RANKINGS))}, got {mode!r}')
        if not math.isfinite(mask_threshold + min_score + min_pixels):
            raise ConfigError(f'QueryMasks: thresholds must be finite numbers, got mask_threshold {mask_threshold}, '
                              f'min_score {min_score} and min_pixels {min_pixels}.')
        if query_overlap is not None and not 0 < query_overlap <= 1:
            raise ConfigError(f'QueryMasks.query_overlap must be an IoU in (0, 1] or None, got {query_overlap!r}.')
        self.rank = RANKINGS[mode]
        self.top_pairs = top_pairs
        self.mask_threshold = mask_threshold
        self.min_score = min_score
        self.min_pixels = min_pixels
        self.max_logits = max_logits
        self.mask_quality = mask_quality
        self.score_head, self.query_overlap, self.score_decimals = score_head, query_overlap, score_decimals
        self.suppression = build(POSTPROCESSORS, suppression, f'{path}.suppression')

    @torch.no_grad()
    def __call__(self, scene: SceneContext) -> Instances:
        """Return the scored instances of one scene, best first.

        Reads `scene.queries`, whose masks are `mask_logits` (Q, V, h, w), or where these are None come from `embedding`
        (Q, D) and `scene.features` (V, D, h, w).

        Raises:
            ValueError: neither mask logits nor features are given.
            NonFiniteError: class or mask logits are not finite.
        """
        queries, features = scene.queries, scene.features
        if queries.mask_logits is None and features is None:
            raise ValueError('QueryMasks needs mask logits in the predictions or instance features, got neither')
        finite = [all_finite(values) for values in (queries.class_logits, queries.scores) if values is not None]
        source = _MaskLogits(queries, features, self.max_logits)
        probability, query, label = self._ranked(queries, source)                               # (n,) each
        if queries.scores is not None and self.score_head:
            probability = probability * queries.scores.float()[query]
        probability, best = probability.topk(min(self.top_pairs, len(probability)))
        query, label = query[best], label[best]
        ranked, row = _used(query, len(queries.class_logits))                                   # (Q,) bool, (n,)
        sound, count = torch.stack([torch.stack(finite).all().long(), ranked.sum()]).tolist()   # the first wait
        if not sound:
            refuse_nonfinite({'class_logits': queries.class_logits, 'scores': queries.scores}, 'QueryMasks', BROKEN)
        distinct = places_of(ranked, count)                                                     # (distinct queries,)
        quality, pixels, bits, size, sound = self._measure(source, distinct)
        score = probability * quality[row] if self.mask_quality else probability
        if self.suppression is not None:
            left, score = self.suppression(source.dense(distinct).sigmoid(), row, label, score)     # (m,) each
            query, label, row = query[left], label[left], row[left]
        good = (score > self.min_score) & (pixels[row] > self.min_pixels)                       # (n,)
        seen = torch.zeros_like(pixels).index_add_(0, row, good.to(pixels.dtype)) > 0           # (distinct queries,)
        sound, count, shown = torch.stack([sound.long(), good.sum(), seen.sum()]).tolist()      # the second wait, and last
        if not sound:
            source.refuse(distinct)
        kept = places_of(good, count)                                                           # (M,)
        kept = kept[score[kept].argsort(descending=True, stable=True)]
        embedding = queries.embedding[query[kept]] if queries.mask_logits is None else None
        packed = PackedMasks(bits, row[kept], size) if shown == len(bits) else \
            PackedMasks(bits[places_of(seen, shown)], (seen.cumsum(0) - 1)[row[kept]], size)    # masks that nobody has go
        scores = score[kept] if self.score_decimals is None else score[kept].round(decimals=self.score_decimals)
        return Instances(packed, label[kept], scores, query[kept], embedding)

    def _ranked(self, queries: QueryPredictions, source: _MaskLogits) -> tuple[Tensor, Tensor, Tensor]:
        """Return probability, query and label (n,) of the candidates, as the mode has them."""
        each, any_object = queries.class_probabilities()                                        # (Q, K), (Q,)
        if self.query_overlap is None:
            return self.rank(each, any_object)
        every = torch.arange(len(each), device=each.device)
        left = unlike_masks(source.dense(every) > 0, each.amax(dim=1), self.query_overlap)      # (q,)
        probability, query, label = self.rank(each[left], any_object[left])
        return probability, left[query], label

    def _measure(self, source: _MaskLogits, query: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], Tensor]:
        """Return quality, pixels or points (n,), packed masks (n, V, bytes), their (h, w), and whether all logits are finite
        (a bool scalar), of queries (n,), in one pass.

        Quality is the mean probability where logit > 0.
        """
        num_views, *size = source.mask_shape
        probability_sum = torch.zeros(len(query), device=query.device)
        positive, pixels = torch.zeros_like(query), torch.zeros_like(query)
        bits = torch.empty(len(query), num_views, -(-size[0] * size[1] // 8), dtype=torch.uint8, device=query.device)
        scratch = torch.empty(2, 0, device=query.device)                                        # made once: chunks are many
        finite = [torch.ones((), dtype=torch.bool, device=query.device)]
        for rows, views, logits in source.chunks(query):                                        # (r, v, h*w)
            if scratch.shape[1] < logits.numel():
                scratch = scratch.new_empty(2, logits.numel())
            finite.append(all_finite(logits))
            probability, above = (values[:logits.numel()].view(logits.shape) for values in scratch)
            torch.sigmoid(logits, out=probability)
            bits[rows, views] = packed = pack_above(probability, self.mask_threshold)           # (r, v, bytes)
            pixels[rows] += count_bits(packed).sum(dim=1) if source.points is None else \
                source.points_above(probability, self.mask_threshold, views)
            torch.gt(logits, 0, out=above)                                  # as 0.0 and 1.0: bool is slow on a CPU
            positive[rows] += above.sum(dim=(1, 2)).long()
            probability_sum[rows] += above.mul_(probability).sum(dim=(1, 2))
        return probability_sum / (positive + 1e-6), pixels, bits, tuple(size), torch.stack(finite).all()


class _MaskLogits:
    """Mask logits of some queries, few at a time: given ones, or inner products with the features."""

    def __init__(self, queries: QueryPredictions, features: Tensor | None, max_logits: int) -> None:
        self.given, self.embedding, self.features = queries.mask_logits, queries.embedding, features
        self.max_logits = max_logits
        given = self.given is not None
        self.mask_shape = self.given.shape[1:] if given else (len(features), *features.shape[2:])    # (V, h, w)
        points = queries.element_points
        self.points = None if points is None else points.unflatten(0, self.mask_shape).flatten(1)               # (V, h*w)

    def dense(self, query: Tensor) -> Tensor:
        """Return all logits (n, V*h*w) float32 of `query` (n,)."""
        logits = torch.empty(len(query), self.mask_shape[0], self.mask_shape[1] * self.mask_shape[2], device=query.device)
        for rows, views, values in self.chunks(query):
            logits[rows, views] = values
        return logits.flatten(1)

    def points_above(self, probability: Tensor, threshold: float, views: slice) -> Tensor:
        """Return how many points the elements of `probability` (r, v, h*w) above `threshold` stand for, (r,) int64."""
        return ((probability > threshold) * self.points[views]).sum(dim=(1, 2))

    def chunks(self, query: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows of `query` (n,), views, and float32 logits (rows, views, h*w); all pairs of row and view once."""
        num_views, height, width = self.mask_shape
        pixels = max(1, height * width)
        piece = min(self.max_logits, CACHED_LOGITS) if query.device.type == 'cpu' else self.max_logits
        if self.given is not None:
            step = max(1, piece // pixels)
            for row, number in enumerate(query.tolist()):
                for views in _slices(num_views, step):
                    yield slice(row, row + 1), views, self.given[number:number + 1, views].flatten(2).float()
            return
        for views in _slices(num_views, max(1, self.max_logits // max(1, len(query) * pixels))):
            logits = mask_logits(self.embedding[query], self.features[views]).flatten(2)        # (n, v, h*w)
            for rows in _slices(len(query), max(1, piece // max(1, logits.shape[1] * pixels))):
                yield rows, views, logits[rows]

    def refuse(self, query: Tensor) -> None:
        """Raise a NonFiniteError that says how many logits of the queries (n,) are not finite, and of which query."""
        count, total, queries = 0, 0, set()
        for rows, _, logits in self.chunks(query):
            found = nonfinite({'logits': logits}).get('logits')
            total += logits.numel()
            if found:
                count += found.count
                queries.update(query[rows][(~logits.isfinite()).flatten(1).any(1)].tolist())
        raise NonFiniteError(f'QueryMasks: not finite: mask_logits {count} of {total} values, of {len(queries)} queries, '
                             f'the first of them {min(queries, default=None)}. {BROKEN}')


def _slices(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _used(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return which of 0 .. count - 1 are among `numbers` (n,), (count,) bool, and the rank of each there, (n,) int64."""
    used = torch.zeros(count, dtype=torch.bool, device=numbers.device).index_fill_(0, numbers, True)
    return used, (used.cumsum(0) - 1)[numbers]


def _rank_pairs(each: Tensor, any_object: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return probability, query and label (Q * K,) of every (query, class) pair from probabilities (Q, K)."""
    pair = torch.arange(each.numel(), device=each.device)
    return each.flatten(), pair // each.shape[1], pair % each.shape[1]


def _rank_best_class(each: Tensor, any_object: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each query (Q,) once, with the class of highest probability."""
    probability, label = each.max(dim=1)
    return probability, torch.arange(len(label), device=label.device), label


def _rank_objectness(each: Tensor, any_object: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each query (Q,) once, with the probability `any_object` (Q,) and label 0."""
    query = torch.arange(len(any_object), device=any_object.device)
    return any_object, query, torch.zeros_like(query)


RANKINGS = {'pairs': _rank_pairs, 'best_class': _rank_best_class, 'objectness': _rank_objectness}
