"""Formulas of masks and distributions, each once; those of costs (pairwise) and losses (matched) side by side.

Everything is computed in float32 (float64 inputs stay float64), also inside an autocast region. Masks are walked over in
pieces (`jrs.masks`), so that no (Q, G, E) array and no second copy of the logits ever exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.masks import MaskLogits, full_precision, real


def pairwise_bce(logits: Tensor | MaskLogits, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of each pair, mean over elements (baselines.md section 2.1).

    Args:
        logits: (Q, E).
        targets: (G, E) bool or 0/1.
        valid: (E,) bool, the elements that count; None = all.

    Returns:
        (Q, G), zero where no element counts.
    """
    masks = _as_masks(logits)
    total = masks.zeros(len(masks), targets.shape[0])
    with full_precision(masks):
        for piece, rows in masks.pieces(_with_counts(targets, valid)):
            target, counts = rows[:-1], rows[-1:]                                       # (G, e), (1, e)
            if_inside = F.softplus(-piece)                                              # (Q, e)
            if_outside = if_inside + piece                                              # softplus(x) = softplus(-x) + x
            total = total + if_inside @ (target * counts).T + if_outside @ ((1 - target) * counts).T    # (Q, G)
    return total / max(masks.count(valid), 1)


def matched_bce(logits: Tensor | MaskLogits, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of row i against row i, mean over elements: (n, E), (n, E) -> (n,)."""
    def total(piece: Tensor, rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(piece, rows[:-1], rows[-1:], reduction='none').sum(dim=1)
    masks = _as_masks(logits)
    return masks.total(total, _with_counts(targets, valid)) / max(masks.count(valid), 1)


def pairwise_dice(logits: Tensor | MaskLogits, targets: Tensor, smooth: float = 1.0,
                  valid: Tensor | None = None) -> Tensor:
    """Return the dice loss of each pair, 1 - (2 s.t + smooth) / (sum s + sum t + smooth), s = sigmoid(logits).

    Args:
        logits: (Q, E).
        targets: (G, E) bool or 0/1.
        smooth: Laplace smoothing, in elements; empty against empty costs 0.
        valid: (E,) bool, the elements that count; None = all.

    Returns:
        (Q, G) in [0, 1] (baselines.md section 2.1).
    """
    masks = _as_masks(logits)
    overlap = masks.zeros(len(masks), targets.shape[0])
    predicted, wanted = overlap[:, :1], overlap[:1]                                     # (Q, 1), (1, G)
    if targets.shape[0] == 0:
        return overlap
    with full_precision(masks):
        for piece, rows in masks.pieces(_with_counts(targets, valid)):
            target, counts = rows[:-1], rows[-1:]                                       # (G, e), (1, e)
            probability = piece.sigmoid() * counts                                      # (Q, e)
            overlap = overlap + probability @ target.T                                  # (Q, G)
            predicted = predicted + probability.sum(dim=1, keepdim=True)
            wanted = wanted + counts @ target.T
    return _dice(overlap, predicted + wanted, smooth)


def matched_dice(logits: Tensor | MaskLogits, targets: Tensor, smooth: float = 1.0,
                 valid: Tensor | None = None) -> Tensor:
    """Return the dice loss of row i against row i: (n, E), (n, E) -> (n,) in [0, 1]; see `pairwise_dice`."""
    def sums(piece: Tensor, rows: Tensor) -> Tensor:
        target, counts = rows[:-1], rows[-1]                                            # (n, e), (e,)
        probability = piece.sigmoid() * counts                                          # (n, e)
        return torch.stack([(probability * target).sum(dim=1), probability.sum(dim=1) + target @ counts])
    overlap, both = _as_masks(logits).total(sums, _with_counts(targets, valid))          # (n,) each
    return _dice(overlap, both, smooth)


def _with_counts(targets: Tensor, valid: Tensor | None) -> Tensor:
    """Return targets (G, E) with a row of what counts below, (G + 1, E): factors cost less than picking elements."""
    counts = targets.new_ones(1, targets.shape[1]) if valid is None else valid[None].to(targets.dtype)
    return torch.cat([targets, counts])


def _dice(overlap: Tensor, both: Tensor, smooth: float) -> Tensor:
    return 1 - (2 * overlap + smooth) / (both + smooth)


def surest_elements(logits: Tensor | MaskLogits, valid: Tensor | None = None) -> Tensor:
    """Return the element at which each query's mask is most likely, (Q,) int64; the first of equals.

    Args:
        logits: (Q, E).
        valid: (E,) bool, the elements that may be returned; None = all.
    """
    masks = _as_masks(logits)
    highest = masks.zeros(len(masks)) - float('inf')                                    # (Q,)
    elements = torch.zeros_like(highest, dtype=torch.int64)
    for piece in masks.ranges():
        values = masks.at(piece)                                                        # (Q, e)
        if valid is not None:
            values = values.masked_fill(~valid[piece], float('-inf'))
        best = values.max(dim=1)
        elements = torch.where(best.values > highest, best.indices + piece.start, elements)
        highest = torch.maximum(highest, best.values)
    return elements


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence over the last axis: natural logarithm, in [0, ln 2] (Eq. 8).

    Args:
        p: (..., V) distributions, rows sum to 1; entries may be 0.
        q: (..., V), broadcast against `p`: both pairwise and matched.

    Returns:
        (...). The gradient is finite everywhere: 0 log 0 counts as 0.
    """
    with full_precision(p):
        p, q = real(p), real(q)
        middle = (p + q) / 2
        return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def kl_divergence(p: Tensor, q: Tensor, floor: float = 1e-6) -> Tensor:
    """Return KL(p || q) over the last axis, natural logarithm; both floored and renormalised first.

    The floor keeps the divergence finite where `q` is 0 (baselines.md section 4.1).

    Args:
        p: (..., V) distributions, rows sum to 1; entries may be 0.
        q: (..., V), broadcast against `p`.
        floor: least probability of a view before renormalising, > 0.

    Returns:
        (...) >= 0.
    """
    with full_precision(p):
        return _relative_entropy(_floored(real(p), floor), _floored(real(q), floor))


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q); clamping inside the logarithms only keeps 0 log 0 = 0 and its gradient finite."""
    least = torch.finfo(p.dtype).tiny
    return (p * (p.clamp_min(least).log() - q.clamp_min(least).log())).sum(dim=-1)


def _floored(distribution: Tensor, floor: float) -> Tensor:
    raised = distribution.clamp_min(floor)
    return raised / raised.sum(dim=-1, keepdim=True)


def places_of(flags: Tensor, count: int) -> Tensor:
    """Return where `flags` (n,) bool are set, ascending, (count,) int64, without waiting for the device as `nonzero` does.

    Args:
        flags: (n,) bool, few enough to be sorted.
        count: how many are set.
    """
    return (~flags).to(torch.uint8).argsort(stable=True)[:count]


def _as_masks(logits: Tensor | MaskLogits) -> MaskLogits:
    return logits if isinstance(logits, MaskLogits) else MaskLogits.given(logits)
