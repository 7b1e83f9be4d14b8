"""Pi3: pairs of frame and global attention like VGGT's, with the same special tokens for every view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.layers.block import Block
from jrs.layers.layout import Layout
from jrs.layers.vit import VisionTransformer, build_patch_embed
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps

NORM_EPS = 1e-6                                # of the block norms; those of queries and keys have 1e-5, as in VGGT


@BACKBONES.register_module()
class Pi3(StepBackbone):
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
        patch_embed: 'conv'; 'vit', an encoder of this width; or the name of a released one (`jrs.layers.vit.VIT_SIZES`).
        encoder_depth, encoder_heads: blocks and heads of the encoder 'vit'.
        num_register_tokens: register tokens per view, equal for all views.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        feature_layers: pairs whose two outputs, side by side, the heads read; the defaults are as deep as VGGT's.
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (pairs and registers): True keeps them; None = all learn.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    has_reference_view = False
    weights_licence = 'CC BY-NC 4.0 (Hugging Face yyfz233/Pi3)'
    official_weights = ('Put the released Pi3 there: model.safetensors (CC BY-NC 4.0) from '
                        'https://huggingface.co/yyfz233/Pi3. Or name your copy: --cfg-options weights=FILE.')
    streams = True
    encoder_parts = ('encoder',)

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 18,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 encoder_depth: int = 4, encoder_heads: int = 4, num_register_tokens: int = 5, rope_base: float = 100.0,
                 init_values: float = 0.01, feature_layers: Sequence[int] = (3, 8, 13, 17),
                 activation_checkpointing: bool | str = False,
                 global_attention: dict | None = None, lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         img_size=img_size)
        self.num_special = num_register_tokens
        self.head_width, self.rope_base = embed_dim // num_heads, rope_base
        self.encoder = build_patch_embed(patch_embed, embed_dim, img_size, patch_size, encoder_depth, encoder_heads)
        if isinstance(self.encoder, VisionTransformer):
            del self.encoder.mask_token                 # the released file has none
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 1, num_register_tokens, embed_dim))
        self.decoder = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, NORM_EPS, qk_norm=True, init_values=init_values)
                                     for _ in range(2 * depth))
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))       # in the released file
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.complete(lora, freeze)

    def start(self, images: Tensor, seen: int = 0) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first pair, registers, then patches of each view, and their places.

        No view is special: `seen` views of a stream before these change nothing.
        """
        normalised = (images - self.image_mean) / self.image_std
        patches = self.encoder(normalised.flatten(0, 1))                        # (B*V, h_p * w_p, C)
        patches = patches.unflatten(0, images.shape[:2])                        # (B, V, h_p * w_p, C)
        registers = self.register_token.expand(*images.shape[:2], -1, -1)       # (B, V, registers, C)
        layout = Layout.of(images, self.patch_size, front=self.num_special, seen=seen)
        return State(torch.cat([registers, patches], dim=2)), layout.turned(self.head_width, self.rope_base)

    def steps(self) -> list[Step]:
        """Return all blocks: even ones see their view, odd ones all views; queries read after the latter."""
        return [Step(block, 'scene', 'scene', query=True) if index % 2 else Step(block, 'view', 'view')
                for index, block in enumerate(self.decoder)]

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; a camera read from one token per view gets the mean over patches (B, V, 2C) of the last one."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = taps[-1][:, :, layout.patch_index].mean(dim=2)
        return features
