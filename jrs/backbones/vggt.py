"""VGGT: attention inside each view and over all views in turn, of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.backbones.alternating import IMAGE_MEAN, IMAGE_STD, AlternatingBackbone
from jrs.layers.block import Block
from jrs.layers.vit import build_patch_embed
from jrs.registry import BACKBONES


@BACKBONES.register_module()
class VGGT(AlternatingBackbone):
    """The aggregator of VGGT (vggt.md sections 2 to 5); the defaults are those of VGGT-1B.

    Parameter names are those of the released checkpoints below `aggregator.`.

    Args:
        img_size: side in pixels of the square images that the encoder's positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        depth: number of pairs of a frame and a global block.
        num_heads: attention heads of these blocks.
        mlp_ratio: hidden width of their MLPs over C.
        patch_embed: 'conv'; 'vit', an encoder of this width; or the name of a released one (`jrs.layers.vit.VIT_SIZES`).
        encoder_depth: blocks of the encoder 'vit'.
        num_register_tokens: register tokens per view, beside one camera token.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        feature_layers: pairs whose two outputs, side by side, the heads read.
        activation_checkpointing: in training, recompute every pair in the backward pass.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` and `blocks` (pairs and special tokens): True keeps them as they are; None = all learn.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = first camera'
    scale = 'arbitrary'
    has_reference_view = True
    full_precision = ()                        # weights that are also used outside autocast
    weights_licence = 'VGGT licence: non-commercial; a separate commercial file exists'
    encoder_name = 'patch_embed'
    pair_parts = ('frame_blocks', 'global_blocks', 'camera_token', 'register_token')
    lora_targets = r'(frame|global)_blocks\.\d+\.attn\.(qkv|proj)'

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 24,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 encoder_depth: int = 4, num_register_tokens: int = 4, rope_base: float = 100.0, init_values: float = 0.01,
                 feature_layers: Sequence[int] = (4, 11, 17, 23), activation_checkpointing: bool = False,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, depth, num_heads, img_size, patch_size, 1 + num_register_tokens, rope_base,
                         feature_layers, activation_checkpointing)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, qk_norm=True, init_values=init_values)
                                 for _ in range(depth))
        self.patch_embed = build_patch_embed(patch_embed, embed_dim, img_size, patch_size, encoder_depth, num_heads)
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, embed_dim))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, num_register_tokens, embed_dim))
        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.fine_tune(lora, freeze)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, V, P, C) that enter the first pair: camera, registers, patches of each view."""
        num_scenes, num_views = images.shape[:2]
        normalised = (images - self.image_mean) / self.image_std
        patches = self.patch_embed(normalised.flatten(0, 1))                    # (B*V, h_p * w_p, C)
        patches = patches.unflatten(0, (num_scenes, num_views))                 # (B, V, h_p * w_p, C)
        special = torch.cat([self.camera_token, self.register_token], dim=2)    # (1, 2, 1 + registers, C)
        others = special[:, 1:].expand(-1, num_views - 1, -1, -1)               # the first view has tokens of its own
        special = torch.cat([special[:, :1], others], dim=1).expand(num_scenes, -1, -1, -1)
        return torch.cat([special, patches], dim=2)                             # (B, V, P, C)

    def pair(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Return frame block and global block `index`."""
        return self.frame_blocks[index], self.global_blocks[index]

    def geometry_tokens(self, tap: Tensor) -> Tensor:
        """Return the camera tokens (B, V, 2C) of `tap` (B, V, P, 2C)."""
        return tap[:, :, 0]
