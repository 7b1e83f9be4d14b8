"""Features of a made-up backbone, for tests of heads."""

import torch

from jrs.structures import FeatureTaps


def some_features(views: int = 3) -> FeatureTaps:
    """Four taps (2, views, 7, 16): one special token, then 2 x 3 patches of 14 pixels."""
    generator = torch.Generator().manual_seed(0)
    taps = [torch.randn(2, views, 7, 16, generator=generator, requires_grad=True) for _ in range(4)]
    return FeatureTaps(taps, torch.arange(1, 7), (2, 3), (28, 42), taps[-1][:, :, 0])


def permute(features: FeatureTaps, order: list[int]) -> FeatureTaps:
    """The same features with the views in another order."""
    return FeatureTaps([tap[:, order] for tap in features.taps], features.patch_index, features.patch_grid,
                       features.image_size, features.geometry_tokens[:, order])
