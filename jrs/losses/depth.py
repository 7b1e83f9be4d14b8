"""Geometric terms of dense maps: depth, and point maps for the backbones that predict them."""

from __future__ import annotations

from torch import Tensor

from jrs.errors import ConfigError
from jrs.losses.regression import ConfidentRegression
from jrs.registry import LOSSES
from jrs.structures import GeometryTargets, Predictions


@LOSSES.register_module()
class DepthLoss:
    """Confidence, regression and gradient terms of depth, added (vggt.md section 14).

    Args:
        gamma: factor of the error in the confidence term.
        alpha: factor of -log(confidence).
        valid_range: share of the errors that is kept; <= 0 keeps all.
        gradient: `grad`, `grad_conf`, or None for no gradient term.
    """

    reads = 'geometry'

    def __init__(self, gamma: float = 1.0, alpha: float = 0.2, valid_range: float = 0.98,
                 gradient: str | None = 'grad') -> None:
        self.regression = ConfidentRegression(gamma, alpha, valid_range, gradient, owner='DepthLoss')

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> dict[str, Tensor]:
        """Return scalars `total`, `confidence`, `regression`, `gradient`.

        Reads ``predictions.depth``, ``predictions.depth_conf`` (B, V, H, W), ``target.depth`` and ``target.valid``.

        Raises:
            ConfigError: the model predicts no depth.
        """
        if predictions.depth is None or predictions.depth_conf is None:
            raise ConfigError('DepthLoss needs depth with confidence, and this model predicts none: '
                              'set model.depth_head, or set this loss to None.')
        return with_total(self.regression(predictions.depth.float()[..., None], predictions.depth_conf.float(),
                                          target.depth[..., None], target.valid, target.weight))


@LOSSES.register_module()
class PointLoss:
    """Confidence, regression and normal terms of point maps, added (vggt.md section 14).

    Args:
        gamma: factor of the error in the confidence term.
        alpha: factor of -log(confidence).
        valid_range: share of the errors that is kept; <= 0 keeps all.
        gradient: `normal`, `normal_conf`, `grad`, `grad_conf`, or None for no gradient term.
    """

    reads = 'geometry'

    def __init__(self, gamma: float = 1.0, alpha: float = 0.2, valid_range: float = 0.98,
                 gradient: str | None = 'normal') -> None:
        self.regression = ConfidentRegression(gamma, alpha, valid_range, gradient, owner='PointLoss')

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> dict[str, Tensor]:
        """Return scalars `total`, `confidence`, `regression`, `gradient`.

        Reads ``predictions.points`` (B, V, H, W, 3), ``predictions.points_conf`` (B, V, H, W), ``target.points`` and
        ``target.valid``.

        Raises:
            ConfigError: the model predicts no points, or the teacher gives none.
        """
        if predictions.points is None or predictions.points_conf is None or target.points is None:
            raise ConfigError('PointLoss needs point maps with confidence and a teacher that gives points: '
                              'add a point head to the model, or set this loss to None.')
        return with_total(self.regression(predictions.points.float(), predictions.points_conf.float(),
                                          target.points, target.valid, target.weight))


def with_total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `terms`, scalars by name, with their sum as `total`."""
    return {'total': sum(terms.values()), **terms}
