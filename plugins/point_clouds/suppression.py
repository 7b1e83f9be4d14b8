"""What becomes of masks that lie on each other (baselines.md section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.errors import ConfigError
from jrs.registry import POSTPROCESSORS

KERNELS = ('linear', 'gaussian')


@POSTPROCESSORS.register_module()
class MatrixNMS:
    """Lowers the score of a mask by how much better masks of its class cover it; nothing is removed.

    Args:
        kernel: 'linear' or 'gaussian'.
        sigma: of the Gaussian.

    Raises:
        ConfigError: no such kernel.
    """

    def __init__(self, kernel: str = 'linear', sigma: float = 2.0) -> None:
        if kernel not in KERNELS:
            raise ConfigError(f'MatrixNMS.kernel must be one of {", ".join(map(repr, KERNELS))}, got {kernel!r}.')
        self.kernel, self.sigma = kernel, sigma

    def __call__(self, probabilities: Tensor, rows: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return all M pairs, best first, (M,) int64, and their new scores (M,).

        Args:
            probabilities: (n, E) mask probabilities of n queries.
            rows, labels, scores: (M,), which of them a pair has, its class and its score.
        """
        return matrix_nms(soft_overlaps(probabilities)[rows[:, None], rows], labels, scores, self.kernel, self.sigma)


def soft_overlaps(probabilities: Tensor) -> Tensor:
    """Return the soft IoU of each pair of masks, (n, n), of `probabilities` (n, E)."""
    both, sizes = probabilities @ probabilities.T, probabilities.sum(dim=1)
    return both / (sizes[:, None] + sizes - both)


def matrix_nms(overlaps: Tensor, labels: Tensor, scores: Tensor, kernel: str = 'linear', sigma: float = 2.0,
               most_before: int | None = None, most_after: int | None = None,
               least_score: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return which of M masks are kept, best first (m,) int64, and their lowered scores (m,).

    The decay of a mask is the least, over the better masks of its class, of (1 - overlap) / (1 - c), where c is the largest
    overlap of that one with a better one; Gaussian: exp(-sigma (overlap² - c²)).

    Args:
        overlaps: (M, M).
        labels, scores: (M,).
        kernel, sigma: as of `MatrixNMS`.
        most_before, most_after: how many are kept before and after the decay; None = all.
        least_score: those whose lowered score is less are dropped, where it is above 0.
    """
    order = scores.argsort(descending=True, stable=True)[:most_before]
    better = torch.ones(len(order), len(order), dtype=torch.bool, device=scores.device).triu(diagonal=1)     # i before j
    same = labels[order][:, None] == labels[order]
    overlap = overlaps[order[:, None], order] * (better & same)                             # (m, m)
    covered = overlap.amax(dim=0, keepdim=True).T if len(order) else overlap                # (m, 1)
    if kernel == 'linear':
        decay = (1 - overlap) / (1 - covered)
    else:
        decay = torch.exp(-sigma * (overlap ** 2 - covered ** 2))
    lowered = scores[order] * (decay.amin(dim=0) if len(order) else 1)
    if least_score > 0:
        order, lowered = order[lowered >= least_score], lowered[lowered >= least_score]
    again = lowered.argsort(descending=True, stable=True)[:most_after]
    return order[again], lowered[again]
