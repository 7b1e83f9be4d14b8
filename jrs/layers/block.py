"""The transformer block that the image encoder, VGGT, the camera head and the queries share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.layers.attention import Mix, SelfAttention, fused_attention
from jrs.layers.whole import Whole

# Between the layers of an MLP at a time, without gradients: 64 MiB as float32 on a CPU; elsewhere 256 MiB as bfloat16, since
# small pieces are many kernels that do not fill a card.
HIDDEN_VALUES = 2 ** 24
HIDDEN_VALUES_ELSEWHERE = 2 ** 27


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between: fc2(GELU(fc1(x))).

    Args:
        dim: width of the input.
        hidden_dim: width in between.
        out_dim: width of the output; `dim` when not given.
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., out_dim) for `tokens` (..., dim), such as (B, T, dim).

        Without gradients the wide middle is made for few at a time.
        """
        return few_at_a_time(self._run, tokens, self.fc1.out_features)

    def _run(self, tokens: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(tokens)))


def gelu(values: Tensor) -> Tensor:
    """Return the exact GELU of `values` (...), which nobody else reads: without gradients it takes their place."""
    return F.gelu(values) if torch.is_grad_enabled() else torch.ops.aten.gelu_(values)


class SwiGLU(nn.Module):
    """w3(SiLU(a) * b), a and b being the halves of w12(x): about as many weights as an `Mlp` of the same arguments.

    Args:
        dim: width of the input and of the output.
        hidden_dim: width between the layers of that `Mlp`; here two thirds of it, up to the next multiple of 8.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        width = -(-(2 * hidden_dim // 3) // 8) * 8
        self.w12 = nn.Linear(dim, 2 * width)
        self.w3 = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., dim) for `tokens` (..., dim), such as (B, T, dim); without gradients as `Mlp` does it."""
        return few_at_a_time(self._run, tokens, self.w12.out_features)

    def _run(self, tokens: Tensor) -> Tensor:
        gate, value = self.w12(tokens).chunk(2, dim=-1)                         # (..., width) each
        return self.w3(F.silu(gate) * value)


def few_at_a_time(run: Callable[[Tensor], Tensor], tokens: Tensor, width: int) -> Tensor:
    """Return ``run(tokens)`` (..., out) of `tokens` (..., C); without gradients a piece of the tokens at a time.

    Args:
        run: tokens (n, C) -> (n, out), each by itself.
        tokens: (..., C).
        width: of what `run` makes on the way; `hidden_values` of it exist at a time.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():               # a graph has no number of pieces
        return run(tokens)
    parts = -(-tokens.shape[:-1].numel() * width // hidden_values(tokens.device))
    if parts <= 1:
        return run(tokens)
    whole = Whole(tokens.shape[:-1].numel())
    for chunk in tokens.flatten(0, -2).chunk(parts):                            # (n, C) each, n all but equal
        whole.add(run(chunk))
    return whole.parts()[0].unflatten(0, tokens.shape[:-1])


def hidden_values(device: torch.device) -> int:
    """Return how many values between the layers of an MLP may exist at a time, without gradients."""
    return HIDDEN_VALUES if device.type == 'cpu' else HIDDEN_VALUES_ELSEWHERE


class LayerScale(nn.Module):
    """Multiplies every channel by a learned `gamma` (C,), which starts at `init_value`."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `tokens` (..., C) scaled; a half-precision branch leaves in the dtype of gamma."""
        return tokens * self.gamma


class Block(nn.Module):
    """Self-attention, then an MLP, both on normalised tokens and added to them (vggt.md section 3).

    Args:
        dim: width C of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over C.
        norm_eps: epsilon of the two layer norms (1e-6 in the image encoder, 1e-5 elsewhere).
        qk_norm: normalise queries and keys per head.
        init_values: initial LayerScale; None leaves LayerScale out.
        mlp: class of the MLP, made from C and its hidden width: `Mlp` or `SwiGLU`.
        qk_norm_eps: epsilon of the norms of queries and keys.
        key_bias: False keeps the bias of the keys at zero (`SelfAttention`).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, norm_eps: float = 1e-5,
                 qk_norm: bool = False, init_values: float | None = 0.01,
                 mlp: Callable[[int, int], nn.Module] = Mlp, qk_norm_eps: float = 1e-5, key_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = SelfAttention(dim, num_heads, qk_norm, qk_norm_eps, key_bias)
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values)

    def forward(self, tokens: Tensor, rope: Callable[[Tensor], Tensor] | None = None, mix: Mix = fused_attention) -> Tensor:
        """Return `tokens` (B, N, C) after the block; `rope` and `mix` as in `SelfAttention.forward`.

        Without gradients what attention and MLP return is overwritten: a forward hook that keeps it has to clone it.
        """
        tokens = with_branch(tokens, self.attn(self.norm1(tokens), rope, mix), self.ls1)
        return with_branch(tokens, self.mlp(self.norm2(tokens)), self.ls2)


def with_branch(tokens: Tensor, branch: Tensor, scale: nn.Module) -> Tensor:
    """Return `tokens` (B, N, C) plus `branch` (B, N, C) scaled.

    Without gradients in the place of the branch, as far as types allow: the same numbers, and two such tensors less.

    Args:
        tokens: what goes past the branch.
        branch: what it gave, which nobody else reads.
        scale: a `LayerScale`, or an identity.
    """
    if torch.is_grad_enabled():
        return tokens + scale(branch)
    if isinstance(scale, LayerScale) and scale.gamma.dtype == branch.dtype:
        scaled = branch.mul_(scale.gamma)
    else:
        scaled = scale(branch)
    return scaled.add_(tokens) if scaled.dtype == tokens.dtype else tokens + scaled
