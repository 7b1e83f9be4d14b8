"""Cross-attention of queries to image tokens, and its mass per view (Eq. 7) without holding the weights.

Four exact ways (spec view_attention.md), the first three differentiable; they differ in memory and time only:

- `plain`: explicit softmax. The reference, and the fastest at tiny sizes; holds heads x N x T weights.
- `one_hot`: one-hot view columns appended to the values, one fused attention call. The choice on CUDA in training.
- `per_view`: fused attention to each view by itself, put together by log-sum-exp. The choice on CUDA without gradients: no
  columns, whose memory grows with the square of the views, and as many blocks of work as views.
- `blocked`: streams over blocks of tokens and recomputes them in the backward pass. The choice on CPU at real sizes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.layers.block import LayerScale, Mlp, with_branch

PLAIN_LIMIT = 2 ** 21                          # weights (B x heads x N x T) up to which `plain` is the fastest
BLOCK_TOKENS = 1024
LARGEST_HEAD = 256                             # of flash attention
LOWEST_LOGIT = -1e30                           # finite, so that a block with every token hidden gives zeros, not NaN


def attention_with_view_mass(query: Tensor, key: Tensor, value: Tensor, view_index: Tensor, num_views: int,
                             method: str = 'auto', allowed: Tensor | None = None, tokens_per_view: int | None = None
                             ) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the share of it that each view receives (Eq. 7).

    Args:
        query: (B, heads, N, d).
        key: (B, heads, T, d).
        value: (B, heads, T, d); its dtype is the one that the products are computed in.
        view_index: (T,) int64, the view of each token; tokens of -1 are attended to but counted for no view.
        num_views: V.
        method: 'plain', 'one_hot', 'blocked', 'per_view', or 'auto' (by device and size).
        allowed: (B, N, T) bool, False hides a token from a query; None = all are seen.
        tokens_per_view: where tokens are so many of view 0, so many of view 1, ..., then those of no view; None = not so.

    Returns:
        Output (B, heads, N, d), and mass per view (B, N, V): mean over heads, rows summing to 1, float32 (float64 for
        float64 values).

    Raises:
        ConfigError: unknown method, or 'per_view' for tokens that it is not for.
    """
    methods = {'plain': _plain, 'one_hot': _one_hot, 'blocked': _blocked,
               'per_view': partial(_per_view, tokens_per_view=tokens_per_view)}
    separable = tokens_per_view is not None and allowed is None and not (
        torch.is_grad_enabled() and any(values.requires_grad for values in (query, key, value)))
    if method == 'auto':
        method = _choose(query, key)
        method = 'per_view' if method == 'one_hot' and separable and _taken_by_kernels(value) else method
    if method not in methods:
        raise ConfigError(f"method must be 'auto', {', '.join(map(repr, methods))}, got {method!r}")
    if method == 'per_view' and not separable:
        raise ConfigError("method 'per_view' is for views of equally many tokens, none of them hidden, without gradients")
    query, key = query.to(value.dtype), key.to(value.dtype)      # q/k norms leave float32 under autocast
    with torch.autocast(query.device.type, enabled=False):
        output, mass = methods[method](query, key, value, view_index, num_views, allowed)
        return output, mass / mass.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)


def _choose(query: Tensor, key: Tensor) -> str:
    if query.shape[:-1].numel() * key.shape[-2] <= PLAIN_LIMIT:
        return 'plain'
    return 'one_hot' if query.is_cuda else 'blocked'


def _plain(query, key, value, view_index, num_views, allowed):
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)          # (B, heads, N, T)
    if allowed is not None:
        logits = logits.masked_fill(~allowed[:, None], float('-inf'))
    weights = logits.softmax(dim=-1, dtype=_wide(logits))
    columns = _view_columns(view_index, num_views, weights.dtype)               # (T, V)
    return weights.to(value.dtype) @ value, weights.mean(dim=1) @ columns


