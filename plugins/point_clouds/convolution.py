"""Sparse convolutions in plain torch, in the conventions of spconv 2 (baselines.md section 3.1).

The sum over the places of a kernel is one node of the graph with a backward of its own: it gathers and multiplies place by
place, sums the products of some places at once, and keeps nothing but features and weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jrs_plugins.point_clouds.voxels import KernelPairs
from torch import Tensor, nn


class _Convolution(torch.autograd.Function):
    """features (X, C), weight (K, C, C_out), pairs -> (Y, C_out)."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pairs: KernelPairs) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        return _summed(features, weight, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        pairs, back = ctx.pairs, ctx.pairs.back
        if pairs.centre is not None:
            weight = weight.flip(0)                            # the mirror image's places are counted from the other end
        of_weight = torch.zeros_like(weight)
        read = features.new_empty(max(map(len, pairs.inputs)), features.shape[1])

        def weigh(place: int, rows: Tensor) -> None:
            met = torch.index_select(features, 0, back.outputs[place], out=read[:len(rows)])
            torch.mm(met.T, rows, out=of_weight[place])
        of_features = _summed(gradient.contiguous(), weight.mT, back, weigh)
        if pairs.centre is not None:
            of_weight[pairs.centre] = features.T @ gradient
            of_weight = of_weight.flip(0)
        return of_features, of_weight, None


def _summed(features: Tensor, weight: Tensor, pairs: KernelPairs,
            seen: Callable[[int, Tensor], None] = lambda place, rows: None) -> Tensor:
    """Return (Y, C_out) as `sparse_convolution` does; `seen(k, x[i])` is called with the inputs of each place."""
    result = features.new_zeros(pairs.num_outputs, weight.shape[2]) if pairs.centre is None else \
        features @ weight[pairs.centre]
    read = features.new_empty(max(map(len, pairs.inputs)), features.shape[1])
    made = features.new_empty(max((len(group.order) for group in pairs.groups), default=0), weight.shape[2])
    for group in pairs.groups:
        first = 0
        for place in group.places:
            count = len(pairs.inputs[place])
            rows = torch.index_select(features, 0, pairs.inputs[place], out=read[:count])
            seen(place, rows)
            torch.mm(rows, weight[place], out=made[first:first + count])
            first += count
        group.add_to(result, made[:first])
    return result


def sparse_convolution(features: Tensor, weight: Tensor, pairs: KernelPairs) -> Tensor:
    """Return y (Y, C_out): y[o] is the sum of x[i] W[k] over the pairs (o, i) of every place k.

    Args:
        features: x (X, C).
        weight: W (K, C, C_out).
        pairs: which rows meet at each of the K places.
    """
    return _Convolution.apply(features, weight, pairs)


class SparseConvolution(nn.Module):
    """A convolution of `size`³ over occupied voxels; which one (same voxels, strided, back) the pairs say.

    The weight has the layout of spconv 2, (out, k0, k1, k2, in). A kernel of 1³ is read by memory order as (in, out), as
    spconv 2 does.

    Args:
        dim_in, dim_out: channels.
        size: side of the kernel.
        bias: whether there is one.
    """

    def __init__(self, dim_in: int, dim_out: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim_out, size, size, size, dim_in))
        nn.init.kaiming_uniform_(self.weight.view(dim_out, -1), a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(dim_out)) if bias else None

    def forward(self, features: Tensor, pairs: KernelPairs | None = None) -> Tensor:
        """Return (Y, C_out) for `features` (X, C); a kernel of 1³ needs no pairs."""
        dim_out, dim_in = self.weight.shape[0], self.weight.shape[-1]
        if self.weight.shape[1] == 1:
            result = features @ self.weight.reshape(dim_in, dim_out)
        elif isinstance(pairs, KernelPairs):
            result = sparse_convolution(features, self.weight.reshape(dim_out, -1, dim_in).permute(1, 2, 0), pairs)
        else:
            result = pairs.convolved(self, features)
        return result if self.bias is None else result + self.bias


class RowNorm(nn.BatchNorm1d):
    """Batch norm over rows (n, C); a batch of fewer than two rows has no deviation and takes the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows (n, C)."""
        if self.training and len(rows) < 2:
            return nn.functional.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0,
                                            self.eps)
        return super().forward(rows)


class SparseSequential(nn.Sequential):
    """Modules over rows one after another; convolutions get the pairs."""

    def forward(self, features: Tensor, pairs: KernelPairs | None = None) -> Tensor:
        """Return rows (Y, C_out) of `features` (X, C)."""
        for module in self:
            features = module(features, pairs) if isinstance(module, SparseConvolution) else module(features)
        return features
