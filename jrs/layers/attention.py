"""Multi-head self-attention, as in every transformer block, and the door behind which views attend to each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers.layout import Layout
from jrs.registry import ATTENTIONS

Mix = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]       # (q, k, v, x) -> attended heads


def fused_attention(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
    """Return softmax attention of all tokens to all, (B, heads, N, head width); `tokens` are not read."""
    return F.scaled_dot_product_attention(query, key, value)


class SelfAttention(nn.Module):
    """Attention of N tokens to each other (vggt.md section 3).

    Args:
        dim: width C of the tokens.
        num_heads: number of heads; must divide `dim`.
        qk_norm: normalise queries and keys over the width of a head, with one weight shared by all heads.
        qk_norm_eps: epsilon of these norms.
        key_bias: False keeps the bias of the keys, the middle third of `qkv.bias`, at zero, whatever a file or an optimizer
            puts there. The zero is of this module, not of its linear layer, so that adapters can have that.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False, qk_norm_eps: float = 1e-5,
                 key_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        head_width = dim // num_heads
        self.num_heads = num_heads
        self.key_bias = key_bias
        self._masked: int | None = None        # id of the bias whose gradient is masked: loading may exchange the parameter
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, rope: Callable[[Tensor], Tensor] | None = None, mix: Mix = fused_attention) -> Tensor:
        """Return attended tokens (B, N, C) for `tokens` (B, N, C).

        Args:
            tokens: normalised, (B, N, C).
            rope: turns queries and keys (B, heads, N, head width) by their positions, after the q/k norms.
            mix: ``mix(q, k, v, tokens)`` -> attended heads (B, heads, N, head width), in place of the softmax over all keys;
                `q`, `k`, `v` are (B, heads, N, head width), normed and turned.
        """
        attended = mix(*self.project(tokens, rope), tokens)                     # queries and keys go before the projection
        return self.proj(attended.transpose(1, 2).flatten(2))                   # (B, N, C)

    def project(self, tokens: Tensor, rope: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of all heads, (B, heads, N, head width) each, as the softmax reads them."""
        if not self.key_bias:
            self._clear_key_bias()
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))           # (B, N, 3, heads, width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)                # (B, heads, N, width) each
        query, key = (_placed(norm, heads, rope).to(value.dtype)                # norms and rotation may be wider: section 10
                      for norm, heads in ((self.q_norm, query), (self.k_norm, key)))
        return query, key, value

    def _clear_key_bias(self) -> None:
        """Set the bias of the keys to zero where something has put values there, and keep gradients from it."""
        bias = self.qkv.bias
        with torch.no_grad():
            bias.unflatten(0, (3, -1))[1].zero_()                               # (C,)
        if bias.requires_grad and self._masked != id(bias):
            bias.register_hook(_without_keys)
            self._masked = id(bias)


def _without_keys(gradient: Tensor) -> Tensor:
    """Return the gradient (3C,) of a bias of queries, keys and values with zeros for the keys."""
    masked = gradient.clone()
    masked.unflatten(0, (3, -1))[1].zero_()
    return masked


def _placed(norm: nn.Module, heads: Tensor, rope: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return heads (B, heads, N, head width) normed, and turned by their positions."""
    heads = _normalise(norm, heads)
    return heads if rope is None else rope(heads)


def _normalise(norm: nn.Module, heads: Tensor) -> Tensor:
    """Normalise in the precision of the norm's weights: float32 under autocast on every device."""
    return norm(heads.to(norm.weight.dtype)) if isinstance(norm, nn.LayerNorm) else heads


class ReadingAttention(nn.Module):
    """Attention of n tokens to M others, without positions, norms or a residual.

    Args:
        dim: width C of both.
        num_heads: number of heads; must divide `dim`.
        bias: of queries, keys and values.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.projq, self.projk, self.projv = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, others: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return (B, n, C) for `tokens` (B, n, C) and `others` (B, M, C); `allowed` (n, M) is False for what is hidden."""
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (
            self.projq(tokens), self.projk(others), self.projv(others)))                    # (B, heads, n or M, head width)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def check_heads(dim: int, num_heads: int) -> None:
    """Raise a ConfigError where heads do not divide a width."""
    if dim % num_heads:
        raise ConfigError(f'{num_heads} attention heads do not divide a width of {dim}; choose a divisor of it.')


class SceneAttention(nn.Module):
    """What stands behind the door of the blocks that see several views: merging of tokens, causal masks, caches. Base class.

    `model.backbone.global_attention=dict(type=...)` puts one into any backbone made of steps. Once a pass and block, the
    backbone asks `at` for the function `mix(q, k, v, x)`, and the block calls that after q/k norm and rotation and before
    its output projection: q, k, v (B, heads, N, head width), x (B, N, C) the normalised tokens that they come from; it
    returns the attended heads (B, heads, N, head width) for all N tokens in their order. N = V * P + E: the views in the
    backbone's own order, one after the other, then the tokens of no view.

    What is per block and outlives a pass (a cache) is kept by the part under the number of the block. A part is a module:
    parameters or buffers that it has are saved with the backbone.

    Attributes:
        recomputable: False where a second run of a block would do harm (it would append to a cache twice); such a part is
            for inference, and refuses `activation_checkpointing`.
        special_steps: True where steps over special tokens only must come to the door too, as a mask by view must; they come
            with the layout of those tokens alone (no patches).
        causal: True where no view sees a later one.
        seen: views that were passed before those of the coming pass; a cache counts them. `start` of the backbone is told.
    """

    recomputable = True
    special_steps = False
    causal = False
    seen = 0

    def at(self, block: int, layout: Layout) -> Mix | None:
        """Return the `mix` of a block in the coming pass; None leaves the block as it is.

        Args:
            block: number among the steps across views, 0, 1, ...; the number of the pair in VGGT.
            layout: of the tokens that the block sees: number of views, grid, which tokens are patches, views seen before.
        """
        raise NotImplementedError

    def streaming(self, window: int | None = None) -> AbstractContextManager[None]:
        """Return a context inside which passes go on with one stream of views: later ones see what earlier ones left.

        Args:
            window: how many views are seen at most, the present one among them, beside the first; None = no such bound.

        Raises:
            ConfigError: it cannot do that.
        """
        raise ConfigError(f'{type(self).__name__} sees all views of a scene at once and cannot go on with a stream. Use a '
                          'causal one, such as CausalViews of the plugin `stream_vggt`.')

    def held_bytes(self) -> int:
        """Return what it keeps of the views of a stream."""
        return 0


@ATTENTIONS.register_module()
class FusedAttention(SceneAttention):
    """Softmax attention of all tokens to all, by torch's fused kernels: the default, by name."""

    def at(self, block: int, layout: Layout) -> Mix | None:
        """Return None: blocks do this by themselves."""
        return None
