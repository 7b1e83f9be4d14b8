"""Mask logits of queries, read a piece at a time: those of all queries at all pixels would be the largest tensor of a step.

What reads masks asks `QueryPredictions.masks()` for a `MaskLogits`, in costs and in losses, in training and afterwards.
Everything is computed in float32 (float64 inputs stay float64), also inside an autocast region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE_VALUES = 2 ** 24                         # values per piece: 64 MiB in float32


def mask_logits(embedding: Tensor, features: Tensor) -> Tensor:
    """Return the mask logits of each query: inner products of its embedding with the instance features.

    Args:
        embedding: (..., Q, D).
        features: (..., V, D, h, w), with the same leading axes.

    Returns:
        (..., Q, V, h, w) float32.
    """
    with full_precision(embedding):
        return torch.einsum('...qd,...vdhw->...qvhw', real(embedding), real(features))


class MaskLogits:
    """Mask logits (n, E) of n queries of one scene at its E = V*h*w mask elements, the pixels of all views end to end.

    A cost, summed over elements (Q queries, G instances):

        for logits, wanted in pred.masks().pieces(target.flat_masks, target.flat_valid):    # (Q, e), (G, e)
            total = total + logits.sigmoid() @ wanted.T                                     # (Q, G)

    A loss on matched pairs, with a gradient:

        masks, wanted = pred.masks(match.queries), target.flat_masks[match.instances]       # (n, E), (n, E)
        errors = masks.total(lambda logits, wanted: (logits.sigmoid() - wanted).abs().sum(dim=1), wanted, target.flat_valid)

    Args:
        embedding: (n, D).
        features: (V, D, h, w).

    Attributes:
        shape: (n, E).
        dtype, device: of what they are made of; pieces are float32 (or float64).
    """

    def __init__(self, embedding: Tensor, features: Tensor) -> None:
        self._embedding, self._features, self._given = embedding, features, None
        self._unit = max(1, features.shape[2] * features.shape[3])             # pieces are of whole views
        self.shape = (len(embedding), len(features) * features.shape[2] * features.shape[3])
        self.dtype, self.device = embedding.dtype, embedding.device

    @classmethod
    def given(cls, logits: Tensor) -> MaskLogits:
        """Return those that exist as a whole, (n, E)."""
        masks = cls.__new__(cls)
        masks._given, masks._unit, masks.shape = logits, 1, tuple(logits.shape)
        masks.dtype, masks.device = logits.dtype, logits.device
        return masks

    def __len__(self) -> int:
        return self.shape[0]

    def dense(self) -> Tensor:
        """Return all of them, (n, E): in training at full size that is gigabytes, and as much again for its gradient."""
        return self.at(slice(0, self.shape[1]))

    def at(self, elements: slice) -> Tensor:
        """Return the logits (n, e) at one of `ranges`."""
        return real(self._made(elements))

    def ranges(self, rows: int = 0) -> Iterator[slice]:
        """Yield consecutive ranges that cover the elements; beside a piece, `rows` further rows (m, e) will be held."""
        width = max(1, PIECE_VALUES // max(len(self), rows, 1))
        width = max(1, width // self._unit) * self._unit
        for start in range(0, self.shape[1], width):
            yield slice(start, min(start + width, self.shape[1]))

    def pieces(self, targets: Tensor, valid: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (n, e) and `targets` (m, e), both floating, at some elements, until all valid ones were there.

        Args:
            targets: (m, E) bool or 0/1, such as `InstanceTargets.flat_masks`.
            valid: (E,) bool, the elements that count; None = all.
        """
        return (self._piece(targets, valid, elements) for elements in self.ranges(len(targets)))

    def total(self, function: Callable[[Tensor, Tensor], Tensor], targets: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the sum of ``function(logits (n, e), targets (m, e))`` over all pieces; 0 where there is no element.

        `targets` (m, E) and `valid` (E,) are as of `pieces`; the function returns a tensor of one shape for every piece.
        Where there are several pieces, they are made again in the backward pass: only one is in memory at a time.
        """
        def of_piece(elements: slice) -> Tensor:
            with full_precision(self):
                return function(*self._piece(targets, valid, elements))
        ranges = list(self.ranges(len(targets))) or [slice(0, 0)]
        if len(ranges) == 1 or not torch.is_grad_enabled():
            return sum(map(of_piece, ranges[1:]), of_piece(ranges[0]))
        return sum(checkpoint(of_piece, elements, use_reentrant=False, preserve_rng_state=False) for elements in ranges)

    def count(self, valid: Tensor | None = None) -> int:
        """Return how many elements count: E, or how many of `valid` (E,) bool are set."""
        return self.shape[1] if valid is None else int(valid.sum())

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros on the device and in the type of the pieces."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _piece(self, targets: Tensor, valid: Tensor | None, elements: slice) -> tuple[Tensor, Tensor]:
        logits, target = self._made(elements), targets[:, elements]
        if valid is not None:
            counted = valid[elements].nonzero()[:, 0]                           # one wait for the device, not two
            logits, target = logits[:, counted], target[:, counted]
        logits = real(logits)
        return logits, target.to(logits.dtype)

    def _made(self, elements: slice) -> Tensor:
        if self._given is not None:
            return self._given[:, elements]
        views = slice(elements.start // self._unit, elements.stop // self._unit)
        return mask_logits(self._embedding, self._features[views]).flatten(1)


def real(tensor: Tensor) -> Tensor:
    """Return `tensor`, a scalar or of any shape, in float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor | MaskLogits):
    """Return the context in which autocast is off on the device of `tensor`, a scalar or of any shape."""
    return torch.autocast(tensor.device.type, enabled=False)
