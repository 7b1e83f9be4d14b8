"""A backbone in plain torch: local convolutions inside views, attention across them; patches of 8, no special tokens."""

import torch
from torch import nn

from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps, LayerState


class Block(nn.Module):
    """A depthwise convolution over the patch grid of each view, then attention of all tokens of a scene."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.local = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.GELU(), nn.Conv2d(dim, dim, 1))
        self.norm, self.attention = nn.LayerNorm(dim), nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        """Return maps of the shape of `x` (B, V, C, h, w)."""
        x = x + self.local(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        tokens = x.flatten(3).transpose(2, 3).flatten(1, 2)                 # (B, V * h * w, C)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.mlp(tokens)
        return tokens.unflatten(1, (x.shape[1], -1)).transpose(2, 3).unflatten(3, x.shape[-2:])


@BACKBONES.register_module()
class LocalGlobal(nn.Module):
    """`depth` blocks of width `dim` with `num_heads` heads on patches of `patch_size` pixels; queries read after each."""

    size_rule, scale, has_reference_view, weights_licence = 'multiples of the patch', 'arbitrary', False, 'none'
    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    example = dict(dim=16, depth=2)

    def __init__(self, dim=48, depth=4, num_heads=4, patch_size=8):
        super().__init__()
        self.embed_dim = self.feature_dim = dim
        self.patch_size, self.num_query_layers = patch_size, depth
        self.feature_layers = tuple((depth - 1) * tap // 3 for tap in range(4))
        self.embed = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))

    def layers(self, images):
        x = self.embed(images.flatten(0, 1) - 0.5).unflatten(0, images.shape[:2])          # (B, V, C, h, w)
        seen = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            seen.append(x.flatten(3).transpose(2, 3))                       # (B, V, P, C)
            yield LayerState.of_views(number, seen[-1])
        index, size = torch.arange(seen[0].shape[2], device=images.device), tuple(images.shape[-2:])
        self.left = FeatureTaps([seen[layer] for layer in self.feature_layers], index, tuple(x.shape[-2:]), size)

    def features(self):
        return self.__dict__.pop('left')
