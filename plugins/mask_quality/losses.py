"""Cross-entropy of classes whose targets are the overlaps of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jrs.losses.instance import NO_WORD, TINY, ClassLoss, check_softmax, query_weights, wanted_classes
from jrs.losses.over_scenes import SceneOfQueries
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, QueryPredictions


@LOSSES.register_module()
class QualityClassLoss(ClassLoss):
    """`ClassLoss` with targets that say how good a mask is. Ours.

    A matched query should say the class of its instance with the IoU of its mask (logits above 0, in the sampled views), and
    "no object" with the rest: what ranks instances then knows of their masks. Gradients reach classes alone.

    Args: see `ClassLoss`.
    """

    def pooled(self, scenes: Sequence[SceneOfQueries]) -> Tensor:
        """Return a scalar: the weighted mean over the queries of all scenes; errors as of a call."""
        check_softmax(scenes[0][0], self)
        with torch.autocast(scenes[0][0].class_logits.device.type, enabled=False):
            said = torch.cat([pred.class_logits for pred, _, _ in scenes]).float().log_softmax(dim=1)    # (n, K + 1)
            wanted = torch.cat([wanted_classes(*scene, self.ignored_label) for scene in scenes])         # (n,)
            quality = torch.cat([overlaps(*scene) for scene in scenes])                                  # (n,)
            known = torch.where(wanted == NO_WORD, said.shape[1] - 1, wanted)
            own = torch.where(known == said.shape[1] - 1, self.no_object_weight, 1.0) * quality
            rest = self.no_object_weight * (1 - quality)
            losses = -(own * said.gather(1, known[:, None])[:, 0] + rest * said[:, -1])
            counts = torch.cat([query_weights(pred, match) for pred, _, match in scenes]) * (wanted != NO_WORD)
            return (counts * losses).sum() / (counts * (own + rest)).sum().clamp_min(TINY)


@torch.no_grad()
def overlaps(pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor:
    """Return the IoU of each query's mask with its instance (Q,) float32, 1 where it has none."""
    found = torch.ones(len(pred.class_logits), device=pred.class_logits.device)
    if len(match.queries):
        masks, wanted = pred.masks(match.queries).dense() > 0, target.flat_masks[match.instances]      # (n, V*h*w)
        if target.flat_valid is not None:
            masks = masks & target.flat_valid
        found[match.queries] = (masks & wanted).sum(dim=1) / (masks | wanted).sum(dim=1).clamp_min(1)
    return found
