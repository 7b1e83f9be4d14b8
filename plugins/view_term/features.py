"""Instance features with a part that all pixels of a view share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.heads.instance_features import InstanceFeatureHead
from jrs.registry import HEADS
from jrs.structures import FeatureTaps


@HEADS.register_module()
class ViewTermFeatureHead(InstanceFeatureHead):
    """`InstanceFeatureHead` plus a vector of each view, the same at all of its pixels. Ours.

    Masks stay query . feature: with features f(x) + g the logit of a query q is q . f(x) + q . g, and the second part says
    for each view whether its object is there at all. g is linear in what the view shows, the normed mean of its patch
    tokens, and in its geometry token, both after the last layer. It starts at 0: weights of an `InstanceFeatureHead` mean
    what they did.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        embedding_dim: D, as of `InstanceFeatureHead`.
        options: of `InstanceFeatureHead`.
    """

    def __init__(self, dim_in: int, embedding_dim: int = 128, **options) -> None:
        super().__init__(dim_in, embedding_dim=embedding_dim, **options)
        self.view_norms = nn.ModuleList(nn.LayerNorm(dim_in) for _ in range(2))
        self.view_term = nn.Linear(2 * dim_in, embedding_dim)
        nn.init.zeros_(self.view_term.weight)
        nn.init.zeros_(self.view_term.bias)

    def forward(self, features: FeatureTaps) -> Tensor:
        """Return instance features (B, V, D, H // down_ratio, W // down_ratio), float32, any sign.

        Raises:
            ConfigError: the backbone leaves no geometry tokens.
        """
        if features.geometry_tokens is None:
            raise ConfigError('ViewTermFeatureHead reads geometry tokens (B, V, dim_in), and this backbone leaves None: use '
                              'InstanceFeatureHead.')
        maps = super().forward(features)
        patches, (_, places) = features.taps[-1], features.grid_of(-1)                          # (B, V, P, dim_in)
        shown = (patches if places is None else patches[:, :, places]).float().mean(dim=2)      # (B, V, dim_in)
        tokens = (shown, features.geometry_tokens.float())
        normed = torch.cat([norm(values) for norm, values in zip(self.view_norms, tokens, strict=True)], dim=-1)
        term = self.view_term(normed)[..., None, None]                                          # (B, V, D, 1, 1)
        return maps + term if torch.is_grad_enabled() else maps.add_(term)
