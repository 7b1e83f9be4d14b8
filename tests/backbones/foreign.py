"""A backbone that shares nothing with VGGT but the contract: a plugin of one file, for tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jrs.layers.block import Block
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps, LayerState

IN_FRONT, BEHIND = 9, 8


@BACKBONES.register_module()
class Foreign(nn.Module):
    """Patches of 16 pixels between 9 and 8 special tokens per view, and one token of no view; 6 layers.

    What is optional is left out: `num_special`, `full_precision`, `activation_checkpointing`, `lora` and `freeze`.

    Args:
        shuffle: hand the same tokens over in an order that only the index vectors tell.
    """

    embed_dim = feature_dim = 24
    patch_size = 16
    num_query_layers = 6
    feature_layers = (1, 2, 4, 5)
    size_rule = 'height and width are multiples of 16'
    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    scale = 'arbitrary'
    has_reference_view = False
    weights_licence = 'none'

    def __init__(self, shuffle: bool = False) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.patches = nn.Conv2d(3, self.embed_dim, self.patch_size, self.patch_size)
        self.special = nn.Parameter(torch.randn(IN_FRONT + BEHIND, self.embed_dim))
        self.scene_token = nn.Parameter(torch.randn(1, 1, self.embed_dim))
        self.blocks = nn.ModuleList(Block(self.embed_dim, 2, init_values=0.5) for _ in range(self.num_query_layers))
        self._features: FeatureTaps | None = None

    def layers(self, images: Tensor) -> Iterator[LayerState]:
        """Yield the tokens (B, 1 + V * P, C) after each block."""
        (num_scenes, num_views), size = images.shape[:2], tuple(images.shape[-2:])
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        patches = self.patches(images.flatten(0, 1)).flatten(2).transpose(1, 2)             # (B*V, h_p * w_p, C)
        special = self.special.expand(len(patches), -1, -1)
        views = torch.cat([special[:, :IN_FRONT], patches, special[:, IN_FRONT:]], dim=1)   # (B*V, P, C)
        num_tokens, patch_index = views.shape[1], torch.arange(IN_FRONT, IN_FRONT + patches.shape[1])
        tokens = views.unflatten(0, (num_scenes, num_views)).flatten(1, 2)                  # (B, V * P, C)
        tokens = torch.cat([self.scene_token.expand(num_scenes, -1, -1), tokens], dim=1)
        view_index = torch.cat([torch.tensor([-1]), torch.arange(num_views).repeat_interleave(num_tokens)])
        is_patch = torch.zeros(num_tokens, dtype=torch.bool).index_fill(0, patch_index, True).repeat(num_views)
        is_patch = torch.cat([torch.tensor([False]), is_patch])
        order, within = self._order(tokens.shape[1]), self._order(num_tokens)
        taps = {}
        for index, block in enumerate(self.blocks):
            if index % 2:                                       # all tokens; else those of each view
                tokens = block(tokens)
            else:
                views = block(tokens[:, 1:].reshape(-1, num_tokens, self.embed_dim))        # (B*V, P, C)
                tokens = torch.cat([tokens[:, :1], views.reshape(num_scenes, -1, self.embed_dim)], dim=1)
            taps[index] = tokens[:, 1:].unflatten(1, (num_views, num_tokens))               # (B, V, P, C)
            yield LayerState(index, tokens[:, order], view_index[order], is_patch[order], num_views)
        kept = [taps[index][:, :, within] for index in self.feature_layers]
        self._features = FeatureTaps(kept, within.argsort()[patch_index], grid, size, geometry_tokens=taps[5][:, :, -3])

    def features(self) -> FeatureTaps:
        """Hand over the taps."""
        features, self._features = self._features, None
        return features

    def _order(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        return torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
