"""VGGT-Omega: VGGT's pairs, in some of which only special tokens see other views; no positions across views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.vggt_omega.encoder import build_encoder
from jrs_plugins.vggt_omega.sizes import RULES
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.errors import ConfigError, find_named
from jrs.layers.block import Block
from jrs.layers.layout import Layout, first_and_other_views
from jrs.layers.rope import GridPeriods
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps

REGISTER_LAYERS = (2, 6, 9, 14, 20)            # of the released models


@BACKBONES.register_module()
class VGGTOmega(StepBackbone):
    """The aggregator of VGGT-Omega (backbones.md section 2); the defaults are those of the released models.

    Queries read after every pair. In a register layer the patches are as they were after the frame block, so that its kind
    is 'special'. Parameter names are those of the released files below `aggregator.`; the periods of the rotary embedding
    come from there too. The bias of keys stays zero.

    Args:
        img_size: side in pixels of the images that it was trained with; for words only.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        depth: number of pairs of a frame and an inter-frame block.
        num_heads: attention heads of these blocks.
        mlp_ratio: hidden width of their MLPs over C.
        patch_embed: 'conv'; 'vit', an encoder of this width; or 'dinov3_vitl16', the released one.
        encoder_depth, encoder_heads: blocks and heads of the encoder 'vit'.
        num_storage_tokens: of the encoder, beside its class token.
        num_register_tokens: register tokens per view, beside one camera token.
        register_layers: pairs whose inter-frame block sees special tokens only; None = those of the released models, as far
            as there are so many pairs.
        rope_base: base of the rotary position embedding, of encoder and frame blocks.
        init_values: initial LayerScale.
        feature_layers: pairs whose two outputs, side by side, the heads read.
        photo_sizes: how `infer` brings photos to size: 'balanced', about as many pixels as a square has, or 'max_size', by
            the longer side.
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (pairs and special tokens): True keeps them; None = all learn.

    Raises:
        ConfigError: a register layer that does not exist, or an option that does not fit.
    """

    weights_licence = 'FAIR Noncommercial Research License v1, gated (Hugging Face facebook/VGGT-Omega)'
    official_weights = ('Put the released VGGT-Omega there: vggt_omega_1b_512.pt (FAIR Noncommercial Research License; '
                        'gated: ask on the page first) from https://huggingface.co/facebook/VGGT-Omega. Or name your copy: '
                        '--cfg-options weights=FILE.')
    streams = True
    encoder_parts = ('patch_embed',)
    example = dict(img_size=56, embed_dim=16, depth=2, num_heads=2, patch_embed='conv', feature_layers=(0, 0, 1, 1))

    def __init__(self, img_size: int = 512, patch_size: int = 16, embed_dim: int = 1024, depth: int = 24,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov3_vitl16', encoder_depth: int = 4,
                 encoder_heads: int = 4, num_storage_tokens: int = 4, num_register_tokens: int = 16,
                 register_layers: Sequence[int] | None = None, rope_base: float = 100.0, init_values: float = 1e-5,
                 feature_layers: Sequence[int] = (4, 11, 17, 23), photo_sizes: str = 'balanced',
                 activation_checkpointing: bool | str = False, global_attention: dict | None = None,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         img_size=img_size)
        self.num_special = 1 + num_register_tokens
        self.register_layers = _existing_layers(register_layers, depth)
        self.photo_resize = find_named(RULES, photo_sizes, 'rule for the size of photos')
        self.size_rule += f'; photos: {photo_sizes}'

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, qk_norm=True, init_values=init_values,
                                       key_bias=False) for _ in range(depth))
        self.patch_embed = build_encoder(patch_embed, embed_dim, patch_size, encoder_depth, encoder_heads,
                                         num_storage_tokens, rope_base)
        self.rope_embed = GridPeriods(embed_dim // num_heads, rope_base)
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, embed_dim))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, num_register_tokens, embed_dim))
        self.frame_blocks = blocks()
        self.inter_frame_blocks = blocks()
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.complete(lora, freeze)

    def start(self, images: Tensor, seen: int = 0) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first pair, camera, registers, patches of each view; their layout.

        The first view has special tokens of its own, but not where `seen` views of a stream were passed before.
        """
        normalised = (images - self.image_mean) / self.image_std
        patches = self.patch_embed(normalised.flatten(0, 1)).unflatten(0, images.shape[:2])     # (B, V, h_p * w_p, C)
        special = torch.cat([self.camera_token, self.register_token], dim=2)    # (1, 2, K, C)
        special = first_and_other_views(special, *images.shape[:2], seen)       # (B, V, K, C)
        layout = Layout.of(images, self.patch_size, front=self.num_special, seen=seen)
        rotation = self.rope_embed(layout.grid, self.num_special)
        return State(torch.cat([special, patches], dim=2)), replace(layout, rotations={'view': rotation})

    def steps(self) -> list[Step]:
        """Return the frame block and the inter-frame block of each pair; queries read after the latter."""
        steps = []
        for layer, (frame, across) in enumerate(zip(self.frame_blocks, self.inter_frame_blocks, strict=True)):
            scope = 'special' if layer in self.register_layers else 'scene'
            steps += [Step(frame, 'view', 'view'), Step(across, scope, query=True)]
        return steps

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps, and the special tokens (B, V, K, 2C) of the last pair, of which the first is the camera's."""
        features = super().finish(taps, state, layout)
        features.special_tokens = self.tap(state, layout)[:, :, layout.special_index]
        features.geometry_tokens = features.special_tokens[:, :, 0]
        return features


def _existing_layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Return the register layers of a model of `depth` pairs."""
    if layers is None:
        return tuple(layer for layer in REGISTER_LAYERS if layer < depth)
    if not set(layers) <= set(range(depth)):
        raise ConfigError(f'register_layers {tuple(layers)} must be pairs of the backbone, 0 .. {depth - 1}. Leave it out '
                          'for those of the released models.')
    return tuple(layers)
