"""The term of the metric scale: how many metres a unit of the scene has."""

from __future__ import annotations

from torch import Tensor

from jrs.errors import ConfigError
from jrs.registry import LOSSES
from jrs.structures import GeometryTargets, Predictions


@LOSSES.register_module()
class MetricScaleLoss:
    """Mean absolute difference of the logarithms of the predicted and the true metres per unit, over scenes.

    A difference of 0.1 is a scene 10 % too large, whatever its size. The geometry itself is supervised in units of the
    scene, so that this term alone says how long a metre is. Scenes whose metres nobody knows do not count.
    """

    reads = 'geometry'

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> Tensor:
        """Return a scalar. Reads ``predictions.extras['metric_scale']`` and ``target.unit_m``, (B,) each.

        Raises:
            ConfigError: the model predicts no scale, or the teacher knows no metres.
        """
        scale = predictions.extras.get('metric_scale')
        if scale is None:
            raise ConfigError('MetricScaleLoss needs a model that predicts metres per unit (metric_scale), and this one '
                              'does not: set model.scale_head, or use the geometry_head of a backbone that does, such as '
                              'MapAnythingGeometry, or set this loss to None.')
        if target.unit_m is None:
            raise ConfigError('MetricScaleLoss needs a teacher that knows metres: GroundTruthTeacher, or PretrainedTeacher '
                              "with truth='scale'; or set this loss to None.")
        known = target.unit_m.isfinite()                                        # (B,)
        difference = (scale.float().log() - target.unit_m.log()).abs()
        return difference[known].mean() if known.any() else 0 * scale.sum()
