"""Training terms that only methods on points have (baselines.md section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jrs_plugins.point_clouds.decoder import PointPredictions
from torch import Tensor
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.losses.over_scenes import InstanceTerm, SceneOfQueries
from jrs.registry import COSTS, LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions

LEAST_OVERLAP = 0.5                            # pairs of less do not teach the score head


@dataclass
class PointTargets(InstanceTargets):
    """The true instances of one scene of S superpoints; masks are (G, 1, 1, S).

    Attributes:
        semantic: (S,) int64 class of each superpoint among all classes of the data set, stuff first; -1 = not labelled.
        superpoint_ids: (S,) int64, one number per superpoint, equal where they are of one instance; None where nobody asks.
        voxel_labels: (X,) int64, the class index of the instance that each voxel is of, -1 = none; None where nobody asks.
        voxel_offsets: (X, 3) metres, from each voxel to the centre of its instance; anything where it has none.
        voxel_inside: (X,) bool, whether it has one.
    """

    semantic: Tensor | None = None
    superpoint_ids: Tensor | None = None
    voxel_labels: Tensor | None = None
    voxel_offsets: Tensor | None = None
    voxel_inside: Tensor | None = None


@LOSSES.register_module()
class ScoreLoss(InstanceTerm):
    """Squared error between what the score head says and the overlap of the mask with its instance, mean over pairs.

    Pairs whose overlap (IoU) is at most 0.5 do not take part.

    Args: see `InstanceTerm`.
    """

    sees = 'points'

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None where no pair takes part; reads ``pred.scores`` (Q,) and ``pred.masks()``."""
        if pred.scores is None:
            raise ConfigError('ScoreLoss reads the score head of the decoder: set model.decoder.score_head=True, or this '
                              'loss to None.')
        with torch.no_grad():
            masks = pred.masks(match.queries).dense() >= 0                                  # (n, E)
            wanted = target.flat_masks[match.instances]
            both, either = (masks & wanted).sum(dim=1), (masks | wanted).sum(dim=1)
            overlap = both / (either + 1e-6)                                                # (n,)
            part = (overlap > LEAST_OVERLAP).nonzero()[:, 0]                                # (m,)
        if not len(part):
            return None
        taking_part = Match(match.queries[part], match.instances[part], weights=None if match.weights is None
                            else match.weights[part])
        return taking_part.mean((pred.scores[taking_part.queries].float() - overlap[part]) ** 2)


@COSTS.register_module()
class CentreCost:
    """How far a query sees its instance from where that is: metres along x, y and z, added (baselines.md section 2.1).

    Args:
        weight: multiplier in the matching cost.
    """

    sees = 'points'

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G); reads ``pred.centres`` (Q, 3) and ``target.centres`` (G, 3)."""
        return self.weight * (_centres(pred)[:, None] - target.centres).abs().sum(dim=2)


@LOSSES.register_module()
class CentreLoss(InstanceTerm):
    """How far matched queries see their instances from where these are: metres along x, y and z, mean over pairs.

    Args: see `InstanceTerm`; 'pooled' takes one mean over the pairs of all scenes.
    """

    sees = 'points'

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar, None without pairs; reads ``pred.centres`` (Q, 3) and ``target.centres`` (G, 3)."""
        return match.mean(_centre_errors(pred, target, match))

    def pooled(self, scenes: Sequence[SceneOfQueries]) -> Tensor | None:
        """Return a scalar: the mean over the pairs of all scenes, None without any."""
        errors = torch.cat([_centre_errors(*scene) for scene in scenes])                    # (n,)
        counts = torch.cat([torch.ones_like(match.queries, dtype=errors.dtype) if match.weights is None else match.weights
                            for _, _, match in scenes])
        return (counts * errors).sum() / counts.sum() if counts.sum() > 0 else None


def _centres(pred: QueryPredictions) -> Tensor:
    if pred.centres is None:
        raise ConfigError('The centre cost and loss read where queries see their instances: they need a decoder with '
                          'places, such as PlacedDecoder; or set them to None.')
    return pred.centres.float()


