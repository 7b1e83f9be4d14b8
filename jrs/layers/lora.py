"""Low-rank adapters on existing linear layers, whose base keys keep their names (segvggt_release.md section 5.4)."""

from __future__ import annotations

import math
import re
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError


class LoRALinear(nn.Linear):
    """``W x + b + (alpha / rank) B (A x)``; made from an `nn.Linear` by `add_lora`, never built directly.

    A layer of a subclass of `nn.Linear` becomes one of this class and of its own, so that what its own `forward` adds stays.
    State keys: `weight`, `bias`, `lora_a` (rank, in), `lora_b` (out, rank).
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in), such as tokens (B, T, in), to (..., out)."""
        low_rank = self.lora_scale * F.linear(F.dropout(x, self.lora_dropout, self.training), self.lora_a)   # (..., rank)
        if torch.is_grad_enabled():
            return super().forward(x) + F.linear(low_rank, self.lora_b)
        return super().forward(x).add_(F.linear(low_rank, self.lora_b))                     # in two tensors

    def extra_repr(self) -> str:
        """Add the rank to what `print(model)` shows."""
        return f'{super().extra_repr()}, rank={self.lora_a.shape[0]}, lora_scale={self.lora_scale:g}'


def add_lora(module: nn.Module, pattern: str, rank: int, alpha: float, dropout: float = 0.0) -> list[str]:
    """Adapt the linear layers of `module` whose names match, and freeze their weights and biases.

    The output is unchanged at first: A is Kaiming uniform (a = sqrt 5), B is zero.

    Args:
        module: changed in place.
        pattern: regular expression for the full name of a layer within `module`.
        rank: of the update, >= 1.
        alpha: the update is multiplied by alpha / rank.
        dropout: probability, on the input of A, in training.

    Returns:
        The names of the adapted layers.

    Raises:
        ConfigError: nothing matches, a layer is already adapted, or rank < 1.
    """
    if rank < 1:
        raise ConfigError(f'the rank of LoRA must be at least 1, got {rank}')
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    names = [name for name in linears if re.fullmatch(pattern, name)]
    if not names:
        raise ConfigError(f'LoRA pattern {pattern!r} matches no linear layer; there are {len(linears)}, '
                          f'such as {", ".join(list(linears)[:5])}.')
    for name in names:
        if isinstance(linears[name], LoRALinear):
            raise ConfigError(f'{name} already has LoRA; merge it first (`merge_lora`) or narrow {pattern!r}.')
        _adapt(linears[name], rank, alpha / rank, dropout)
    return names


@cache
def _adapted_class(plain: type[nn.Linear]) -> type[LoRALinear]:
    return LoRALinear if plain is nn.Linear else type(f'LoRA{plain.__name__}', (LoRALinear, plain), {'plain': plain})


def _plain_class(adapted: type[LoRALinear]) -> type[nn.Linear]:
    return vars(adapted).get('plain', nn.Linear)


def _adapt(layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
    layer.__class__ = _adapted_class(type(layer))
    layer.weight.requires_grad_(False)
    if layer.bias is not None:
        layer.bias.requires_grad_(False)
    layer.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
    layer.lora_b = nn.Parameter(layer.weight.new_empty(layer.out_features, rank))
    layer.lora_scale, layer.lora_dropout = scale, dropout
    nn.init.kaiming_uniform_(layer.lora_a, a=math.sqrt(5))
    nn.init.zeros_(layer.lora_b)


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """Return W + scale B A, (C_out, C), of W (C_out, C), A (rank, C), B (C_out, rank)."""
    return weight + scale * (lora_b @ lora_a)


@torch.no_grad()
def merge_lora(module: nn.Module) -> list[str]:
    """Add every low-rank update of `module` to its base weight and turn the layers back into `nn.Linear`.

    The weights stay frozen. Returns the names of the merged layers (none is not an error).
    """
    names = [name for name, layer in module.named_modules() if isinstance(layer, LoRALinear)]
    for name in names:
        layer = module.get_submodule(name)
        layer.weight.copy_(merged_weight(layer.weight, layer.lora_a, layer.lora_b, layer.lora_scale))
        del layer.lora_a, layer.lora_b, layer.lora_scale, layer.lora_dropout
        layer.__class__ = _plain_class(type(layer))
    return names
