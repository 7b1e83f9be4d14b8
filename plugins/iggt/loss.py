"""The pull-push loss: pixels of one instance are drawn together, pixels of two apart, over all views of a scene."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.registry import LOSSES
from jrs.structures import InstanceTargets


@LOSSES.register_module()
class PullPushLoss:
    """pull * mean distance of pixels of one instance + push * mean of max(0, margin - distance) over those of two.

    baselines.md section 4.4. Distances are Euclidean ones of the features, which are of length 1. Pairs are those of sampled
    pixels of all views; pixels of no instance are not sampled. The sample is drawn by a generator that is seeded with how
    many pixels show an instance: the same scene gives the same sample in whichever process and after a resume.

    Args:
        pull, push, margin: factors of both sums, and the distance from which on pixels are far enough apart.
        samples: pixels of a scene, at most; pairs are its square.
    """

    reads = 'features'

    def __init__(self, pull: float = 2.0, push: float = 1.0, margin: float = 1.0, samples: int = 1024) -> None:
        self.pull, self.push, self.margin, self.samples = pull, push, margin, samples

    def __call__(self, features: Tensor, target: InstanceTargets) -> Tensor | None:
        """Return a scalar for features (V, D, h, w) and masks (G, V, h, w); None with less than two pixels in instances."""
        owner = owners(target)                                                  # (V*h*w,)
        pixels = sampled(owner, self.samples)                                   # (n,)
        if len(pixels) < 2:
            return None
        with torch.autocast(features.device.type, enabled=False):
            vectors = features.movedim(1, -1).flatten(0, 2)[pixels].float()     # (n, D)
            distance = torch.cdist(vectors, vectors, compute_mode='donot_use_mm_for_euclid_dist')           # (n, n)
        same = owner[pixels] == owner[pixels][:, None]
        other = ~torch.eye(len(pixels), dtype=torch.bool, device=same.device)
        far = (self.margin - distance).clamp_min(0)
        return self.pull * mean_where(distance, same & other) + self.push * mean_where(far, ~same)


def owners(target: InstanceTargets) -> Tensor:
    """Return which of the G instances each pixel of all views shows, (V*h*w,) int64; -1 = none."""
    masks = target.flat_masks
    owner = masks.new_full(masks.shape[1:], -1, dtype=torch.int64)
    for number, mask in enumerate(masks):
        owner[mask] = number
    return owner


def sampled(owner: Tensor, count: int) -> Tensor:
    """Return at most `count` of the pixels that show an instance, (n,) int64, for `owner` (V*h*w,); see `PullPushLoss`."""
    shown = (owner >= 0).nonzero()[:, 0]
    if len(shown) <= count:
        return shown
    generator = torch.Generator().manual_seed(len(shown))
    return shown[torch.randperm(len(shown), generator=generator)[:count].to(shown.device)]


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of `values` (n, n) where `chosen` (n, n) is set; 0 with a gradient where it is nowhere."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
