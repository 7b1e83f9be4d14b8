"""The image encoder: a DINOv2 vision transformer with registers, of which only the patch tokens are used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError, did_you_mean
from jrs.layers.block import Block

SLOWEST, FASTEST = 0.25, 2.1                   # radians per patch, of the first positions of a narrow encoder


@dataclass(frozen=True)
class VitSize:
    """Width, number of blocks and heads of a vision transformer."""

    embed_dim: int
    depth: int
    num_heads: int


VIT_SIZES = {
    'dinov2_vits14_reg': VitSize(384, 12, 6),
    'dinov2_vitb14_reg': VitSize(768, 12, 12),
    'dinov2_vitl14_reg': VitSize(1024, 24, 16),
}


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each to a token with one linear layer, written as a convolution.

    Args:
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        in_channels: of the images, c.
    """

    def __init__(self, patch_size: int, embed_dim: int, in_channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return patch tokens (N, h_p * w_p, C), row-major, of `images` (N, c, H, W)."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)      # (N, h_p * w_p, C)


class VisionTransformer(nn.Module):
    """DINOv2 encoder with register tokens (vggt.md section 4).

    Args:
        embed_dim: width C.
        depth: number of blocks.
        num_heads: attention heads.
        img_size: side in pixels of the square images that the positional table is made for.
        patch_size: side of a patch in pixels.
        num_register_tokens: tokens without a position, put after the class token; 0 = no such parameter.
        mlp_ratio: hidden width of the MLPs over C.
        in_channels: of the images.
        antialias: whether the positional table is resized with antialiasing.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, img_size: int = 518, patch_size: int = 14,
                 num_register_tokens: int = 4, mlp_ratio: float = 4.0, in_channels: int = 3,
                 antialias: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.antialias = antialias
        self.table_side = img_size // patch_size
        self.num_special = 1 + num_register_tokens
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.table_side ** 2 + 1, embed_dim))
        self.register_tokens = nn.Parameter(torch.empty(1, num_register_tokens, embed_dim)) if num_register_tokens else None
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim), requires_grad=False)      # in checkpoints, never read
        self.patch_embed = PatchEmbed(patch_size, embed_dim, in_channels)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, norm_eps=1e-6, init_values=1.0) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised patch tokens (N, h_p * w_p, C), row-major, of normalised `images` (N, 3, H, W)."""
        return self.encode(images)[:, self.num_special:]                                    # (N, h_p * w_p, C)

    def encode(self, images: Tensor) -> Tensor:
        """Return all normalised tokens (N, 1 + registers + h_p * w_p, C): class, registers, patches."""
        patches = self.patch_embed(images)                                                  # (N, h_p * w_p, C)
        height, width = (side // self.patch_size for side in images.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)    # (N, 1 + h_p * w_p, C)
        tokens = tokens + self.position_table(height, width).to(tokens.dtype)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(len(images), -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)            # class, registers, patches
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def position_table(self, height: int, width: int) -> Tensor:
        """Return the positional table (1, 1 + height * width, C) for a patch grid: the class row, then the patches.

        Other grids than the table's own are resized by bicubic interpolation, in float32; `antialias` says how.
        """
        if height == width == self.table_side:
            return self.pos_embed
        table = self.pos_embed.float()
        grid = table[:, 1:].unflatten(1, (self.table_side, self.table_side)).permute(0, 3, 1, 2)    # (1, C, side, side)
        grid = F.interpolate(grid, size=(height, width), mode='bicubic', antialias=self.antialias, align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)            # (1, 1 + height * width, C)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Fill as for training from scratch (vggt.md section 16).

        DINOv2 truncates at +-2, a hundred standard deviations away: the plain normal is the same, and much faster.
        """
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def table_by_factor(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a positional table for another patch grid, the way of the original DINOv2: (1, 1 + h * w, C), float32.

    Its own grid is kept as it is. Another one is made by bicubic interpolation without antialiasing, and by factors: output
    row i reads row (i + 0.5) * side / (h + 0.1) - 0.5 of the table (backbones.md section 3, "Encoder"). `VisionTransformer`,
    the encoder of VGGT and Pi3, resizes by size, with antialiasing.

    Args:
        table: (1, 1 + side ** 2, C), the row of the class token, then the patches of a square grid, row-major.
        grid: (h, w), patches along the height and the width of the image.
    """
    side = math.isqrt(table.shape[1] - 1)
    if tuple(grid) == (side, side):
        return table
    table = table.float()
    picture = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)                   # (1, C, side, side)
    factors = tuple((count + 0.1) / side for count in grid)
    picture = F.interpolate(picture, scale_factor=factors, mode='bicubic', align_corners=False)
    return torch.cat([table[:, :1], picture.flatten(2).transpose(1, 2)], dim=1)             # (1, 1 + h * w, C)


def build_patch_embed(name: str, embed_dim: int, img_size: int, patch_size: int, depth: int = 4,
                      num_heads: int = 4, in_channels: int = 3) -> nn.Module:
    """Return the module that turns normalised images (N, in_channels, H, W) into patch tokens (N, h_p * w_p, embed_dim).

    Args:
        name: 'conv' for one convolution, 'vit' for an encoder of any size, or one of `VIT_SIZES`.
        embed_dim: width that is needed.
        img_size: side of the images that a positional table is made for.
        patch_size: side of a patch in pixels.
        depth, num_heads: of the encoder 'vit'.
        in_channels: 3 for colours.

    Raises:
        ConfigError: unknown name, or an encoder of another width or patch size.
    """
    if name == 'conv':
        return PatchEmbed(patch_size, embed_dim, in_channels)
    if name == 'vit':
        return _ready_for_scratch(VisionTransformer(embed_dim, depth, num_heads, img_size, patch_size,
                                                    in_channels=in_channels))
    if name not in VIT_SIZES:
        raise ConfigError(f'There is no patch embedding {name!r}.{did_you_mean(name, ["conv", "vit", *VIT_SIZES])}')
    size = VIT_SIZES[name]
    if (embed_dim, patch_size) != (size.embed_dim, 14):
        raise ConfigError(f'{name} makes tokens of width {size.embed_dim} from patches of 14 pixels; embed_dim='
                          f'{embed_dim}, patch_size={patch_size} do not fit. Change them, or use patch_embed="conv".')
    return VisionTransformer(size.embed_dim, size.depth, size.num_heads, img_size, patch_size, in_channels=in_channels)


def _ready_for_scratch(encoder: VisionTransformer) -> VisionTransformer:
    """Return an encoder, narrow ones of which learn in minutes."""
    fill_for_scratch(encoder.blocks, encoder.pos_embed)
    return encoder


@torch.no_grad()
def fill_for_scratch(blocks: nn.Module, table: Tensor) -> None:
    """Fill narrow blocks so that signals keep their size, and a positional table (1, 1 + side * side, C) with waves.

    DINOv2's deviation of 0.02 is made for a width of 1024: in a narrow encoder blocks would add next to nothing. Ours.

    Args:
        blocks: every linear layer (out, in) in it is filled anew, biases stay.
        table: its class row stays.
    """
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features ** -0.5)
    side, width = math.isqrt(table.shape[1] - 1), table.shape[-1]
    speeds = torch.logspace(math.log10(SLOWEST), math.log10(FASTEST), width // 4)           # radians per patch
    angles = torch.arange(side)[:, None] * speeds                                           # (side, C / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)                                 # (side, C / 2)
    known = torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], dim=-1)     # rows, columns
    table[:, 1:, :known.shape[-1]] = 0.5 * known.flatten(0, 1)
