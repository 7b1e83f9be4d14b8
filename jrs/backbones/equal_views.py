"""Pairs of attention inside each view and over all views in which no view is special: the base of Pi3 and Pi3X."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.io.images import resize_to_area
from jrs.layers.block import Block
from jrs.layers.layout import Layout
from jrs.layers.vit import VisionTransformer, build_patch_embed
from jrs.structures import FeatureTaps

NORM_EPS = 1e-6                                # of the block norms; those of queries and keys have 1e-5, as in VGGT


class EqualViews(StepBackbone):
    """Encoder, equal registers and one list of blocks, in turn inside views and over the scene (backbones.md section 1).

    Base class; the defaults are those of the released Pi3. No view is a reference: permuting the views permutes the outputs.
    There is no camera token either; cameras that are read from one token per view get the mean over its patches. Parameter
    names are those of the released files.

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
        feature_layers: pairs whose two outputs, side by side, the heads read; the defaults are as deep as VGGT's. -1 are the
            tokens that enter the first pair, the encoder's, of half that width.
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (pairs and registers): True keeps them; None = all learn.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    has_reference_view = False
    streams = True
    input_layer = -1
    encoder_parts = ('encoder',)
    photo_resize = staticmethod(resize_to_area)
    example = dict(img_size=56, embed_dim=16, depth=2, num_heads=2, patch_embed='conv', feature_layers=(0, 0, 1, 1))

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 18,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 encoder_depth: int = 4, encoder_heads: int = 4, num_register_tokens: int = 5, rope_base: float = 100.0,
                 init_values: float = 0.01, feature_layers: Sequence[int] = (3, 8, 13, 17),
                 activation_checkpointing: bool | str = False,
                 global_attention: dict | None = None, lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         img_size=img_size)
        self.num_special = num_register_tokens
        self.tap_dims = tuple((1 if layer == self.input_layer else 2) * embed_dim for layer in self.feature_layers)
        self.head_width, self.rope_base = embed_dim // num_heads, rope_base
        self._encoder_options = dict(name=patch_embed, embed_dim=embed_dim, img_size=img_size, patch_size=patch_size,
                                     depth=encoder_depth, num_heads=encoder_heads)
        self._block_options = dict(dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=NORM_EPS, qk_norm=True,
                                   init_values=init_values)
        self.encoder = self.make_encoder()
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 1, num_register_tokens, embed_dim))
        self.decoder = nn.ModuleList(self.make_block() for _ in range(2 * depth))
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))       # in the released file
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.complete(lora, freeze)

    def make_encoder(self, in_channels: int = 3) -> nn.Module:
        """Return an encoder like that of the images, (N, in_channels, H, W) -> (N, h_p * w_p, C)."""
        encoder = build_patch_embed(**self._encoder_options, in_channels=in_channels)
        if isinstance(encoder, VisionTransformer):
            del encoder.mask_token                      # the released files have none
        return encoder

    def make_block(self, kind: type[Block] = Block) -> Block:
        """Return a block of the class `kind`, of the sizes of the pairs."""
        return kind(**self._block_options)

    def start(self, images: Tensor, seen: int = 0) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first pair, registers, then patches of each view, and their places.

        No view is special: `seen` views of a stream before these change nothing.
        """
        return self.with_registers(self.encode(images), images, seen)

    def with_registers(self, patches: Tensor, images: Tensor, seen: int = 0) -> tuple[State, Layout]:
        """Return the first state, and its layout, of the `patches` (B, V, h_p * w_p, C) of `images` (B, V, 3, H, W)."""
        registers = self.register_token.expand(*images.shape[:2], -1, -1)       # (B, V, registers, C)
        layout = Layout.of(images, self.patch_size, front=self.num_special, seen=seen)
        return State(torch.cat([registers, patches], dim=2)), layout.turned(self.head_width, self.rope_base)

    def steps(self) -> list[Step]:
        """Return all blocks: even ones see their view, odd ones all views; queries read after the latter."""
        return [Step(block, 'scene', 'scene', query=True) if index % 2 else Step(block, 'view', 'view')
                for index, block in enumerate(self.decoder)]

    def tap(self, state: State, layout: Layout) -> Tensor:
        """Return both outputs of a pair side by side, (B, V, P, 2C), or what `start` gave, (B, V, P, C)."""
        return state.views if state.previous is None else super().tap(state, layout)

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; a camera read from one token per view gets the mean over patches (B, V, 2C) of the last one."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = taps[-1][:, :, layout.patch_index].mean(dim=2)
        return features
