"""Panoptic quality: how well a scene is cut into segments, each element in one at most (Kirillov et al. 2019).

Elements are vertices of a mesh or pixels of all views laid end to end: a segment goes through all views of a scene.

- Matching: a true and a predicted segment of one class match where their IoU is above 0.5; there is one such pair at most.
- Void: elements of no true segment. They are left out of the union, and a predicted segment of which more than half is void
  counts neither as found nor as wrong. Elements that no predicted segment has are no void: they are missed.
- PQ of a class = sum of the IoU of its matches / (matches + half of the wrong + half of the missed segments), over all
  scenes together: SQ, the mean IoU of the matches, times RQ. Means are over classes that have a segment, true or predicted.
- Of stuff (walls, floors), all elements of a class in a scene are one segment; of things each instance is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NONE = -1                                      # an element of no segment; among the true ones that is void
MATCH_IOU = 0.5


@dataclass(frozen=True)
class SegmentCounts:
    """What one or more scenes add to panoptic quality, per class: (K,) each.

    Attributes:
        found: matched pairs.
        iou: sum of their IoU.
        wrong, missed: predicted and true segments without a partner.
    """

    found: np.ndarray
    iou: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray

    @classmethod
    def total(cls, parts: Iterable[SegmentCounts]) -> SegmentCounts:
        """Return the sums over scenes, at least one."""
        return cls(*(np.sum(values, axis=0) for values in zip(*(vars(part).values() for part in parts), strict=True)))

    def quality(self, classes: Sequence[int] | None = None) -> dict[str, float]:
        """Return `PQ`, `SQ` and `RQ`, means over those of `classes` (None = all) that have a segment; NaN where none has."""
        chosen = np.arange(len(self.found)) if classes is None else np.asarray(classes, dtype=np.int64)
        found, iou, wrong, missed = (values[chosen] for values in vars(self).values())
        weight = found + 0.5 * (wrong + missed)
        there = weight > 0
        if not there.any():
            return dict.fromkeys(('PQ', 'SQ', 'RQ'), float('nan'))
        return {'PQ': float((iou[there] / weight[there]).mean()),
                'SQ': float((iou[there] / np.maximum(found[there], 1)).mean()),
                'RQ': float((found[there] / weight[there]).mean())}


def count_segments(true: np.ndarray, true_classes: np.ndarray, predicted: np.ndarray, predicted_classes: np.ndarray,
                   num_classes: int) -> SegmentCounts:
    """Count the matches of one scene, by the rule above.

    Args:
        true, predicted: (N,) number of the segment of each element; -1 = of none.
        true_classes: (G,) class 0 .. K - 1 of the true segments.
        predicted_classes: (P,) likewise; other numbers are of no class of the benchmark and match nothing, but are not
            counted as wrong either.
        num_classes: K.
    """
    num_true, num_predicted = len(true_classes), len(predicted_classes)
    table = np.zeros((num_predicted + 1, num_true + 1), dtype=np.int64)
    np.add.at(table, (predicted, true), 1)                                      # the last row and column are of no segment
    shared, void = table[:-1, :-1], table[:-1, -1]
    sizes, true_sizes = table[:-1].sum(axis=1), table[:, :-1].sum(axis=0)
    union = (sizes - void)[:, None] + true_sizes - shared
    iou = shared / np.maximum(union, 1)
    hits = (iou > MATCH_IOU) & (predicted_classes[:, None] == true_classes)     # (P, G)
    wrong = ~hits.any(axis=1) & (sizes > 0) & (2 * void <= sizes)
    known = (predicted_classes >= 0) & (predicted_classes < num_classes)
    row, column = np.nonzero(hits)

    def per_class(classes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(classes, weights, minlength=num_classes)
    return SegmentCounts(
        found=per_class(true_classes[column]), iou=per_class(true_classes[column], iou[row, column]),
        wrong=per_class(predicted_classes[wrong & known]),
        missed=per_class(true_classes[~hits.any(axis=0) & (true_sizes > 0)]))


def as_stuff(segments: np.ndarray, classes: np.ndarray, first_stuff: int) -> np.ndarray:
    """Return segments (N,) in which all of one class of stuff, `first_stuff` or above, are one: the first of them.

    `classes` are (P,), and the numbers of segments stay.
    """
    one = np.arange(len(classes))
    for kind in np.unique(classes[classes >= first_stuff]):
        own = np.flatnonzero(classes == kind)
        one[own] = own[0]
    return np.where(segments >= 0, np.append(one, NONE)[segments], NONE)


def painted(masks: Iterable[np.ndarray], scores: np.ndarray, count: int, min_score: float = 0.0,
            min_share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return which segment each element has (N,), -1 = none, and the masks (P,) that became segments.

    One after the other, a mask takes its elements that none before it has, if these are at least `min_share` of it.
    Ours: panoptic quality asks for segments that do not overlap, and scored masks do.

    Args:
        masks: (N,) bool each, best first, as many as `scores`; read one at a time.
        scores: (M,).
        count: N.
        min_score: masks below it are left out.
    """
    segments, kept, taken = np.full(count, NONE), [], np.zeros(count, dtype=bool)
    for number, (mask, score) in enumerate(zip(masks, scores.tolist(), strict=True)):
        free, size = mask & ~taken, int(mask.sum())
        if score < min_score or size == 0 or int(free.sum()) < min_share * size:
            continue
        segments[free] = len(kept)
        taken |= free
        kept.append(number)
    return segments, np.array(kept, dtype=np.int64)
