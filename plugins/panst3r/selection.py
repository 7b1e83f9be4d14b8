"""From queries to masks of which each pixel has one at most: chosen together, or merged by score (baselines.md section 4.5).

Both work on probabilities at the size of the picture, a view at a time: those of all views never exist together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jrs_plugins.panst3r.qubo import choose
from torch import Tensor
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.finite import refuse_nonfinite
from jrs.masks import mask_logits
from jrs.registry import POSTPROCESSORS
from jrs.structures import Instances, PackedMasks, QueryPredictions, SceneContext, pack_bits

NOBODY = -1
PIECE = 4096                                   # pixels whose overlaps are summed at a time, in float32
AREA_AT = 0.5                                  # probability from which a pixel counts to the area of a mask
BROKEN = 'Nothing can be chosen of it: the weights are broken or of another model.'
RANKING = 'class probability times mean mask probability over the pixels that a mask owns'


class Probabilities:
    """Mask probabilities (Q, H, W) of one view after the other, at the size of the picture.

    Probabilities are resized, not logits: bilinear, corners not aligned, no antialiasing. Padding has none.

    Args:
        scene: with queries, and features where these have no mask logits.
        size: (H, W); None = that of the network input.
    """

    def __init__(self, scene: SceneContext, size: tuple[int, int] | None = None) -> None:
        queries = scene.queries
        self.given, self.embedding = queries.mask_logits, queries.embedding     # (Q, V, h, w) or None, (Q, D)
        self.features, self.valid = scene.features, scene.valid
        self.size = tuple(size or scene.image_size)
        self.num_views = self.given.shape[1] if self.given is not None else len(self.features)

    def of_view(self, view: int, rows: Tensor | None = None) -> Tensor:
        """Return the probabilities (n, H, W) float32 of queries `rows` (n,) int64, None = of all."""
        chosen = slice(None) if rows is None else rows
        logits = self.given[chosen, view].float() if self.given is not None else \
            mask_logits(self.embedding[chosen], self.features[view:view + 1])[:, 0]         # (n, h, w)
        found = F.interpolate(logits.sigmoid()[None], size=self.size, mode='bilinear', align_corners=False)[0]
        return found if self.valid is None else found * self.valid[view]


@dataclass
class Segments:
    """Masks of which each pixel has one at most.

    Attributes:
        owner: (V, H, W) int16, number of the segment of each pixel; -1 = of none.
        confidence: (V, H, W) float32, of the pixel's mask; what it is elsewhere is the method's affair.
        queries: (M,) int64, the query of each segment.
        class_probability, mask_probability: (M,) float32, of its class, and the mean over the pixels that it owns.
    """

    owner: Tensor
    confidence: Tensor
    queries: Tensor
    class_probability: Tensor
    mask_probability: Tensor

    def instances(self, labels: Tensor) -> Instances:
        """Return them as scored instances, best first; `labels` (Q,) int64 is the class of each query."""
        scores = self.class_probability * self.mask_probability                 # (M,)
        order = scores.argsort(descending=True, stable=True)
        bits = [pack_bits((self.owner == number).flatten(1)) for number in order.tolist()]      # (V, bytes) each
        views, *size = self.owner.shape
        packed = PackedMasks(torch.stack(bits) if bits else torch.zeros(
            0, views, -(-size[0] * size[1] // 8), dtype=torch.uint8, device=self.owner.device),
            torch.arange(len(bits), device=self.owner.device), tuple(size))
        queries = self.queries[order]
        return Instances(packed, labels[queries], scores[order], queries, ranking=RANKING)


class _Selection:
    """What both ways share: probabilities in, instances out. Base class."""

    reads = ('queries',)

    @torch.no_grad()
    def __call__(self, scene: SceneContext) -> Instances:
        """Return the instances of one scene, best first; masks (M, V, H, W) do not overlap.

        Reads `scene.queries`, whose masks are `mask_logits` (Q, V, h, w), or where these are None come from `embedding`
        (Q, D) and `scene.features` (V, D, h, w).

        Raises:
            NonFiniteError: class logits, embeddings or features are not finite.
        """
        queries = scene.queries
        refuse_nonfinite({'class_logits': queries.class_logits, 'embedding': queries.embedding, 'features': scene.features,
                          'mask_logits': queries.mask_logits}, type(self).__name__, BROKEN)
        best, labels = queries.class_probabilities()[0].max(dim=1)              # (Q,) each
        return self.segments(Probabilities(scene), queries, best).instances(labels)

    def segments(self, masks: Probabilities, queries: QueryPredictions, best: Tensor) -> Segments:
        """Return the segments of one scene; `best` (Q,) is the probability of each query's class."""
        raise NotImplementedError


