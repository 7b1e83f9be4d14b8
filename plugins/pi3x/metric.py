"""The metric decoder of Pi3X: one token asks all tokens of a scene for its scale."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from jrs.heads.view_geometry import HEAD_WIDTH, NORM_EPS
from jrs.layers.block import Mlp
from jrs.layers.rope import GridRotation


class CrossAttention(nn.Module):
    """Attention of tokens x to tokens y; the keys are turned by their places, and the queries stand at (0, 0).

    Args:
        dim: width of both.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor, rope: GridRotation) -> Tensor:
        """Return (B, N, dim) for x (B, N, dim) and y (B, T, dim)."""
        query, key, value = (linear(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for linear, tokens in
                             ((self.q_proj, x), (self.k_proj, y), (self.v_proj, y)))        # (B, heads, N or T, width)
        return self.proj(F.scaled_dot_product_attention(query, rope(key), value).transpose(1, 2).flatten(2))


class MetricBlock(nn.Module):
    """Cross-attention, then an MLP, both added to their input.

    Args:
        dim: width.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm2, self.norm_y, self.norm3 = (nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(3))
        self.cross_attn = CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, y: Tensor, rope: GridRotation) -> Tensor:
        """Return x (B, N, dim) after the block; y (B, T, dim) as it came in, not normalised."""
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rope)
        return x + self.mlp(self.norm3(x))


class MetricDecoder(nn.Module):
    """Blocks in which a token attends to those of all views (backbones.md section 1, "Metric").

    Args:
        dim_in: width of the tokens.
        dim: width in between, and of the result.
        depth: number of blocks.
        rope_base: base of the rotary position embedding.
    """

    def __init__(self, dim_in: int, dim: int, depth: int, rope_base: float) -> None:
        super().__init__()
        num_heads = max(1, dim // HEAD_WIDTH)
        self.head_width, self.rope_base = dim // num_heads, rope_base
        self.projects_x, self.projects_y = nn.Linear(dim_in, dim), nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(MetricBlock(dim, num_heads) for _ in range(depth))
        self.linear_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor, positions: Tensor) -> Tensor:
        """Return (B, N, dim) for tokens x (B, N, dim_in) that ask y (B, T, dim_in), which stand at `positions` (T, 2)."""
        rope = GridRotation(positions, self.head_width, self.rope_base)
        x, y = self.projects_x(x), self.projects_y(y)
        for block in self.blocks:
            x = block(x, y, rope)
        return self.linear_out(x)
