"""The image encoder of VGGT-Omega: a vision transformer like DINOv3, its patches placed by rotation alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError, find_named
from jrs.layers.block import Block
from jrs.layers.rope import GridPeriods
from jrs.layers.vit import PatchEmbed, VitSize

ENCODER_SIZES = {'dinov3_vitl16': VitSize(1024, 24, 16)}
WEIGHT_STD = 0.02


class RotaryVit(nn.Module):
    """Class token, storage tokens and patches through blocks that turn queries and keys (backbones.md section 2).

    Args:
        embed_dim: width C.
        depth: number of blocks.
        num_heads: attention heads, C / 4 or fewer.
        patch_size: side of a patch in pixels.
        num_storage_tokens: tokens without a place, behind the class token.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        weight_std: deviation of the linear layers in the beginning; None = 1 / root of their inputs.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, patch_size: int = 16, num_storage_tokens: int = 4,
                 rope_base: float = 100.0, init_values: float = 1e-5, weight_std: float | None = WEIGHT_STD) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.num_special = 1 + num_storage_tokens
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.storage_tokens = nn.Parameter(torch.empty(1, num_storage_tokens, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.rope_embed = GridPeriods(embed_dim // num_heads, rope_base)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, init_values=init_values, key_bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self._initialise(weight_std)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised patch tokens (N, h_p * w_p, C), row-major, of normalised `images` (N, 3, H, W)."""
        patches = self.patch_embed(images)                                      # (N, h_p * w_p, C)
        special = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(images), -1, -1)
        tokens = torch.cat([special, patches], dim=1)                           # (N, 1 + storage + h_p * w_p, C)
        rope = self.rope_embed(tuple(side // self.patch_size for side in images.shape[-2:]), self.num_special)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.norm(tokens[:, self.num_special:])                          # (N, h_p * w_p, C)

    @torch.no_grad()
    def _initialise(self, weight_std: float | None) -> None:
        nn.init.normal_(self.cls_token, std=WEIGHT_STD)
        nn.init.normal_(self.storage_tokens, std=WEIGHT_STD)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=weight_std or module.in_features ** -0.5)
                nn.init.zeros_(module.bias)


def build_encoder(name: str, embed_dim: int, patch_size: int, depth: int, num_heads: int, num_storage_tokens: int,
                  rope_base: float) -> nn.Module:
    """Return the module that turns normalised images (N, 3, H, W) into patch tokens (N, h_p * w_p, embed_dim).

    Args:
        name: 'conv' for one convolution, 'vit' for an encoder of any size that is ready to learn from scratch, or one of
            `ENCODER_SIZES`, as released.
        depth, num_heads: of the encoder 'vit'.
        embed_dim, patch_size, num_storage_tokens, rope_base: as of `RotaryVit`.

    Raises:
        ConfigError: unknown name, or an encoder of another width.
    """
    if name == 'conv':
        return PatchEmbed(patch_size, embed_dim)
    own = {'vit': VitSize(embed_dim, depth, num_heads)}
    size = find_named({**own, 'conv': None, **ENCODER_SIZES}, name, 'patch embedding')
    if size.embed_dim != embed_dim:
        raise ConfigError(f'{name} makes tokens of width {size.embed_dim}; embed_dim={embed_dim} does not fit. Change it, '
                          'or use patch_embed="vit".')
    start = dict(init_values=1.0, weight_std=None) if name == 'vit' else {}                # ours: it learns in minutes
    return RotaryVit(embed_dim, size.depth, size.num_heads, patch_size, num_storage_tokens, rope_base, **start)