@POSTPROCESSORS.register_module()
class QuboMasks(_Selection):
    """PanSt3R's selection: queries are chosen together so that they cover much and share little, whatever their classes.

    Each pixel then goes to the chosen query of highest probability, and a segment whose class probability times mean mask
    probability is below `min_score` goes, its pixels to nobody. `qubo.choose` solves the problem: exhaustively for few
    queries, else by annealing, never worse than greedily (ours).

    Args:
        penalty: what an overlap costs beside its area: 1 = as much again.
        min_score: segments of a lower score go.
        seed, steps, restarts, exhaustive: of `qubo.choose`.

    Raises:
        ConfigError: a number below its least.
    """

    def __init__(self, penalty: float = 1.0, min_score: float = 0.01, seed: int = 0, steps: int = 10_000, restarts: int = 20,
                 exhaustive: int = 12) -> None:
        if penalty < 0 or steps < 1 or restarts < 1 or not 0 <= exhaustive <= 20:
            raise ConfigError(f'QuboMasks needs penalty >= 0, steps and restarts of at least 1 and exhaustive from 0 to 20, '
                              f'got {penalty}, {steps}, {restarts} and {exhaustive}.')
        self.penalty, self.min_score = penalty, min_score
        self.options = dict(seed=seed, steps=steps, restarts=restarts, exhaustive=exhaustive)

    def segments(self, masks: Probabilities, queries: QueryPredictions, best: Tensor) -> Segments:
        """Return the segments of one scene; `best` (Q,) is the probability of each query's class."""
        chosen = choose(overlap_weights(masks, len(best), self.penalty).cpu().numpy(), **self.options)
        return owned(masks, torch.from_numpy(chosen).to(best.device).nonzero()[:, 0], best, self.min_score)


@POSTPROCESSORS.register_module()
class MergedMasks(_Selection):
    """PanSt3R without its selection: masks in the order of queries, each pixel to the highest score times probability.

    A query is accepted where it owns enough of its own area. In further rounds only accepted ones compete, so that pixels
    which they lost to others are theirs again. Version 1: 0.5, 0.8, one round; version 2: 0.25, 0.5, two.

    Args:
        mask_threshold: least probability at a pixel that a mask owns.
        overlap_threshold: least share of the area of a mask, its pixels of at least 0.5, that it must own.
        rounds: how often.
        min_class: queries whose class is not more probable do not compete.
        void_confidence: confidence where no mask is.

    Raises:
        ConfigError: no round.
    """

    def __init__(self, mask_threshold: float = 0.5, overlap_threshold: float = 0.8, rounds: int = 1, min_class: float = 0.1,
                 void_confidence: float = 0.1) -> None:
        if rounds < 1:
            raise ConfigError(f'MergedMasks.rounds is at least 1, got {rounds}.')
        self.mask_threshold, self.overlap_threshold = mask_threshold, overlap_threshold
        self.rounds, self.min_class, self.void_confidence = rounds, min_class, void_confidence

    def segments(self, masks: Probabilities, queries: QueryPredictions, best: Tensor) -> Segments:
        """Return the segments of one scene; `best` (Q,) is the probability of each query's class."""
        competing = best > self.min_class
        if queries.classes == 'softmax':                                        # whose surest answer is "no object"
            competing &= queries.class_logits.argmax(dim=1) < queries.class_logits.shape[1] - 1
        kept = competing.nonzero()[:, 0]
        for _ in range(self.rounds):
            found = self._merge(masks, kept, best)
            kept = found.queries
        return found

    def _merge(self, masks: Probabilities, kept: Tensor, best: Tensor) -> Segments:
        """Return the segments of the queries `kept` (n,) int64 that are accepted."""
        shape = (masks.num_views, *masks.size)
        owner = torch.full(shape, NOBODY, dtype=torch.int16, device=best.device)
        sure = best.new_zeros(shape)
        area, mine, total = (torch.zeros(len(kept), dtype=dtype, device=best.device) for dtype in (
            torch.int64, torch.int64, torch.float64))
        for view in range(masks.num_views if len(kept) else 0):
            probability = masks.of_view(view, kept)                             # (n, H, W)
            first = (best[kept, None, None] * probability).argmax(dim=0)        # (H, W)
            own = probability.gather(0, first[None])[0]                         # (H, W)
            counts = own >= self.mask_threshold
            if masks.valid is not None:
                counts &= masks.valid[view]
            owner[view], sure[view] = torch.where(counts, first, NOBODY).to(torch.int16), own
            area += (probability >= AREA_AT).flatten(1).sum(dim=1)
            mine += torch.bincount(first[counts], minlength=len(kept))
            total += torch.bincount(first[counts], own[counts].double(), minlength=len(kept))
        accepted = (mine > 0) & (area > 0) & (mine.double() / area.clamp_min(1) >= self.overlap_threshold)
        owner = renumbered(owner, accepted)
        confidence = torch.where(owner >= 0, sure, self.void_confidence)
        mean, kept = (total / mine.clamp_min(1))[accepted].float(), kept[accepted]
        return Segments(owner, confidence, kept, best[kept], mean)


