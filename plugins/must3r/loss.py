"""What supervises points in the frame of their own camera."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jrs.errors import ConfigError
from jrs.geometry.camera import decode_cameras
from jrs.geometry.projection import unproject_depth
from jrs.losses.depth import PointLoss
from jrs.registry import LOSSES
from jrs.structures import GeometryTargets, Predictions


@LOSSES.register_module()
class LocalPointLoss(PointLoss):
    """`PointLoss` of the points that each pixel sees, in the frame of its own camera; arguments are those of `PointLoss`.

    Targets are true depth, unprojected with the target's field of view: no motion of the cameras enters.
    """

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> dict[str, Tensor]:
        """Return scalars `total`, `confidence`, `regression`, `gradient`.

        Reads ``predictions.extras['points_local']`` (B, V, H, W, 3), ``predictions.depth_conf`` (B, V, H, W) and
        ``target.depth``, ``target.valid`` and ``target.pose_encoding``.

        Raises:
            ConfigError: the model does not predict such points.
        """
        local = predictions.extras.get('points_local')
        if local is None:
            raise ConfigError('LocalPointLoss needs points in the frames of their cameras, and this model predicts none: '
                              'take MUSt3RGeometry as model.geometry_head, or set this loss to None.')
        _, intrinsics = decode_cameras(target.pose_encoding, target.depth.shape[-2:])
        nowhere = torch.eye(4, device=intrinsics.device).expand(*intrinsics.shape[:2], 4, 4)
        wanted, _ = unproject_depth(target.depth, intrinsics, nowhere)          # (B, V, H, W, 3)
        return super().__call__(replace(predictions, points=local, points_conf=predictions.depth_conf),
                                replace(target, points=wanted))
