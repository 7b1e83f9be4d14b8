"""Multi-head self-attention, as in every VGGT block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError


class SelfAttention(nn.Module):
    """Attention of N tokens to each other (vggt.md section 3).

    Args:
        dim: width C of the tokens.
        num_heads: number of heads; must divide `dim`.
        qk_norm: normalise queries and keys over the width of a head, with one weight shared by all heads.
        qk_norm_eps: epsilon of these norms.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False, qk_norm_eps: float = 1e-5) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f'{num_heads} attention heads do not divide a width of {dim}; choose a divisor of it.')
        head_width = dim // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, rope: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return attended tokens (B, N, C) for `tokens` (B, N, C).

        `rope` turns queries and keys (B, heads, N, head width) by their positions, after the q/k norms.
        """
        query, key, value = self.project(tokens, rope)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))                   # (B, N, C)

    def project(self, tokens: Tensor, rope: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of all heads, (B, heads, N, head width) each, as the softmax reads them."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))           # (B, N, 3, heads, width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)                # (B, heads, N, width) each
        query, key = _normalise(self.q_norm, query), _normalise(self.k_norm, key)
        if rope is not None:
            query, key = rope(query), rope(key)
        return query.to(value.dtype), key.to(value.dtype), value                # norms and rotation may be wider: section 10


def _normalise(norm: nn.Module, heads: Tensor) -> Tensor:
    """Normalise in the precision of the norm's weights: float32 under autocast on every device."""
    return norm(heads.to(norm.weight.dtype)) if isinstance(norm, nn.LayerNorm) else heads
