"""A backbone of steps unlike VGGT: scene, then view; patches of 16 pixels first in a view; a token of no view. For tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.backbones.steps import State, Step, StepBackbone
from jrs.layers.block import Block, SwiGLU
from jrs.layers.layout import Layout
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps


@BACKBONES.register_module()
class SceneFirst(StepBackbone):
    """Pairs of a block over the scene and one inside views; queries read after the latter.

    Args:
        depth: pairs.
        feature_layers, activation_checkpointing, global_attention, lora, freeze: as of `StepBackbone`.
    """

    patch_size = 16
    num_special = 2
    has_reference_view = False
    encoder_parts = ('patches',)

    def __init__(self, depth: int = 4, feature_layers: tuple[int, ...] = (0, 1, 2, 3), lora: dict | None = None,
                 activation_checkpointing: bool | str = False, global_attention: dict | None = None,
                 freeze: dict | None = None) -> None:
        super().__init__(24, 16, feature_layers, activation_checkpointing, global_attention)
        self.patches = nn.Conv2d(3, 24, 16, 16)
        self.special = nn.Parameter(torch.randn(2, 24))
        self.scene_token = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks = nn.ModuleList(Block(24, 2, init_values=0.5, mlp=SwiGLU) for _ in range(2 * depth))
        self.complete(lora, freeze)

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the tokens of images (B, V, 3, H, W)."""
        shape = images.shape[:2]
        patches = self.patches(images.flatten(0, 1)).flatten(2).mT.unflatten(0, shape)      # (B, V, h_p * w_p, 24)
        tokens = torch.cat([patches, self.special.expand(*shape, -1, -1)], dim=2)
        layout = Layout.of(images, self.patch_size, behind=2, num_extra=1)
        return State(tokens, self.scene_token.expand(shape[0], -1, -1)), layout.turned(12)

    def steps(self) -> list[Step]:
        """Return the blocks, even ones over the scene."""
        return [Step(block, 'view', 'view', query=True) if index % 2 else Step(block, 'scene')
                for index, block in enumerate(self.blocks)]

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps (B, V, P, 48); cameras are read from the last special token."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = features.special[:, :, -1]
        return features
