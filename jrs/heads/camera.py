"""The camera head: one token per view -> pose encoding, refined step by step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers.attention import Mix, SceneAttention, fused_attention
from jrs.layers.block import Block, Mlp
from jrs.layers.dpt import HeadMemory
from jrs.layers.layout import Layout
from jrs.registry import ATTENTIONS, HEADS, build
from jrs.structures import FeatureTaps

ENCODING_SIZE = 9               # translation 3, quaternion 4, field of view 2


@HEADS.register_module()
class CameraHead(nn.Module):
    """Refines the pose encodings of all views together (vggt.md section 6). Runs in float32.

    Args:
        dim_in: width of the geometry tokens, `feature_dim` of the backbone.
        trunk_depth: blocks that every step runs.
        num_heads: their attention heads.
        iterations: refinement steps.
        init_values: initial LayerScale of the blocks.
        trunk_attention: what stands behind the door of these blocks (`ATTENTIONS`), in which views are one token each; the
            number of a block is counted on over the steps, so that a cache is of one block in one step. None = attention of
            all views to all.

    Attributes:
        streams: whether views may come one after the other (`SceneAttention.streaming` of `trunk_attention`).
    """

    def __init__(self, dim_in: int, trunk_depth: int = 4, num_heads: int = 16, iterations: int = 4,
                 init_values: float = 0.01, trunk_attention: dict | None = None) -> None:
        super().__init__()
        self.iterations = iterations
        self.trunk_attention: SceneAttention | None = build(ATTENTIONS, trunk_attention, 'model.camera_head.trunk_attention')
        self.streams = trunk_attention is not None
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING_SIZE))
        self.trunk = nn.ModuleList(Block(dim_in, num_heads, init_values=init_values) for _ in range(trunk_depth))
        self.token_norm = nn.LayerNorm(dim_in)
        self.trunk_norm = nn.LayerNorm(dim_in)
        self.embed_pose = nn.Linear(ENCODING_SIZE, dim_in)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim_in, 3 * dim_in))
        self.pose_branch = Mlp(dim_in, dim_in // 2, ENCODING_SIZE)

    def forward(self, features: FeatureTaps) -> list[Tensor]:
        """Return the encoding after every step, (B, V, 9) each; the last one counts.

        An encoding is translation, quaternion xyzw (not normalised) and vertical, horizontal field of view (radians,
        never negative) of `cam_from_world`. Reads `features.geometry_tokens` (B, V, dim_in).

        Raises:
            ConfigError: the backbone leaves no geometry tokens.
        """
        if features.geometry_tokens is None:
            raise ConfigError('CameraHead reads geometry tokens (B, V, dim_in), and this backbone leaves None: use a camera '
                              'head that is made for it (docs/plugins.md, HEADS.camera_head), or none: '
                              'model.camera_head=None, model.losses.camera=None, metrics.cameras=None.')
        with torch.autocast(features.geometry_tokens.device.type, enabled=False):
            return self._refine(self.token_norm(features.geometry_tokens.float()))

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return that `views` tokens need next to nothing."""
        return HeadMemory()

    def _refine(self, tokens: Tensor) -> list[Tensor]:
        """Return the encodings of all steps; every step starts again from the normed `tokens` (B, V, dim_in)."""
        plain = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        doors = self._doors(tokens)
        encoding = None
        stages = []
        for step in range(self.iterations):
            known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if encoding is None else encoding.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)    # (B, V, dim_in)
            states = gate * (plain * (1 + scale) + shift) + tokens
            for number, block in enumerate(self.trunk, start=step * len(self.trunk)):
                states = block(states, mix=doors[number])
            change = self.pose_branch(self.trunk_norm(states))                  # (B, V, 9)
            encoding = change if encoding is None else encoding + change
            stages.append(torch.cat([encoding[..., :7], encoding[..., 7:].relu()], dim=-1))
        return stages

    def _doors(self, tokens: Tensor) -> list[Mix]:
        """Return the attention of each block in each step, for `tokens` (B, V, dim_in)."""
        count, part = self.iterations * len(self.trunk), self.trunk_attention
        if part is None:
            return [fused_attention] * count
        layout = Layout.of_tokens(tokens.shape[1], tokens.device, seen=part.seen)
        return [part.at(number, layout) or fused_attention for number in range(count)]
