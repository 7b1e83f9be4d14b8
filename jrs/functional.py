"""Formulas of masks and distributions, each once; those of costs (pairwise) and losses (matched) side by side.

Everything is computed in float32 (float64 inputs stay float64), also inside an autocast region. Masks are walked over in
pieces, so that no (Q, G, E) array and no second copy of the logits ever exists; streamed logits never exist as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jrs.structures import QueryPredictions

PIECE_VALUES = 2 ** 24                         # logits per piece of a pairwise cost: 64 MiB in float32


def mask_logits(embedding: Tensor, features: Tensor) -> Tensor:
    """Return the mask logits of each query: inner products of its embedding with the instance features.

    Args:
        embedding: (..., Q, D).
        features: (..., V, D, h, w), with the same leading axes.

    Returns:
        (..., Q, V, h, w) float32.
    """
    with _full_precision(embedding):
        return torch.einsum('...qd,...vdhw->...qvhw', _real(embedding), _real(features))


class StreamedLogits:
    """Mask logits (n, E) of all pixels of all views end to end, that are made a few views at a time where they are read.

    Args:
        embedding: (n, D).
        features: (V, D, h, w).
    """

    def __init__(self, embedding: Tensor, features: Tensor) -> None:
        self.embedding, self.features = embedding, features
        self.pixels = features.shape[2] * features.shape[3]
        self.shape = (len(embedding), len(features) * self.pixels)
        self.dtype, self.device = embedding.dtype, embedding.device

    def views(self, elements: slice) -> Tensor:
        """Return the logits (n, e) of a range of elements that begins and ends with a view."""
        views = slice(elements.start // self.pixels, elements.stop // self.pixels)
        return mask_logits(self.embedding, self.features[views]).flatten(1)


def flat_mask_logits(pred: QueryPredictions, queries: Tensor | None = None) -> Tensor | StreamedLogits:
    """Return the mask logits (n, V*h*w) of some queries (None = all) of one scene, for the formulas below.

    Where the predictions hold no `mask_logits` they are streamed: the logits of all queries over all pixels would be the
    largest tensor of a training step.

    Raises:
        ValueError: neither mask logits nor instance features are there.
    """
    rows = slice(None) if queries is None else queries
    if pred.mask_logits is not None:
        return pred.mask_logits[rows].flatten(1)
    if pred.features is None:
        raise ValueError('masks need mask_logits (Q, V, h, w) in the predictions, or features (V, D, h, w) beside the '
                         'embedding; both are None')
    return StreamedLogits(pred.embedding[rows], pred.features)


def pairwise_bce(logits: Tensor | StreamedLogits, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of each pair, mean over elements (baselines.md section 2.1).

    Args:
        logits: (Q, E).
        targets: (G, E) bool or 0/1.
        valid: (E,) bool, the elements that count; None = all.

    Returns:
        (Q, G), zero where no element counts.
    """
    total = _zeros(logits, logits.shape[0], targets.shape[0])
    with _full_precision(logits):
        for elements in _ranges(logits, targets):
            piece, target = _piece(logits, targets, valid, elements)
            total = total + F.softplus(-piece) @ target.T + F.softplus(piece) @ (1 - target).T      # (Q, G)
    return total / max(_count(logits, valid), 1)


