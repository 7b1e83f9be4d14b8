"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatch

import torch
from mmengine.logging import print_log
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from jrs.errors import ConfigError, NonFiniteError
from jrs.registry import OPTIMIZERS, build


def parameter_groups(model: nn.Module, groups: Mapping[str, Mapping]) -> list[dict]:
    """Return optimizer groups: each trainable parameter joins the first group with a matching name pattern.

    Args:
        model: its parameters that require gradients are grouped.
        groups: name -> ``dict(parameters=[patterns], lr=..., **options)``; patterns are shell style (``backbone.*``).

    Raises:
        ConfigError: a trainable parameter matches no group, or a group matches nothing.
    """
    active = {name: group for name, group in groups.items() if group is not None}
    members: dict[str, list] = {name: [] for name in active}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_group_of(parameter_name, active)].append(parameter)
    result = []
    for name, group in active.items():
        options = {key: value for key, value in group.items() if key not in ('parameters', 'optional')}
        if members[name]:
            count = sum(parameter.numel() for parameter in members[name])
            print_log(f'optimizer group {name!r}: {len(members[name])} tensors, {count:,} parameters, {options}', 'current')
            result.append(dict(params=members[name], name=name, **options))
        elif not group.get('optional'):
            raise ConfigError(f'parameter_groups.{name} matches no trainable parameter: {group["parameters"]}. '
                              'Correct the patterns, or set the group to None.')
    return result


def _group_of(parameter: str, groups: Mapping[str, Mapping]) -> str:
    for name, group in groups.items():
        if any(fnmatch(parameter, pattern) for pattern in group['parameters']):
            return name
    raise ConfigError(f'no group of parameter_groups takes the trainable parameter {parameter!r}; '
                      f'the patterns are { {name: list(group["parameters"]) for name, group in groups.items()} }.')


class FiniteOptimWrapper(OptimWrapper):
    """mmengine's wrapper, which stops at a gradient that is NaN or infinite, before it reaches the weights.

    Args:
        optimizer: it updates.
        clip_norm: largest norm of all gradients together; None = no limit.
        names: parameter -> name, for messages.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip_norm: float | None = None,
                 names: Mapping[nn.Parameter, str] | None = None) -> None:
        super().__init__(optimizer)
        self.clip_norm, self.names = clip_norm, names or {}

    def step(self, **settings) -> None:
        """Clip, and update the weights.

        Raises:
            NonFiniteError: a gradient is not finite; with several processes in all of them, as they share it.
        """
        parameters = [value for group in self.optimizer.param_groups for value in group['params'] if value.grad is not None]
        norm = nn.utils.get_total_norm([value.grad for value in parameters])
        size = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not math.isfinite(size):
            raise NonFiniteError(self._bad_gradients())
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.message_hub.update_scalar('train/grad_norm', size)
        super().step(**settings)

    def _bad_gradients(self) -> str:
        bad = [f'{self.names.get(value, "a parameter")}, group {group.get("name", "all")!r}, shape {tuple(value.grad.shape)}'
               for group in self.optimizer.param_groups for value in group['params']
               if value.grad is not None and not _local(value.grad).isfinite().all()]
        return (f'{len(bad)} gradients are not finite ({"; ".join(bad[:3])}). The weights are still those before this step: '
                'go on with --resume and a lower learning rate.')


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def build_optimizer(model: nn.Module, optimizer: Mapping, groups: Mapping[str, Mapping],
                    clip_norm: float | None) -> OptimWrapper:
    """Return mmengine's wrapper around the optimizer that the config describes."""
    built = build(OPTIMIZERS, optimizer, 'optimizer', params=parameter_groups(model, groups))
    return FiniteOptimWrapper(built, clip_norm, {value: name for name, value in model.named_parameters()})


def build_schedule(optimizer: torch.optim.Optimizer, iterations: int, warmup: float, final: float) -> list:
    """Return linear warm-up over the share `warmup` of `iterations` (updates), then cosine decay to the factor `final`."""
    begin = round(iterations * warmup)
    begin = begin if begin > 1 else 0              # mmengine's LinearLR over one step never leaves its start factor
    schedule = [CosineAnnealingLR(optimizer, T_max=max(1, iterations - begin), eta_min_ratio=final, begin=begin,
                                  end=iterations, by_epoch=False)]
    if begin:
        schedule.insert(0, LinearLR(optimizer, start_factor=1e-3, begin=0, end=begin, by_epoch=False))
    return schedule