def _centre_errors(pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor:
    """Return the distance of each pair, (n,)."""
    return (_centres(pred)[match.queries] - target.centres[match.instances]).abs().sum(dim=1)


@LOSSES.register_module()
class SuperpointSemanticLoss(InstanceTerm):
    """Cross-entropy between the last prediction's semantic logits and the class of the superpoint that a query stands for.

    Superpoints without a class are left out, and so is the column "no class".

    Args: see `InstanceTerm`.
    """

    every_level = False
    sees = 'points'

    def __call__(self, pred: PointPredictions, target: PointTargets, match: Match) -> Tensor | None:
        """Return a scalar, None where no superpoint has a class; reads (Q, K' + 1) and ``target.semantic`` (S,)."""
        if getattr(pred, 'semantic_logits', None) is None or getattr(target, 'semantic', None) is None:
            raise ConfigError('SuperpointSemanticLoss reads the semantic head of queries that stand for superpoints: set '
                              'model.decoder.semantic_classes and start=dict(type=\'SuperpointQueries\'), or this loss to '
                              'None.')
        wanted = target.semantic[pred.elements]                                             # (Q,)
        if not (wanted >= 0).any():
            return None
        return F.cross_entropy(pred.semantic_logits[:, :-1].float(), wanted, ignore_index=-1)


@LOSSES.register_module()
class SuperpointContrastLoss(InstanceTerm):
    """How far pairs of superpoints are from looking alike where they are of one instance, and unlike else (Relation3D).

    Binary cross-entropy of (1 + cosine) / 2, mean over all pairs, each with itself too; the decoder's steps are added.

    Args: see `InstanceTerm`.
    """

    every_level = False
    sees = 'points'

    def __call__(self, pred: PointPredictions, target: PointTargets, match: Match) -> Tensor:
        """Return a scalar; reads ``pred.element_features`` (n, S, C) and ``target.superpoint_ids`` (S,)."""
        if getattr(pred, 'element_features', None) is None or getattr(target, 'superpoint_ids', None) is None:
            raise ConfigError('SuperpointContrastLoss reads superpoints that the decoder changes, and which are of one '
                              'instance: set model.decoder.masks_of=\'keys\' of a PlacedDecoder and '
                              'model.targets.superpoint_ids=\'most\', or this loss to None.')
        same = (target.superpoint_ids[:, None] == target.superpoint_ids).float()            # (S, S)
        with torch.autocast(same.device.type, enabled=False):
            steps = F.normalize(pred.element_features.float(), dim=2, eps=1e-8)
            return sum(F.binary_cross_entropy(((1 + step @ step.T) / 2).clamp(0, 1), same) for step in steps)


class VoxelTerm(InstanceTerm):
    """Base of the terms on the last prediction's voxels: one mean over those of all scenes."""

    every_level = False
    sees = 'points'

    def __call__(self, pred: PointPredictions, target: PointTargets, match: Match) -> Tensor:
        """Return the value of one scene, a scalar."""
        return self.pooled([(pred, target, match)])

    def pooled(self, scenes: Sequence[SceneOfQueries]) -> Tensor:
        """Return a scalar, of the voxels of all scenes; reads `voxel_logits`, `voxel_offsets` and the targets' `voxel_*`."""
        for pred, target, _ in scenes:
            if getattr(pred, 'voxel_logits', None) is None or getattr(target, 'voxel_labels', None) is None:
                raise ConfigError(f'{type(self).__name__} reads what is said and what is true of voxels: set model.decoder '
                                  'to one with such heads (GuidedDecoder) and model.targets.voxels=True, or this loss to '
                                  'None.')
        logits, offsets = (torch.cat([getattr(pred, name) for pred, _, _ in scenes]).float()
                           for name in ('voxel_logits', 'voxel_offsets'))
        return self.of(logits, offsets, *(torch.cat([getattr(target, f'voxel_{name}') for _, target, _ in scenes])
                                          for name in ('labels', 'offsets', 'inside')))


@LOSSES.register_module()
class VoxelClassLoss(VoxelTerm):
    """Cross-entropy of voxels over K + 1 classes, those of no instance being "no object"; the mean is weighted likewise.

    Args:
        no_object_weight: class weight of "no object"; the others have 1.
        options: of `InstanceTerm`.
    """

    def __init__(self, no_object_weight: float = 0.1, scene_reduction: str = 'pooled', **options) -> None:
        super().__init__(scene_reduction=scene_reduction, **options)
        self.no_object_weight = no_object_weight

    def of(self, logits: Tensor, offsets: Tensor, labels: Tensor, true_offsets: Tensor, inside: Tensor) -> Tensor:
        """Return a scalar for voxels (X, ...)."""
        weight = logits.new_ones(logits.shape[1])
        weight[-1] = self.no_object_weight
        return F.cross_entropy(logits, torch.where(labels < 0, logits.shape[1] - 1, labels), weight)


@LOSSES.register_module()
class VoxelOffsetLoss(VoxelTerm):
    """How far off voxels of instances see the centre: metres along x, y and z, added, mean over these voxels.

    Args: see `InstanceTerm`.
    """

    def __init__(self, scene_reduction: str = 'pooled', **options) -> None:
        super().__init__(scene_reduction=scene_reduction, **options)

    def of(self, logits: Tensor, offsets: Tensor, labels: Tensor, true_offsets: Tensor, inside: Tensor) -> Tensor:
        """Return a scalar for voxels (X, ...); 0 where none is of an instance."""
        errors = (offsets - true_offsets).abs().sum(dim=1)                                  # (X,)
        return (inside * errors).sum() / (inside.sum() + 1e-8)
