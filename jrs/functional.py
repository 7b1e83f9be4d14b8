"""Formulas of masks and distributions, each once; those of costs (pairwise) and losses (matched) side by side.

Everything is computed in float32 (float64 inputs stay float64), also inside an autocast region. Pairwise forms walk
over the elements in pieces, so that no (Q, G, E) array and no second copy of the logits ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

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


def pairwise_bce(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of each pair, mean over elements (baselines.md section 2.1).

    Args:
        logits: (Q, E).
        targets: (G, E) bool or 0/1.
        valid: (E,) bool, the elements that count; None = all.

    Returns:
        (Q, G), zero where no element counts.
    """
    total, count = _zero_pairs(logits, targets), 0
    with _full_precision(logits):
        for piece, target in _pieces(logits, targets, valid):
            total = total + F.softplus(-piece) @ target.T + F.softplus(piece) @ (1 - target).T      # (Q, G)
            count += piece.shape[1]
        return total / max(count, 1)


def matched_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of row i against row i, mean over elements: (n, E), (n, E) -> (n,)."""
    with _full_precision(logits):
        logits = _real(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction='none')
        return losses.sum(dim=1) / max(logits.shape[1], 1)


def pairwise_dice(logits: Tensor, targets: Tensor, smooth: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Return the dice loss of each pair, 1 - (2 s.t + smooth) / (sum s + sum t + smooth), s = sigmoid(logits).

    Args:
        logits: (Q, E).
        targets: (G, E) bool or 0/1.
        smooth: Laplace smoothing, in elements; empty against empty costs 0.
        valid: (E,) bool, the elements that count; None = all.

    Returns:
        (Q, G) in [0, 1] (baselines.md section 2.1).
    """
    overlap = _zero_pairs(logits, targets)
    predicted, wanted = overlap[:, :1], overlap[:1]                                     # (Q, 1), (1, G)
    if targets.shape[0] == 0:
        return overlap
    with _full_precision(logits):
        for piece, target in _pieces(logits, targets, valid):
            probability = piece.sigmoid()
            overlap = overlap + probability @ target.T                                  # (Q, G)
            predicted = predicted + probability.sum(dim=1, keepdim=True)
            wanted = wanted + target.sum(dim=1)
        return 1 - (2 * overlap + smooth) / (predicted + wanted + smooth)


def matched_dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the dice loss of row i against row i: (n, E), (n, E) -> (n,) in [0, 1]; see `pairwise_dice`."""
    with _full_precision(logits):
        probability = _real(logits).sigmoid()
        target = targets.to(probability.dtype)
        overlap = (probability * target).sum(dim=1)
        return 1 - (2 * overlap + smooth) / (probability.sum(dim=1) + target.sum(dim=1) + smooth)


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


def _pieces(logits: Tensor, targets: Tensor, valid: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (Q, e) logits and (G, e) targets, both floating, over consecutive ranges of the valid elements."""
    width = max(1, PIECE_VALUES // max(logits.shape[0], targets.shape[0], 1))
    for start in range(0, logits.shape[1], width):
        piece, target = logits[:, start:start + width], targets[:, start:start + width]
        if valid is not None:
            kept = valid[start:start + width]
            piece, target = piece[:, kept], target[:, kept]
        piece = _real(piece)
        yield piece, target.to(piece.dtype)


def _zero_pairs(logits: Tensor, targets: Tensor) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.zeros(logits.shape[0], targets.shape[0], dtype=dtype, device=logits.device)


def _real(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _full_precision(tensor: Tensor):
    return torch.autocast(tensor.device.type, enabled=False)
