"""VGGT: attention inside each view and over all views in turn, of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.layers.block import Block
from jrs.layers.layout import Layout, first_and_other_views
from jrs.layers.vit import build_patch_embed
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps


@BACKBONES.register_module()
class VGGT(StepBackbone):
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
        activation_checkpointing: in training, what of every pair the backward pass computes again: False nothing,
            'attention' all but the outputs of attention, True everything.
        global_attention: what stands behind the door of the global blocks (`ATTENTIONS`); None = attention of all to all.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` and `blocks` (pairs and special tokens): True keeps them as they are; None = all learn.
    """

    weights_licence = 'VGGT licence: non-commercial; a separate commercial file exists'
    streams = True
    encoder_parts = ('patch_embed',)
    example = dict(img_size=56, embed_dim=16, depth=2, num_heads=2, patch_embed='conv', feature_layers=(0, 0, 1, 1))

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 24,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 encoder_depth: int = 4, num_register_tokens: int = 4, rope_base: float = 100.0, init_values: float = 0.01,
                 feature_layers: Sequence[int] = (4, 11, 17, 23), activation_checkpointing: bool | str = False,
                 global_attention: dict | None = None, lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         img_size=img_size)
        self.num_special = 1 + num_register_tokens
        self.head_width, self.rope_base = embed_dim // num_heads, rope_base

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
        self.complete(lora, freeze)

    def start(self, images: Tensor, seen: int = 0) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first pair, camera, registers, patches of each view; their layout.

        The first view has special tokens of its own, but not where `seen` views of a stream were passed before.
        """
        num_scenes, num_views = images.shape[:2]
        normalised = (images - self.image_mean) / self.image_std
        patches = self.patch_embed(normalised.flatten(0, 1))                    # (B*V, h_p * w_p, C)
        patches = patches.unflatten(0, (num_scenes, num_views))                 # (B, V, h_p * w_p, C)
        special = torch.cat([self.camera_token, self.register_token], dim=2)    # (1, 2, 1 + registers, C)
        special = first_and_other_views(special, num_scenes, num_views, seen)   # (B, V, 1 + registers, C)
        tokens = torch.cat([special, patches], dim=2)                           # (B, V, P, C)
        layout = Layout.of(images, self.patch_size, front=self.num_special, seen=seen)
        return State(tokens), layout.turned(self.head_width, self.rope_base)

    def steps(self) -> list[Step]:
        """Return the frame block and the global block of each pair; queries read after the latter."""
        steps = []
        for frame, over_all in zip(self.frame_blocks, self.global_blocks, strict=True):
            steps += [Step(frame, 'view', 'view'), Step(over_all, 'scene', 'scene', query=True)]
        return steps

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; cameras are read from the camera tokens (B, V, 2C) of the last one."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = taps[-1][:, :, 0]
        return features
