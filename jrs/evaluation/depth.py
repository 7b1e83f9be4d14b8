"""Depth errors after one scale for the whole sequence (evaluation.md section 8). No shift is ever fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from jrs.errors import find_named

SMALLEST_DEPTH = 1e-5                      # predictions are clamped here before ratios and logarithms
DELTA_BASE = 1.25


def median(predicted: np.ndarray, true: np.ndarray) -> float:
    """median(D) / median(d) for d, D (n,), each the lower middle element of an even count (as torch has it)."""
    middle = (len(true) - 1) // 2
    return float(np.partition(true, middle)[middle] / np.partition(predicted, middle)[middle])


def median_ratio(predicted: np.ndarray, true: np.ndarray) -> float:
    """median(D / d) for `predicted` d and `true` D, (n,) each."""
    return float(np.median(true / predicted))


def lstsq(predicted: np.ndarray, true: np.ndarray) -> float:
    """sum(d D) / sum(d^2) for `predicted` d and `true` D, (n,) each."""
    return float(np.dot(predicted, true) / np.dot(predicted, predicted))


def irls_l1(predicted: np.ndarray, true: np.ndarray) -> float:
    """The scale of least absolute error for d, D (n,), by ten steps of reweighted least squares from mean(D) / mean(d).

    The steps have not converged and double every rounding error several times: another order of the same sums moves
    the result by 1e-4. So this one is written operation by operation, in torch, as the published program has it.
    """
    predicted, true = torch.from_numpy(predicted), torch.from_numpy(true)
    scale = true.mean() / predicted.mean()
    for _ in range(10):
        weights = 1 / ((scale * predicted - true).abs() + 1e-8)
        scale = (weights * predicted * true).sum() / (weights * predicted ** 2).sum()
    return max(scale.item(), 1e-3)


def metric(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 for any d, D (n,): the prediction is in metres already."""
    return 1.0


SCALES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    'median': median, 'median_ratio': median_ratio, 'lstsq': lstsq, 'irls_l1': irls_l1, 'metric': metric}


def scale_estimator(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the estimator called `name`; a ConfigError names the near spellings."""
    return find_named(SCALES, name, 'depth scale')


def depth_errors(predicted: np.ndarray, true_m: np.ndarray, scale: str = 'median',
                 max_depth_m: float | None = None) -> dict[str, float]:
    """Return the errors of one sequence over its valid pixels pooled.

    Args:
        predicted: (V, H, W) z-depth > 0, arbitrary scale.
        true_m: (V, H, W) metres; 0 or non-finite = no reading.
        scale: a name in `SCALES`.
        max_depth_m: true depth beyond it does not count; None counts all.

    Returns:
        `abs_rel`, `sq_rel` (metres), `rmse` (metres), `log_rmse`, `delta_1.25` and its powers `delta_1.25^2`,
        `delta_1.25^3` (shares, strict <), `scale`, `valid_pixels`. All but the last are NaN without a valid pixel.
    """
    estimate = scale_estimator(scale)
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true_m, dtype=np.float64)
    if predicted.shape != true.shape:
        raise ValueError(f'predicted depth {predicted.shape} and true depth {true.shape} must be of one shape: '
                         'resize the prediction to the depth images first.')
    valid = np.isfinite(true) & (true > 0)
    if max_depth_m is not None:
        valid &= true <= max_depth_m
    predicted, true = predicted[valid], true[valid]
    if len(true) == 0:
        names = ('abs_rel', 'sq_rel', 'rmse', 'log_rmse', *_delta_names(), 'scale')
        return dict.fromkeys(names, float('nan')) | {'valid_pixels': 0.0}
    factor = estimate(predicted, true)
    return _errors(factor * predicted, true) | {'scale': factor, 'valid_pixels': float(len(true))}


def _errors(scaled: np.ndarray, true: np.ndarray) -> dict[str, float]:
    scaled = np.maximum(scaled, SMALLEST_DEPTH)
    difference = scaled - true
    ratio = np.maximum(scaled / true, true / scaled)
    shares = {name: float(np.mean(ratio < DELTA_BASE ** power)) for power, name in enumerate(_delta_names(), start=1)}
    return {'abs_rel': float(np.mean(np.abs(difference) / true)),
            'sq_rel': float(np.mean(difference ** 2 / true)),
            'rmse': float(np.sqrt(np.mean(difference ** 2))),
            'log_rmse': float(np.sqrt(np.mean((np.log(scaled) - np.log(true)) ** 2))), **shares}


def _delta_names() -> tuple[str, str, str]:
    return 'delta_1.25', 'delta_1.25^2', 'delta_1.25^3'
