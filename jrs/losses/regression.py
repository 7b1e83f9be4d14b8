"""Regression with predicted confidence over valid pixels: what depth and point maps share (vggt.md section 14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.errors import ConfigError, did_you_mean

LARGEST = 100.0                                # differences and targets beyond this are clamped
MIN_VALID = 100                                # fewer valid pixels in the batch, and the terms are 0
MIN_FILTERED = 1000                            # the filter leaves this many values alone
MAX_FILTERED, SAMPLED = 10 ** 8, 10 ** 6       # above the first, a random draw of the second stands for all
MIN_NORMALS = 10


def fix(values: Tensor) -> Tensor:
    """Return `values`, a scalar or of any shape, NaN and infinities replaced by 0 and the rest clamped to [-100, 100]."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clamp(-LARGEST, LARGEST)


@dataclass
class ConfidentRegression:
    """Confidence-weighted regression of a map, with a gradient term at several scales.

    Attributes:
        gamma: factor of the error in the confidence term.
        alpha: factor of -log(confidence).
        valid_range: share of the errors that is kept, the largest being dropped; <= 0 keeps all.
        gradient: `grad` (differences of neighbouring errors), `normal` (angles of surface normals, maps of 3 channels),
            either with `_conf` appended to weight it by confidence; None = no gradient term.
        owner: who is configured with these, for messages.
    """

    gamma: float = 1.0
    alpha: float = 0.2
    valid_range: float = 0.98
    gradient: str | None = 'grad'
    owner: str = 'ConfidentRegression'

    def __post_init__(self) -> None:
        allowed = ('grad', 'grad_conf', 'normal', 'normal_conf')
        if self.gradient is not None and self.gradient not in allowed:
            raise ConfigError(f'{self.owner} has no gradient term {self.gradient!r}.'
                              + did_you_mean(self.gradient, allowed))

    def __call__(self, pred: Tensor, confidence: Tensor, target: Tensor, valid: Tensor,
                 weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return scalars `confidence`, `regression` and `gradient`; all 0 below 100 valid pixels.

        Args:
            pred: (..., H, W, C).
            confidence: (..., H, W) > 0.
            target: (..., H, W, C).
            valid: (..., H, W) bool.
            weight: (..., H, W) multiplies the errors of `confidence` and `regression`; None = 1. The gradient term has none.
        """
        names = ('confidence', 'regression') + (() if self.gradient is None else ('gradient',))
        count = int(valid.sum())                                                # the wait for the device; see `_valid_of`
        if count < MIN_VALID:
            zero = 0 * (pred.flatten()[0] + confidence.flatten()[0])
            return dict.fromkeys(names, zero)
        pred, confidence, target = pred.flatten(0, -4), confidence.flatten(0, -3), fix(target.flatten(0, -4))
        valid = valid.flatten(0, -3)                                            # (n, H, W); maps are (n, H, W, C)
        of_valid = _valid_of(valid, count)
        error = fix(of_valid(target - pred).norm(dim=-1))                       # (m,)
        error = error if weight is None else error * of_valid(weight.flatten(0, -3))
        weighted = fix(self._weigh(error, of_valid(confidence)))
        terms = {'confidence': mean_of_smallest(weighted, self.valid_range),
                 'regression': mean_of_smallest(error, self.valid_range)}
        if self.gradient is not None:
            terms['gradient'] = self._multi_scale(pred, confidence, target, valid)
        return terms

    def _weigh(self, error: Tensor, confidence: Tensor) -> Tensor:
        return self.gamma * error * confidence - self.alpha * confidence.log()

    def _multi_scale(self, pred: Tensor, confidence: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Mean over scales of the gradient term on every 1st, 2nd, 4th, … row and column."""
        kind = self.gradient.removesuffix('_conf')
        single_scale, scales = {'grad': (difference_term, 4), 'normal': (normal_term, 3)}[kind]
        weigh = self._weigh if self.gradient.endswith('_conf') else _unweighted
        total = 0
        for step in (2 ** scale for scale in range(scales)):
            total = total + single_scale(pred[:, ::step, ::step], confidence[:, ::step, ::step],
                                         target[:, ::step, ::step], valid[:, ::step, ::step], weigh)
        return total / scales


def _unweighted(error: Tensor, confidence: Tensor) -> Tensor:
    return error


def _valid_of(valid: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Return the function that takes the `count` valid pixels of maps: (n, H, W, ...) -> (count, ...).

    Where all are valid nothing is copied; else their places are looked up once for all maps, which waits for the device.
    """
    if count == valid.numel():
        return lambda maps: maps.flatten(0, 2)
    places = valid.flatten().nonzero()[:, 0]                                    # (count,)
    return lambda maps: maps.flatten(0, 2)[places]


def mean_of_smallest(values: Tensor, share: float) -> Tensor:
    """Return the mean of the values (N,), of N pixels, below the `share` quantile (nearest rank), clamped to at most 100.

    All values count, as they are, when `share` <= 0 or N <= 1000; all of them, clamped, when 1000 or fewer would be left.
    """
    if share <= 0 or values.numel() <= MIN_FILTERED:
        return values.mean()
    if values.numel() > MAX_FILTERED:
        values = values[torch.randint(values.numel(), (SAMPLED,), device=values.device)]
    values = values.clamp(max=LARGEST)
    rank = round(share * (values.numel() - 1)) + 1
    kept = values < kth_smallest(values.detach(), rank)
    kept = kept | (kept.sum() <= MIN_FILTERED)
    return values.where(kept, 0.0).sum() / kept.sum()


def kth_smallest(values: Tensor, rank: int) -> Tensor:
    """Return the value of `rank` 1 .. N among `values` (N,), a scalar (): by sorting where selection is one block's work."""
    return values.kthvalue(rank).values if values.device.type == 'cpu' else values.sort().values[rank - 1]


def difference_term(pred: Tensor, confidence: Tensor, target: Tensor, valid: Tensor,
                    weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the differences of neighbouring errors in both directions, summed, per valid pixel and channel.

    Args:
        pred, target: (n, H, W, C).
        confidence: (n, H, W); that of the second pixel of a pair counts.
        valid: (n, H, W) bool; a pair counts when both pixels do.
        weigh: (error, confidence) -> loss per pair.
    """
    count = valid.sum() * pred.shape[-1]
    error = (pred - target) * valid[..., None]                                  # (n, H, W, C)
    total = 0
    for axis in (1, 2):
        size = error.shape[axis] - 1
        first, second = valid.narrow(axis, 0, size), valid.narrow(axis, 1, size)
        change = error.diff(dim=axis).abs() * (first & second)[..., None]
        total = total + weigh(change.clamp(max=LARGEST), confidence.narrow(axis, 1, size)[..., None]).sum()
    return (total / count.clamp_min(1)).where(count > 0, 0.0)


def normal_term(pred: Tensor, confidence: Tensor, target: Tensor, valid: Tensor,
                weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return 1 - cosine between the surface normals of two point maps, mean over valid (pixel, normal) pairs.

    Args:
        pred, target: (n, H, W, 3).
        confidence: (n, H, W), of the centre pixel.
        valid: (n, H, W) bool.
        weigh: (error, confidence) -> loss per pair.
    """
    pred_normals, target_normals = surface_normals(pred), surface_normals(target)    # (4, n, H, W, 3)
    counted = _valid_normals(valid)                                                  # (4, n, H, W)
    count = counted.sum()
    cosine = (pred_normals * target_normals).sum(dim=-1)                             # (4, n, H, W)
    error = weigh(fix(1 - cosine.clamp(-1 + 1e-8, 1 - 1e-8)), confidence).where(counted, 0.0)
    return (error.sum() / count.clamp_min(1)).where(count >= MIN_NORMALS, 0.0)


def surface_normals(points: Tensor) -> Tensor:
    """Return four unit normals per pixel of a point map (n, H, W, 3) -> (4, n, H, W, 3).

    They are the cross products up x left, left x down, down x right, right x up of the directions to the neighbours; a
    neighbour outside the map is the point 0.
    """
    up, left, down, right = (neighbour - points for neighbour in _neighbours(points.movedim(-1, 0)))
    pairs = ((up, left), (left, down), (down, right), (right, up))
    return F.normalize(torch.stack([torch.cross(a, b, dim=-1) for a, b in pairs]), dim=-1, eps=1e-8)


def _valid_normals(valid: Tensor) -> Tensor:
    """(n, H, W) -> (4, n, H, W): a normal counts when its pixel and both neighbours do."""
    up, left, down, right = (neighbour[..., 0] for neighbour in _neighbours(valid[None]))
    return valid & torch.stack([up & left, left & down, down & right, right & up])


def _neighbours(maps: Tensor) -> list[Tensor]:
    """(C, n, H, W) -> the maps of the upper, left, lower and right neighbours, (n, H, W, C) each, 0 outside."""
    padded = F.pad(maps, (1, 1, 1, 1)).movedim(0, -1)                                # (n, H + 2, W + 2, C)
    height, width = maps.shape[-2:]
    rows, columns = slice(1, height + 1), slice(1, width + 1)
    return [padded[:, :height, columns], padded[:, rows, :width], padded[:, 2:, columns], padded[:, rows, 2:]]
