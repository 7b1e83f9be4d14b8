"""Pi3: pairs of frame and global attention like VGGT's, with the same special tokens for every view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.backbones.alternating import IMAGE_MEAN, IMAGE_STD, AlternatingBackbone
from jrs.layers.block import Block
from jrs.layers.vit import VisionTransformer, build_patch_embed
from jrs.registry import BACKBONES

NORM_EPS = 1e-6                                # of the block norms; those of queries and keys have 1e-5, as in VGGT


@BACKBONES.register_module()
class Pi3(AlternatingBackbone):
    """The encoder and decoder of Pi3 (backbones.md section 1); the defaults are those of the released model.

    No view is a reference: permuting the views permutes the outputs. There is no camera token either; cameras that are read
    from one token per view get the mean over its patches. Parameter names are those of the released file.

    Args:
        img_size: side in pixels of the square images that the encoder's positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        depth: number of pairs, half of the blocks; queries read after each.
        num_heads: attention heads of the blocks.
        mlp_ratio: hidden width of their MLPs over C.
        patch_embed: 'conv', or the name of an image encoder (`jrs.layers.vit.VIT_SIZES`).
        num_register_tokens: register tokens per view, equal for all views.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        feature_layers: pairs whose two outputs, side by side, the heads read; the defaults are as deep as VGGT's.
        activation_checkpointing: in training, recompute every pair in the backward pass.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (pairs and registers): True keeps them; None = all learn.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    scale = 'arbitrary'
    has_reference_view = False
    full_precision = ()                        # weights that are also used outside autocast
    weights_licence = 'CC BY-NC 4.0 (Hugging Face yyfz233/Pi3)'
    official_weights = ('Put the released Pi3 there: model.safetensors (CC BY-NC 4.0) from '
                        'https://huggingface.co/yyfz233/Pi3. Or name your copy: --cfg-options weights=FILE.')
    encoder_name = 'encoder'
    pair_parts = ('decoder', 'register_token')
    lora_targets = r'decoder\.\d+\.attn\.(qkv|proj)'

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 18,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 num_register_tokens: int = 5, rope_base: float = 100.0, init_values: float = 0.01,
                 feature_layers: Sequence[int] = (3, 8, 13, 17), activation_checkpointing: bool = False,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, depth, num_heads, img_size, patch_size, num_register_tokens, rope_base, feature_layers,
                         activation_checkpointing)
        self.encoder = build_patch_embed(patch_embed, embed_dim, img_size, patch_size)
        if isinstance(self.encoder, VisionTransformer):
            del self.encoder.mask_token                 # the released file has none
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 1, num_register_tokens, embed_dim))
        self.decoder = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, NORM_EPS, qk_norm=True, init_values=init_values)
                                     for _ in range(2 * depth))
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))       # in the released file
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.fine_tune(lora, freeze)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, V, P, C) that enter the first pair: registers, then the patches of each view."""
        normalised = (images - self.image_mean) / self.image_std
        patches = self.encoder(normalised.flatten(0, 1))                        # (B*V, h_p * w_p, C)
        patches = patches.unflatten(0, images.shape[:2])                        # (B, V, h_p * w_p, C)
        registers = self.register_token.expand(*images.shape[:2], -1, -1)       # (B, V, registers, C)
        return torch.cat([registers, patches], dim=2)                           # (B, V, P, C)

    def pair(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Return blocks 2 `index` (inside each view) and 2 `index` + 1 (over all views)."""
        return self.decoder[2 * index], self.decoder[2 * index + 1]

    def geometry_tokens(self, tap: Tensor) -> Tensor:
        """Return the mean over the patches of each view, (B, V, 2C), of `tap` (B, V, P, 2C)."""
        return tap[:, :, self.num_special:].mean(dim=2)
