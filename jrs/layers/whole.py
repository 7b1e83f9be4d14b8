"""Results that are made a chunk at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Whole:
    """Puts together what chunks of a whole leave: without gradients at once, so that no more than a chunk exists twice.

    Args:
        total: how many there will be along the first axis.

    Attributes:
        is_tuple: whether a chunk leaves several tensors.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.is_tuple = total, 0, False
        self.chunks: list[tuple[Tensor, ...]] = []

    def add(self, chunk: Tensor | tuple[Tensor, ...]) -> None:
        """Take what a chunk leaves, (n, ...), or several of these."""
        self.is_tuple = isinstance(chunk, tuple)
        parts = chunk if self.is_tuple else (chunk,)
        if torch.is_grad_enabled() or len(parts[0]) == self.total:
            self.chunks.append(parts)
            return
        if not self.chunks:
            self.chunks.append(tuple(part.new_empty(self.total, *part.shape[1:]) for part in parts))
        for whole, part in zip(self.chunks[0], parts, strict=True):
            whole[self.done:self.done + len(part)] = part
        self.done += len(parts[0])

    def parts(self) -> list[Tensor]:
        """Return what all chunks left, (total, ...) each."""
        return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self.chunks, strict=True)]