def matched_bce(logits: Tensor | StreamedLogits, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of row i against row i, mean over elements: (n, E), (n, E) -> (n,)."""
    def total(piece: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(piece, target, reduction='none').sum(dim=1)
    return _summed(total, _zeros(logits, logits.shape[0]), logits, targets, valid) / max(_count(logits, valid), 1)


def pairwise_dice(logits: Tensor | StreamedLogits, targets: Tensor, smooth: float = 1.0,
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
    overlap = _zeros(logits, logits.shape[0], targets.shape[0])
    predicted, wanted = overlap[:, :1], overlap[:1]                                     # (Q, 1), (1, G)
    if targets.shape[0] == 0:
        return overlap
    with _full_precision(logits):
        for elements in _ranges(logits, targets):
            piece, target = _piece(logits, targets, valid, elements)
            probability = piece.sigmoid()
            overlap = overlap + probability @ target.T                                  # (Q, G)
            predicted = predicted + probability.sum(dim=1, keepdim=True)
            wanted = wanted + target.sum(dim=1)
    return _dice(overlap, predicted + wanted, smooth)


def matched_dice(logits: Tensor | StreamedLogits, targets: Tensor, smooth: float = 1.0,
                 valid: Tensor | None = None) -> Tensor:
    """Return the dice loss of row i against row i: (n, E), (n, E) -> (n,) in [0, 1]; see `pairwise_dice`."""
    def sums(piece: Tensor, target: Tensor) -> Tensor:
        probability = piece.sigmoid()
        return torch.stack([(probability * target).sum(dim=1), probability.sum(dim=1) + target.sum(dim=1)])
    overlap, both = _summed(sums, _zeros(logits, 2, logits.shape[0]), logits, targets, valid)      # (n,) each
    return _dice(overlap, both, smooth)


def _dice(overlap: Tensor, both: Tensor, smooth: float) -> Tensor:
    return 1 - (2 * overlap + smooth) / (both + smooth)


def surest_elements(logits: Tensor | StreamedLogits, valid: Tensor | None = None) -> Tensor:
    """Return the element at which each query's mask is most likely, (Q,) int64; the first of equals.

    Args:
        logits: (Q, E).
        valid: (E,) bool, the elements that may be returned; None = all.
    """
    highest = _zeros(logits, logits.shape[0]) - float('inf')                            # (Q,)
    elements = torch.zeros_like(highest, dtype=torch.int64)
    for piece in _ranges(logits, logits):
        values = _real(logits.views(piece) if isinstance(logits, StreamedLogits) else logits[:, piece])     # (Q, e)
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
    with _full_precision(p):
        p, q = _real(p), _real(q)
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
    with _full_precision(p):
        return _relative_entropy(_floored(_real(p), floor), _floored(_real(q), floor))


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q); clamping inside the logarithms only keeps 0 log 0 = 0 and its gradient finite."""
    least = torch.finfo(p.dtype).tiny
    return (p * (p.clamp_min(least).log() - q.clamp_min(least).log())).sum(dim=-1)


def _floored(distribution: Tensor, floor: float) -> Tensor:
    raised = distribution.clamp_min(floor)
    return raised / raised.sum(dim=-1, keepdim=True)


def _summed(function: Callable[[Tensor, Tensor], Tensor], start: Tensor, logits: Tensor | StreamedLogits, targets: Tensor,
            valid: Tensor | None) -> Tensor:
    """Return `start` plus function(logits (n, e), targets (n, e)) of every piece.

    Where there are several pieces, they are made again in the backward pass: only one is in memory at a time.
    """
    def of_piece(elements: slice) -> Tensor:
        with _full_precision(logits):
            return function(*_piece(logits, targets, valid, elements))
    ranges = list(_ranges(logits, targets))
    if len(ranges) == 1 or not torch.is_grad_enabled():
        return sum(map(of_piece, ranges), start)
    return sum((checkpoint(of_piece, elements, use_reentrant=False, preserve_rng_state=False) for elements in ranges), start)


def _ranges(logits: Tensor | StreamedLogits, targets: Tensor) -> Iterator[slice]:
    """Yield consecutive ranges of the elements, of whole views where the logits are streamed."""
    width = max(1, PIECE_VALUES // max(logits.shape[0], targets.shape[0], 1))
    if isinstance(logits, StreamedLogits):
        width = max(1, width // max(1, logits.pixels)) * max(1, logits.pixels)
    for start in range(0, logits.shape[1], width):
        yield slice(start, min(start + width, logits.shape[1]))


def _piece(logits: Tensor | StreamedLogits, targets: Tensor, valid: Tensor | None, elements: slice) -> tuple[Tensor, Tensor]:
    """Return (Q, e) logits and (G, e) targets, both floating, of the valid ones of some elements."""
    piece = logits.views(elements) if isinstance(logits, StreamedLogits) else logits[:, elements]
    target = targets[:, elements]
    if valid is not None:
        piece, target = piece[:, valid[elements]], target[:, valid[elements]]
    piece = _real(piece)
    return piece, target.to(piece.dtype)


def _count(logits: Tensor | StreamedLogits, valid: Tensor | None) -> int:
    return logits.shape[1] if valid is None else int(valid.sum())


def _zeros(logits: Tensor | StreamedLogits, *shape: int) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.zeros(shape, dtype=dtype, device=logits.device)


def _real(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _full_precision(tensor: Tensor | StreamedLogits):
    return torch.autocast(tensor.device.type, enabled=False)