def _one_hot(query, key, value, view_index, num_views, allowed):
    """One fused call on [value | one-hot columns]; the kernels' conditions on widths are those of view_attention.md."""
    head_dim = query.shape[-1]
    columns = _view_columns(view_index, -(-num_views // 8) * 8, value.dtype)    # (T, V up to a multiple of 8)
    widened = torch.cat([value, columns.expand(*value.shape[:2], -1, -1)], dim=-1)
    if not query.is_cuda:                                  # the CPU flash kernel wants one width for all three
        padding = (0, widened.shape[-1] - head_dim)
        query, key = F.pad(query, padding), F.pad(key, padding)
    mask = None if allowed is None else allowed[:, None]                        # (B, 1, N, T)
    output = F.scaled_dot_product_attention(query, key, widened, attn_mask=mask, scale=head_dim ** -0.5)
    return output[..., :head_dim], output[..., head_dim:head_dim + num_views].to(_wide(output)).mean(dim=1)


def _blocked(query, key, value, view_index, num_views, allowed):
    output, mass = _BlockedAttention.apply(query, key, value, view_index, num_views, allowed)
    return output, mass.mean(dim=1)


def _per_view(query, key, value, view_index, num_views, allowed, tokens_per_view):
    """Attention to each view, weighed by its share exp(log-sum-exp) of all views; tokens of no view are one group more."""
    end = num_views * tokens_per_view
    groups = [(num_views, key[:, :, :end], value[:, :, :end])]
    groups += [(1, key[:, :, end:], value[:, :, end:])] if key.shape[2] > end else []
    outputs, totals = [], []
    for count, keys, values in groups:
        one_by_one = (part.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1) for part in (keys, values))
        queries = query[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)    # (B*count, heads, N, d)
        output, total = _with_log_sum(queries, *one_by_one)                     # (B*count, heads, N, d), (B*count, heads, N)
        outputs.append(output.unflatten(0, (-1, count)))
        totals.append(total.unflatten(0, (-1, count)))
    share = torch.cat(totals, dim=1).softmax(dim=1, dtype=_wide(value))         # (B, V or V + 1, heads, N)
    output = sum(torch.einsum('bvhn,bvhnd->bhnd', part, own.to(share.dtype))
                 for part, own in zip(share.split([count for count, *_ in groups], dim=1), outputs, strict=True))
    return output.to(value.dtype), share[:, :num_views].mean(dim=2).transpose(1, 2)


def _taken_by_kernels(value: Tensor) -> bool:
    """Return whether the kernels that `_with_log_sum` calls on CUDA take heads (B, heads, T, d) of this dtype and width."""
    return value.dtype != torch.float64 and value.shape[-1] % 8 == 0 and value.shape[-1] <= LARGEST_HEAD


def _with_log_sum(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax attention (n, heads, N, d) by a fused kernel, and the logarithm of its denominators (n, heads, N)."""
    if query.device.type == 'cpu':
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[:2]
    if query.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    output, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)
    return output, total[..., :query.shape[2]]                                  # it is padded


def _wide(x: Tensor) -> torch.dtype:
    """Return float32, or float64 for a float64 tensor: what sums over tokens are kept in."""
    return torch.promote_types(x.dtype, torch.float32)


def _view_columns(view_index: Tensor, num_views: int, dtype: torch.dtype) -> Tensor:
    """Return (T, V), 1 where a token is of a view."""
    return (view_index[:, None] == torch.arange(num_views, device=view_index.device)).to(dtype)


class _BlockedAttention(torch.autograd.Function):
    """Attention and per-head view mass over blocks of tokens: online softmax forward, closed form backward."""

    @staticmethod
    def forward(ctx, query, key, value, view_index, num_views, allowed):
        scaled = query * query.shape[-1] ** -0.5
        rows = query.shape[:-1]                                                 # (B, heads, N)
        output = scaled.new_zeros((*rows, value.shape[-1]), dtype=_wide(scaled))
        mass = scaled.new_zeros((*rows, num_views), dtype=_wide(scaled))
        total = scaled.new_zeros((*rows, 1), dtype=_wide(scaled))
        peak = scaled.new_full((*rows, 1), LOWEST_LOGIT, dtype=_wide(scaled))
        for block in _blocks(key):
            weights = _logits(scaled, key, allowed, block)                      # (B, heads, N, block)
            new_peak = torch.maximum(peak, weights.amax(dim=-1, keepdim=True))
            weights.sub_(new_peak).exp_()
            shrink = (peak - new_peak).exp_()
            views, columns = _views_of(view_index[block], weights.dtype)
            total.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
            output.mul_(shrink).add_(weights.to(value.dtype) @ value[:, :, block])
            mass.mul_(shrink)[..., views] += weights @ columns
            peak = new_peak
        output, mass, log_total = (output / total).to(value.dtype), mass / total, peak + total.log()
        ctx.save_for_backward(query, key, value, view_index, allowed, output, mass, log_total)
        return output, mass

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output, grad_mass):
        with torch.autocast(grad_output.device.type, enabled=False):
            return *_blocked_gradients(*ctx.saved_tensors, grad_output, grad_mass), None, None, None


def _blocked_gradients(query, key, value, view_index, allowed, output, mass, log_total, grad_output, grad_mass):
    """Return the gradients of query, key and value, from weights recomputed block by block."""
    scale = query.shape[-1] ** -0.5
    scaled = query * scale
    grad_query = torch.zeros_like(query, dtype=_wide(query))
    grad_key, grad_value = torch.empty_like(key), torch.empty_like(value)
    mean = (grad_output.to(_wide(output)) * output).sum(-1, keepdim=True) + (grad_mass * mass).sum(-1, keepdim=True)
    for block in _blocks(key):
        weights = _logits(scaled, key, allowed, block).sub_(log_total).exp_()       # (B, heads, N, block)
        views, columns = _views_of(view_index[block], weights.dtype)
        grad_value[:, :, block] = weights.to(value.dtype).transpose(-1, -2) @ grad_output
        grad_logits = (grad_output @ value[:, :, block].transpose(-1, -2)).to(weights.dtype)
        grad_logits += grad_mass[..., views] @ columns.T
        grad_logits = grad_logits.sub_(mean).mul_(weights).to(query.dtype)
        grad_key[:, :, block] = grad_logits.transpose(-1, -2) @ scaled
        grad_query += grad_logits @ key[:, :, block]
    return (grad_query * scale).to(query.dtype), grad_key, grad_value


def _blocks(key: Tensor) -> list[slice]:
    return [slice(start, start + BLOCK_TOKENS) for start in range(0, key.shape[2], BLOCK_TOKENS)]


def _logits(scaled_query: Tensor, key: Tensor, allowed: Tensor | None, block: slice) -> Tensor:
    """Return wide logits (B, heads, N, block): rounded to bf16, masses would not sum to 1 (view_attention.md)."""
    wide = _wide(key)
    logits = scaled_query.to(wide) @ key[:, :, block].to(wide).transpose(-1, -2)
    return logits if allowed is None else logits.masked_fill_(~allowed[:, None, :, block], float('-inf'))


def _views_of(view_index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the views (n,) that occur in a block and its one-hot columns (block, n) for them."""
    views = view_index.unique()
    views = views[views >= 0]
    return views, (view_index[:, None] == views).to(dtype)


class CrossAttention(nn.Module):
    """Queries attend to tokens: separate projections, per-head q/k norms (eps 1e-5), no rotary embedding.

    Source: segvggt_release.md section 5.1.

    Args:
        dim: C.
        num_heads: heads; divides `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f'dim must be a multiple of num_heads, got dim={dim}, num_heads={num_heads}')
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = nn.LayerNorm(dim // num_heads), nn.LayerNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor, view_index: Tensor | None = None, num_views: int | None = None,
                allowed: Tensor | None = None, tokens_per_view: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the update of the queries (B, Q, C) and, where `view_index` is given, view attention (B, Q, V).

        Args:
            queries: (B, Q, C).
            tokens: (B, T, C) of all views.
            view_index: (T,) view of each token, -1 = of none; None = no view attention (fused kernel).
            num_views: V; needed with `view_index`.
            allowed: (B, Q, T) bool, False hides a token from a query in all heads.
            tokens_per_view: as of `LayerState`.
        """
        query = self._normalised(self.q_norm, self.q_proj(queries))
        key = self._normalised(self.k_norm, self.k_proj(tokens))
        value = self._heads(self.v_proj(tokens))
        if view_index is None:
            mask = None if allowed is None else allowed[:, None]                # (B, 1, Q, T)
            query, key = query.to(value.dtype), key.to(value.dtype)
            output, view_attention = F.scaled_dot_product_attention(query, key, value, attn_mask=mask), None
        else:
            output, view_attention = attention_with_view_mass(query, key, value, view_index, num_views, allowed=allowed,
                                                              tokens_per_view=tokens_per_view)
        return self.proj(output.transpose(1, 2).flatten(2)), view_attention     # (B, heads, Q, d) -> (B, Q, C)

    def attention_maps(self, queries: Tensor, tokens: Tensor, allowed: Tensor | None = None,
                       per_head: bool = False) -> Tensor:
        """Return the weights that `forward` gives to each token, for pictures: hand in only the queries that are looked at.

        Args:
            queries, tokens, allowed: as `forward` takes them; n queries.
            per_head: (B, heads, n, T) instead of the mean over heads.

        Returns:
            (B, n, T), rows sum to 1, float32 (float64 for float64 tokens); one head's weights are held at a time.
        """
        key = self.k_proj(tokens)
        query, key = (self._normalised(norm, x).to(key.dtype) for norm, x in
                      ((self.q_norm, self.q_proj(queries)), (self.k_norm, key)))    # (B, heads, n or T, d)
        with torch.autocast(tokens.device.type, enabled=False):
            query = query * query.shape[-1] ** -0.5
            heads = (_logits(query[:, head, None], key[:, head, None], allowed, slice(None)).softmax(dim=-1)[:, 0]
                     for head in range(self.num_heads))                             # (B, n, T) each
            return torch.stack(list(heads), dim=1) if per_head else sum(heads) / self.num_heads

    def _normalised(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(self._heads(x).to(norm.weight.dtype))        # float32 under autocast on every device

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)            # (B, n, C) -> (B, heads, n, d)


class CrossBlock(nn.Module):
    """Pre-norm cross-attention, then a feed-forward network, both with LayerScale (segvggt_release.md section 5.1).

    Args:
        dim: C.
        num_heads: heads; divides `dim`.
        mlp_ratio: hidden width of the feed-forward network over `dim`.
        init_values: LayerScale at the start.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, init_values: float = 0.01) -> None:
        super().__init__()
        self.norm_q, self.norm_kv = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads)
        self.ls1 = LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, init_values)

    def forward(self, queries: Tensor, tokens: Tensor, view_index: Tensor | None = None, num_views: int | None = None,
                allowed: Tensor | None = None, tokens_per_view: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the updated queries (B, Q, C) and their view attention (B, Q, V); arguments of `CrossAttention`."""
        update, view_attention = self.attn(self.norm_q(queries), self.norm_kv(tokens), view_index, num_views, allowed,
                                           tokens_per_view)
        queries = with_branch(queries, update, self.ls1)
        return with_branch(queries, self.mlp(self.norm2(queries)), self.ls2), view_attention
