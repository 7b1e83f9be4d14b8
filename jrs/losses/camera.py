"""Geometric term of the cameras, on every refinement stage of the camera head."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.errors import ConfigError, did_you_mean
from jrs.losses.regression import fix
from jrs.registry import LOSSES
from jrs.structures import GeometryTargets, Predictions

PARTS = {'translation': slice(0, 3), 'rotation': slice(3, 7), 'field_of_view': slice(7, 9)}


@LOSSES.register_module()
class CameraLoss:
    """Distance of translation, quaternion and field of view, later stages weighing more (vggt.md section 14).

    Args:
        distance: `l1` (mean absolute difference) or `l2` (Euclidean norm per view and part).
        translation, rotation, field_of_view: factors of the three parts in the total.
        stage_decay: factor per stage before the last one; the sum is divided by the number of stages.
        min_valid: a scene counts only when its first view has more valid pixels than this.

    Raises:
        ConfigError: another distance.
    """

    reads = 'geometry'

    def __init__(self, distance: str = 'l1', translation: float = 1.0, rotation: float = 1.0,
                 field_of_view: float = 0.5, stage_decay: float = 0.6, min_valid: int = 100) -> None:
        if distance not in ('l1', 'l2'):
            raise ConfigError(f'CameraLoss has no distance {distance!r}.{did_you_mean(distance, ("l1", "l2"))}')
        self.distance = distance
        self.factors = {'translation': translation, 'rotation': rotation, 'field_of_view': field_of_view}
        self.stage_decay = stage_decay
        self.min_valid = min_valid

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> dict[str, Tensor]:
        """Return scalars `total`, `translation`, `rotation`, `field_of_view`; all 0 when no scene counts.

        Reads ``predictions.pose_encodings``, stages of (B, V, 9), ``target.pose_encoding`` and ``target.valid``.

        Raises:
            ConfigError: the model predicts no cameras.
        """
        if not predictions.pose_encodings:
            raise ConfigError('CameraLoss needs cameras, and this model predicts none: '
                              'set model.camera_head, or set this loss to None.')
        stages = torch.stack([stage.float() for stage in predictions.pose_encodings])     # (S, B, V, 9)
        counted = target.valid[:, 0].flatten(1).sum(dim=1) > self.min_valid               # (B,); nobody waits for it
        difference = stages - target.pose_encoding                                        # (S, B, V, 9)
        terms = {name: self._over_stages(self._distance(difference[..., part], counted)) for name, part in PARTS.items()}
        return {'total': sum(self.factors[name] * term for name, term in terms.items()), **terms}

    def _distance(self, difference: Tensor, counted: Tensor) -> Tensor:
        """(S, B, V, n), (B,) -> (S,): the mean over the scenes that count, 0 where none does."""
        difference = difference.where(counted[:, None, None], 1.0)                        # no NaN of the others
        distance = difference.abs() if self.distance == 'l1' else difference.norm(dim=-1)
        of_scene = fix(distance).flatten(2).mean(dim=2)                                   # (S, B)
        return of_scene.where(counted, 0.0).sum(dim=1) / counted.sum().clamp_min(1)

    def _over_stages(self, values: Tensor) -> Tensor:
        """(S,) -> scalar; the last stage has factor 1."""
        age = torch.arange(len(values) - 1, -1, -1, device=values.device)
        return (values * self.stage_decay ** age).sum() / len(values)
