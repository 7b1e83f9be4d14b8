"""The DINOv2 branch: patch tokens of a second, frozen encoder on the grid of the first (baselines.md section 4.5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD
from jrs.layers.vit import VisionTransformer


class DinoBranch(nn.Module):
    """DINOv2 without registers on images that are resized so that its patches fall on a given grid.

    Args:
        embed_dim, depth, num_heads: width, number of blocks, heads; those of DINOv2-L by default.
        img_size: side of the square images that the positional table is made for.
        patch_size: side of a patch in pixels.
        frozen: nothing of it learns.
    """

    def __init__(self, embed_dim: int = 1024, depth: int = 24, num_heads: int = 16, img_size: int = 518,
                 patch_size: int = 14, frozen: bool = True) -> None:
        super().__init__()
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.vit = VisionTransformer(embed_dim, depth, num_heads, img_size, patch_size, num_register_tokens=0,
                                     antialias=False)
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return normalised patch tokens (n, h_p * w_p, C), row-major, of `images` (n, 3, H, W) in [-1, 1].

        `grid` (h_p, w_p) is that of the other encoder; the pictures become 14 h_p x 14 w_p, bilinear, corners not aligned,
        no antialiasing.
        """
        normalised = ((images + 1) / 2 - self.image_mean) / self.image_std
        size = tuple(side * self.patch_size for side in grid)
        return self.vit(F.interpolate(normalised, size=size, mode='bilinear', align_corners=False))
