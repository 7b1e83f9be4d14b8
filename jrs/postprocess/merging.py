"""Instances of windows that share views, made one list; numpy. The rule is ours and no part of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

LEAST_IOU = 0.25                               # on the shared views; below it two instances are never one
LEAST_AGREEMENT = 0.4
EMBEDDING_WEIGHT = 0.25                        # of the likeness of embeddings beside the IoU


@dataclass
class WindowInstances:
    """What is known of the M instances of one window beside their masks.

    Attributes:
        scores: (M,) in [0, 1].
        labels: (M,) int64 class indices.
        embedding: (M, D); None where the model has none.
    """

    scores: np.ndarray
    labels: np.ndarray
    embedding: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class MergedInstances:
    """Instances of all windows, best score first.

    Attributes:
        of_window: per window (M_w,) int64, which of the G merged instances each of its own is.
        scores: (G,), the best of its parts.
        labels: (G,), the class that its parts gave the largest sum of scores; of equals the lowest.
        parts: (G,), in how many windows it was found.
    """

    of_window: list[np.ndarray]
    scores: np.ndarray
    labels: np.ndarray
    parts: np.ndarray


class Overlap:
    """IoU of the instances of two windows over the views that both hold, added view by view."""

    def __init__(self, earlier: int, later: int) -> None:
        self.both = np.zeros((earlier, later))
        self.sizes = np.zeros(earlier), np.zeros(later)

    def add(self, earlier: np.ndarray, later: np.ndarray) -> None:
        """Count a view: masks (M, n) and (N, n) bool, of the same n pixels."""
        self.both += earlier.astype(np.float32) @ later.T.astype(np.float32)    # counts below 2^24 are exact
        for sizes, masks in zip(self.sizes, (earlier, later), strict=True):
            sizes += masks.sum(axis=1)

    @property
    def iou(self) -> np.ndarray:
        """(M, N) in [0, 1]; 0 where neither is seen in a shared view."""
        return self.both / np.maximum(self.sizes[0][:, None] + self.sizes[1] - self.both, 1)


def same_instances(iou: np.ndarray, earlier: np.ndarray | None = None,
                   later: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Return pairs (i, j) of instances of two windows that are one object: ours.

    Agreement is the IoU of the masks on the shared views; where both windows have embeddings it is
    0.75 IoU + 0.25 max(cosine, 0). Pairs of IoU below 0.25 or agreement below 0.4 are none. Of the others the one-to-one
    assignment with the largest sum of agreement is taken, so that no two instances of one window become one. An object that
    no shared view shows stays apart, whatever its embedding: two chairs have like ones.

    Args:
        iou: (M, N) in [0, 1] (`Overlap`).
        earlier, later: embeddings (M, D) and (N, D); None = none.
    """
    agreement = iou
    if earlier is not None and later is not None:
        agreement = (1 - EMBEDDING_WEIGHT) * iou + EMBEDDING_WEIGHT * np.maximum(_unit(earlier) @ _unit(later).T, 0)
    allowed = (iou >= LEAST_IOU) & (agreement >= LEAST_AGREEMENT)
    rows, columns = linear_sum_assignment(np.where(allowed, agreement, 0), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def merge_windows(windows: Sequence[WindowInstances], pairs: Sequence[Sequence[tuple[int, int]]]) -> MergedInstances:
    """Return one list of the instances of all windows.

    Args:
        windows: in order.
        pairs: for each window but the first, which (i of the one before, j of its own) are one (`same_instances`).
    """
    of_window, count = [], 0
    for number, window in enumerate(windows):
        own = np.full(len(window), -1, np.int64)
        for before, index in pairs[number - 1] if number else ():
            own[index] = of_window[-1][before]
        fresh = np.flatnonzero(own < 0)
        own[fresh] = count + np.arange(len(fresh))
        count += len(fresh)
        of_window.append(own)
    scores, parts, votes = np.zeros(count), np.zeros(count, np.int64), [{} for _ in range(count)]
    for window, own in zip(windows, of_window, strict=True):
        for which, score, label in zip(own.tolist(), window.scores.tolist(), window.labels.tolist(), strict=True):
            scores[which] = max(scores[which], score)
            parts[which] += 1
            votes[which][label] = votes[which].get(label, 0.0) + score
    labels = np.array([max(sorted(vote), key=vote.get) for vote in votes], np.int64)
    order = np.argsort(-scores, kind='stable')
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return MergedInstances([place[own] for own in of_window], scores[order], labels[order], parts[order])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