def overlap_weights(masks: Probabilities, count: int, penalty: float = 1.0) -> Tensor:
    """Return the weights (Q, Q) float64 of `qubo.choose` for the masks of `count` queries Q.

    On the diagonal minus the area of a mask, beside it half of 1 + `penalty` times what two share, the sum over pixels of
    the smaller probability; both as shares of all pixels of all views.
    """
    distance, area = 0.0, 0.0
    for view in range(masks.num_views):
        for piece in masks.of_view(view).flatten(1).split(PIECE, dim=1):        # (Q, e)
            distance = distance + torch.pdist(piece.contiguous(), p=1.0).double()           # (Q * (Q - 1) / 2,)
            area = area + piece.sum(dim=1).double()
    row, column = torch.triu_indices(count, count, 1, device=area.device)
    shared = (area[row] + area[column] - distance) / 2                          # a + b - |a - b| = 2 min(a, b)
    weights = torch.zeros(count, count, dtype=torch.float64, device=area.device)
    weights[row, column] = weights[column, row] = (1 + penalty) / 2 * shared
    return (weights - torch.diag(area)) / (masks.num_views * masks.size[0] * masks.size[1])


def owned(masks: Probabilities, chosen: Tensor, best: Tensor, min_score: float) -> Segments:
    """Return the segments of the queries `chosen` (n,) int64, each pixel being of the surest; the first of equals.

    Those whose class probability `best` (Q,) times mean probability over own pixels is below `min_score` are of nobody; the
    confidence of their pixels stays.
    """
    shape = (masks.num_views, *masks.size)
    owner = torch.full(shape, NOBODY, dtype=torch.int16, device=best.device)
    confidence = best.new_zeros(shape)
    pixels = torch.zeros(len(chosen), dtype=torch.int64, device=best.device)
    total = torch.zeros(len(chosen), dtype=torch.float64, device=best.device)
    for view in range(masks.num_views if len(chosen) else 0):
        sure, first = masks.of_view(view, chosen).max(dim=0)                    # (H, W) each
        confidence[view] = sure
        somewhere = torch.ones_like(first, dtype=torch.bool) if masks.valid is None else masks.valid[view]
        owner[view] = torch.where(somewhere, first, NOBODY).to(torch.int16)
        pixels += torch.bincount(first[somewhere], minlength=len(chosen))
        total += torch.bincount(first[somewhere], sure[somewhere].double(), minlength=len(chosen))
    mean = (total / pixels.clamp_min(1)).float()
    kept = (pixels > 0) & ~(best[chosen] * mean < min_score)
    return Segments(renumbered(owner, kept), confidence, chosen[kept], best[chosen[kept]], mean[kept])


def renumbered(owner: Tensor, kept: Tensor) -> Tensor:
    """Return `owner` (V, H, W) with the numbers that are `kept` (n,) bool counted anew, and -1 for the others."""
    number = torch.where(kept, kept.cumsum(0) - 1, NOBODY).to(owner.dtype)      # (n,)
    table = torch.cat([number, number.new_full((1,), NOBODY)])                  # the last one is of nobody
    return table[owner.long()]
