"""How much longer one of two descriptions of the same scene is: by where cameras stand, or by depth."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.errors import DataError
from jrs.geometry.camera import invert_rigid

COINCIDENT = 1e-6                              # spread of camera centres over their distance from the origin: one place


def camera_ratio(cam_from_world: Tensor, known: Tensor) -> float | None:
    """Return the factor by which `known` cameras (V, 4, 4) are further apart than `cam_from_world` (V, 4, 4), of any worlds.

    It is the ratio of the root mean squares of the distances of the centres from their mean. None where the known ones stand
    in one place, and so say nothing.

    Raises:
        DataError: the known cameras stand apart and the others do not.
    """
    own, true = _spread(cam_from_world), _spread(known)
    if not true:
        return None
    if not own:
        raise DataError('The predicted cameras all stand in one place and the given ones do not, so the unit of predicted '
                        'depth cannot be told from them. Give depth too, or leave out the cameras.')
    return true / own


def depth_ratio(depth: Tensor, known: Tensor) -> float:
    """Return the median factor by which `known` depth (V, H, W) is larger than `depth` (V, H, W), where both are above 0.

    Raises:
        DataError: there is no such pixel.
    """
    both = (depth > 0) & (known > 0) & depth.isfinite()
    if not both.any():
        raise DataError('No pixel has both a predicted and a known depth, so the unit of the prediction cannot be told.')
    return float((known[both].double() / depth[both].double()).median())


def with_longer_translations(cam_from_world: Tensor, factor: float) -> Tensor:
    """Return cameras (..., 4, 4) whose translations are `factor` times as long."""
    longer = torch.ones_like(cam_from_world)
    longer[..., :3, 3] = factor
    return cam_from_world * longer


def _spread(cam_from_world: Tensor) -> float:
    """Return the root mean square of the distances of the centres of cameras (V, 4, 4) from their mean; 0 for one place."""
    centres = invert_rigid(cam_from_world.double())[:, :3, 3]                   # (V, 3)
    apart = float((centres - centres.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    return apart if apart > COINCIDENT * float(centres.norm(dim=1).max()) else 0.0
